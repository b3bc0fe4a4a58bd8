"""Isolated stars, the reserve draw, source selection and candidate stamps."""
