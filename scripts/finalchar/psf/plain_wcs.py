"""World coordinates of a model in GalSim's own words, for files that plain Piff reads.

The WCS of models in field and sky coordinates evaluates AST text, which plain Piff does not know.  Over a
detector it is a smooth function, and a polynomial reproduces it far below what a PSF can show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.exposure import ARCSEC_PER_RADIAN

__all__ = ["plain_wcs"]

FloatArray = npt.NDArray[np.float64]

DEGREES = (3, 5, 7, 9)
TOLERANCE = 1e-7
"""Largest deviation of the polynomial, arcsec; 1e-7 arcsec of 0.2 arcsec pixels change a PSF by 1e-7."""
MARGIN = 0.5
"""The polynomial is made for the box of the stars, larger by this part of its side on every side."""


def plain_wcs(wcs: Any, *, x: npt.ArrayLike, y: npt.ArrayLike) -> Any:
    """Return a WCS of GalSim that equals `wcs` over the detector.

    Parameters
    ----------
    wcs : galsim.BaseWCS
        Returned as it is if it is GalSim's own.
    x, y : array_like
        Positions on the detector (of the stars), parent pixels.

    Raises
    ------
    InputError
        If no polynomial of moderate degree follows the WCS.
    """
    import galsim

    if type(wcs).__module__.startswith("galsim."):
        return wcs
    frame = _Frame.around(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    grid_x, grid_y = frame.grid(33)
    if wcs.isCelestial():
        ra, dec = wcs.xyToradec(grid_x, grid_y, units="rad")
        ra = np.unwrap(np.concatenate([[ra[0]], ra]))[1:]
        return galsim.RaDecFunction(
            *(frame.expression(grid_x, grid_y, values, TOLERANCE / ARCSEC_PER_RADIAN) for values in (ra, dec))
        )
    u, v = wcs.xyTouv(grid_x, grid_y)
    return galsim.UVFunction(*(frame.expression(grid_x, grid_y, values, TOLERANCE) for values in (u, v)))


class _Frame:
    """Box of positions, and coordinates (s, t) in which it runs from -1 to 1."""

    def __init__(self, centre: tuple[float, float], half: tuple[float, float]) -> None:
        self.centre = centre
        self.half = half

    @classmethod
    def around(cls, x: FloatArray, y: FloatArray) -> _Frame:
        """Make the box of points with its margin."""
        centre = 0.5 * (x.min() + x.max()), 0.5 * (y.min() + y.max())
        side = max(np.ptp(x), np.ptp(y), 100.0) * (0.5 + MARGIN)
        return cls((float(centre[0]), float(centre[1])), (float(side), float(side)))

    def grid(self, points: int) -> tuple[FloatArray, FloatArray]:
        """Positions over the box."""
        nodes = np.cos(np.pi * (np.arange(points) + 0.5) / points)
        s, t = np.meshgrid(nodes, nodes)
        return self.centre[0] + self.half[0] * s.ravel(), self.centre[1] + self.half[1] * t.ravel()

    def expression(self, x: FloatArray, y: FloatArray, values: FloatArray, tolerance: float) -> str:
        """Return a polynomial in x and y, as text, that follows the values."""
        s, t = (x - self.centre[0]) / self.half[0], (y - self.centre[1]) / self.half[1]
        offset = float(values.mean())
        for degree in DEGREES:
            powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
            design = np.column_stack([s**i * t**j for i, j in powers])
            coefficients = np.linalg.lstsq(design, values - offset, rcond=None)[0]
            if np.abs(design @ coefficients + offset - values).max() <= tolerance:
                return self._text(dict(zip(powers, coefficients.tolist(), strict=True)), degree, offset)
        raise InputError(
            "the WCS of the PSF cannot be followed by a polynomial, so no file for plain Piff can be made"
        )

    def _text(self, coefficients: dict[tuple[int, int], float], degree: int, offset: float) -> str:
        """Horner's scheme in s and t."""
        s = f"((x-{self.centre[0]!r})/{self.half[0]!r})"
        t = f"((y-{self.centre[1]!r})/{self.half[1]!r})"
        rows = []
        for i in range(degree + 1):
            row = [coefficients[i, j] for j in range(degree + 1 - i)]
            rows.append(_horner([repr(value) for value in row], t))
        return f"{offset!r}+{_horner(rows, s)}"


def _horner(coefficients: list[str], variable: str) -> str:
    text = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        text = f"({coefficient}+{variable}*{text})"
    return text
