"""SExtractor catalogues, FITS_LDAC and plain FITS tables, as the source tables of the other rooms.

Positions come to count from 0, angles are radians, flags are bool columns, ids are unique 64-bit integers.
What a catalogue does not say and LSST's say, the image says: which masked pixels a source has near it.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError
from finalchar.formats.exposure import Exposure
from finalchar.formats.sources import ColumnInfo, SourceTable

__all__ = ["check_positions", "combined_id", "read_sextractor", "with_pixel_flags"]

CENTROID, FLUX, SHAPE = "catalogue_Centroid", "catalogue_Flux", "catalogue_Shape"
LARGEST = 2**63 - 1
MOST_DETECTORS, MOST_SOURCES = 1000, 1_000_000

PIXEL_FLAGS = {
    "bad": "BAD",
    "cr": "CR",
    "interpolated": "INTRP",
    "nodata": "NO_DATA",
    "saturated": "SAT",
    "suspect": "SUSPECT",
}
"""Columns ``base_PixelFlags_flag_*`` and mask planes; with ``Center`` appended: within 3 x 3 pixels."""

LEAST_SIGNAL_TO_NOISE, MARGIN = 50.0, 10.0
BRIGHTEST = 200
"""Sources whose positions are compared with the light."""
FEWEST_POSITIONS = 5
WINDOW_SIGMA = 1.5
"""Gaussian window, pixels, in which the light is centred; narrow: neighbours do not count."""
FARTHEST = 2.0
"""Positions that the window leaves by more, pixels, say nothing."""
LIGHT_RADIUS, LEAST_LIGHT = 3.0, 5.0
"""Circle, pixels, in which a bright source has at least so much light in units of its error."""

Columns = dict[str, npt.NDArray[Any]]
FloatArray = npt.NDArray[np.float64]


def combined_id(
    number: npt.NDArray[np.int64], *, visit: int, detector: int, origin: str
) -> npt.NDArray[np.int64]:
    """Return ids that no other detector has: visit * 10**9 + detector * 10**6 + number.

    Raises
    ------
    InputError
        If a part has too many digits for it.
    """
    remedy = "set input.catalogue.id_rule to 'as_given' and bring unique ids in the catalogue"
    if visit > LARGEST // (MOST_DETECTORS * MOST_SOURCES) - 1:
        raise InputError(f"{origin}: the visit {visit} is too long for ids of 19 digits; {remedy}")
    if detector >= MOST_DETECTORS:
        raise InputError(f"{origin}: the detector {detector} is above {MOST_DETECTORS - 1}; {remedy}")
    if len(number) and not 0 <= number.min() <= number.max() < MOST_SOURCES:
        raise InputError(
            f"{origin}: the numbers of the sources are not all between 0 and {MOST_SOURCES - 1}; {remedy}"
        )
    return np.int64((visit * MOST_DETECTORS + detector) * MOST_SOURCES) + number


def read_sextractor(
    path: str | os.PathLike[str], settings: Any, exposure: Exposure, *, visit: int, detector: int
) -> SourceTable:
    """Read the sources of a detector.

    Parameters
    ----------
    path : path-like
        The table; compressed files are read too.
    settings : section
        Configuration section ``input.catalogue``: which column is what.
    exposure : Exposure
        The image: its astrometry and its mask.
    visit, detector : int
        Parts of the ids.

    Returns
    -------
    SourceTable
        With ``id``, ``parent`` (0), ``coord_ra``, ``coord_dec`` (rad), ``catalogue_Centroid_*`` (the slot
        ``slot_Centroid``), ``catalogue_Flux_*``, ``catalogue_Shape_*`` (``slot_Shape``) where asked for, the
        flag columns of the settings, ``base_PixelFlags_*``.

    Raises
    ------
    InputError
        If the file is missing or broken, lacks a column, or the positions are not those of the light.
    """
    table = _Table(path, settings.hdu)
    columns: Columns = {"id": _ids(table, settings, visit, detector)}
    columns["parent"] = np.zeros(len(table), dtype=np.int64)
    x, y = (table.numbers(getattr(settings, axis), f"{axis}") - settings.first_pixel for axis in "xy")
    columns["coord_ra"], columns["coord_dec"] = _sky(table, settings, exposure, x, y)
    columns |= {f"{CENTROID}_x": x, f"{CENTROID}_y": y}
    columns |= _position_errors(table, settings.error_ellipse)
    columns[f"{CENTROID}_flag"] = ~(np.isfinite(x) & np.isfinite(y))
    columns[f"{FLUX}_instFlux"] = table.numbers(settings.flux, "flux")
    columns[f"{FLUX}_instFluxErr"] = table.numbers(settings.flux_err, "flux_err")
    for axis, name in zip(("xx", "yy", "xy"), settings.shape, strict=False):
        columns[f"{SHAPE}_{axis}"] = table.numbers(name, "shape")
    columns |= _flags(table, settings.flags)
    columns |= {ours: table.plain(theirs, f"columns.{ours}") for ours, theirs in settings.columns.items()}
    aliases = {"slot_Centroid": CENTROID, **({"slot_Shape": SHAPE} if settings.shape else {})}
    sources = SourceTable(columns, _info(columns), aliases, str(path))
    check_positions(sources, exposure, settings.largest_offset)
    return with_pixel_flags(sources, exposure, settings.flag_radius)


def _info(columns: Columns) -> dict[str, ColumnInfo]:
    units = {
        "coord_ra": "rad",
        "coord_dec": "rad",
        **{f"{CENTROID}_{axis}{error}": "pix" for axis in "xy" for error in ("", "Err")},
        **{f"{FLUX}_instFlux{error}": "ct" for error in ("", "Err")},
        **{f"{SHAPE}_{axis}": "pix2" for axis in ("xx", "yy", "xy")},
    }
    return {name: ColumnInfo(units.get(name, ""), "from the source catalogue") for name in columns}


class _Table:
    """The table of sources in its file; columns are read when they are asked for."""

    def __init__(self, path: str | os.PathLike[str], hdu: int | None) -> None:
        import fitsio

        self.path = str(path)
        if not os.path.exists(self.path):
            raise InputError(f"{self.path} does not exist")
        try:
            self._file = fitsio.FITS(self.path)
            self._hdu = self._file[self._find() if hdu is None else hdu]
            self.names = list(self._hdu.get_colnames())
            self._header = self._hdu.read_header()
        except (OSError, AttributeError, IndexError) as error:
            where = "a table" if hdu is None else f"a table in HDU {hdu}"
            raise InputError(f"{self.path} is not a FITS file with {where} ({error})") from None

    def _find(self) -> int:
        """Number of the HDU of LDAC_OBJECTS, or of the first table."""
        tables = [k for k, hdu in enumerate(self._file) if hdu.get_exttype() != "IMAGE_HDU"]
        named = [k for k in tables if self._file[k].get_extname() == "LDAC_OBJECTS"]
        if not tables:
            raise OSError("it has images only")
        return int((named or tables)[0])

    def __len__(self) -> int:
        return int(self._hdu.get_nrows())

    def plain(self, name: str, setting: str) -> npt.NDArray[Any]:
        """Return a column with one value per source, in native byte order."""
        if name not in self.names:
            raise MissingColumnError(
                name, table=self.path, asked_by=f"input.catalogue.{setting}", there=self.names
            )
        values = np.asarray(self._hdu.read_column(name)) if len(self) else np.zeros(0)
        if values.ndim != 1:
            raise InputError(
                f"{self.path}: the column {name!r} has {values.shape[1:]} values per source, which "
                f"input.catalogue.{setting} cannot use; name a column of single values"
            )
        return values.astype(values.dtype.newbyteorder("="))

    def numbers(self, name: str, setting: str) -> FloatArray:
        """Return a column as float64; nulls of whole numbers are NaN."""
        values = self.plain(name, setting)
        if values.dtype.kind not in "fiu":
            raise InputError(f"{self.path}: the column {name!r} (input.catalogue.{setting}) is not numeric")
        null = self._null(name)
        numbers = values.astype(np.float64)
        return numbers if null is None else np.where(values == null, np.nan, numbers)

    def whole(self, name: str, setting: str) -> npt.NDArray[np.int64]:
        """Return a column of whole numbers, exactly."""
        values = self.plain(name, setting)
        if len(self) and values.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: the column {name!r} (input.catalogue.{setting}) does not hold whole numbers"
            )
        null = self._null(name)
        if null is not None and (values == null).any():
            raise InputError(f"{self.path}: the column {name!r} has nulls; every row needs a number")
        if values.dtype.kind == "u" and len(values) and int(values.max()) > LARGEST:
            raise InputError(f"{self.path}: the column {name!r} has numbers above {LARGEST}")
        return values.astype(np.int64)

    def _null(self, name: str) -> int | None:
        """The number that stands for no value in a column of whole numbers (TNULL), scaled as the values."""
        number = self.names.index(name) + 1
        null = self._header.get(f"TNULL{number}")
        return None if null is None else int(null) + int(self._header.get(f"TZERO{number}", 0))


def _ids(table: _Table, settings: Any, visit: int, detector: int) -> npt.NDArray[np.int64]:
    """Return the ids, each once."""
    ids = table.whole(settings.id, "id")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{table.path}: the id {values[counts > 1][0]} stands {counts.max()} times in the column "
            f"{settings.id!r} (input.catalogue.id)"
        )
    if settings.id_rule == "as_given":
        return ids
    return combined_id(ids, visit=visit, detector=detector, origin=table.path)


def _sky(
    table: _Table, settings: Any, exposure: Exposure, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return right ascension and declination, radians."""
    if settings.ra is None:
        return exposure.wcs.pixel_to_sky(x=x, y=y)
    return np.radians(table.numbers(settings.ra, "ra")), np.radians(table.numbers(settings.dec, "dec"))


def _position_errors(table: _Table, names: list[str]) -> Columns:
    """Return the errors along x and y of the error ellipse."""
    if not names:
        return {}
    major, minor, angle = (table.numbers(name, "error_ellipse") for name in names)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return {
        f"{CENTROID}_xErr": np.hypot(major * cos, minor * sin).astype(np.float32),
        f"{CENTROID}_yErr": np.hypot(major * sin, minor * cos).astype(np.float32),
    }


def _flags(table: _Table, tests: dict[str, str]) -> Columns:
    """Return the flag columns ``name: COLUMN & bits``."""
    flags: Columns = {}
    for name, test in tests.items():
        column, bits = test.split(" & ")
        flags[name] = (table.whole(column, f"flags.{name}") & np.int64(bits)) != 0
    return flags


def with_pixel_flags(sources: SourceTable, exposure: Exposure, radius: float) -> SourceTable:
    """Return the sources with flags of the masked pixels near them.

    ``base_PixelFlags_flag_edge`` is set where the circle leaves the image, ``..._offimage`` where the centre
    does.

    Parameters
    ----------
    sources : SourceTable
        With the slot ``slot_Centroid``.
    exposure : Exposure
    radius : float
        Pixels.
    """
    x, y = (np.asarray(sources[f"slot_Centroid_{axis}"], dtype=np.float64) for axis in "xy")
    known = np.isfinite(x) & np.isfinite(y)
    box, height, width = exposure.box, *exposure.image.shape
    column = np.floor(np.where(known, np.clip(x, -1e9, 1e9), -1e9) + 0.5).astype(np.int64) - box.min_x
    row = np.floor(np.where(known, np.clip(y, -1e9, 1e9), -1e9) + 0.5).astype(np.int64) - box.min_y
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    half = int(radius)
    away = np.minimum.reduce([row, column, height - 1 - row, width - 1 - column])
    near = _bits_near(exposure.mask, row, column, half, radius)
    centre = _bits_near(exposure.mask, row, column, 1, 1.5)
    edge = exposure.mask_planes.get("EDGE")
    columns: Columns = {
        "base_PixelFlags_flag_offimage": ~inside,
        "base_PixelFlags_flag_edge": (away < half) | (_has(near, edge) if edge is not None else False),
    }
    for name, plane in PIXEL_FLAGS.items():
        bit = exposure.mask_planes.get(plane)
        for ending, bits in (("", near), ("Center", centre)):
            found = np.zeros(len(x), dtype=bool) if bit is None else _has(bits, bit)
            columns[f"base_PixelFlags_flag_{name}{ending}"] = found
    return sources.with_columns(columns, {name: ColumnInfo("", "masked pixels near") for name in columns})


def _has(bits: npt.NDArray[np.int32], bit: int) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (bits >> np.int32(bit)) & np.int32(1) != 0
    return found


def _bits_near(
    mask: npt.NDArray[np.int32],
    row: npt.NDArray[np.int64],
    column: npt.NDArray[np.int64],
    half: int,
    radius: float,
) -> npt.NDArray[np.int32]:
    """Return all mask bits within a circle around pixels; what lies outside the image has none."""
    bits = np.zeros(len(row), dtype=np.int32)
    height, width = mask.shape
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            if dy * dy + dx * dx > radius * radius:
                continue
            r, c = row + dy, column + dx
            on = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            bits[on] |= mask[r[on], c[on]]
    return bits


def check_positions(sources: SourceTable, exposure: Exposure, largest_offset: float) -> None:
    """Compare the positions of bright sources with the light (known failure K09).

    Raises
    ------
    InputError
        If there is no light at most of them, or their median offset is greater than `largest_offset` pixels.
    """
    import sep

    x, y = (np.asarray(sources[f"slot_Centroid_{axis}"], dtype=np.float64) for axis in "xy")
    x, y = x - exposure.box.min_x, y - exposure.box.min_y
    flux, error = sources[f"{FLUX}_instFlux"], sources[f"{FLUX}_instFluxErr"]
    height, width = exposure.image.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = flux / error > LEAST_SIGNAL_TO_NOISE
    for position, size in ((x, width), (y, height)):
        usable &= (position > MARGIN) & (position < size - MARGIN)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(-flux[rows], kind="stable")[:BRIGHTEST]]
    if len(rows) < FEWEST_POSITIONS:
        return
    bad = ~np.isfinite(exposure.image) | (exposure.mask != 0)
    data = np.ascontiguousarray(np.where(bad, 0.0, exposure.image), dtype=np.float32)
    _check_light(sources.origin, data, exposure, bad, x[rows], y[rows])
    found_x, found_y, flag = sep.winpos(data, x[rows], y[rows], WINDOW_SIGMA, mask=bad)
    dx, dy = x[rows] - found_x, y[rows] - found_y
    good = (flag == 0) & (np.hypot(dx, dy) < FARTHEST)
    if good.sum() < FEWEST_POSITIONS:
        return
    offset = float(np.median(dx[good])), float(np.median(dy[good]))
    if max(abs(offset[0]), abs(offset[1])) > largest_offset:
        raise InputError(
            f"{sources.origin}: the positions lie {offset[0]:+.2f}, {offset[1]:+.2f} pixels in x, y from the "
            f"light (median of {int(good.sum())} bright sources); is input.catalogue.first_pixel right, and "
            "is it the catalogue of this image?"
        )


def _check_light(
    origin: str,
    data: npt.NDArray[np.float32],
    exposure: Exposure,
    bad: npt.NDArray[np.bool_],
    x: FloatArray,
    y: FloatArray,
) -> None:
    """Demand light at most of the bright sources; at those of another image there is only sky.

    Raises
    ------
    InputError
        If there is none at more than half of those that have no bad pixel near.
    """
    import sep

    variance = np.ascontiguousarray(np.where(bad, 1.0, exposure.variance), dtype=np.float32)
    flux, error, flag = sep.sum_circle(data, x, y, LIGHT_RADIUS, var=variance, mask=bad)
    known = flag == 0
    dark = int((flux[known] < LEAST_LIGHT * error[known]).sum())
    if known.sum() >= FEWEST_POSITIONS and 2 * dark > known.sum():
        raise InputError(
            f"{origin}: at {dark} of {int(known.sum())} bright sources the image has no light; is it the "
            "catalogue of this image? Correct the row of detectors.csv, or input.catalogue.x and y"
        )
