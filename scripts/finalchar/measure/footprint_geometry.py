"""Boxes, areas and pixel lists of footprints, for all sources of a detector at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.formats.sources import Footprints

__all__ = [
    "FootprintBoxes",
    "FootprintPixels",
    "count_shared_pixels",
    "has_many_peaks",
    "list_pixels",
    "measure_boxes",
    "select_footprints",
]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FootprintBoxes:
    """Bounding boxes (limits inclusive, parent pixels) and pixel counts; empty footprints have area 0."""

    min_x: IntArray
    min_y: IntArray
    max_x: IntArray
    max_y: IntArray
    area: IntArray

    def box(self, index: int) -> Box | None:
        """Return the box of one footprint; None if it is empty."""
        if self.area[index] == 0:
            return None
        return Box(
            int(self.min_x[index]), int(self.min_y[index]), int(self.max_x[index]), int(self.max_y[index])
        )

    @property
    def width(self) -> IntArray:
        """Columns of the boxes; 0 for empty footprints."""
        return np.where(self.area > 0, self.max_x - self.min_x + 1, 0)

    @property
    def height(self) -> IntArray:
        """Rows of the boxes; 0 for empty footprints."""
        return np.where(self.area > 0, self.max_y - self.min_y + 1, 0)


@dataclass(frozen=True)
class FootprintPixels:
    """All pixels of all footprints, source after source, in span order.

    The pixels of source ``k`` are the elements ``offset[k]:offset[k + 1]`` of `x` and `y`.
    """

    offset: IntArray
    y: IntArray
    x: IntArray

    def part(self, index: int) -> slice:
        """Return the slice of the pixels of source `index`."""
        return slice(int(self.offset[index]), int(self.offset[index + 1]))


def select_footprints(footprints: Footprints, source_id: npt.NDArray[np.int64]) -> IntArray:
    """Return the index of the footprint of each source id; -1 where a source has none."""
    return footprints.index_of(source_id)


def measure_boxes(footprints: Footprints) -> FootprintBoxes:
    """Return bounding boxes and pixel counts of all footprints."""
    number = len(footprints)
    spans = np.diff(footprints.span_offset)
    full = spans > 0
    start = footprints.span_offset[:-1][full]

    def extreme(function: np.ufunc, values: npt.NDArray[np.int32]) -> IntArray:
        result = np.zeros(number, dtype=np.int64)
        if len(start):
            result[full] = function.reduceat(values, start)
        return result

    width = (footprints.span_x1 - footprints.span_x0 + 1).astype(np.int64)
    area = np.zeros(number, dtype=np.int64)
    if len(start):
        area[full] = np.add.reduceat(width, start)
    return FootprintBoxes(
        min_x=extreme(np.minimum, footprints.span_x0),
        min_y=extreme(np.minimum, footprints.span_y),
        max_x=extreme(np.maximum, footprints.span_x1),
        max_y=extreme(np.maximum, footprints.span_y),
        area=area,
    )


def list_pixels(footprints: Footprints) -> FootprintPixels:
    """Return the pixels of all footprints, source after source, span after span, x ascending."""
    width = (footprints.span_x1 - footprints.span_x0 + 1).astype(np.int64)
    before = np.concatenate([[0], np.cumsum(width)])
    first = footprints.span_x0.astype(np.int64) - before[:-1]
    return FootprintPixels(
        offset=before[footprints.span_offset],
        y=np.repeat(footprints.span_y.astype(np.int64), width),
        x=np.repeat(first, width) + np.arange(before[-1], dtype=np.int64),
    )


def count_shared_pixels(footprints: Footprints, stars: IntArray) -> IntArray:
    """Return how many pixels each star's footprint shares with other sources' footprints.

    A deblended child shares its pixels with its parent and its heavy siblings by construction; only sources
    whose pixels are taken from the image itself (not heavy, without parent) compete for them.

    Parameters
    ----------
    footprints : Footprints
        Footprints of all sources.
    stars : ndarray, int64
        Index of the footprint of each star; -1 (none) gives 0.
    """
    result = np.zeros(len(stars), dtype=np.int64)
    plain = ~footprints.heavy & (footprints.parent == 0)
    plain &= ~np.isin(footprints.source_id, footprints.parent)
    pixels = list_pixels(footprints)
    if not len(pixels.x):
        return result
    owner = np.repeat(np.arange(len(footprints)), np.diff(pixels.offset))
    claimed = plain[owner]
    width = int(pixels.x.max() - pixels.x.min()) + 1
    key = (pixels.y - pixels.y.min()) * width + (pixels.x - pixels.x.min())
    values, counts = np.unique(key[claimed], return_counts=True)
    contested = values[counts > 1]
    if not len(contested):
        return result
    shared = np.zeros(len(footprints), dtype=np.int64)
    hit = claimed & np.isin(key, contested)
    np.add.at(shared, owner[hit], 1)
    known = stars >= 0
    result[known] = shared[stars[known]]
    return result


def has_many_peaks(footprints: Footprints, stars: IntArray) -> npt.NDArray[np.bool_]:
    """Return whether a star's own, not deblended footprint has more than one peak.

    Such a footprint is put back as a whole: light of the other peaks is measured with the star.
    """
    many = (np.diff(footprints.peak_offset) > 1) & ~footprints.heavy
    return np.append(many, False)[stars]  # index -1, no footprint, takes the last element
