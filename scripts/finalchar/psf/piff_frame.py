"""The coordinates in which a Piff model lives (selection specification 6.3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from finalchar.errors import PsfError
from finalchar.formats.exposure import Exposure

__all__ = ["PiffFrame", "check_north", "piff_frame"]

LARGEST_TURN = 1.0
"""Radians by which north may turn from corner to corner of a detector."""


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


def check_north(frame: PiffFrame, exposure: Exposure) -> None:
    """Refuse sky coordinates where north turns over the detector, as it does near a pole.

    The model of a star stands upright on the sky.  A PSF that is fixed to the camera turns against it, which
    the polynomial can follow over small angles only.

    Raises
    ------
    PsfError
        If north turns by more than `LARGEST_TURN`.
    """
    box = exposure.box
    corners = [_jacobian(frame.wcs, x, y) for x in (box.min_x, box.max_x) for y in (box.min_y, box.max_y)]
    turned = [one @ other.T for one, other in combinations(corners, 2)]
    turn = max(abs(np.arctan2(one[1, 0] - one[0, 1], one[0, 0] + one[1, 1])) for one in turned)
    if not turn <= LARGEST_TURN:
        raise PsfError(
            f"The detector is so near a pole that north turns by {np.degrees(turn):.0f} degrees on it, "
            "which a model in sky coordinates cannot follow; set psf_determiner.piff.useCoordinates to field "
            "or pixel."
        )


def _jacobian(wcs: Any, x: float, y: float) -> Any:
    import galsim

    return wcs.local(image_pos=galsim.PositionD(x, y)).jacobian().getMatrix()
