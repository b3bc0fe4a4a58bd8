"""Footprints from a segmentation image: ownership by place, never by equal numbers (known failure K20).

Labels of a segmentation image and ids of a catalogue are numbered independently.  A source owns the segment
its position lies in.  Several sources in one segment divide its pixels, each pixel going to the nearest;
their footprints carry all their peaks, own peak first, which marks them as shared.  Segments that no
catalogue source claims become sources of their own, with negative ids, so that their light is replaced too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.formats.sources import Footprints

__all__ = ["SegmentOwnership", "footprints_from_segments"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SegmentOwnership:
    """Footprints of catalogue sources (in catalogue order) and then of unclaimed segments, and what befell.

    Attributes
    ----------
    footprints : Footprints
        Sources without segment have an empty footprint.
    without_segment : ndarray, bool, shape (n,)
        The position lies on no segment.
    sharing : ndarray, bool, shape (n,)
        The segment was divided among several sources.
    unclaimed : int
        Number of segments without catalogue source.
    """

    footprints: Footprints
    without_segment: npt.NDArray[np.bool_]
    sharing: npt.NDArray[np.bool_]
    unclaimed: int


def footprints_from_segments(
    labels: npt.NDArray[np.integer], *, box: Box, source_id: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike
) -> SegmentOwnership:
    """Assign the pixels of a segmentation image to the sources of a catalogue.

    Parameters
    ----------
    labels : ndarray of int, shape (ny, nx)
        Segmentation image, 0 for no segment; which numbers it uses does not matter.
    box : Box
        Its pixel box.
    source_id : array_like of int, shape (n,)
        Ids of the sources.
    x, y : array_like of float, shape (n,)
        Positions of the sources, parent pixels.
    """
    ids = np.asarray(source_id, dtype=np.int64)
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    label = _label_at(labels, box, xs, ys)
    claimants = np.unique(label, return_counts=True)
    shared_labels = claimants[0][(claimants[1] > 1) & (claimants[0] != 0)]
    row, column = np.nonzero(labels)
    value = labels[row, column].astype(np.int64)
    unclaimed = np.setdiff1d(value, label)
    owner = _owners(value, label, unclaimed, len(ids))
    contested = np.flatnonzero(np.isin(value, shared_labels))
    for one in shared_labels:
        pixels = contested[value[contested] == one]
        rivals = np.flatnonzero(label == one)
        distance = np.hypot(
            column[pixels, np.newaxis] + box.min_x - xs[rivals],
            row[pixels, np.newaxis] + box.min_y - ys[rivals],
        )
        owner[pixels] = rivals[distance.argmin(axis=1)]
    everyone = np.concatenate([ids, -np.arange(1, len(unclaimed) + 1)])
    peaks = [_peaks(k, label, shared_labels, xs, ys) for k in range(len(ids))]
    return SegmentOwnership(
        footprints=_gather(owner, row + box.min_y, column + box.min_x, everyone, peaks),
        without_segment=label == 0,
        sharing=np.isin(label, shared_labels),
        unclaimed=len(unclaimed),
    )


def _label_at(labels: npt.NDArray[np.integer], box: Box, x: FloatArray, y: FloatArray) -> IntArray:
    """Return the label under each position; 0 off the image or at no position."""
    result = np.zeros(len(x), dtype=np.int64)
    inside = (x >= box.min_x - 0.5) & (x < box.max_x + 0.5) & (y >= box.min_y - 0.5) & (y < box.max_y + 0.5)
    column = np.floor(x[inside] + 0.5).astype(np.int64) - box.min_x
    row = np.floor(y[inside] + 0.5).astype(np.int64) - box.min_y
    result[inside] = labels[row, column]
    return result


def _owners(value: IntArray, label: IntArray, unclaimed: IntArray, number: int) -> IntArray:
    """Return the source of each pixel: the (first) claimant of its segment, or the segment itself."""
    names = np.concatenate([label, unclaimed])
    numbers = np.concatenate([np.arange(number), number + np.arange(len(unclaimed))])
    known, first = np.unique(names, return_index=True)
    return numbers[first][np.searchsorted(known, value)]


def _peaks(
    index: int, label: IntArray, shared: IntArray, x: FloatArray, y: FloatArray
) -> list[tuple[float, float]]:
    """Return the position of a source and of those it shares its segment with."""
    rivals = np.flatnonzero(label == label[index]) if label[index] in shared else np.array([index])
    ordered = [index, *(int(k) for k in rivals if k != index)]
    return [(float(x[k]), float(y[k])) for k in ordered]


def _gather(
    owner: IntArray, y: IntArray, x: IntArray, ids: IntArray, peaks: list[list[tuple[float, float]]]
) -> Footprints:
    """Make spans of the pixels of each source."""
    order = np.lexsort((x, y, owner))
    owner, y, x = owner[order], y[order], x[order]
    begins = np.ones(len(x), dtype=bool)
    begins[1:] = (np.diff(owner) != 0) | (np.diff(y) != 0) | (np.diff(x) != 1)
    start = np.flatnonzero(begins)
    end = np.append(start[1:], len(x))[: len(start)] - 1
    numbers = [len(peaks[k]) if k < len(peaks) else 0 for k in range(len(ids))]
    place = np.array([position for source in peaks for position in source], dtype=np.float64).reshape(-1, 2)
    whole = np.floor(np.nan_to_num(place) + 0.5).astype(np.int32)
    return Footprints(
        source_id=ids,
        parent=np.zeros(len(ids), dtype=np.int64),
        span_offset=np.searchsorted(owner[start], np.arange(len(ids) + 1)).astype(np.int64),
        span_y=y[start].astype(np.int32),
        span_x0=x[start].astype(np.int32),
        span_x1=x[end].astype(np.int32),
        peak_offset=np.concatenate([[0], np.cumsum(numbers)]).astype(np.int64),
        peak_x=whole[:, 0],
        peak_y=whole[:, 1],
        peak_f_x=place[:, 0].astype(np.float32),
        peak_f_y=place[:, 1].astype(np.float32),
        heavy=np.zeros(len(ids), dtype=bool),
        heavy_offset=np.zeros(len(ids) + 1, dtype=np.int64),
        heavy_image=np.zeros(0, dtype=np.float32),
    )
