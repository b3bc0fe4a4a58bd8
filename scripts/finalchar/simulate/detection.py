"""Detection and deblending of a simulated detector image: footprints as the LSST stack lays them out.

Connected regions above 5 sigma of the smoothed image, grown, with a peak of at least 10 sigma; regions with
more than one peak become a parent and its children, whose light is shared with templates that are
symmetric about their peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import Footprints
from finalchar.simulate.render import Planes, mask_bit

__all__ = ["Detections", "detect_sources"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DETECTION_SIGMA = 5.0
PEAK_SIGMA = 10.0
GROW_SIGMA = 2.4
"""Footprints are grown by this many PSF sigmas."""


@dataclass(frozen=True)
class Detections:
    """Footprints in catalogue order with their peaks' heights.

    `peak_value` and `peak_significance` go with the peaks of `footprints`; `n_child` with its sources.
    """

    footprints: Footprints
    peak_value: npt.NDArray[np.float32]
    peak_significance: FloatArray
    n_child: npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Region:
    """One footprint: pixels in span order, peak numbers, parent index (-1: none) and heavy values."""

    y: IntArray
    x: IntArray
    peaks: IntArray
    parent: int
    heavy: npt.NDArray[np.float32] | None


def detect_sources(planes: Planes, psf_sigma: float, first_id: int) -> Detections:
    """Detect, grow and deblend; mark DETECTED in the mask.

    Parameters
    ----------
    planes : Planes
        Image, mask (changed) and variance.
    psf_sigma : float
        Gaussian sigma of the PSF, pixels.
    first_id : int
        Source ids are ``first_id + 1``, ``first_id + 2``, ...
    """
    image = np.nan_to_num(planes.image, nan=0.0)
    significance = _significance(image, planes, psf_sigma)
    labels, kept = _label_regions(significance, psf_sigma)
    planes.set_mask(np.isin(labels, kept), "DETECTED")
    peak_y, peak_x = _find_peaks(significance, labels, kept)
    regions = _collect_regions(image, labels, kept, peak_y, peak_x)
    return _pack(regions, first_id, peak_y, peak_x, image, significance)


def _significance(image: npt.NDArray[np.float32], planes: Planes, psf_sigma: float) -> FloatArray:
    """Smoothed image in units of its own noise; 0 where nothing can be detected."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image.astype(np.float64), psf_sigma, truncate=4.0)
    noise = np.sqrt(np.nanmedian(planes.variance)) / (2.0 * np.sqrt(np.pi) * psf_sigma)
    smooth[(planes.mask & mask_bit("EDGE", "NO_DATA")) != 0] = 0.0
    return np.asarray(smooth / noise)


def _label_regions(significance: FloatArray, psf_sigma: float) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Label the grown regions; return the labels that hold a high enough peak."""
    from scipy import ndimage

    radius = round(GROW_SIGMA * psf_sigma)
    seeds, n_seeds = ndimage.label(significance > DETECTION_SIGMA)
    height = ndimage.maximum(significance, seeds, np.arange(n_seeds + 1))
    strong = (np.asarray(height) > PEAK_SIGMA) & (np.arange(n_seeds + 1) > 0)
    grown = strong[seeds]
    if grown.any():
        grown = ndimage.distance_transform_edt(~grown) <= radius + 0.5
    labels, n_labels = ndimage.label(grown)
    return labels, np.arange(1, n_labels + 1)


def _find_peaks(
    significance: FloatArray, labels: npt.NDArray[np.int32], kept: IntArray
) -> tuple[IntArray, IntArray]:
    """Return (y, x) of the local maxima above the peak threshold, by region, highest first."""
    from scipy.ndimage import maximum_filter

    top = (significance == maximum_filter(significance, size=5)) & (significance > PEAK_SIGMA)
    y, x = np.nonzero(top & np.isin(labels, kept))
    order = np.lexsort((x, y, -significance[y, x], labels[y, x]))
    return y[order], x[order]


def _collect_regions(
    image: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    kept: IntArray,
    peak_y: IntArray,
    peak_x: IntArray,
) -> list[_Region]:
    """Return all footprints: first those of regions, then the children in order of their parents."""
    y, x = np.nonzero(labels)
    order = np.argsort(labels[y, x], kind="stable")
    y, x = y[order], x[order]
    start = np.searchsorted(labels[y, x], np.append(kept, kept[-1] + 1 if len(kept) else 1))
    peak_label = labels[peak_y, peak_x]
    parents, children = [], []
    for index, label in enumerate(kept):
        part = slice(start[index], start[index + 1])
        peaks = np.flatnonzero(peak_label == label)
        parents.append(_Region(y[part], x[part], peaks, -1, None))
        if len(peaks) > 1:
            children += _deblend(image, parents[-1], index, peak_y, peak_x)
    return parents + children


def _deblend(
    image: npt.NDArray[np.float32], parent: _Region, index: int, peak_y: IntArray, peak_x: IntArray
) -> list[_Region]:
    """Share the light of a blend among its peaks with templates symmetric about each peak.

    Light that no template claims goes to the nearest peak.
    """
    values = image[parent.y, parent.x]
    inside = np.zeros((np.ptp(parent.y) + 1, np.ptp(parent.x) + 1), dtype=np.float32)
    y, x = parent.y - parent.y.min(), parent.x - parent.x.min()
    inside[y, x] = values
    bottom, left = parent.y.min(), parent.x.min()
    templates = [_template(inside, y, x, peak_y[peak] - bottom, peak_x[peak] - left) for peak in parent.peaks]
    stray = (np.sum(templates, axis=0) == 0.0) & (values > 0.0)
    nearest = np.argmin(
        [np.hypot(y - peak_y[k] + bottom, x - peak_x[k] + left) for k in parent.peaks], axis=0
    )
    for number, template in enumerate(templates):
        template[stray & (nearest == number)] = 1.0
    total = np.sum(templates, axis=0)
    children = []
    for peak, template in zip(parent.peaks, templates, strict=True):
        belongs = template > 0.0
        share = (values[belongs] * template[belongs] / total[belongs]).astype(np.float32)
        children.append(_Region(parent.y[belongs], parent.x[belongs], np.array([peak]), index, share))
    return children


def _template(
    inside: npt.NDArray[np.float32], y: IntArray, x: IntArray, peak_y: int, peak_x: int
) -> npt.NDArray[np.float32]:
    """Return the lesser of each pixel and its mirror image about the peak, at least 0."""
    mirror_y, mirror_x = 2 * peak_y - y, 2 * peak_x - x
    height, width = inside.shape
    exists = (mirror_y >= 0) & (mirror_y < height) & (mirror_x >= 0) & (mirror_x < width)
    mirrored = inside[mirror_y.clip(0, height - 1), mirror_x.clip(0, width - 1)]
    return np.maximum(np.minimum(inside[y, x], np.where(exists, mirrored, 0.0)), 0.0)


def _pack(
    regions: list[_Region],
    first_id: int,
    peak_y: IntArray,
    peak_x: IntArray,
    image: npt.NDArray[np.float32],
    significance: FloatArray,
) -> Detections:
    """Bring a list of regions into the ragged arrays of `Footprints`."""
    spans = [_spans(region) for region in regions]
    peaks = np.concatenate([region.peaks for region in regions]) if regions else np.zeros(0, dtype=np.int64)
    heavy = [region.heavy if region.heavy is not None else np.zeros(0, np.float32) for region in regions]
    parent = np.array([region.parent for region in regions], dtype=np.int64)
    all_spans = np.concatenate(spans, axis=1) if spans else np.zeros((3, 0), dtype=np.int32)
    footprints = Footprints(
        source_id=first_id + 1 + np.arange(len(regions), dtype=np.int64),
        parent=np.where(parent >= 0, first_id + 1 + parent, 0),
        span_offset=_offsets([span.shape[1] for span in spans]),
        span_y=all_spans[0],
        span_x0=all_spans[1],
        span_x1=all_spans[2],
        peak_offset=_offsets([len(region.peaks) for region in regions]),
        peak_x=peak_x[peaks].astype(np.int32),
        peak_y=peak_y[peaks].astype(np.int32),
        peak_f_x=peak_x[peaks].astype(np.float32),
        peak_f_y=peak_y[peaks].astype(np.float32),
        heavy=np.array([region.heavy is not None for region in regions], dtype=bool),
        heavy_offset=_offsets([len(values) for values in heavy]),
        heavy_image=np.concatenate(heavy) if heavy else np.zeros(0, np.float32),
    )
    return Detections(
        footprints=footprints,
        peak_value=image[peak_y[peaks], peak_x[peaks]],
        peak_significance=significance[peak_y[peaks], peak_x[peaks]],
        n_child=np.bincount(parent[parent >= 0], minlength=len(regions)).astype(np.int32),
    )


def _offsets(lengths: list[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _spans(region: _Region) -> npt.NDArray[np.int32]:
    """Return the runs (y, x0, x1) of the pixels of a region, which are in (y, x) order."""
    if not len(region.y):
        return np.zeros((3, 0), dtype=np.int32)
    breaks = np.flatnonzero((np.diff(region.y) != 0) | (np.diff(region.x) != 1))
    first = np.concatenate([[0], breaks + 1])
    last = np.concatenate([breaks, [len(region.y) - 1]])
    return np.stack([region.y[first], region.x[first], region.x[last]]).astype(np.int32)
