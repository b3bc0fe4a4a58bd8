"""Flux under a Gaussian weight of fixed shape and place (measurement specification 5.2).

Its weight has the limits of the adaptive moments (`finalchar.psf.shape`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.measure.plugin import StarError
from finalchar.psf.shape import MAX_EXPONENT, MAX_EXPONENT_SUB_PIXEL, MAX_INVERSE, SINGULAR_DETERMINANT

__all__ = ["Quadrupole", "expand_to_pixels", "fixed_moment_flux", "weight_region"]

MAX_RADIUS = 1000.0
RADIUS_IN_SIGMA = 4.0
SUB_PIXEL_LIMIT = np.float32(0.375)
SUB_PIXEL_STEP = np.float32(0.25)


@dataclass(frozen=True)
class Quadrupole:
    """Second moments, pixels squared."""

    xx: float
    yy: float
    xy: float

    @property
    def determinant(self) -> float:
        """Ixx Iyy - Ixy^2."""
        return self.xx * self.yy - self.xy * self.xy

    @property
    def inverse(self) -> tuple[float, float, float]:
        """Elements (11, 12, 22) of the inverse matrix; an error if it is singular or huge."""
        determinant = self.determinant
        if not determinant >= SINGULAR_DETERMINANT:
            raise StarError("the weight of the flux is singular")
        w11, w12, w22 = self.yy / determinant, -self.xy / determinant, self.xx / determinant
        if not (0 <= w11 <= MAX_INVERSE and 0 <= w22 <= MAX_INVERSE and abs(w12) <= MAX_INVERSE):
            raise StarError("the weight of the flux is not positive")
        return w11, w12, w22

    @property
    def is_sub_pixel(self) -> bool:
        """Whether the weight is so small that pixels are sampled at 16 points."""
        return self.xx < 0.25 or self.yy < 0.25 or self.determinant < 0.0625


def expand_to_pixels(*, x: float, y: float, radius: float) -> Box:
    """Return the pixels touched by the square of half-width `radius` about (x, y)."""
    return Box(
        int(np.ceil(x - radius - 0.5)),
        int(np.ceil(y - radius - 0.5)),
        int(np.floor(x + radius + 0.5)),
        int(np.floor(y + radius + 0.5)),
    )


def weight_region(*, shape: Quadrupole, x: float, y: float) -> Box:
    """Return the box on which the weight is evaluated (not yet clipped to the image)."""
    largest = max(shape.xx, shape.yy)
    if not np.isfinite(largest) or largest < 0:
        raise StarError("the weight of the flux has no size")
    return expand_to_pixels(x=x, y=y, radius=min(RADIUS_IN_SIGMA * float(np.sqrt(largest)), MAX_RADIUS))


def fixed_moment_flux(
    image: npt.NDArray[np.floating], *, box: Box, shape: Quadrupole, x: float, y: float
) -> float:
    """Return twice the weighted sum of pixels: the flux of a Gaussian of that shape.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Pixels of `box`, the region of `weight_region` clipped to the image.
    box : Box
        Where the pixels are, **relative to the origin of the image** they were cut from.
    shape : Quadrupole
        Covariance of the weight.
    x, y : float
        Centre, relative to the same origin; rounded to float32, as all offsets are.

    Raises
    ------
    StarError
        If the weight is singular or out of range.
    """
    inverse = shape.inverse
    offset_x = np.arange(box.min_x, box.max_x + 1).astype(np.float32) - np.float32(x)
    offset_y = np.arange(box.min_y, box.max_y + 1).astype(np.float32) - np.float32(y)
    pixels = image.astype(np.float32)
    if shape.is_sub_pixel:
        return 2.0 * _sub_pixel_sum(pixels, offset_x, offset_y, inverse)
    exponent = _exponent(offset_x[np.newaxis, :], offset_y[:, np.newaxis], inverse)
    return 2.0 * _weighted_sum(pixels, exponent, exponent <= MAX_EXPONENT)


def _exponent(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], inverse: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """Return x^2 w11 + 2 x y w12 + y^2 w22: products of offsets in float32, the sum in double."""
    w11, w12, w22 = inverse
    total = (x * x).astype(np.float64) * w11 + 2.0 * (x * y).astype(np.float64) * w12
    return (total + (y * y).astype(np.float64) * w22).astype(np.float32)


def _weighted_sum(
    pixels: npt.NDArray[np.float32], exponent: npt.NDArray[np.float32], used: npt.NDArray[np.bool_]
) -> float:
    weight = np.exp(-0.5 * exponent[used].astype(np.float64)).astype(np.float32)
    terms = pixels[used] * weight
    return float(np.add.accumulate(terms, dtype=np.float64)[-1]) if len(terms) else 0.0


def _sub_pixel_sum(
    pixels: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    inverse: tuple[float, float, float],
) -> float:
    """Sum over 16 points per pixel, not divided by 16 [M-Q26]; a rounded upper end may lose a point."""
    corners = [
        _exponent((x + dx)[np.newaxis, :], (y + dy)[:, np.newaxis], inverse)
        for dx in (-SUB_PIXEL_LIMIT, SUB_PIXEL_LIMIT)
        for dy in (-SUB_PIXEL_LIMIT, SUB_PIXEL_LIMIT)
    ]
    near = np.max(corners, axis=0) <= MAX_EXPONENT_SUB_PIXEL
    total = 0.0
    sub_y, use_y = _sub_positions(y)
    sub_x, use_x = _sub_positions(x)
    for row in range(sub_y.shape[0]):
        for column in range(sub_x.shape[0]):
            exponent = _exponent(sub_x[column][np.newaxis, :], sub_y[row][:, np.newaxis], inverse)
            used = near & use_y[row][:, np.newaxis] & use_x[column][np.newaxis, :]
            total += _weighted_sum(pixels, exponent, used)
    return total


def _sub_positions(
    centre: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the 4 sampling offsets of each pixel, advanced in float32, and whether each is in range."""
    end = centre + SUB_PIXEL_LIMIT
    position = [centre - SUB_PIXEL_LIMIT]
    for _ in range(3):
        position.append(position[-1] + SUB_PIXEL_STEP)
    positions = np.stack(position)
    return positions, positions <= end
