"""Exposures of surveys without the LSST stack: image, weight, flag image and a FITS-header WCS.

Nothing in an `Exposure` is LSST's own; this adapter fills one from plain FITS files.  What the weight plane
means is stated, never guessed, and compared with the scatter of the pixels.  A pixel that is bad in one plane
is bad in all: its image and variance are NaN and it has the mask bit NO_DATA, as in LSST exposures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.ast_text import AstTransform, SkyWcs, TransformChain
from finalchar.formats.exposure import Box, Exposure, VisitInfo
from finalchar.formats.fits_file import FitsFile, Hdu
from finalchar.formats.lsst_exposure import read_header_wcs, read_image
from finalchar.formats.photo_calib import PhotoCalib

__all__ = ["STANDARD_PLANES", "ImageSet", "Plane", "field_of_header", "read_image_set"]

_LOG = logging.getLogger(__name__)
WeightKind = Literal["inverse_variance", "variance", "standard_deviation"]
FloatImage = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

QUANTISED_ZERO_FRACTION = 0.02
"""Weights below this fraction of the median are zero in a lossily compressed map without exact zeros."""

STANDARD_PLANES = ("BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA")
"""Mask planes with the bits 0 to 8; planes of other names follow.

DETECTED is there only if the flag image has it; otherwise segmentation finds it with the footprints.
"""
MOST_PLANES = 31
MOST_BITS = 63

LARGEST_SCATTER_RATIO = 2.0
"""Factor between the scatter of the sky and what the weight plane says, beyond which its meaning is wrong."""
FEWEST_PIXELS, MOST_PIXELS = 1000, 1_000_000
"""With fewer pixels nothing is said about their scatter; of more, every so many rows are looked at."""
FINEST_STEPS = 2.0
"""Noise of fewer steps of a digitised image shows no scatter that could be compared."""
LAG = 4
"""Distance of the pixels whose differences show the scatter: neighbours may be correlated."""
SIGMA_PER_MAD = 1.482602218505602


@dataclass(frozen=True)
class Plane:
    """One image in a FITS file; without `hdu` the first that there is."""

    path: Path
    hdu: int | None = None


@dataclass(frozen=True)
class Background:
    """Mesh on which the background is found, pixels, and its median filter, meshes."""

    box: int = 128
    filter: int = 3


@dataclass(frozen=True)
class ImageSet:
    """Where the planes of an exposure are and what they mean.

    Attributes
    ----------
    image : Plane
        Counts, with the astrometry in its header.
    weight : Plane
        The noise plane.
    weight_kind : str
        ``inverse_variance``, ``variance`` or ``standard_deviation``, in (inverse) counts.
    flags : Plane, optional
        Integer flag image.
    flag_planes : mapping of str to sequence of int
        Bits (or codes, see `flag_kind`) of the flag image by mask plane; others are ignored.
    flag_kind : str
        ``bits`` or ``values``.
    band : str, optional
        Band of the exposure.
    zero_point : float, optional
        AB magnitude of one count.
    gain : float, optional
        Electrons per count.
    add_photon_noise : bool
        Whether image/gain is added to the variance.
    offset : float
        Counts that are taken off every pixel.
    saturation : float, optional
        Counts, sky included, from which on pixels are SAT.
    background : Background, optional
        How the background is found that is to be subtracted; None: it was subtracted.
    """

    image: Plane
    weight: Plane
    weight_kind: WeightKind
    flags: Plane | None = None
    flag_planes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    flag_kind: Literal["bits", "values"] = "bits"
    band: str | None = None
    zero_point: float | None = None
    gain: float | None = None
    add_photon_noise: bool = False
    offset: float = 0.0
    saturation: float | None = None
    background: Background | None = None


def read_image_set(images: ImageSet) -> Exposure:
    """Read an exposure from plain FITS images.

    Raises
    ------
    InputError
        If a file is missing or broken, planes differ in shape, the header has no usable astrometry, no pixel
        is good, or the weight plane contradicts the scatter of the pixels.
    """
    unit = _hdu(images.image)
    image = np.ascontiguousarray(read_image(unit), dtype=np.float32)
    box = Box(0, 0, image.shape[1] - 1, image.shape[0] - 1)
    wcs = read_header_wcs(unit, box)
    variance, bad = _variance(images, image.shape)
    bad |= ~np.isfinite(image)
    if bad.all():
        raise InputError(f"{images.image.path}: no pixel has a finite value and a positive weight")
    if images.offset:
        image -= np.float32(images.offset)
    planes = _mask_planes(images.flag_planes)
    mask = _mask(images, image, planes)
    mask[bad] |= np.int32(1 << planes["NO_DATA"])
    if images.background is not None:
        image -= _background(image, bad | (mask != 0), images.background)
    _check_scatter(images, image, variance, bad | (mask != 0), step=_step(unit))
    if images.add_photon_noise:
        variance += _photon_noise(images, image)
    return Exposure(
        image=np.where(bad, np.float32(np.nan), image),
        mask=mask,
        variance=np.where(bad, np.float32(np.nan), variance),
        mask_planes=planes,
        box=box,
        wcs=wcs,
        band=images.band,
        calibration=_calibration(images.zero_point),
        gain=images.gain,
        field_angle=field_of_header(wcs),
        visit_info=VisitInfo(exposure_time_seconds=unit.header.number("EXPTIME")),
    )


def field_of_header(wcs: SkyWcs) -> TransformChain:
    """Pixels to the tangent plane at CRVAL, arcsec: the field angles of a header.

    The detectors of a camera whose headers have one CRVAL share this plane; x points east, not along the
    camera, which makes no difference to a polynomial.
    """
    return TransformChain((AstTransform(wcs.intermediate_text()),), 3600.0)


def _hdu(plane: Plane) -> Hdu:
    file, number = FitsFile(plane.path), plane.hdu
    if number is None:
        number = 0 if file.hdu(0).header.integer("NAXIS") > 0 else 1
    return file.hdu(number)


def _calibration(zero_point: float | None) -> PhotoCalib | None:
    """Return the calibration; one nJy has the AB magnitude 31.4."""
    return None if zero_point is None else PhotoCalib(10.0 ** (-0.4 * (zero_point - 31.4)))


def _same_shape(path: Path, plane: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if plane.shape != shape:
        raise InputError(f"{path} has shape {plane.shape}, the image {shape}")


# ---------------------------------------------------------------------------------------------- noise


def _variance(images: ImageSet, shape: tuple[int, ...]) -> tuple[FloatImage, BoolArray]:
    """Return the variance and which pixels are bad by their weight."""
    unit = _hdu(images.weight)
    weight = np.ascontiguousarray(read_image(unit), dtype=np.float32)
    _same_shape(images.weight.path, weight, shape)
    bad = ~np.isfinite(weight) | (weight <= 0.0)
    if images.weight_kind == "inverse_variance" and _is_quantised(unit) and not np.any(weight == 0.0):
        bad |= _quantised_zeros(images.weight.path, weight, bad)
    variance = weight
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if images.weight_kind == "inverse_variance":
            variance = np.float32(1.0) / weight
        elif images.weight_kind == "standard_deviation":
            variance = weight * weight
    return variance, bad | ~np.isfinite(variance)  # 1e30 is the variance of nothing


def _is_quantised(unit: Hdu) -> bool:
    """Whether a plane went through lossy compression of floating-point numbers."""
    header = unit.header
    return header.get("ZIMAGE") is True and header.text("ZQUANTIZ", "NONE") != "NONE"


def _quantised_zeros(path: Path, weight: FloatImage, bad: BoolArray) -> BoolArray:
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


def _step(unit: Hdu) -> float:
    """Return the counts between neighbouring values of an image of whole numbers, 0 for others."""
    header = unit.header
    compressed = header.get("ZIMAGE") is True
    whole = header.integer("ZBITPIX" if compressed else "BITPIX") > 0
    return abs(header.number("BSCALE", 1.0)) if whole else 0.0


def _check_scatter(
    images: ImageSet, image: FloatImage, variance: FloatImage, bad: BoolArray, *, step: float
) -> None:
    """Compare the scatter of the sky with what the weight plane says (known failure K08)."""
    rows = slice(None, None, max(1, image.size // MOST_PIXELS))
    image, variance, bad = image[rows], variance[rows], bad[rows]
    left, right = (slice(None, -LAG), slice(LAG, None)) if image.shape[1] > LAG else (slice(0), slice(0))
    good = ~(bad[:, left] | bad[:, right])
    if good.sum() < FEWEST_PIXELS:
        return
    difference = image[:, right][good] - image[:, left][good]
    measured = SIGMA_PER_MAD * float(np.median(np.abs(difference))) / np.sqrt(2.0)
    stated = float(np.sqrt(np.median(variance[~bad])))
    if stated < FINEST_STEPS * step:
        return
    if measured > LARGEST_SCATTER_RATIO * stated or stated > LARGEST_SCATTER_RATIO * measured:
        raise InputError(
            f"{images.weight.path}: read as {images.weight_kind} the pixels of {images.image.path} should "
            f"scatter by {stated:.4g} counts, but they do by {measured:.4g}; correct "
            "input.images.weight_kind, or the weight image"
        )


def _photon_noise(images: ImageSet, image: FloatImage) -> FloatImage:
    if images.gain is None:
        raise InputError(
            f"{images.image.path}: the gain must be known to add the photon noise; name it in the column "
            "'gain' of detectors.csv or in input.images.gain"
        )
    return (np.maximum(image, np.float32(0.0)) / np.float32(images.gain)).astype(np.float32)


def _background(image: FloatImage, bad: BoolArray, settings: Background) -> FloatImage:
    """Return the background that sep finds."""
    import sep

    found = sep.Background(
        np.where(bad, np.float32(0.0), image),
        mask=bad,
        bw=settings.box,
        bh=settings.box,
        fw=settings.filter,
        fh=settings.filter,
    )
    return np.asarray(found.back(dtype=np.float32))


# --------------------------------------------------------------------------------------------- flags


def _mask_planes(flags: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return mask planes and bits: the standard ones, then those of other names."""
    planes = {name: bit for bit, name in enumerate(STANDARD_PLANES)}
    for name in flags:
        planes.setdefault(name, len(planes))
    if "DETECTED" not in flags:
        del planes["DETECTED"]
    if max(planes.values()) >= MOST_PLANES:
        raise InputError(f"input.images.flags names more than {MOST_PLANES} mask planes")
    return planes


def _mask(images: ImageSet, image: FloatImage, planes: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """Return the mask: planes of the flag image, and saturated pixels."""
    mask = np.zeros(image.shape, dtype=np.int32)
    if images.saturation is not None:
        mask[image >= images.saturation] |= np.int32(1 << planes["SAT"])
    if images.flags is None:
        return mask
    flags = read_image(_hdu(images.flags))
    _same_shape(images.flags.path, flags, image.shape)
    flags = _whole(images.flags.path, flags)
    for name, numbers in images.flag_planes.items():
        mask[_is_flagged(flags, numbers, images)] |= np.int32(1 << planes[name])
    return mask


def _whole(path: Path, flags: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return flags as whole numbers; unsigned ones are stored with a zero point and read as floats."""
    if flags.dtype.kind in "iu":
        return np.ascontiguousarray(flags, dtype=flags.dtype.newbyteorder("="))
    whole = flags.astype(np.int64) if np.isfinite(flags).all() else None
    if whole is None or (whole != flags).any():
        raise InputError(f"{path} is not an image of integers, flags cannot be read from it")
    return whole


def _is_flagged(flags: npt.NDArray[Any], numbers: Sequence[int], images: ImageSet) -> BoolArray:
    """Return the pixels with one of the bits, or codes."""
    if images.flag_kind == "values":
        return np.isin(flags, numbers)
    wrong = [number for number in numbers if not 0 <= number < MOST_BITS]
    if wrong:
        raise InputError(
            f"input.images.flags: there is no bit {wrong[0]}, bits are numbered from 0 to {MOST_BITS - 1}"
        )
    bits = np.array(sum(1 << number for number in set(numbers)), dtype=np.int64).astype(flags.dtype)
    found: BoolArray = (flags & bits) != 0
    return found
