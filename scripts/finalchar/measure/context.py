"""What the plugins see: the exposure with one star put back at a time, the PSF at the stars, the footprints.

Everything that several plugins need at the same stars (PSF drawings, PSF shapes, footprint boxes) is made
once, for all stars, when it is first asked for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.sources import Footprints, SourceTable
from finalchar.measure.footprint_geometry import FootprintBoxes, measure_boxes
from finalchar.measure.noise_replacement import StarImages
from finalchar.measure.plugin import InvalidPsfError, StarError
from finalchar.psf.model import PsfModel

if TYPE_CHECKING:
    from finalchar.psf.shape import AdaptiveMoments

__all__ = ["MeasurementContext", "PsfDrawings", "clip_box", "round_position"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)


def round_position(position: float) -> int:
    """Return the nearest pixel, halves upwards (conventions of the measurement specification)."""
    return int(np.floor(position + 0.5))


def clip_box(box: Box, limits: Box) -> Box | None:
    """Return the part of `box` inside `limits`; None if there is none."""
    clipped = Box(
        max(box.min_x, limits.min_x),
        max(box.min_y, limits.min_y),
        min(box.max_x, limits.max_x),
        min(box.max_y, limits.max_y),
    )
    return clipped if clipped.width > 0 and clipped.height > 0 else None


@dataclass(frozen=True)
class PsfDrawings:
    """PSF images at n stars; ``valid[k]`` is False where the PSF could not be drawn.

    Attributes
    ----------
    arrays : ndarray, float64, shape (n, size, size)
    x0, y0 : ndarray, int64, shape (n,)
        First pixel, in parent coordinates for images; -(size // 2) for kernel images.
    valid : ndarray, bool, shape (n,)
    """

    arrays: FloatArray
    x0: IntArray
    y0: IntArray
    valid: npt.NDArray[np.bool_]

    def __getitem__(self, star: int) -> FloatArray:
        if not self.valid[star]:
            raise InvalidPsfError("the PSF cannot be drawn at this star")
        result: FloatArray = self.arrays[star]
        return result


@dataclass(frozen=True)
class MeasurementContext:
    """Everything a plugin may read.

    Attributes
    ----------
    exposure : Exposure
        All planes but the image, which is seen through `stamp`.
    psf : PsfModel
        The PSF to be measured with.
    footprints : Footprints
        Footprints of all sources.
    footprint_index : ndarray, int64, shape (n,)
        Footprint of each star, -1 for none.
    images : StarImages
        The image plane as each star sees it.
    x, y : ndarray, float64, shape (n,)
        Centroids, parent pixels; where the catalogue's is NaN and flagged, the first peak.
    centroid_flag : ndarray, bool, shape (n,)
        The centroid slot is flagged.
    color : ndarray, float64, shape (n,)
        Source colours for a chromatic PSF; NaN stands for the PSF's average colour [M-Q24].
    slots : settings section
        ``shape``, ``psfShape``, ``psfFlux``, ...: which plugin fills which slot.
    compatibility : str
        "fixed" or "lsst".
    """

    exposure: Exposure
    psf: PsfModel
    footprints: Footprints
    footprint_index: IntArray
    images: StarImages
    x: FloatArray
    y: FloatArray
    centroid_flag: npt.NDArray[np.bool_]
    color: FloatArray
    slots: Any
    compatibility: str

    def __len__(self) -> int:
        return len(self.x)

    def centroid(self, star: int) -> tuple[float, float]:
        """Return the centroid (x, y) of a star; an error if it has none (1.2)."""
        x, y = float(self.x[star]), float(self.y[star])
        if np.isnan(x) or np.isnan(y):
            raise StarError("the star has no centroid")
        return x, y

    def stamp(self, star: int, box: Box) -> npt.NDArray[np.float32]:
        """Return a copy of the image in `box` (inside the exposure) with this star put back."""
        return self.images.stamp(star, box)

    def variance(self, box: Box) -> npt.NDArray[np.float32]:
        """Return the variance plane in `box` (inside the exposure)."""
        return self.exposure.variance[self._slices(box)]

    def mask(self, box: Box) -> npt.NDArray[np.int32]:
        """Return the mask plane in `box` (inside the exposure)."""
        return self.exposure.mask[self._slices(box)]

    def _slices(self, box: Box) -> tuple[slice, slice]:
        origin = self.exposure.box
        return (
            slice(box.min_y - origin.min_y, box.max_y - origin.min_y + 1),
            slice(box.min_x - origin.min_x, box.max_x - origin.min_x + 1),
        )

    @cached_property
    def footprint_boxes(self) -> FootprintBoxes:
        """Bounding boxes of all footprints."""
        return measure_boxes(self.footprints)

    def footprint_box(self, star: int) -> Box | None:
        """Return the bounding box of the star's footprint; None if it has no pixels."""
        index = int(self.footprint_index[star])
        return self.footprint_boxes.box(index) if index >= 0 else None

    @cached_property
    def psf_images(self) -> PsfDrawings:
        """PSF images at the true sub-pixel places of the stars."""
        try:
            with np.errstate(invalid="ignore"):  # stars without centroid
                arrays, x0, y0 = self.psf.images(x=self.x, y=self.y, color=self.color)
            return PsfDrawings(arrays, x0, y0, _finite_images(arrays))
        except Exception as error:
            logger.debug("the PSF images are drawn one by one: %s", error)
        return self._draw_one_by_one(centred=False)

    @cached_property
    def psf_kernels(self) -> PsfDrawings:
        """Kernel images at the stars, centred on the middle pixel."""
        first = np.full(len(self), -(self.psf.size // 2), dtype=np.int64)
        try:
            with np.errstate(invalid="ignore"):
                arrays = self.psf.kernel_images(x=self.x, y=self.y, color=self.color)
            return PsfDrawings(arrays, first, first, _finite_images(arrays))
        except Exception as error:
            logger.debug("the PSF kernel images are drawn one by one: %s", error)
        return self._draw_one_by_one(centred=True)

    def _draw_one_by_one(self, *, centred: bool) -> PsfDrawings:
        size = self.psf.size
        arrays = np.full((len(self), size, size), np.nan)
        x0, y0 = np.zeros(len(self), dtype=np.int64), np.zeros(len(self), dtype=np.int64)
        draw = self.psf.kernel_image if centred else self.psf.image
        for star in range(len(self)):
            try:
                drawn = draw(x=float(self.x[star]), y=float(self.y[star]), color=float(self.color[star]))
            except Exception as error:
                logger.debug("the PSF cannot be drawn at row %d: %s", star, error)
                continue
            arrays[star], x0[star], y0[star] = drawn.array, drawn.x0, drawn.y0
        return PsfDrawings(arrays, x0, y0, _finite_images(arrays))

    @cached_property
    def psf_shapes(self) -> AdaptiveMoments:
        """Adaptive moments (5.3) of the kernel images."""
        from finalchar.psf.shape import adaptive_moments

        return adaptive_moments(np.nan_to_num(self.psf_kernels.arrays))

    def psf_trace_radius(self, star: int) -> float:
        """Return sqrt((Ixx + Iyy) / 2) of the PSF at a star, pixels."""
        if not self.psf_kernels.valid[star]:
            raise InvalidPsfError("the PSF has no shape at this star")
        return float(np.sqrt(0.5 * (self.psf_shapes.xx[star] + self.psf_shapes.yy[star])))


def _finite_images(arrays: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(arrays).all(axis=(1, 2)))


def make_context(
    *,
    exposure: Exposure,
    psf: PsfModel,
    footprints: Footprints,
    footprint_index: IntArray,
    images: StarImages,
    table: SourceTable,
    slots: Any,
    compatibility: str,
) -> MeasurementContext:
    """Gather what the plugins see, with centroids and colours made safe (1.2, 15.1)."""
    x, y, flagged = _safe_centroids(table, footprints, footprint_index)
    return MeasurementContext(
        exposure=exposure,
        psf=psf,
        footprints=footprints,
        footprint_index=footprint_index,
        images=images,
        x=x,
        y=y,
        centroid_flag=flagged,
        color=_source_colors(table),
        slots=slots,
        compatibility=compatibility,
    )


def _safe_centroids(
    table: SourceTable, footprints: Footprints, footprint_index: IntArray
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    x = np.array(table["slot_Centroid_x"], dtype=np.float64)
    y = np.array(table["slot_Centroid_y"], dtype=np.float64)
    known = "slot_Centroid_flag" in table
    flagged = np.array(table["slot_Centroid_flag"]) if known else np.zeros(len(x), dtype=bool)
    for star in np.flatnonzero((np.isnan(x) | np.isnan(y)) & flagged & (footprint_index >= 0)):
        first = footprints.peak_offset[footprint_index[star]]
        if first < footprints.peak_offset[footprint_index[star] + 1]:
            x[star], y[star] = footprints.peak_f_x[first], footprints.peak_f_y[first]
    return x, y, flagged


def _source_colors(table: SourceTable) -> FloatArray:
    if "psf_color_value" not in table:
        return np.full(len(table), np.nan)
    return np.array(table["psf_color_value"], dtype=np.float64)
