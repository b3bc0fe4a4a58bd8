"""Pages that show the products of a survey; still to come."""
