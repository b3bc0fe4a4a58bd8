"""The Kron radius: first radial moment of the light inside an ellipse (measurement specification 9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.measure.quadrupoles import Quadrupoles

__all__ = ["KronRadii", "kron_radii", "region_boxes"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

CENTRAL_DISTANCE = 0.5
CENTRAL_RADIUS = 0.38259771140356325
"""Mean distance from the centre of the points of a pixel that holds the centre in its middle."""


@dataclass(frozen=True)
class KronRadii:
    """Determinant radii (pixels) of n stars and the sums they come from.

    Attributes
    ----------
    radius : ndarray, float64, shape (n,)
    light, moment : ndarray, float64, shape (n,)
        Sum of the pixels, and of pixels times elliptical radius.
    """

    radius: FloatArray
    light: FloatArray
    moment: FloatArray

    @property
    def usable(self) -> BoolArray:
        """Whether both sums are positive."""
        with np.errstate(invalid="ignore"):
            return np.asarray((self.light > 0) & (self.moment > 0))


def _row_limits(shape: Quadrupoles, offset_y: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return middle and half length of the rows of ellipses, offsets from the centre, and if they exist.

    `offset_y` has shape (n, rows); the rows are those of the expanded bounding box.
    """
    xx, yy, xy = (values[:, np.newaxis] for values in (shape.xx, shape.yy, shape.xy))
    flat = yy < np.finfo(float).eps * xx
    with np.errstate(invalid="ignore", divide="ignore"):
        skew = np.where(flat, 0.0, xy / yy)
        rest = xx - xy * skew
        ratio = np.where(flat, 0.0, rest / yy)
        square = rest - ratio * offset_y**2
        exists = (square >= 0) & (np.abs(offset_y) <= np.sqrt(yy) + 1.0)
        return skew * offset_y, np.sqrt(np.where(exists, square, 0.0)), exists


def _region_masks(shape: Quadrupoles, *, dx: FloatArray, dy: FloatArray) -> BoolArray:
    """Return which pixels lie inside or on the ellipses, shape (n, rows, columns)."""
    middle, reach, exists = _row_limits(shape, dy)
    distance = np.abs(dx[:, np.newaxis, :] - middle[:, :, np.newaxis])
    return np.asarray((distance <= reach[:, :, np.newaxis]) & exists[:, :, np.newaxis])


def region_boxes(
    shape: Quadrupoles, *, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the extent (min_x, min_y, max_x, max_y) of the pixels of ellipses that are shapes."""
    half_x, half_y = np.sqrt(shape.xx), np.sqrt(shape.yy)
    return np.ceil(x - half_x), np.ceil(y - half_y), np.floor(x + half_x), np.floor(y + half_y)


def kron_radii(
    image: npt.NDArray[np.float32], *, region: Quadrupoles, dx: FloatArray, dy: FloatArray
) -> KronRadii:
    """Measure the Kron radii of stars in elliptical regions (9, steps 4 and 5).

    Parameters
    ----------
    image : ndarray, float32, shape (n, ny, nx)
        Windows that hold the regions completely.
    region : Quadrupoles
        Where to sum, shape (n,); its axis ratio and angle are those of the radius.
    dx, dy : ndarray, float64, shapes (n, nx), (n, ny)
        Offsets of the columns and rows from the centres.
    """
    major, minor = (axis[:, np.newaxis, np.newaxis] for axis in region.semi_axes)
    theta = 0.5 * np.arctan2(2.0 * region.xy, region.xx - region.yy)[:, np.newaxis, np.newaxis]
    across, up = dx[:, np.newaxis, :], dy[:, :, np.newaxis]
    along_major = across * np.cos(theta) + up * np.sin(theta)
    along_minor = up * np.cos(theta) - across * np.sin(theta)
    radius = np.hypot(along_major, major / minor * along_minor)
    distance = np.hypot(across, up)
    central = CENTRAL_RADIUS * (1.0 + distance / np.sqrt(2.0))
    radius = np.where(distance < CENTRAL_DISTANCE, np.hypot(radius, central), radius)
    inside = _region_masks(region, dx=dx, dy=dy)
    pixels = np.where(inside, image, np.float32(0)).astype(np.float64)
    light = pixels.sum(axis=(1, 2))
    moment = np.where(inside, radius * pixels, 0.0).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = moment / light * np.sqrt(minor / major)[:, 0, 0]
    return KronRadii(mean, light, moment)
