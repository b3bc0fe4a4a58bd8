"""Exposures of surveys without the LSST stack: image, weight, flag image and a FITS-header WCS.

Nothing in an `Exposure` is LSST's own; this adapter fills one from plain FITS files.  What the weight plane
means is stated, never guessed.  A pixel that is bad in one plane is bad in all: its image and variance are
NaN and it has the mask bit NO_DATA, as in LSST exposures.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.afw_table import read_table
from finalchar.formats.ast_text import SkyWcs
from finalchar.formats.exposure import Box, Exposure, VisitInfo
from finalchar.formats.fits_file import FitsFile, Hdu
from finalchar.formats.lsst_exposure import read_header_wcs, read_image
from finalchar.formats.photo_calib import PhotoCalib
from finalchar.formats.sources import SourceTable

__all__ = ["ImageSet", "read_catalogue", "read_image_set"]

_LOG = logging.getLogger(__name__)
WeightKind = Literal["inverse_variance", "variance", "standard_deviation"]

QUANTISED_ZERO_FRACTION = 0.02
"""Weights below this fraction of the median are zero in a lossily compressed map without exact zeros."""


@dataclass(frozen=True)
class Plane:
    """One image in a FITS file."""

    path: Path
    hdu: int = 0


@dataclass(frozen=True)
class ImageSet:
    """Where the planes of an exposure are and what they mean.

    Attributes
    ----------
    image : Plane
        Background-subtracted counts, with the astrometry in its header.
    weight : Plane
        The noise plane.
    weight_kind : str
        ``inverse_variance``, ``variance`` or ``standard_deviation``, in (inverse) counts.
    flags : Plane, optional
        Integer flag image, bad where a bit is set.
    flag_planes : mapping of str to int
        Bit number of each named flag.
    band : str, optional
        Band of the exposure.
    calibration : float, optional
        nJy per count.
    gain : float, optional
        Electrons per count.
    """

    image: Plane
    weight: Plane
    weight_kind: WeightKind
    flags: Plane | None = None
    flag_planes: Mapping[str, int] = field(default_factory=dict)
    band: str | None = None
    calibration: float | None = None
    gain: float | None = None


def read_image_set(images: ImageSet) -> Exposure:
    """Read an exposure from plain FITS images.

    Raises
    ------
    InputError
        If a file is missing or broken, planes differ in shape, the header has no usable astrometry, a flag
        plane uses the bit of NO_DATA, or no pixel is good.
    """
    unit = _hdu(images.image)
    image = np.ascontiguousarray(read_image(unit), dtype=np.float32)
    variance, bad = _variance(images)
    _same_shape(images.weight.path, variance, image)
    mask = _mask(images, image)
    planes = _with_no_data(images)
    bad |= ~np.isfinite(image)
    if bad.all():
        raise InputError(f"{images.image.path}: no pixel has a finite value and a positive weight")
    no_data = np.uint32(1 << planes["NO_DATA"]).astype(np.int32)
    box = Box(0, 0, image.shape[1] - 1, image.shape[0] - 1)
    return Exposure(
        image=np.where(bad, np.float32(np.nan), image),
        mask=np.where(bad, mask | no_data, mask),
        variance=np.where(bad, np.float32(np.nan), variance),
        mask_planes=planes,
        box=box,
        wcs=_wcs(unit, box),
        band=images.band,
        calibration=None if images.calibration is None else PhotoCalib(images.calibration),
        gain=images.gain,
        visit_info=VisitInfo(exposure_time_seconds=unit.header.number("EXPTIME")),
    )


def _hdu(plane: Plane) -> Hdu:
    return FitsFile(plane.path).hdu(plane.hdu)


def _wcs(unit: Hdu, box: Box) -> SkyWcs:
    return read_header_wcs(unit, box)


def _same_shape(path: Path, plane: npt.NDArray[Any], image: npt.NDArray[Any]) -> None:
    if plane.shape != image.shape:
        raise InputError(f"{path} has shape {plane.shape}, the image {image.shape}")


def _variance(images: ImageSet) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the variance and which pixels are bad by their weight."""
    unit = _hdu(images.weight)
    weight = np.asarray(read_image(unit), dtype=np.float64)
    bad = ~np.isfinite(weight) | (weight <= 0.0)
    if images.weight_kind == "inverse_variance" and _is_quantised(unit) and not np.any(weight == 0.0):
        bad |= _quantised_zeros(images.weight.path, weight, bad)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = {
            "inverse_variance": lambda: 1.0 / weight,
            "variance": lambda: weight,
            "standard_deviation": lambda: weight * weight,
        }[images.weight_kind]()
    return variance.astype(np.float32), bad


def _is_quantised(unit: Hdu) -> bool:
    """Whether a plane went through lossy compression of floating-point numbers."""
    header = unit.header
    return header.get("ZIMAGE") is True and header.text("ZQUANTIZ", "NONE") != "NONE"


def _quantised_zeros(
    path: Path, weight: npt.NDArray[np.float64], bad: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return which weights were zero before quantisation (`QUANTISED_ZERO_FRACTION`)."""
    if bad.all():
        return np.zeros_like(bad)
    tiny = ~bad & (weight < QUANTISED_ZERO_FRACTION * np.median(weight[~bad]))
    negative = int(np.sum(weight < 0.0))
    if tiny.any() or negative:
        _LOG.warning(
            "%s: %d tiny and %d negative quantised weights count as zero", path, tiny.sum(), negative
        )
    return tiny


def _mask(images: ImageSet, image: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    if images.flags is None:
        return np.zeros(image.shape, dtype=np.int32)
    flags = read_image(_hdu(images.flags))
    _same_shape(images.flags.path, flags, image)
    if flags.dtype.kind not in "iu":
        raise InputError(f"{images.flags.path} is not an image of integers, flags cannot be read from it")
    return flags.astype(np.int64).astype(np.uint32).astype(np.int32)


def _with_no_data(images: ImageSet) -> dict[str, int]:
    """Return the flag planes with NO_DATA, on the highest free bit if the survey has none."""
    planes = dict(images.flag_planes)
    if len(set(planes.values())) < len(planes) or any(not 0 <= bit < 32 for bit in planes.values()):
        raise InputError(f"the flag planes {planes} have a bit twice or outside 0 to 31")
    if "NO_DATA" not in planes:
        free = [bit for bit in range(30, -1, -1) if bit not in planes.values()]
        planes["NO_DATA"] = free[0]
    return planes


def read_catalogue(
    path: str | os.PathLike[str], columns: Mapping[str, str], *, first_pixel: int, hdu: int = 1
) -> SourceTable:
    """Read sources from a FITS table.

    Parameters
    ----------
    path : path-like
        The table.
    columns : mapping of str to str
        Our column name -> name in the file; ``slot_Centroid_x`` and ``slot_Centroid_y`` are positions.
    first_pixel : int
        Coordinate that the catalogue gives to the centre of the first pixel (1 for SExtractor); positions of
        the result count from 0.
    hdu : int
        HDU of the table.

    Raises
    ------
    InputError
        If the table is missing or broken, or lacks a column.
    """
    table = read_table(path, hdu, names=columns.values())
    found = {ours: table[theirs] for ours, theirs in columns.items()}
    for name in ("slot_Centroid_x", "slot_Centroid_y"):
        if name in found:
            found[name] = found[name].astype(np.float64) - first_pixel
    return SourceTable(found)
