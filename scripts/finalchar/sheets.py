"""The two sheets a survey is described by, read exactly.

``detectors.csv`` has one row per exposure of a detector (visit, detector, band, exposure, src) and
``tracts.csv`` one per tract.  Every value is text; identifiers are converted exactly by one rule (decimal
digits, leading zeros allowed, so ``08`` and ``8`` are the same detector), paths are taken literally and are
relative to `survey`.  A byte-order mark, either kind of line end, quotes, blank lines and empty fields at the
end of a row do not matter; anything else that is not a plain table with the header's columns is refused with
its line.  Standard library only: the planner reads 190 000 rows in a fraction of a second.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from finalchar.errors import SheetError
from finalchar.hdu_names import file_and_hdu
from finalchar.tract_regions import (
    OPTIONAL_REGION_COLUMNS,
    REGION_COLUMNS,
    SOURCE_TABLE,
    Region,
    check_regions,
    read_region,
)

__all__ = [
    "DETECTOR_COLUMNS",
    "IDENTIFIERS",
    "IMAGE_COLUMNS",
    "NUMBER_COLUMNS",
    "OPTIONAL_DETECTOR_COLUMNS",
    "OPTIONAL_TRACT_COLUMNS",
    "TRACT_COLUMNS",
    "DetectorRow",
    "TractRow",
    "check_images",
    "check_tracts",
    "detector_files",
    "image_details",
    "read_detectors",
    "read_tracts",
]

DETECTOR_COLUMNS = ("visit", "detector", "band", "exposure", "src")
IMAGE_COLUMNS = ("weight", "flag")
"""Files of plain images beside ``exposure``; ``weight`` is what tells a row of them."""
NUMBER_COLUMNS = ("gain", "saturation", "offset", "zero_point")
POSITIVE_COLUMNS = ("gain", "saturation")
"""Numbers of plain images that differ between detectors; where empty, those of the configuration hold."""
OPTIONAL_DETECTOR_COLUMNS = ("tracts", SOURCE_TABLE, *IMAGE_COLUMNS, *NUMBER_COLUMNS)
TRACT_COLUMNS = ("tract", "isolated_star_cat", "isolated_star_sources")
OPTIONAL_TRACT_COLUMNS = ("fgcm_standard_star", *OPTIONAL_REGION_COLUMNS)

_DIGITS = re.compile(r"[0-9]+\Z", re.ASCII)
_BAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*\Z", re.ASCII)
IDENTIFIERS = ("visit", "detector", "tract")
_LARGEST = 2**63 - 1
NOTHING: Mapping[str, str] = MappingProxyType({})


class DetectorRow(NamedTuple):
    """One exposure of a detector.

    Attributes
    ----------
    visit, detector : int
        Identifiers.
    band : str
        Band of the visit, the same in all its rows.
    exposure, src : str
        Paths as the sheet gives them, relative to `survey` unless absolute.
    extra : mapping of str to str
        The other columns of the sheet, text.
    line : int
        Line of the sheet, from 1.
    """

    visit: int
    detector: int
    band: str
    exposure: str
    src: str
    extra: Mapping[str, str] = NOTHING
    line: int = 0


class TractRow(NamedTuple):
    """Tables of one tract.

    Attributes
    ----------
    tract : int
        Identifier.
    isolated_star_cat, isolated_star_sources : str
        Paths as the sheet gives them, relative to `survey` unless absolute.
    fgcm_standard_star : str or None
        Path of the standard stars, None where the sheet names none.
    region : mapping or None
        Region of a tract whose isolated stars are to be found, see `finalchar.tract_regions`; its paths of
        tables are empty.
    extra : mapping of str to str
        The other columns of the sheet, text.
    line : int
        Line of the sheet, from 1.
    """

    tract: int
    isolated_star_cat: str
    isolated_star_sources: str
    fgcm_standard_star: str | None = None
    region: Region | None = None
    extra: Mapping[str, str] = NOTHING
    line: int = 0


def read_detectors(path: str | Path) -> list[DetectorRow]:
    """Read the sheet of detectors.

    Parameters
    ----------
    path : path
        Comma-separated table with the columns visit, detector, band, exposure, src and any others.

    Returns
    -------
    list of DetectorRow
        In the order of the sheet; (visit, detector) is unique and a visit has one band.

    Raises
    ------
    SheetError
        One sentence with path, line, column and remedy.
    """
    path = Path(path)
    header, rows = _read_table(path, DETECTOR_COLUMNS)
    visit, detector, band, exposure, src = (header.index(name) for name in DETECTOR_COLUMNS)
    others = [(i, name) for i, name in enumerate(header) if name not in DETECTOR_COLUMNS]
    result: list[DetectorRow] = []
    first_lines: dict[tuple[int, int], int] = {}
    band_of: dict[int, tuple[str, int]] = {}
    visits, detectors = _Identifiers(path, "visit"), _Identifiers(path, "detector")
    for line, row in rows:
        key = visits.number(row[visit], line), detectors.number(row[detector], line)
        if key in first_lines:
            raise SheetError(
                f"{path}: lines {first_lines[key]} and {line} are both visit {key[0]}, detector {key[1]}; "
                "remove one of them."
            )
        first_lines[key] = line
        if band_of.setdefault(key[0], (row[band], line))[0] != row[band]:
            raise SheetError(
                f"{path}, line {line}: visit {key[0]} has band '{row[band]}' here and "
                f"'{band_of[key[0]][0]}' in line {band_of[key[0]][1]}; a visit has one band."
            )
        if list(map(str.strip, row)) != row or "" in row:
            _check_values(path, line, header, row, DETECTOR_COLUMNS)
        extra = {name: row[i] for i, name in others} if others else NOTHING
        result.append(DetectorRow(*key, row[band], row[exposure], row[src], extra, line))
    _check_rows(path, result, "one row per exposure of a detector")
    _check_bands(path, band_of)
    return result


def read_tracts(path: str | Path) -> list[TractRow]:
    """Read the sheet of tracts.

    Parameters
    ----------
    path : path
        Comma-separated table with the columns tract, isolated_star_cat, isolated_star_sources, and
        fgcm_standard_star if colours or magnitudes of standard stars are wanted; where both tables are empty
        or have no columns, with ra_min, ra_max, dec_min, dec_max (and outer_polygon).

    Returns
    -------
    list of TractRow
        In the order of the sheet; a tract stands once.

    Raises
    ------
    SheetError
        One sentence with path, line, column and remedy.
    """
    path = Path(path)
    header, rows = _read_table(path, TRACT_COLUMNS, instead=("tract", *REGION_COLUMNS))
    known = (*TRACT_COLUMNS, *OPTIONAL_TRACT_COLUMNS, *REGION_COLUMNS)
    result: list[TractRow] = []
    first_lines: dict[int, int] = {}
    tracts = _Identifiers(path, "tract")
    for line, row in rows:
        values = dict(zip(header, row, strict=True))
        tract = tracts.number(values["tract"], line)
        if first_lines.setdefault(tract, line) != line:
            raise SheetError(
                f"{path}: lines {first_lines[tract]} and {line} are both tract {tract}; remove one of them."
            )
        cat, sources = (values.get(name, "") for name in TRACT_COLUMNS[1:])
        by_region = not cat.strip() and not sources.strip() and set(REGION_COLUMNS) <= set(header)
        _check_values(path, line, header, row, ("tract", *REGION_COLUMNS) if by_region else TRACT_COLUMNS)
        region = read_region(path, line, values) if by_region else None
        extra = {name: value for name, value in values.items() if name not in known}
        fgcm = values.get("fgcm_standard_star") or None
        result.append(TractRow(tract, cat, sources, fgcm, region, extra, line))
    _check_rows(path, result, "one row per tract")
    check_regions(path, [(row.tract, row.line, row.region) for row in result if row.region is not None])
    return result


def check_tracts(path: str | Path, detectors: Sequence[DetectorRow], tracts: Sequence[TractRow]) -> None:
    """Compare the optional column ``tracts`` of the sheet of detectors with the sheet of tracts.

    Raises
    ------
    SheetError
        If it holds something else than tract numbers with spaces between them, or a tract that the sheet of
        tracts does not have.
    """
    numbers = _Identifiers(Path(path), "tract")
    known = {row.tract for row in tracts}
    first_lines: dict[str, int] = {}
    for row in detectors:
        if row.extra:
            first_lines.setdefault(row.extra.get("tracts", ""), row.line)
    for text, line in first_lines.items():
        for word in text.replace(";", " ").split():
            if (tract := numbers.number(word, line)) not in known:
                raise SheetError(
                    f"{path}, line {line}: the tract {tract} of the column 'tracts' is not in the sheet of "
                    "tracts; add it there or correct the number."
                )


def detector_files(row: Mapping[str, Any]) -> dict[str, str]:
    """Paths of the files of a detector by role, without numbers of HDUs.

    Parameters
    ----------
    row : mapping
        A row of the sheet, optional columns included.
    """
    files = {"exposure": str(row["exposure"]), "src": str(row["src"])}
    if not row.get("weight"):
        return files
    files["exposure"] = file_and_hdu(files["exposure"])[0]
    for name in IMAGE_COLUMNS:
        if row.get(name):
            files[name] = file_and_hdu(str(row[name]))[0]
    return files


def image_details(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row says of plain images beside the paths: numbers, and of which HDU each plane is.

    A number has one spelling here: ``1`` and ``1.0`` are the same gain.
    """
    if not row.get("weight"):
        return {}
    details = {name: repr(float(row[name])) for name in NUMBER_COLUMNS if row.get(name)}
    for name in ("exposure", *IMAGE_COLUMNS):
        hdu = file_and_hdu(str(row.get(name, "")))[1]
        if hdu is not None:
            details[f"{name} HDU"] = str(hdu)
    return details


def check_images(path: str | Path, rows: Sequence[DetectorRow], kind: str) -> None:
    """Compare the columns of plain images with the kind of input of the configuration (`input.kind`).

    Raises
    ------
    SheetError
        If plain images have no weight, exposures of LSST have one, or a number is none or impossible.
    """
    for row in rows:
        if kind == "lsst" and row.extra.get("weight"):
            raise SheetError(
                f"{path}, line {row.line}: the column 'weight' belongs to plain images; choose a preset for "
                "them (input.preset) or remove the column."
            )
        if kind == "images" and not row.extra.get("weight"):
            raise SheetError(
                f"{path}, line {row.line}: there is no weight image; name it in the column 'weight'."
            )
        for name in NUMBER_COLUMNS if kind == "images" else ():
            if row.extra.get(name):
                _check_number(f"{path}, line {row.line}", name, row.extra[name])


def _check_number(where: str, name: str, text: str) -> None:
    """Refuse what is no number, and a gain or level of saturation that is not positive."""
    reason = "" if _is_number(text) else "is not a number"
    if not reason and name in POSITIVE_COLUMNS and float(text) <= 0.0:
        reason = "must be more than 0"
    if reason:
        raise SheetError(f"{where}: the {name} '{text}' {reason}; correct it or leave it empty.")


def _is_number(text: str) -> bool:
    """Whether a text spells a finite number."""
    return re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text) is not None


def _read_table(
    path: Path, required: Sequence[str], *, instead: Sequence[str] = ()
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header and rows (with their line) of a sheet, every row as long as the header.

    Where `required` are not all there and of `instead` one more than the first is, these are required.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SheetError(
            f"{path}: the sheet does not exist; name it in the configuration (`sheets`)."
        ) from None
    except UnicodeDecodeError as error:
        raise SheetError(f"{path}: the sheet is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise SheetError(f"{path}: the sheet cannot be read: {error.strerror}.") from None
    if "\0" in text:
        raise SheetError(f"{path}: the sheet is not text (it has a zero byte).")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = _lines(path, reader)
    for line, row in lines:
        names = {name.strip() for name in row}
        if names & set(instead[1:]) and not names >= set(required):
            required = instead
        return _header(path, line, row, required), _rows(path, lines, _header(path, line, row, required))
    raise SheetError(f"{path}: the sheet is empty; its first line names the columns {', '.join(required)}.")


def _lines(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the line where each begins."""
    start = 1
    try:
        for row in reader:
            if row and (row[0].strip() or any(map(str.strip, row))):
                yield start, row
            start = reader.line_num + 1  # type: ignore[attr-defined]
    except csv.Error as error:
        raise SheetError(f"{path}, line {start}: not a comma-separated row ({error}).") from None


def _header(path: Path, line: int, row: list[str], required: Sequence[str]) -> list[str]:
    """Names of the columns; empty names at the end are the separators at the end of the rows."""
    names = [name.strip() for name in row]
    while names and not names[-1]:
        names.pop()
    if len(names) == 1 and any(separator in names[0] for separator in "\t;|"):
        separator = next(s for s in "\t;|" if s in names[0])
        shown = "a tab" if separator == "\t" else f"'{separator}'"
        raise SheetError(f"{path}, line {line}: the separator is {shown}; use a comma.")
    for name in names:
        if not name:
            raise SheetError(f"{path}, line {line}: column {names.index(name) + 1} has no name.")
        if names.count(name) > 1:
            raise SheetError(f"{path}, line {line}: the column '{name}' stands twice; remove or rename one.")
    for name in required:
        if name not in names:
            raise SheetError(
                f"{path}, line {line}: the column '{name}' is missing; there are: {', '.join(names)}."
            )
    return names


def _rows(
    path: Path, lines: Iterator[tuple[int, list[str]]], header: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Rows cut to the header's length; only empty fields may be cut."""
    width = len(header)
    for line, row in lines:
        if len(row) == width:
            yield line, row
            continue
        if len(row) > width and any(value.strip() for value in row[width:]):
            raise SheetError(
                f"{path}, line {line}: {len(row)} fields where the header has {width}; a value with a "
                "comma must stand in quotes."
            )
        if len(row) < width:
            raise SheetError(
                f"{path}, line {line}: {len(row)} fields where the header has {width}; "
                f"the column '{header[len(row)]}' is missing."
            )
        yield line, row[:width]


class _Identifiers:
    """Exact numbers of the identifiers of a column: decimal digits, at most 2**63 - 1."""

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._known: dict[str, int] = {}

    def number(self, text: str, line: int) -> int:
        """The number that `text` spells; `SheetError` with the line otherwise."""
        number = self._known.get(text)
        if number is None:
            number = self._known[text] = self._convert(text.strip(" \t"), line)
        return number

    def _convert(self, text: str, line: int) -> int:
        if _DIGITS.match(text) and len(text) < 40 and int(text) <= _LARGEST:
            return int(text)
        raise SheetError(
            f"{self._path}, line {line}: the {self._column} '{text}' is not an identifier; it must be "
            f"decimal digits only, at most {_LARGEST}."
        )


def _check_values(path: Path, line: int, header: list[str], row: list[str], required: Sequence[str]) -> None:
    """Refuse empty required values, and blanks around a value: nobody sees whether they are meant."""
    for name, value in zip(header, row, strict=True):
        if not value.strip():
            if name in required:
                raise SheetError(f"{path}, line {line}: the column '{name}' is empty.")
        elif value != value.strip() and name not in IDENTIFIERS:
            raise SheetError(
                f"{path}, line {line}: the {name} '{value}' begins or ends with a blank; remove it."
            )


def _check_rows(path: Path, rows: Sequence[object], what: str) -> None:
    """Refuse a sheet that has a header only."""
    if not rows:
        raise SheetError(f"{path}: the sheet has no rows below its header; write {what}.")


def _check_bands(path: Path, band_of: dict[int, tuple[str, int]]) -> None:
    """Bands become parts of file names and columns: letters, digits, ``_``, ``+`` and ``-`` only."""
    for band, line in band_of.values():
        if not _BAND.match(band):
            raise SheetError(
                f"{path}, line {line}: the band '{band}' may have letters, digits, '_', '+' and '-' only."
            )
