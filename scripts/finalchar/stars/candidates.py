"""Stamps of PSF candidates, with blends masked (selection specification 5).

In a stamp's mask INTRP comes to mean "ignore" and DETECTED "belongs to the star".  What is masked depends on
the stamp's size, because objects are cut at its edge [S-Q25]; a determiner therefore extracts the stars again
at its own size (`Candidates.stamps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Exposure
from finalchar.formats.sources import Footprints, SourceTable

__all__ = ["Candidates", "Stamps", "extract_stamps", "index_of_position", "make_psf_candidates"]

GROWTH_RADIUS = 3
"""Radius of the disk by which objects beside the star are grown, pixels (selection specification 5.3)."""

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stamps:
    """Square cut-outs of stars.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Which of the stars asked for each stamp shows; a star whose stamp does not fit in has none.
    image, variance : ndarray of float32, shape (n, size, size)
    mask : ndarray of int32, shape (n, size, size)
        With blends masked.
    x0, y0 : ndarray of int64, shape (n,)
        First pixel of each stamp, parent coordinates.
    """

    rows: IntArray
    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    variance: npt.NDArray[np.float32]
    x0: IntArray
    y0: IntArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Side of the stamps, pixels."""
        return int(self.image.shape[1])

    def select(self, rows: npt.NDArray[Any]) -> Stamps:
        """Return the given stamps (boolean mask or indices)."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Candidates:
    """Stars with a stamp, in the order of their table.

    Attributes
    ----------
    index : ndarray of int64, shape (n,)
        Rows of the table.
    source_id : ndarray of int64, shape (n,)
    x, y : ndarray of float64, shape (n,)
        Centroids, parent pixels.
    color_value : ndarray of float32, shape (n,)
        NaN where there is none.
    color_type : ndarray of str, shape (n,)
    psf_max_value : ndarray of float32, shape (n,)
        Greatest finite pixel value of the stamp, masked pixels included.
    image, variance : ndarray of float32, shape (n, size, size)
    mask : ndarray of int32, shape (n, size, size)
    x0, y0 : ndarray of int64, shape (n,)
        First pixel of each stamp, parent coordinates.
    footprints : Footprints
        Of the whole catalogue.
    footprint_index : ndarray of int64, shape (n,)
        Each star's place in `footprints`; -1: it has none.
    rejected : mapping of str to int
        Stars of the table without a stamp, by reason: ``centroid_not_finite``, ``stamp_outside_image``,
        ``no_finite_pixel``.
    catalogue : SourceTable, optional
        The stars' rows of the input catalogue, all columns, for determiners that need more of it than
        centroids; see `with_catalogue`.
    border_width : int
        Pixels on each side of the stamps that are not of the kernel.
    """

    index: IntArray
    source_id: IntArray
    x: FloatArray
    y: FloatArray
    color_value: npt.NDArray[np.float32]
    color_type: npt.NDArray[np.str_]
    psf_max_value: npt.NDArray[np.float32]
    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    variance: npt.NDArray[np.float32]
    x0: IntArray
    y0: IntArray
    footprints: Footprints
    footprint_index: IntArray
    rejected: Mapping[str, int]
    catalogue: SourceTable | None = None
    border_width: int = 0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def size(self) -> int:
        """Side of the stamps, pixels."""
        return int(self.image.shape[1])

    def select(self, rows: npt.NDArray[Any]) -> Candidates:
        """Return the given candidates (boolean mask or indices)."""
        same = ("footprints", "rejected", "catalogue", "border_width")
        names = [field.name for field in fields(self) if field.name not in same]
        catalogue = None if self.catalogue is None else self.catalogue.select(rows)
        return replace(self, catalogue=catalogue, **{name: getattr(self, name)[rows] for name in names})

    def with_catalogue(self, catalogue: SourceTable) -> Candidates:
        """Return the candidates with their rows of a table that `index` counts in."""
        return replace(self, catalogue=catalogue.select(self.index))

    def stamps(
        self, exposure: Exposure, size: int, *, mask_blends: bool = True, pixel_threshold: float = 0.0
    ) -> Stamps:
        """Extract the candidates again in another size; see `extract_stamps`."""
        return extract_stamps(
            exposure,
            x=self.x,
            y=self.y,
            size=size,
            footprints=self.footprints,
            footprint_index=self.footprint_index,
            mask_blends=mask_blends,
            pixel_threshold=pixel_threshold,
        )


def index_of_position(position: npt.ArrayLike) -> FloatArray:
    """Pixel that holds a position: halves round up (selection specification 0.4).

    As float64, because a position far off the image may lie beyond all integers.
    """
    return np.floor(np.asarray(position, dtype=np.float64) + 0.5)


def make_psf_candidates(
    table: SourceTable, footprints: Footprints, exposure: Exposure, settings: Any
) -> Candidates:
    """Cut out the stamps of all candidate stars (selection specification 5.2).

    Parameters
    ----------
    table : SourceTable
        With ``id``, ``slot_Centroid_x``, ``slot_Centroid_y``, and optionally ``psf_color_value`` and
        ``psf_color_type``.
    footprints : Footprints
        Of the whole catalogue, found by id.
    exposure : Exposure
    settings : object
        The section ``make_psf_candidates``: ``kernelSize``, ``borderWidth``.

    Returns
    -------
    Candidates
        Of the stars whose stamp fits into the image and has a finite pixel.  Nothing else is tested here, and
        reserved stars are among them.

    Raises
    ------
    InputError
        If the exposure has no mask plane DETECTED or INTRP.
    """
    x, y = (np.asarray(table[f"slot_Centroid_{axis}"], dtype=np.float64) for axis in "xy")
    source_id = np.asarray(table["id"])
    place = footprints.index_of(source_id)
    stamps = extract_stamps(
        exposure,
        x=x,
        y=y,
        size=settings.kernelSize + 2 * settings.borderWidth,
        footprints=footprints,
        footprint_index=place,
    )
    finite = np.isfinite(stamps.image)
    good: BoolArray = np.any(finite, axis=(1, 2))
    greatest = np.max(np.where(finite, stamps.image, -np.inf), axis=(1, 2), initial=-np.inf)
    no_position = int((~(np.isfinite(x) & np.isfinite(y))).sum())
    rejected = {
        "centroid_not_finite": no_position,
        "stamp_outside_image": len(x) - len(stamps) - no_position,
        "no_finite_pixel": int((~good).sum()),
    }
    stamps = stamps.select(good)
    index = stamps.rows
    color_value, color_type = _colors(table)
    return Candidates(
        index=index,
        source_id=source_id[index],
        x=x[index],
        y=y[index],
        color_value=color_value[index],
        color_type=color_type[index],
        psf_max_value=greatest[good].astype(np.float32),
        image=stamps.image,
        mask=stamps.mask,
        variance=stamps.variance,
        x0=stamps.x0,
        y0=stamps.y0,
        footprints=footprints,
        footprint_index=place[index],
        rejected=rejected,
        border_width=settings.borderWidth,
    )


def _colors(table: SourceTable) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
    if "psf_color_value" in table and "psf_color_type" in table:
        return np.asarray(table["psf_color_value"]), np.asarray(table["psf_color_type"])
    return np.full(len(table), np.nan, dtype=np.float32), np.zeros(len(table), dtype="<U10")


def extract_stamps(
    exposure: Exposure,
    *,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    size: int,
    footprints: Footprints | None = None,
    footprint_index: IntArray | None = None,
    mask_blends: bool = True,
    pixel_threshold: float = 0.0,
) -> Stamps:
    """Cut out square stamps around positions and mask what does not belong to the star (5.3).

    Parameters
    ----------
    exposure : Exposure
    x, y : array_like, shape (n,)
        Centroids, parent pixels.
    size : int
        Side of the stamps, pixels; the star's pixel is number ``size // 2`` in both axes.
    footprints : Footprints, optional
    footprint_index : ndarray of int64, shape (n,), optional
        Place of each star in `footprints`, -1 for none.
    mask_blends : bool, optional
        Whether pixels of a footprint that are nearer to another of its peaks are masked.
    pixel_threshold : float, optional
        If positive, also mask objects of pixels brighter than this, in units of the noise, beside the star.

    Returns
    -------
    Stamps
        Copies; only of stars whose stamp lies completely in the image.

    Raises
    ------
    InputError
        If the exposure has no mask plane DETECTED or INTRP.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    rows, x0, y0 = _stamps_inside(exposure, x, y, size)
    row = (y0 - exposure.box.min_y)[:, np.newaxis] + np.arange(size)
    column = (x0 - exposure.box.min_x)[:, np.newaxis] + np.arange(size)
    pixels = (row[:, :, np.newaxis], column[:, np.newaxis, :])
    stamps = Stamps(rows, exposure.image[pixels], exposure.mask[pixels], exposure.variance[pixels], x0, y0)
    detected, ignore = exposure.mask_bits(["DETECTED"]), exposure.mask_bits(["INTRP"])
    if mask_blends and footprints is not None and footprint_index is not None:
        blended = _blended_pixels(stamps, x[rows], y[rows], footprints, footprint_index[rows])
        _move_to_ignored(stamps.mask, blended, detected, ignore)
    _move_to_ignored(stamps.mask, _objects_beside(stamps.mask & detected != 0), detected, ignore)
    if pixel_threshold > 0:
        with np.errstate(invalid="ignore"):
            bright = stamps.image >= pixel_threshold * np.sqrt(stamps.variance)
        _move_to_ignored(stamps.mask, _not_central(bright)[0], detected, ignore)
    return stamps


def _stamps_inside(
    exposure: Exposure, x: FloatArray, y: FloatArray, size: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Stars whose stamp lies in the image, and the first pixels of their stamps."""
    finite = np.isfinite(x) & np.isfinite(y)
    x0 = index_of_position(np.where(finite, x, 0.0)) - size // 2
    y0 = index_of_position(np.where(finite, y, 0.0)) - size // 2
    box = exposure.box
    inside = (
        finite
        & (x0 >= box.min_x)
        & (y0 >= box.min_y)
        & (x0 + size - 1 <= box.max_x)
        & (y0 + size - 1 <= box.max_y)
    )
    rows = np.flatnonzero(inside)
    return rows, x0[rows].astype(np.int64), y0[rows].astype(np.int64)


def _move_to_ignored(
    mask: npt.NDArray[np.int32], pixels: BoolArray, detected: np.int32, ignore: np.int32
) -> None:
    mask[pixels] = (mask[pixels] & ~detected) | ignore


def _blended_pixels(
    stamps: Stamps, x: FloatArray, y: FloatArray, footprints: Footprints, footprint_index: IntArray
) -> BoolArray:
    """Pixels of each star's footprint that are strictly nearer to another of its peaks than to the star's."""
    blended = np.zeros(stamps.mask.shape, dtype=bool)
    size = stamps.size
    peaks = (
        np.where(footprint_index >= 0, np.diff(footprints.peak_offset)[np.maximum(footprint_index, 0)], 0)
        if len(footprints)
        else np.zeros(len(stamps), dtype=np.int64)
    )
    for star in np.flatnonzero(peaks > 1):
        peak_x, peak_y = (p.astype(np.int64) for p in footprints.peaks(int(footprint_index[star])))
        central = np.argmin((peak_x - x[star]) ** 2 + (peak_y - y[star]) ** 2)
        pixel_y, pixel_x = footprints.pixels(int(footprint_index[star]))
        row, column = pixel_y - stamps.y0[star], pixel_x - stamps.x0[star]
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        distance = (peak_x[:, np.newaxis] - pixel_x[inside]) ** 2 + (
            peak_y[:, np.newaxis] - pixel_y[inside]
        ) ** 2
        nearer = distance.min(axis=0) < distance[central]
        blended[star, row[inside][nearer], column[inside][nearer]] = True
    return blended


def _objects_beside(detected: BoolArray) -> BoolArray:
    """Detected objects that do not hold the central pixel, grown; none in stamps with a single object."""
    beside, number = _not_central(detected)
    beside[number < 2] = False
    return _grow(beside)


def _not_central(pixels: BoolArray) -> tuple[BoolArray, IntArray]:
    """Pixels of 8-connected objects without the central pixel, and the number of objects, per stamp."""
    from scipy.ndimage import label

    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = True
    objects, _ = label(pixels, structure=in_plane)
    centre = pixels.shape[1] // 2
    central = objects[:, centre, centre]
    _, first = np.unique(objects, return_index=True)
    stamp = first // (pixels.shape[1] * pixels.shape[2])
    is_object = objects.ravel()[first] > 0
    number = np.bincount(stamp[is_object], minlength=len(pixels))
    return pixels & (objects != central[:, np.newaxis, np.newaxis]), number


def _grow(pixels: BoolArray) -> BoolArray:
    """Dilate by a disk, clipped to the stamp."""
    if not pixels.any():
        return pixels
    radius, size = GROWTH_RADIUS, pixels.shape[1]
    padded = np.pad(pixels, ((0, 0), (radius, radius), (radius, radius)))
    grown = np.zeros_like(pixels)
    for dy in range(-radius, radius + 1):
        half_width = int(np.sqrt(radius**2 - dy**2))
        for dx in range(-half_width, half_width + 1):
            grown |= padded[:, radius + dy : radius + dy + size, radius + dx : radius + dx + size]
    return grown
