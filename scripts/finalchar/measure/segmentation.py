"""Footprints for catalogues that bring none: segmentation of the image by ``sep`` (known failure K20).

Pixels that stand out of the noise are gathered to segments, which ``sep`` divides where they have several
peaks.  `segments.footprints_from_segments` gives them to the sources of the catalogue by place.  What
follows, noise replacement with its random stream included, is the same as for footprints of a catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, Section
from finalchar.errors import InputError, MeasurementError

if TYPE_CHECKING:
    from finalchar.formats.exposure import Exposure
    from finalchar.formats.sources import SourceTable
    from finalchar.measure.segments import SegmentOwnership

__all__ = ["Segments", "Settings", "footprints_of_catalogue", "segment_image"]

SMOOTHING = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
"""Kernel the image is smoothed with before the threshold is applied (that of SExtractor)."""
FEWEST_PIXELS_OF_STACK = 300_000


class Settings(Section):
    """How the image is segmented where the source catalogue has no footprints (not in LSST)."""

    threshold: float = Field(
        1.5, gt=0.0, description="pixels of a segment stand above this many standard deviations, smoothed"
    )
    minimum_pixels: int = Field(5, ge=1, description="least number of pixels of a segment")
    grow: int = Field(2, ge=0, description="pixels that segments grow outwards where nothing else is")
    deblend_levels: int = Field(32, ge=1, description="number of levels at which blends are looked for")
    deblend_contrast: float = Field(
        0.005, ge=0.0, le=1.0, description="least part of the light that makes a peak a segment of its own"
    )
    peak_distance: float = Field(
        3.0, ge=0.0, description="a source beside all segments owns one whose peak is so near, in pixels"
    )


@dataclass(frozen=True)
class Segments:
    """A segmentation image and the brightest pixel of each segment, parent pixels.

    Attributes
    ----------
    labels : ndarray of int32, shape (ny, nx)
        0 for no segment, k + 1 for segment k.
    peak_x, peak_y : ndarray of int64, shape (number of segments,)
        Brightest pixels.
    """

    labels: npt.NDArray[np.int32]
    peak_x: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    peak_y: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def segment_image(exposure: Exposure, settings: Any) -> Segments:
    """Find the segments of an exposure whose background is subtracted.

    Parameters
    ----------
    exposure : Exposure
        Pixels that are not finite, or whose variance is not a positive number, count for nothing; a segment
        holds them only where the light around them does.
    settings : section
        Configuration section ``measurement.segmentation``.

    Raises
    ------
    MeasurementError
        If the image holds more segments or blended peaks than can be told apart.
    """
    import sep

    bad = ~(np.isfinite(exposure.image) & np.isfinite(exposure.variance) & (exposure.variance > 0.0))
    data = np.ascontiguousarray(np.where(bad, 0.0, exposure.image), dtype=np.float32)
    noise = np.sqrt(np.where(bad, 1.0, exposure.variance)).astype(np.float32)
    sep.set_extract_pixstack(max(FEWEST_PIXELS_OF_STACK, data.size))
    try:
        found, labels = sep.extract(
            data,
            settings.threshold,
            err=noise,
            mask=bad,
            minarea=settings.minimum_pixels,
            filter_kernel=SMOOTHING,
            deblend_nthresh=settings.deblend_levels,
            deblend_cont=settings.deblend_contrast,
            segmentation_map=True,
        )
    except Exception as error:  # sep raises plain exceptions
        raise MeasurementError(
            f"the image cannot be segmented ({error}); raise measurement.segmentation.threshold, or give a"
            " source catalogue with footprints"
        ) from error
    return Segments(
        _grown(labels.astype(np.int32), settings.grow),
        found["xpeak"].astype(np.int64) + exposure.box.min_x,
        found["ypeak"].astype(np.int64) + exposure.box.min_y,
    )


def _grown(labels: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.int32]:
    """Return segments grown into the empty pixels within `width`, each of which goes to the nearest."""
    if width == 0 or not labels.any():
        return labels
    from scipy.ndimage import distance_transform_edt

    distance, nearest = distance_transform_edt(labels == 0, return_indices=True)
    return np.where(distance <= width, labels[tuple(nearest)], labels).astype(np.int32)


def footprints_of_catalogue(exposure: Exposure, sources: SourceTable, settings: Any) -> SegmentOwnership:
    """Return footprints of all sources of a catalogue that brings none, by segmentation of the image.

    Parameters
    ----------
    exposure : Exposure
        The image with subtracted background.
    sources : SourceTable
        The whole catalogue with its centroid slot; ``parent`` tells blends (0: none).
    settings : section
        Configuration section ``measurement.segmentation``.

    Raises
    ------
    InputError
        If the catalogue lacks id, parent or centroid.
    MeasurementError
        If the image cannot be segmented.
    """
    from finalchar.measure.segments import footprints_from_segments

    x, y = (_column(sources, f"slot_Centroid_{axis}") for axis in ("x", "y"))
    segments = segment_image(exposure, settings)
    return footprints_from_segments(
        segments.labels,
        box=exposure.box,
        source_id=_column(sources, "id"),
        x=x,
        y=y,
        parent=_column(sources, "parent"),
        peaks=(segments.peak_x, segments.peak_y),
        peak_distance=settings.peak_distance,
        image=exposure.image,
    )


def _column(sources: SourceTable, name: str) -> npt.NDArray[Any]:
    if name not in sources:
        raise InputError(
            f"the source catalogue has neither footprints nor a column {name!r}; footprints by segmentation"
            " need it"
        )
    return sources[name]
