"""Galaxy models of two profiles convolved with the PSF (measurement specification 8)."""
