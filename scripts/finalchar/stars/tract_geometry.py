"""Where a tract lies: the part of the sky it owns, and the larger part whose sources it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.stars.sphere import unit_vectors

__all__ = ["DEFAULT_OVERLAP_DEGREES", "TractGeometry"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

DEFAULT_OVERLAP_DEGREES = 1.0 / 60.0
"""How far a tract without outer polygon looks beyond what it owns: the tract overlap of the LSST sky maps."""


@dataclass(frozen=True)
class TractGeometry:
    """A tract of a ring sky map (selection specification 1.6.1, 1.6.7).

    Attributes
    ----------
    tract : int
        Number.
    ra_min, ra_max, dec_min, dec_max : float
        What the tract owns, in degrees: lower limits inclusive, upper limits exclusive, so that every
        position has one tract.  ``ra_min > ra_max`` goes across RA 0; 0 and 360 is the full circle.
    outer : tuple of (float, float)
        RA and Dec of the corners of the convex polygon, with great circles as sides, whose sources are looked
        at; empty: what the tract owns and `DEFAULT_OVERLAP_DEGREES` around it.
    """

    tract: int
    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float
    outer: tuple[tuple[float, float], ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse a geometry that holds no position, or whose polygon is not convex or lies elsewhere."""
        values = (self.ra_min, self.ra_max, self.dec_min, self.dec_max)
        if not np.all(np.isfinite(values)) or not -90.0 <= self.dec_min < self.dec_max <= 90.0:
            raise InputError(
                f"tract {self.tract}: dec_min must be less than dec_max, both within -90 ... 90 degrees"
            )
        if self._ra_limits()[0] == self._ra_limits()[1]:
            raise InputError(
                f"tract {self.tract}: ra_min and ra_max are the same; the full circle is 0 and 360"
            )
        if self.outer:
            corners = self._corners()
            if len(corners) < 3 or not _inside(corners, np.roll(corners, 1, axis=0)[:, None]).all():
                raise InputError(
                    f"tract {self.tract}: the outer polygon is not convex, or has fewer than 3 corners"
                )
            middle = np.array(self._middle()), np.array((self.dec_min + self.dec_max) / 2.0)
            if not self.looks_at(ra=middle[0], dec=middle[1]):
                raise InputError(
                    f"tract {self.tract}: the outer polygon does not hold the middle of what the tract owns; "
                    "correct outer_polygon in the sheet of tracts: 'ra dec; ra dec; ...' in degrees"
                )

    @classmethod
    def of_region(cls, tract: int, region: Mapping[str, Any]) -> TractGeometry:
        """The geometry of a tract whose region the sheet gives (`finalchar.tract_regions`)."""
        limits = {name: float(region[name]) for name in ("ra_min", "ra_max", "dec_min", "dec_max")}
        return cls(tract, **limits, outer=tuple((float(ra), float(dec)) for ra, dec in region["outer"]))

    def owns(self, *, ra: FloatArray, dec: FloatArray) -> BoolArray:
        """Whether positions (degrees) belong to this tract and no other."""
        low, high = self._ra_limits()
        ra = np.asarray(ra) % 360.0
        in_ra = (ra >= low) & (ra < high) if low < high else (ra >= low) | (ra < high)
        below = dec <= self.dec_max if self.dec_max == 90.0 else dec < self.dec_max
        return np.asarray(in_ra & (dec >= self.dec_min) & below)

    def looks_at(self, *, ra: FloatArray, dec: FloatArray) -> BoolArray:
        """Whether sources at these positions (degrees) are looked at; the sides of the polygon are inside."""
        if self.outer:
            return np.asarray(_inside(self._corners(), unit_vectors(ra=ra, dec=dec)[None])[0])
        (low_dec, high_dec), half = self.dec_range(), self._half_width() + self._ra_overlap()
        from_middle = (np.asarray(ra) - self._middle() + 180.0) % 360.0 - 180.0
        return np.asarray((dec >= low_dec) & (dec <= high_dec) & (np.abs(from_middle) <= half))

    def dec_range(self) -> tuple[float, float]:
        """Least and greatest declination of sources that are looked at, or a little less and more."""
        if not self.outer:
            overlap = DEFAULT_OVERLAP_DEGREES
            return max(self.dec_min - overlap, -90.0), min(self.dec_max + overlap, 90.0)
        middle, reach = self._circle()
        centre = float(np.degrees(np.arcsin(middle[2])))
        return max(centre - reach, -90.0), min(centre + reach, 90.0)

    def may_hold_ra(self, low: float, high: float) -> bool:
        """Whether sources with right ascensions in [low, high] (degrees) can be among those looked at."""
        middle, half = self._middle(), self._half_width() + self._ra_overlap()
        if self.outer:
            direction, reach = self._circle()
            top = max(abs(value) for value in self.dec_range())
            middle = float(np.degrees(np.arctan2(direction[1], direction[0])))
            half = 180.0 if top >= 89.0 else reach / float(np.cos(np.radians(top)))
        distance = (middle - low) % 360.0
        return (
            half >= 180.0 or high - low >= 360.0 or distance <= high - low + half or distance >= 360.0 - half
        )

    def _ra_limits(self) -> tuple[float, float]:
        return self.ra_min % 360.0, self.ra_max % 360.0 or 360.0

    def _half_width(self) -> float:
        low, high = self._ra_limits()
        return (high - low if high > low else high - low + 360.0) / 2.0

    def _middle(self) -> float:
        return self._ra_limits()[0] + self._half_width()

    def _ra_overlap(self) -> float:
        top = max(abs(value) for value in self.dec_range())
        return 180.0 if top >= 90.0 else DEFAULT_OVERLAP_DEGREES / float(np.cos(np.radians(top)))

    def _corners(self) -> FloatArray:
        """Unit vectors of the corners, anticlockwise as seen from outside the sphere, shape (n, 3)."""
        ra, dec = np.array(self.outer).T
        corners = unit_vectors(ra=ra, dec=dec)
        turned = np.cross(corners[0], corners[1]) @ corners.mean(axis=0) < 0.0
        return corners[::-1] if turned else corners

    def _circle(self) -> tuple[FloatArray, float]:
        """Middle of the polygon, and radius in degrees of a circle around all of it."""
        corners = self._corners()
        middle = corners.mean(axis=0)
        middle = middle / np.linalg.norm(middle)
        return middle, float(np.degrees(np.arccos(np.clip((corners @ middle).min(), -1.0, 1.0)))) + 1e-6


def _inside(corners: FloatArray, points: FloatArray) -> BoolArray:
    """Whether points are on no outer side of an edge.

    `corners` has shape (n, 3), `points` (m, k, 3); the result (m, k).
    """
    sides = np.cross(corners, np.roll(corners, -1, axis=0))
    return np.asarray((points @ sides.T >= -1e-15).all(axis=-1))
