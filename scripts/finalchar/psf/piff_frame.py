"""The coordinates in which a Piff model lives (selection specification 6.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finalchar.formats.exposure import Exposure

__all__ = ["PiffFrame", "piff_frame"]


@dataclass(frozen=True)
class PiffFrame:
    """WCS of the stamps, pointing, and the variables of the spatial polynomial.

    Attributes
    ----------
    wcs : galsim.BaseWCS
        Parent pixels (0-based) to arcsec, or to the sky.
    pointing : galsim.CelestialCoord or None
        Centre of the tangent plane; for a celestial WCS only.
    keys : (str, str)
        Names of the position variables of the polynomial.
    scale : float
        Pixel scale at the centre of the exposure's box, arcsec.
    """

    wcs: Any
    pointing: Any
    keys: tuple[str, str]
    scale: float


def piff_frame(exposure: Exposure, coordinates: str) -> PiffFrame:
    """Return the frame of `useCoordinates`: ``pixel``, ``field`` or ``sky``.

    Raises
    ------
    InputError
        If the exposure lacks the transform that the coordinates need.
    """
    import galsim

    x, y = exposure.box.centre
    scale = exposure.wcs.pixel_scale(x=x, y=y)
    if coordinates == "pixel":
        return PiffFrame(galsim.PixelScale(scale), None, ("x", "y"), scale)
    from finalchar.formats import piff_wcs

    if coordinates == "field":
        return PiffFrame(piff_wcs.field_wcs(exposure.field_angle), None, ("u", "v"), scale)
    wcs, pointing = piff_wcs.sky_wcs(exposure.wcs)
    return PiffFrame(wcs, pointing, ("u", "v"), scale)
