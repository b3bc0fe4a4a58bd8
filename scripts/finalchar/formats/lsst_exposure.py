"""Exposures as the LSST stack writes them (specification 1): planes, and the archived components we need."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.archive import Archive, UnknownObject
from finalchar.formats.ast_text import SkyWcs, sky_wcs_from_cards
from finalchar.formats.compressed_image import read_compressed_image
from finalchar.formats.detector import Detector
from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.fits_file import FitsFile, Hdu, Header
from finalchar.formats.lsst_components import FilterLabel, visit_info_from_cards
from finalchar.formats.photo_calib import PhotoCalib, calib_from_zero_point

__all__ = ["read_exposure", "read_header_wcs", "read_image"]

_COMPONENTS = (
    "SKYWCS",
    "PSF",
    "PHOTOCALIB",
    "DETECTOR",
    "VALID_POLYGON",
    "COADD_INPUTS",
    "AP_CORR_MAP",
    "TRANSMISSION_CURVE",
    "FILTER",
    "SUMMARY_STATS",
)
_PLANES = {1: "IMAGE", 2: "MASK", 3: "VARIANCE"}
_WCS_CARD = re.compile(
    r"(CTYPE[12]|CRVAL[12]|CRPIX[12]|CUNIT[12]|CDELT[12]|CROTA[12]|CD[12]_[12]|PC[12]_[12]|PV[12]_\d+|RADE(?:C)?SYS|"
    r"EQUINOX|LONPOLE|LATPOLE|[AB]P?_(ORDER|DMAX|\d_\d)|WCSAXES)\s*="
)


def read_exposure(path: str | os.PathLike[str]) -> Exposure:
    """Read an LSST exposure.

    Parameters
    ----------
    path : path-like
        A ``calexp``-like file: image, mask, variance and the object archive.

    Returns
    -------
    Exposure
        Planes in native byte order; components that the file does not have are None.

    Raises
    ------
    InputError
        If the file is missing, not FITS, truncated, of an unknown version, has no image, planes of different
        shape, no astrometry, or not one pixel with a finite value and a positive variance.
    """
    file = FitsFile(path)
    header = file.hdu(0).header
    if "INHERIT" not in file.hdu(1).header:  # of old files, everything stands in HDU 1
        header = Header((*file.hdu(1).header.cards, *header.cards))
    version = header.integer("EXPINFO_V", 0)
    if version > 2:
        raise InputError(f"{path} has the exposure layout {version}; layouts up to 2 are supported")
    planes = _read_planes(file)
    image, mask, variance = planes["IMAGE"], planes["MASK"], planes["VARIANCE"]
    _check_pixels(path, image, variance, _plane_type(file, 3))
    box = _box(file.hdu(1).header, image.shape)
    components = _read_components(file, header)
    detector = components.get("DETECTOR")
    detector = detector if isinstance(detector, Detector) else None
    label = _filter_label(components, header)
    return Exposure(
        image=image,
        mask=mask,
        variance=variance,
        mask_planes=_mask_planes(file),
        box=box,
        wcs=components.get("SKYWCS") or read_header_wcs(file.hdu(1), box),
        band=label.band,
        physical_filter=label.physical,
        calibration=_calibration(components, header),
        gain=detector.mean_gain if detector else None,
        field_angle=detector.field_angle if detector else None,
        focal_plane=detector.focal_plane if detector else None,
        visit_info=visit_info_from_cards(header),
        initial_psf=components.get("PSF"),
        initial_ap_corr=components.get("AP_CORR_MAP"),
        valid_polygon=components.get("VALID_POLYGON"),
        detector=detector.number if detector else None,
    )


# ---------------------------------------------------------------------------------------------- planes


def _read_planes(file: FitsFile) -> dict[str, npt.NDArray[Any]]:
    dtypes = {"IMAGE": np.float32, "MASK": np.int32, "VARIANCE": np.float32}
    planes: dict[str, npt.NDArray[Any]] = {}
    for number, name in _PLANES.items():
        if number > 1 and _plane_type(file, number) != name:
            planes[name] = np.zeros(planes["IMAGE"].shape, dtype=dtypes[name])
            continue
        found = _plane_type(file, number)
        if found != name:
            raise InputError(
                f"HDU {number} of {file.path} is {found or 'not an image'}, {name} is needed there"
            )
        planes[name] = np.ascontiguousarray(read_image(file.hdu(number)), dtype=dtypes[name])
        if planes[name].shape != planes["IMAGE"].shape:
            raise InputError(
                f"{file.path}: the plane {name} has shape {planes[name].shape}, "
                f"the image {planes['IMAGE'].shape}"
            )
    return planes


def _plane_type(file: FitsFile, number: int) -> str:
    """Return the plane that HDU `number` holds, '' if it holds none."""
    header = file.hdu(number).header
    if header.text("XTENSION") != "IMAGE" and header.get("ZIMAGE") is not True:
        if number == 1:
            raise InputError(
                f"HDU 1 of {file.path} is not an image; is the file in the right column of detectors.csv?"
            )
        return ""
    return header.text("EXTTYPE", header.text("EXTNAME", _PLANES[number]))


def read_image(unit: Hdu) -> npt.NDArray[Any]:
    """Read one image HDU, compressed or not, with its scaling applied.

    Raises
    ------
    InputError
        If the HDU has not two axes or its pixels cannot be decompressed.
    """
    header = unit.header
    if header.get("ZIMAGE") is True:
        return _without_blanks(read_compressed_image(unit), header)
    if header.integer("NAXIS") != 2:
        raise InputError(
            f"HDU {unit.number} of {unit.file.path} has {header.integer('NAXIS')} axes, 2 are needed"
        )
    dtype = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[header.integer("BITPIX")]
    shape = (header.integer("NAXIS2"), header.integer("NAXIS1"))
    raw = np.ndarray(shape, dtype, unit.file.buffer, unit.data_start)
    scale, zero = header.number("BSCALE", 1.0), header.number("BZERO", 0.0)
    if (scale, zero) == (1.0, 0.0):
        return _without_blanks(raw, header)
    values: npt.NDArray[Any] = raw * scale + zero
    if "BLANK" in header:
        values[raw == header.integer("BLANK")] = np.nan
    return values


def _without_blanks(pixels: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """Return unscaled pixels with NaN for those that an integer image calls undefined (``BLANK``)."""
    if "BLANK" not in header or pixels.dtype.kind not in "iu":
        return pixels
    blank = pixels == header.integer("BLANK")
    return np.where(blank, np.nan, pixels) if blank.any() else pixels


def _check_pixels(
    path: object, image: npt.NDArray[np.float32], variance: npt.NDArray[np.float32], third: str
) -> None:
    """Refuse an image without usable pixels; `third` is the plane that HDU 3 holds."""
    if image.size == 0:
        raise InputError(f"{path} has an image without pixels")
    if not np.isfinite(image).any():
        raise InputError(f"{path}: no pixel of the image is finite")
    if third != "VARIANCE":
        raise InputError(f"HDU 3 of {path} is {third or 'not an image'}, VARIANCE is needed there")
    if not (variance > 0.0).any():
        raise InputError(f"{path}: the variance is not positive anywhere")


def _box(header: Header, shape: tuple[int, ...]) -> Box:
    """Pixel box from the alternate WCS "A" (1.3)."""
    x0 = y0 = 0
    if all(card in header for card in ("CRPIX1A", "CRPIX2A", "CRVAL1A", "CRVAL2A")) and (
        header.number("CRPIX1A") == header.number("CRPIX2A") == 1.0
    ):
        x0, y0 = round(header.number("CRVAL1A")), round(header.number("CRVAL2A"))
    return Box(x0, y0, x0 + shape[1] - 1, y0 + shape[0] - 1)


def _mask_planes(file: FitsFile) -> dict[str, int]:
    if _plane_type(file, 2) != "MASK":
        return {}
    header = file.hdu(2).header
    planes: dict[str, int] = {}
    for card in header:
        if card.keyword.startswith("MP_"):
            name, bit = card.keyword[3:], card.value
            if not isinstance(bit, int) or not 0 <= bit < 32 or name in planes or bit in planes.values():
                raise InputError(
                    f"{file.path}: the mask plane card {card.keyword} = {bit!r} is impossible or double"
                )
            planes[name] = bit
    return planes


# ------------------------------------------------------------------------------------------ components


def _read_components(file: FitsFile, header: Header) -> dict[str, Any]:
    """Return the archived components that an `Exposure` holds; unknown ones are left out with a warning."""
    if "AR_HDU" not in header:
        return {}
    archive = Archive(file, header.integer("AR_HDU") - 1)
    components = {}
    for name in ("SKYWCS", "PSF", "PHOTOCALIB", "DETECTOR", "VALID_POLYGON", "AP_CORR_MAP", "FILTER"):
        number = header.get(f"ARCHIVE_ID_{name}", header.get(f"{name}_ID") if name in _COMPONENTS else None)
        if not isinstance(number, int) or number == 0:
            continue
        component = archive.get(number)
        if not isinstance(component, UnknownObject):
            components[name] = component
    return components


def _filter_label(components: dict[str, Any], header: Header) -> FilterLabel:
    label = components.get("FILTER")
    if isinstance(label, FilterLabel):
        return label
    old = header.text("FILTER")
    return FilterLabel(physical=old) if old and old != "_unknown_" else FilterLabel()


def _calibration(components: dict[str, Any], header: Header) -> PhotoCalib | None:
    stored = components.get("PHOTOCALIB")
    if isinstance(stored, PhotoCalib):
        return stored
    if "FLUXMAG0" in header:
        return calib_from_zero_point(header.number("FLUXMAG0"), header.number("FLUXMAG0ERR", 0.0))
    return None


def read_header_wcs(unit: Hdu, box: Box) -> SkyWcs:
    """Return the astrometry of the FITS-WCS cards of an image HDU (4.4); "A" cards and LTVn are ignored.

    Raises
    ------
    InputError
        If there are none, or they are ambiguous.
    """
    block = unit.file.buffer[unit.header_start : unit.data_start].decode("latin-1")
    images = [block[start : start + 80] for start in range(0, len(block), 80)]
    cards = [image for image in images if _WCS_CARD.match(image)]
    if not any(card.startswith("CTYPE1") for card in cards):
        raise InputError(f"{unit.file.path} has no astrometry, neither archived nor in the image header")
    return sky_wcs_from_cards(cards, x0=box.min_x, y0=box.min_y)
