"""Footprints from a segmentation image: ownership by place, never by equal numbers (known failure K20).

Labels of a segmentation image and ids of a catalogue are numbered independently.  A source owns the segment
its position lies in, or, beside all segments, an unclaimed one whose peak is near.  Several sources in one
segment divide its pixels, each pixel going to the nearest; their footprints carry all their peaks, own peak
first, which marks them as shared.  Segments that no catalogue source claims become sources of their own,
with negative ids, so that their light is replaced too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.sources import Footprints

__all__ = ["SegmentOwnership", "footprints_from_segments", "with_detected"]

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
        The source has no pixel.
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
    labels: npt.NDArray[np.integer],
    *,
    box: Box,
    source_id: npt.ArrayLike,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    parent: npt.ArrayLike | None = None,
    peaks: tuple[IntArray, IntArray] | None = None,
    peak_distance: float = 0.0,
    image: npt.NDArray[np.float32] | None = None,
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
    parent : array_like of int, shape (n,), optional
        Id of the blend a source is part of, 0 for none.  Children divide the pixels among themselves; their
        parent has all of theirs, and segments that no other source claims.
    peaks : tuple of ndarray of int, optional
        Brightest pixels (x, y) of the segments, parent pixels.
    peak_distance : float
        A source beside all segments owns an unclaimed one whose peak is so near, pixels.
    image : ndarray of float32, shape (ny, nx), optional
        Image plane; needed with `parent`, for the heavy footprints of children.
    """
    ids = np.asarray(source_id, dtype=np.int64)
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    above = np.zeros(len(ids), dtype=np.int64) if parent is None else np.asarray(parent, dtype=np.int64)
    label = _claims(labels, box, xs, ys, np.isin(ids, above[above != 0]))
    if peaks is not None:
        label = _claim_by_peak(label, labels, box, xs, ys, peaks, peak_distance)
    row, column = np.nonzero(labels)
    value = labels[row, column].astype(np.int64)
    unclaimed = np.setdiff1d(value, label)
    shared_labels = _shared(label)
    owner = _owners(value, label, unclaimed, len(ids))
    _divide(owner, value, label, shared_labels, column + box.min_x, row + box.min_y, xs, ys)
    own_peaks = [_peaks(k, label, shared_labels, xs, ys) for k in range(len(ids))]
    family, pixel = _pixels_of_parents(owner, ids, above)
    footprints = _gather(
        np.concatenate([owner, family]),
        np.concatenate([row, row[pixel]]) + box.min_y,
        np.concatenate([column, column[pixel]]) + box.min_x,
        np.concatenate([ids, -np.arange(1, len(unclaimed) + 1)]),
        own_peaks,
    )
    return SegmentOwnership(
        footprints=_with_children(footprints, above, image, box),
        without_segment=np.diff(footprints.span_offset)[: len(ids)] == 0,
        sharing=np.isin(label, shared_labels),
        unclaimed=len(unclaimed),
    )


def with_detected(exposure: Exposure, footprints: Footprints) -> Exposure:
    """Return an exposure whose mask has the plane DETECTED, set where there is a footprint.

    Parameters
    ----------
    exposure : Exposure
        Without that plane; its arrays are not changed.
    footprints : Footprints
        Of all sources.
    """
    bit = next(k for k in range(31) if k not in exposure.mask_planes.values())
    height, width = exposure.image.shape
    detected = np.zeros((height, width + 1), dtype=np.int32)
    row = footprints.span_y - exposure.box.min_y
    np.add.at(detected, (row, footprints.span_x0 - exposure.box.min_x), 1)
    np.add.at(detected, (row, footprints.span_x1 + 1 - exposure.box.min_x), -1)
    inside = np.cumsum(detected, axis=1)[:, :-1] > 0
    mask = np.where(inside, exposure.mask | np.int32(1 << bit), exposure.mask & ~np.int32(1 << bit))
    planes = {**exposure.mask_planes, "DETECTED": bit}
    return replace(exposure, mask=mask, mask_planes=planes)


def _claims(
    labels: npt.NDArray[np.integer], box: Box, x: FloatArray, y: FloatArray, is_parent: npt.NDArray[np.bool_]
) -> IntArray:
    """Return the label of each source by its position; parents have only what others leave."""
    label = _label_at(labels, box, x, y)
    label[is_parent & np.isin(label, label[~is_parent])] = 0
    return label


def _claim_by_peak(
    label: IntArray,
    labels: npt.NDArray[np.integer],
    box: Box,
    x: FloatArray,
    y: FloatArray,
    peaks: tuple[IntArray, IntArray],
    distance: float,
) -> IntArray:
    """Give unclaimed segments to the sources without segment that are nearest to their peaks."""
    result = label.copy()
    peak_x, peak_y = (np.asarray(values, dtype=np.int64) for values in peaks)
    segment = _label_at(labels, box, peak_x.astype(np.float64), peak_y.astype(np.float64))
    free = np.flatnonzero((segment != 0) & ~np.isin(segment, label))
    without = np.flatnonzero((label == 0) & np.isfinite(x) & np.isfinite(y))
    for one in free:
        if not len(without):
            break
        away = np.hypot(x[without] - peak_x[one], y[without] - peak_y[one])
        nearest = int(away.argmin())
        if away[nearest] <= distance:
            result[without[nearest]] = segment[one]
            without = np.delete(without, nearest)
    return result


def _shared(label: IntArray) -> IntArray:
    """Return the labels that several sources claim."""
    claimed, times = np.unique(label, return_counts=True)
    shared: IntArray = claimed[(times > 1) & (claimed != 0)]
    return shared


def _divide(
    owner: IntArray,
    value: IntArray,
    label: IntArray,
    shared: IntArray,
    column: IntArray,
    row: IntArray,
    x: FloatArray,
    y: FloatArray,
) -> None:
    """Give each pixel of a shared segment to the nearest of its claimants, in place."""
    contested = np.flatnonzero(np.isin(value, shared))
    for one in shared:
        pixels = contested[value[contested] == one]
        rivals = np.flatnonzero(label == one)
        distance = np.hypot(
            column[pixels, np.newaxis] - x[rivals],
            row[pixels, np.newaxis] - y[rivals],
        )
        owner[pixels] = rivals[distance.argmin(axis=1)]


def _pixels_of_parents(owner: IntArray, ids: IntArray, above: IntArray) -> tuple[IntArray, IntArray]:
    """Return (parent's number, pixel's number) of all pixels of children whose parent is in the catalogue."""
    place = {int(one): k for k, one in enumerate(ids)}
    parents = np.array([place.get(int(one), -1) if one else -1 for one in above], dtype=np.int64)
    of_source = np.where(owner < len(ids), np.append(parents, -1)[np.minimum(owner, len(ids))], -1)
    pixel = np.flatnonzero(of_source >= 0)
    return of_source[pixel], pixel


def _with_children(
    footprints: Footprints, above: IntArray, image: npt.NDArray[np.float32] | None, box: Box
) -> Footprints:
    """Return the footprints with their parents; children are heavy, as noise replacement needs them."""
    if not above.any() or image is None:
        return footprints
    heavy = np.zeros(len(footprints), dtype=bool)
    heavy[: len(above)] = above != 0
    parent = np.zeros(len(footprints), dtype=np.int64)
    parent[: len(above)] = above
    values = []
    for k in range(len(footprints)):
        y, x = footprints.pixels(k) if heavy[k] else (np.zeros(0, np.int64), np.zeros(0, np.int64))
        values.append(image[y - box.min_y, x - box.min_x].astype(np.float32))
    offset = np.concatenate([[0], np.cumsum([len(one) for one in values])]).astype(np.int64)
    return replace(
        footprints, parent=parent, heavy=heavy, heavy_offset=offset, heavy_image=np.concatenate(values)
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
