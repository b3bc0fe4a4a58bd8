"""Square windows around many stars, cut once and measured as one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.measure.context import MeasurementContext, clip_box

__all__ = [
    "PixelLimits",
    "StarWindows",
    "cut_windows",
    "equal_batches",
    "nearest_pixel",
    "required_half_width",
]

IntArray = npt.NDArray[np.int64]
ImageStack = npt.NDArray[np.float32]

BATCH_PIXELS = 1 << 21
"""Pixels of one batch of windows: several arrays of doubles of that size are needed at a time."""


def nearest_pixel(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """Return the pixels that aperture images are centred on, for centres (x, y) (specification 12.2).

    Centres are rounded to float32 first; those less than one pixel from the origin of the parent frame stay
    on its first pixel.
    """
    x32 = np.asarray(x, dtype=np.float32).astype(np.float64)
    y32 = np.asarray(y, dtype=np.float32).astype(np.float64)
    at_origin = (np.abs(x32) < 1.0) & (np.abs(y32) < 1.0)
    return (
        np.where(at_origin, 0, np.floor(x32 + 0.5)).astype(np.int64),
        np.where(at_origin, 0, np.floor(y32 + 0.5)).astype(np.int64),
    )


def required_half_width(reach: npt.ArrayLike) -> IntArray:
    """Return 2^k - 1 >= `reach`, at least 15: few different sizes, so that stars form large batches."""
    powers = np.ceil(np.log2(np.maximum(np.asarray(reach, dtype=np.float64), 15.0) + 1.0))
    return (2 ** powers.astype(np.int64)) - 1


def equal_batches(*sizes: IntArray, chosen: npt.NDArray[np.bool_]) -> Iterator[IntArray]:
    """Yield the places of chosen stars in batches of equal sizes, not too many pixels in one.

    Parameters
    ----------
    *sizes : ndarray, int64, shape (n,)
        What must be equal in a batch; the last is the half width of the windows.
    chosen : ndarray, bool, shape (n,)
    """
    table = np.stack(sizes)
    for kind in np.unique(table[:, chosen], axis=1).T:
        places = np.flatnonzero(chosen & (table == kind[:, np.newaxis]).all(axis=0))
        step = max(1, BATCH_PIXELS // (2 * int(kind[-1]) + 1) ** 2)
        for first in range(0, len(places), step):
            yield places[first : first + step]


@dataclass(frozen=True)
class PixelLimits:
    """Limits (inclusive, parent pixels) of the image that each of n stars is measured on, shape (n,)."""

    min_x: IntArray
    min_y: IntArray
    max_x: IntArray
    max_y: IntArray

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> PixelLimits:
        """Gather the limits of boxes."""
        limits = [(box.min_x, box.min_y, box.max_x, box.max_y) for box in boxes]
        columns = np.array(limits, dtype=np.int64).reshape(-1, 4)
        return cls(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])

    def __getitem__(self, rows: Any) -> PixelLimits:
        return PixelLimits(self.min_x[rows], self.min_y[rows], self.max_x[rows], self.max_y[rows])

    def contain(self, other: PixelLimits) -> npt.NDArray[np.bool_]:
        """Return whether each box lies completely inside its limits."""
        return np.asarray(
            (self.min_x <= other.min_x)
            & (self.min_y <= other.min_y)
            & (other.max_x <= self.max_x)
            & (other.max_y <= self.max_y)
        )

    def box(self, row: int) -> Box:
        """Return the limits of one star."""
        return Box(int(self.min_x[row]), int(self.min_y[row]), int(self.max_x[row]), int(self.max_y[row]))


@dataclass(frozen=True)
class StarWindows:
    """Image and variance in equal squares around n stars.

    Attributes
    ----------
    image, variance : ndarray, float32, shape (n, 2 half + 1, 2 half + 1)
        Zero outside the limits.
    x, y : ndarray, int64, shape (n,)
        Middle pixel, parent coordinates.
    limits : PixelLimits
        The image each star is measured on.
    """

    image: ImageStack
    variance: ImageStack
    x: IntArray
    y: IntArray
    limits: PixelLimits

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any) -> StarWindows:
        return StarWindows(
            self.image[rows], self.variance[rows], self.x[rows], self.y[rows], self.limits[rows]
        )

    @property
    def half(self) -> int:
        """Half width without the middle pixel."""
        return int(self.image.shape[1]) // 2

    def box(self, row: int) -> Box:
        """Return the box of one window."""
        x, y, half = int(self.x[row]), int(self.y[row]), self.half
        return Box(x - half, y - half, x + half, y + half)

    def core(self, half: int) -> tuple[ImageStack, ImageStack]:
        """Return image and variance in the middle squares of another half width; zero outside the window."""
        if half <= self.half:
            middle = slice(self.half - half, self.half + half + 1)
            return self.image[:, middle, middle], self.variance[:, middle, middle]
        border = ((0, 0), (half - self.half,) * 2, (half - self.half,) * 2)
        return np.pad(self.image, border), np.pad(self.variance, border)


def cut_windows(
    context: MeasurementContext, stars: IntArray, *, x: IntArray, y: IntArray, half: int
) -> StarWindows:
    """Cut windows of 2 half + 1 pixels from the image with each star put back.

    Parameters
    ----------
    context : MeasurementContext
        Exposure and images.
    stars : ndarray, int64, shape (n,)
        Rows of the measured table.
    x, y : ndarray, int64, shape (n,)
        Middle pixels.
    half : int
        Half width; a star that lacks all pixels gives a window of zeros.
    """
    size = 2 * half + 1
    image = np.zeros((len(stars), size, size), dtype=np.float32)
    variance = np.zeros_like(image)
    for row, star in enumerate(stars):
        x0, y0 = int(x[row]) - half, int(y[row]) - half
        box = clip_box(Box(x0, y0, x0 + size - 1, y0 + size - 1), context.exposure.box)
        if box is None:
            continue
        part = (slice(box.min_y - y0, box.max_y - y0 + 1), slice(box.min_x - x0, box.max_x - x0 + 1))
        image[row][part] = context.stamp(int(star), box)
        variance[row][part] = context.variance(box)
    return StarWindows(image, variance, x, y, PixelLimits.of([context.exposure.box] * len(stars)))
