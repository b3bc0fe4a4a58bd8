"""Aperture corrections: Chebyshev fields, measured on bright stars and applied to the fluxes."""
