"""The flux of `fixed_moments` for many stars at once (measurement specification 5.2).

Same mixture of float32 and double as there.  Pixels outside the image are zeros, so that all windows can have
one size; the region of 4 sigma is implied by the largest exponent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.measure.fixed_moments import (
    SUB_PIXEL_LIMIT,
    SUB_PIXEL_STEP,
)
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.psf.shape import MAX_EXPONENT, MAX_EXPONENT_SUB_PIXEL, MAX_INVERSE, SINGULAR_DETERMINANT

__all__ = ["CentredImages", "fixed_moment_fluxes", "is_usable_weight"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
SingleArray = npt.NDArray[np.float32]

REACH_IN_SIGMA = 4.0
SUB_PIXEL_POINTS = 4


@dataclass(frozen=True)
class CentredImages:
    """Equal squares around n stars.

    Attributes
    ----------
    pixels : ndarray, float32, shape (n, 2 half + 1, 2 half + 1)
        Zero outside the image.
    dx, dy : ndarray, float32, shape (n, 2 half + 1)
        Offsets of columns and rows from the centres, as float32 arithmetic gives them.
    """

    pixels: SingleArray
    dx: SingleArray
    dy: SingleArray

    def take(self, rows: npt.NDArray[np.int64]) -> CentredImages:
        """Return the images of some stars."""
        return CentredImages(self.pixels[rows], self.dx[rows], self.dy[rows])

    def core(self, rows: npt.NDArray[np.int64], reach: float) -> CentredImages:
        """Return the middle squares of some stars, `reach` pixels from the middle."""
        half = self.pixels.shape[1] // 2
        keep = min(int(np.ceil(reach)) + 1, half)
        part = slice(half - keep, half + keep + 1)
        return CentredImages(self.pixels[rows, part, part], self.dx[rows, part], self.dy[rows, part])


def is_usable_weight(shape: Quadrupoles) -> BoolArray:
    """Return whether weights are neither singular nor out of range."""
    determinant = shape.determinant
    with np.errstate(invalid="ignore", divide="ignore"):
        w11, w12, w22 = shape.yy / determinant, shape.xy / determinant, shape.xx / determinant
        return np.asarray(
            (determinant >= SINGULAR_DETERMINANT)
            & (w11 >= 0)
            & (w11 <= MAX_INVERSE)
            & (w22 >= 0)
            & (w22 <= MAX_INVERSE)
            & (np.abs(w12) <= MAX_INVERSE)
        )


def fixed_moment_fluxes(images: CentredImages, shape: Quadrupoles) -> FloatArray:
    """Return twice the weighted sums of the pixels; NaN where the weight is singular or out of range.

    Parameters
    ----------
    images : CentredImages
        Of n stars.
    shape : Quadrupoles
        Covariances of the weights, shape (n,).
    """
    flux = np.full(len(shape), np.nan)
    usable = is_usable_weight(shape)
    with np.errstate(invalid="ignore"):
        small = (shape.xx < 0.25) | (shape.yy < 0.25) | (shape.determinant < 0.0625)
    for chosen, sum_pixels in ((usable & ~small, _weighted_sums), (usable & small, _sub_pixel_sums)):
        rows = np.flatnonzero(chosen)
        if len(rows):
            own = shape[rows]
            reach = REACH_IN_SIGMA * float(np.sqrt(max(own.xx.max(), own.yy.max())))
            flux[rows] = 2.0 * sum_pixels(images.core(rows, reach), _inverse(own))
    return flux


def _inverse(shape: Quadrupoles) -> FloatArray:
    """Return (w11, 2 w12, w22) of the inverse matrices, shape (3, n)."""
    determinant = shape.determinant
    return np.stack([shape.yy / determinant, -2.0 * shape.xy / determinant, shape.xx / determinant])


def _weighted_sums(images: CentredImages, inverse: FloatArray) -> FloatArray:
    """Sum pixels times weights, one exponent per pixel: float32 products of offsets, sums in double."""
    dx, dy = images.dx[:, np.newaxis, :], images.dy[:, :, np.newaxis]
    w11, twice_w12, w22 = inverse[:, :, np.newaxis, np.newaxis]
    exponent = (dx * dy).astype(np.float64) * twice_w12
    exponent += (dx * dx).astype(np.float64) * w11 + (dy * dy).astype(np.float64) * w22
    single = exponent.astype(np.float32)
    return _sums(images.pixels, single, single <= MAX_EXPONENT)


def _sums(pixels: SingleArray, exponent: SingleArray, used: BoolArray) -> FloatArray:
    """Sum float32 products of pixels and weights; the exponential is taken in double."""
    power = exponent.astype(np.float64)
    power *= -0.5
    terms = np.exp(power, out=power).astype(np.float32)
    terms *= pixels
    return np.asarray(np.where(used, terms, np.float32(0)).sum(axis=(1, 2), dtype=np.float64))


def _sub_pixel_sums(images: CentredImages, inverse: FloatArray) -> FloatArray:
    """Sum over 16 points per pixel, not divided by 16 [M-Q26]; a rounded upper end may lose a point."""
    near = _near_pixels(images, inverse)
    total = np.zeros(len(images.pixels))
    sub_x, use_x = _sub_positions(images.dx)
    sub_y, use_y = _sub_positions(images.dy)
    w11, twice_w12, w22 = inverse[:, :, np.newaxis, np.newaxis]
    for row in range(SUB_PIXEL_POINTS):
        for column in range(SUB_PIXEL_POINTS):
            dx, dy = sub_x[column][:, np.newaxis, :], sub_y[row][:, :, np.newaxis]
            used = near & use_y[row][:, :, np.newaxis] & use_x[column][:, np.newaxis, :]
            exponent = (dx * dy).astype(np.float64) * twice_w12
            exponent += (dx * dx).astype(np.float64) * w11 + (dy * dy).astype(np.float64) * w22
            total += _sums(images.pixels, exponent.astype(np.float32), used)
    return total


def _near_pixels(images: CentredImages, inverse: FloatArray) -> BoolArray:
    """Return the pixels whose four outermost points are all within the largest exponent."""
    near = np.ones(images.pixels.shape, dtype=bool)
    w11, twice_w12, w22 = inverse[:, :, np.newaxis, np.newaxis]
    for shift_x in (-SUB_PIXEL_LIMIT, SUB_PIXEL_LIMIT):
        for shift_y in (-SUB_PIXEL_LIMIT, SUB_PIXEL_LIMIT):
            dx, dy = (images.dx + shift_x)[:, np.newaxis, :], (images.dy + shift_y)[:, :, np.newaxis]
            exponent = (dx * dy).astype(np.float64) * twice_w12
            exponent += (dx * dx).astype(np.float64) * w11 + (dy * dy).astype(np.float64) * w22
            near &= exponent.astype(np.float32) <= MAX_EXPONENT_SUB_PIXEL
    return near


def _sub_positions(centre: SingleArray) -> tuple[list[SingleArray], list[BoolArray]]:
    """Return the 4 sampling offsets of each pixel, advanced in float32, and whether each is in range."""
    end = centre + SUB_PIXEL_LIMIT
    positions = [centre - SUB_PIXEL_LIMIT]
    for _ in range(SUB_PIXEL_POINTS - 1):
        positions.append(positions[-1] + SUB_PIXEL_STEP)
    return positions, [position <= end for position in positions]
