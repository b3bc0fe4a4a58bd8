"""Writing LSST exposures: cards, three image planes, archive (file-format specification 9.3).

The stack opens what is written here; so does `lsst_exposure.read_exposure`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finalchar.formats.afw_table import AfwTable, Field
from finalchar.formats.archive import ArchiveWriter
from finalchar.formats.ast_text import sky_wcs_from_cards, stored_sky_wcs, stored_transform
from finalchar.formats.bounded_fields import ChebyshevField, add_ap_corr_map, add_chebyshev_field
from finalchar.formats.exposure import Box
from finalchar.formats.fits_file import Card, header_bytes, primary_hdu, write_atomically

__all__ = ["CameraGeometry", "Compression", "ExposureParts", "write_exposure"]

FloatArray = npt.NDArray[np.float64]
Compression = Literal["none", "lossless", "lossy"]
CardValue = bool | int | float | str

BLOCK = 2880


@dataclass(frozen=True)
class CameraGeometry:
    """Where a detector sits in its camera.

    `position` is the place in the focal plane (mm) of the detector's reference point `reference` (pixels).
    The field angle of focal-plane position X is ``plate_scale X (1 + distortion |X|**2)``, with
    `plate_scale` in radians per mm and `distortion` per mm squared.
    """

    name: str
    serial: str
    number: int
    box: Box
    pixel_size: float
    position: tuple[float, float]
    reference: tuple[float, float]
    plate_scale: float
    distortion: float
    gain: float = 1.0
    read_noise: float = 6.0
    saturation: float = 1e5


@dataclass(frozen=True)
class ExposureParts:
    """All that goes into an exposure file.

    Attributes
    ----------
    image, variance : ndarray, float32, shape (ny, nx)
        Counts and counts squared.
    mask : ndarray, int32, shape (ny, nx)
        Bits as numbered by `mask_planes`.
    box : Box
        Pixel box in the parent frame.
    wcs_cards : mapping
        FITS-WCS cards (1-based, local pixels) of the astrometry.
    visit_cards : mapping
        Cards of the visit information (file-format specification 1.6) and EXPID.
    band, physical_filter : str
        The filter label.
    calibration_mean, calibration_error : float
        nJy per count.
    ap_corr_map : mapping of str to ChebyshevField
        Aperture corrections of the first characterisation.
    kernel : ndarray, float64, shape (n, n)
        The PSF: a constant kernel image, n odd.
    camera : CameraGeometry
        The detector.
    """

    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    variance: npt.NDArray[np.float32]
    mask_planes: Mapping[str, int]
    box: Box
    wcs_cards: Mapping[str, float | int | str]
    visit_cards: Mapping[str, CardValue]
    band: str
    physical_filter: str
    calibration_mean: float
    calibration_error: float
    ap_corr_map: Mapping[str, ChebyshevField]
    kernel: FloatArray
    camera: CameraGeometry


def write_exposure(
    path: str | os.PathLike[str], parts: ExposureParts, *, compression: Compression = "none"
) -> None:
    """Write an exposure file.

    Parameters
    ----------
    path : path-like
        Target; written under a temporary name first.
    parts : ExposureParts
        What to write.
    compression : {"none", "lossless", "lossy"}
        Plain images; GZIP_2; or RICE_1 of quantised image and variance (step sigma/16) with a GZIP_2 mask.
        A plane without scatter is stored lossless.
    """
    writer = ArchiveWriter()
    ids = {
        "DETECTOR": _add_detector(writer, parts.camera),
        "AP_CORR_MAP": add_ap_corr_map(writer, parts.ap_corr_map),
        "PHOTOCALIB": _add_photo_calib(writer, parts),
        "FILTER": _add_filter_label(writer, parts),
        "PSF": _add_kernel_psf(writer, parts),
        "SKYWCS": _add_sky_wcs(writer, parts),
    }
    images = [
        _image_hdu("IMAGE", parts.image, parts, compression),
        _image_hdu("MASK", parts.mask, parts, compression),
        _image_hdu("VARIANCE", parts.variance, parts, compression),
    ]
    write_atomically(path, (primary_hdu(_primary_cards(parts, ids)), *images, *writer.hdus()))


def _primary_cards(parts: ExposureParts, ids: Mapping[str, int]) -> list[Card]:
    cards = [
        Card("EXPINFO_V", 2),
        Card("AR_HDU", 5, "HDU (1-indexed) containing the archive"),
    ]
    for name, number in ids.items():
        cards += [Card(f"{name}_ID", number), Card(f"ARCHIVE_ID_{name}", number)]
    cards += [Card("DETNAME", parts.camera.name), Card("DETSER", parts.camera.serial)]
    return cards + [Card(keyword, value) for keyword, value in parts.visit_cards.items()]


# ------------------------------------------------------------------------------------------- images


def _image_cards(name: str, parts: ExposureParts) -> list[Card]:
    """Cards of an image HDU behind the mandatory ones."""
    cards = [Card(keyword, value) for keyword, value in parts.wcs_cards.items()]
    cards += [Card("LTV1", float(-parts.box.min_x)), Card("LTV2", float(-parts.box.min_y))]
    cards += [Card("INHERIT", True), Card("EXTTYPE", name), Card("EXTNAME", name)]
    if name == "MASK":
        cards += [Card(f"MP_{plane}", bit) for plane, bit in sorted(parts.mask_planes.items())]
    for axis, start in (("1", parts.box.min_x), ("2", parts.box.min_y)):
        cards += [
            Card(f"CTYPE{axis}A", "LINEAR", "Type of projection"),
            Card(f"CRPIX{axis}A", 1.0, "Pixel coordinate of reference"),
            Card(f"CRVAL{axis}A", float(start), "Parent coordinate of reference pixel"),
            Card(f"CUNIT{axis}A", "PIXEL", "Unit"),
        ]
    return cards


def _image_hdu(name: str, array: npt.NDArray[Any], parts: ExposureParts, compression: Compression) -> bytes:
    cards = _image_cards(name, parts)
    if compression == "none":
        return _plain_hdu(array, cards)
    step = _quantisation_step(array, parts) if compression == "lossy" and name != "MASK" else 0.0
    if step > 0.0:
        cards.append(Card("UZSCALE", step))
        seed = 1 + (parts.camera.number * 97 + int(parts.visit_cards.get("EXPID", 0))) % 9999
        # A negative level is the quantisation step itself instead of a fraction of the noise.
        return _compressed_hdu(
            array, cards, compress="RICE", qlevel=-step, qmethod="SUBTRACTIVE_DITHER_2", dither_seed=seed
        )
    return _compressed_hdu(array, cards, compress="GZIP_2", qlevel=None)


def _plain_hdu(array: npt.NDArray[Any], cards: Sequence[Card]) -> bytes:
    fixed = [
        Card("XTENSION", "IMAGE", "IMAGE extension"),
        Card("BITPIX", -32 if array.dtype.kind == "f" else 32, "number of bits per data pixel"),
        Card("NAXIS", 2, "number of data axes"),
        Card("NAXIS1", array.shape[1], "length of data axis 1"),
        Card("NAXIS2", array.shape[0], "length of data axis 2"),
        Card("PCOUNT", 0, "required keyword; must = 0"),
        Card("GCOUNT", 1, "required keyword; must = 1"),
    ]
    data = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return header_bytes([*fixed, *cards]) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


def _compressed_hdu(array: npt.NDArray[Any], cards: Sequence[Card], **options: Any) -> bytes:
    """Return a tile-compressed HDU, tiles being rows; `cards` follow those of the compression."""
    import fitsio

    with fitsio.FITS("mem://", "rw") as memory:
        memory.write(np.ascontiguousarray(array), tile_dims=(1, array.shape[1]), **options)
        written: bytes = memory.read_raw()
    hdu = written[BLOCK:]
    images = [hdu[start : start + 80] for start in range(0, hdu.index(b"END".ljust(80)), 80)]
    data = hdu[-(-(80 * len(images) + 80) // BLOCK) * BLOCK :]
    # The library takes the image for a primary one; it is an extension.
    head = b"".join(image for image in images if not image.startswith(b"ZSIMPLE")) + header_bytes(cards)
    return head.rstrip().ljust(-(-len(head.rstrip()) // BLOCK) * BLOCK) + data


def _quantisation_step(array: npt.NDArray[Any], parts: ExposureParts) -> float:
    """Sigma / 16, sigma from the quartiles of the good pixels (file-format specification 1.2)."""
    bad = sum(1 << parts.mask_planes[plane] for plane in ("NO_DATA", "INTRP") if plane in parts.mask_planes)
    low, high = np.quantile(array[(parts.mask & np.int32(bad)) == 0], [0.25, 0.75])
    return float(0.741 * (high - low) / 16.0)


# ------------------------------------------------------------------------------------------- archive


def _one_row(fields: Sequence[Field], *values: Any) -> AfwTable:
    """Return a table of one row; byte strings and lists become cells of variable length."""
    dtypes = {"J": np.int32, "K": np.int64, "D": np.float64, "E": np.float32, "X": np.bool_}
    columns: dict[str, npt.NDArray[Any]] = {}
    for field, value in zip(fields, values, strict=True):
        if field.length == 0:
            cell = np.empty(1, dtype=object)
            cell[0] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
            columns[field.name] = cell
        elif field.code == "A":
            columns[field.name] = np.array([value], dtype=f"U{field.length}")
        else:
            columns[field.name] = np.array([value], dtype=dtypes[field.code])
    return AfwTable(tuple(fields), columns)


def _add_sky_wcs(writer: ArchiveWriter, parts: ExposureParts) -> int:
    cards = [Card(keyword, value) for keyword, value in parts.wcs_cards.items()]
    images = [header_bytes([card])[:80].decode() for card in cards]
    wcs = sky_wcs_from_cards(images, x0=parts.box.min_x, y0=parts.box.min_y)
    fields = (Field("wcs", "B", "Array", 0, doc="wcs string representation"),)
    return writer.add("SkyWcs", "lsst.afw.geom", [_one_row(fields, stored_sky_wcs(wcs))])


def _add_kernel_psf(writer: ArchiveWriter, parts: ExposureParts) -> int:
    psf_id = writer.new_id()
    height, width = parts.kernel.shape
    fields = (
        Field("dimensions_x", "J", unit="pixel", doc="dimensions of a Kernel's images"),
        Field("dimensions_y", "J", unit="pixel", doc="dimensions of a Kernel's images"),
        Field("center_x", "J", unit="pixel", doc="center point in an Kernel image"),
        Field("center_y", "J", unit="pixel", doc="center point in an Kernel image"),
        Field("image", "D", "Array", width * height, doc="image data"),
    )
    kernel = _one_row(fields, width, height, width // 2, height // 2, parts.kernel.ravel())
    kernel_id = writer.add("FixedKernel", "lsst.afw.math", [kernel])
    head = (
        Field("kernel", "J", doc="archive ID of nested kernel object"),
        Field("averagePosition_x", "D", unit="pixel", doc="average position of stars used to make the PSF"),
        Field("averagePosition_y", "D", unit="pixel", doc="average position of stars used to make the PSF"),
    )
    x, y = parts.box.centre
    return writer.add("KernelPsf", "lsst.meas.algorithms", [_one_row(head, kernel_id, x, y)], psf_id)


def _add_photo_calib(writer: ArchiveWriter, parts: ExposureParts) -> int:
    calib_id = writer.new_id()
    constant = ChebyshevField(Box(0, 0, -1, -1), np.array([[parts.calibration_mean]]))
    field_id = add_chebyshev_field(writer, constant)
    fields = (
        Field("calibrationMean", "D", unit="nJy/count", doc="mean calibration"),
        Field("calibrationErr", "D", unit="nJy/count", doc="calibration error"),
        Field("isConstant", "X", "Flag", doc="Is this spatially-constant?"),
        Field("field", "J", doc="archive ID of the BoundedField object"),
        Field("version", "J", doc="version of this PhotoCalib"),
    )
    row = _one_row(fields, parts.calibration_mean, parts.calibration_error, True, field_id, 1)
    return writer.add("PhotoCalib", "", [row], calib_id)


def _add_filter_label(writer: ArchiveWriter, parts: ExposureParts) -> int:
    fields = (
        Field("band_exists", "X", "Flag", doc="Is there a band?"),
        Field("band", "A", "String", 32, doc="Name of the band."),
        Field("physical_exists", "X", "Flag", doc="Is there a physical filter?"),
        Field("physical", "A", "String", 32, doc="Name of the physical filter."),
    )
    row = _one_row(fields, True, parts.band, True, parts.physical_filter)
    return writer.add("FilterLabel", "lsst.afw.image", [row])


# ------------------------------------------------------------------------------------------- camera

_DETECTOR_FIELDS = (
    Field("name", "A", "String", 0),
    Field("id", "J"),
    Field("type", "J"),
    Field("serial", "A", "String", 0),
    *(Field(f"bbox_{end}", "J", unit="pixel") for end in ("min_x", "min_y", "max_x", "max_y")),
    *(Field(f"pixelSize_{axis}", "D", unit="mm") for axis in "xy"),
    *(Field(f"fpPosition_{axis}", "D", unit="mm") for axis in "xyz"),
    *(Field(f"refPoint_{axis}", "D", unit="pixel") for axis in "xy"),
    *(Field(angle, "D", "Angle", unit="rad") for angle in ("yaw", "pitch", "roll")),
    Field("transformMap", "J"),
    Field("crosstalk", "E", "Array", 0),
    Field("physicalType", "A", "String", 0),
    Field("version", "J"),
)
# Boxes of the raw amplifier, and the fields that follow them.
_AMPLIFIER_BOXES: dict[str, tuple[Field, ...]] = {
    "raw_bbox": (),
    "raw_databbox": (
        Field("raw_flip_x", "X", "Flag"),
        Field("raw_flip_y", "X", "Flag"),
        Field("raw_xyoffset_x", "J", unit="pixel"),
        Field("raw_xyoffset_y", "J", unit="pixel"),
    ),
    "raw_horizontaloverscanbbox": (),
    "raw_verticaloverscanbbox": (),
    "raw_prescanbbox": (),
}


def _add_detector(writer: ArchiveWriter, camera: CameraGeometry) -> int:
    detector_id = writer.new_id()
    transforms = _add_transform_map(writer, camera)
    box = camera.box
    row = _one_row(
        _DETECTOR_FIELDS,
        camera.name,
        camera.number,
        0,
        camera.serial,
        *(box.min_x, box.min_y, box.max_x, box.max_y),
        *(camera.pixel_size, camera.pixel_size),
        *(*camera.position, 0.0),
        *camera.reference,
        *(0.0, 0.0, 0.0),
        transforms,
        np.zeros(0, dtype=np.float32),
        "CCD",
        2,
    )
    return writer.add("Detector", "lsst.afw.cameraGeom", [row, _amplifier_table(camera)], detector_id)


def _amplifier_table(camera: CameraGeometry) -> AfwTable:
    """Return the one amplifier, which covers the detector."""
    box = camera.box
    content: list[tuple[Field, Any]] = [
        (Field("name", "A", "String", 0), "A0"),
        (Field("bbox_min_x", "J", unit="pixel"), box.min_x),
        (Field("bbox_min_y", "J", unit="pixel"), box.min_y),
        (Field("bbox_extent_x", "J", unit="pixel"), box.width),
        (Field("bbox_extent_y", "J", unit="pixel"), box.height),
        (Field("gain", "D", unit="electron adu^-1"), camera.gain),
        (Field("saturation", "D", unit="adu"), camera.saturation),
        (Field("suspectlevel", "D", unit="adu"), 0.8 * camera.saturation),
        (Field("readnoise", "D", unit="electron"), camera.read_noise),
        (Field("readoutcorner", "J"), 0),
        (Field("linearity_coeffs", "D", "Array", 0), np.zeros(0)),
        (Field("linearity_type", "A", "String", 0), ""),
        (Field("hasrawinfo", "X", "Flag"), False),
    ]
    for name, follower in _AMPLIFIER_BOXES.items():
        ends = ("min_x", "min_y", "extent_x", "extent_y")
        content += [(Field(f"{name}_{end}", "J", unit="pixel"), 0) for end in ends]
        content += [(field, 0) for field in follower]
    content += [
        (Field("linearityThreshold", "D"), 0.0),
        (Field("linearityMaximum", "D"), 0.0),
        (Field("linearityUnits", "A", "String", 0), ""),
    ]
    fields, values = zip(*content, strict=True)
    return _one_row(fields, *values)


def _add_transform_map(writer: ArchiveWriter, camera: CameraGeometry) -> int:
    """Add the tree of camera coordinate systems of one detector (file-format specification 5)."""
    map_id = writer.new_id()
    connections = [
        ("FocalPlane", "", "FieldAngle", "", _focal_plane_to_field_angle(camera)),
        ("FocalPlane", "", "Pixels", camera.name, _focal_plane_to_pixels(camera)),
        ("Pixels", camera.name, "TanPixels", camera.name, _pixels_to_tan_pixels(camera)),
        ("Pixels", camera.name, "ActualPixels", camera.name, _unit_map()),
    ]
    names = ("fromSysName", "fromSysDetectorName", "toSysName", "toSysDetectorName")
    fields = (*(Field(name, "A", "String", 0) for name in names), Field("transform", "J"))
    bytes_field = (Field("bytes", "B", "Array", 0, doc="output of Transform.writeString"),)
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.array([connection[k] for connection in connections], dtype=object)
        for k, name in enumerate(names)
    }
    tables = [_one_row(bytes_field, stored_transform(connection[4])) for connection in connections]
    ids = [writer.add("TransformPoint2ToPoint2", "lsst.afw.geom", [table]) for table in tables]
    columns["transform"] = np.array(ids, dtype=np.int32)
    return writer.add("TransformMap", "lsst.afw.cameraGeom", [AfwTable(fields, columns)], map_id)


def _focal_plane_to_field_angle(camera: CameraGeometry) -> Any:
    """Millimetres to radians, with cubic radial distortion; the inverse is iterative."""
    return _cubic_map(camera.plate_scale, camera.distortion)


def _cubic_map(scale: float, distortion: float) -> Any:
    import starlink.Ast as Ast

    bend = scale * distortion
    coefficients = np.array(
        [
            [scale, 1, 1, 0],
            [bend, 1, 3, 0],
            [bend, 1, 1, 2],
            [scale, 2, 0, 1],
            [bend, 2, 2, 1],
            [bend, 2, 0, 3],
        ]
    )
    return Ast.PolyMap(coefficients, None, "IterInverse=1,NiterInverse=30,TolInverse=1e-12")


def _focal_plane_to_pixels(camera: CameraGeometry) -> Any:
    import starlink.Ast as Ast

    origin = np.array(camera.position)
    pixels = np.array(camera.reference)
    return Ast.WinMap(origin, origin + camera.pixel_size, pixels, pixels + 1.0)


def _pixels_to_tan_pixels(camera: CameraGeometry) -> Any:
    """Pixels of an undistorted detector in the same place."""
    import starlink.Ast as Ast

    to_pixels = _focal_plane_to_pixels(camera)
    to_focal_plane = to_pixels.copy()
    to_focal_plane.invert()
    undistort = _cubic_map(1.0, camera.distortion)
    return Ast.CmpMap(Ast.CmpMap(to_focal_plane, undistort, True), to_pixels, True).simplify()


def _unit_map() -> Any:
    import starlink.Ast as Ast

    return Ast.UnitMap(2)
