"""Tracts that the sheet gives as regions of the sky, and the source tables of which their stars are found.

``tracts.csv`` then has the columns ra_min, ra_max, dec_min, dec_max (degrees) and, if wanted, outer_polygon,
``detectors.csv`` the column source_table, the same in all rows of a visit.  Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finalchar.errors import SheetError

__all__ = [
    "OPTIONAL_REGION_COLUMNS",
    "REGION_COLUMNS",
    "SOURCE_TABLE",
    "Region",
    "check_regions",
    "read_region",
    "source_tables",
]

REGION_COLUMNS = ("ra_min", "ra_max", "dec_min", "dec_max")
OPTIONAL_REGION_COLUMNS = ("outer_polygon",)
SOURCE_TABLE = "source_table"

ROUNDING = 1e-6
"""Overlap of regions, degrees, that is told from rounded limits: it owns no star twice."""

Region = Mapping[str, Any]
"""``ra_min``, ``ra_max``, ``dec_min``, ``dec_max`` and ``outer``, a list of [ra, dec]; degrees."""


def read_region(path: str | Path, line: int, values: Mapping[str, str]) -> Region:
    """Read the region of a tract from a row of the sheet.

    Parameters
    ----------
    path, line
        Of the row, for messages.
    values : mapping of str to str
        The row by column.

    Raises
    ------
    SheetError
        If a value is not a number of degrees, or the limits hold nothing.
    """
    region: dict[str, Any] = {name: _degrees(path, line, name, values[name]) for name in REGION_COLUMNS}
    if not -90.0 <= region["dec_min"] < region["dec_max"] <= 90.0:
        raise SheetError(
            f"{path}, line {line}: dec_min must be less than dec_max, both within -90 ... 90 degrees."
        )
    if region["ra_min"] % 360.0 == (region["ra_max"] % 360.0 or 360.0):
        raise SheetError(
            f"{path}, line {line}: ra_min and ra_max are the same; the full circle is 0 and 360."
        )
    return {**region, "outer": _corners(path, line, values.get("outer_polygon", ""))}


def check_regions(path: str | Path, regions: Sequence[tuple[int, int, Region]]) -> None:
    """Refuse regions that overlap, since a star has one tract.

    Parameters
    ----------
    path
        Of the sheet, for messages.
    regions : sequence of (int, int, mapping)
        Tract, line and region.

    Raises
    ------
    SheetError
        If two tracts own the same place.
    """
    upwards = sorted(
        (
            region["dec_min"],
            region["dec_max"] - ROUNDING,
            region["ra_min"],
            _width(region) - ROUNDING,
            tract,
            line,
        )
        for tract, line, region in regions
    )
    for index, (_, top, ra, width, tract, line) in enumerate(upwards):
        for bottom, _, other_ra, other_width, other_tract, other_line in upwards[index + 1 :]:
            if bottom >= top:
                break
            # One of two overlapping arcs begins in the other.
            if (other_ra - ra) % 360.0 < width or (ra - other_ra) % 360.0 < other_width:
                lines = " and ".join(map(str, sorted((line, other_line))))
                raise SheetError(
                    f"{path}, lines {lines}: the regions of the tracts {tract} and {other_tract} overlap; a "
                    "star has one tract, what a tract looks at beyond its region is outer_polygon."
                )


def _width(region: Region) -> float:
    """Degrees from ra_min to ra_max, going up."""
    return float((region["ra_max"] - region["ra_min"]) % 360.0) or 360.0


def _degrees(path: str | Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise SheetError(f"{path}, line {line}: the {name} '{text}' is not a number of degrees.")
    return value


def _corners(path: str | Path, line: int, text: str) -> list[list[float]]:
    """Corners written as ``ra dec; ra dec; ...``."""
    if not text.strip():
        return []
    corners = [
        [_degrees(path, line, "outer_polygon", word) for word in corner.split()]
        for corner in text.strip().rstrip(";").split(";")
    ]
    if len(corners) < 3 or any(len(corner) != 2 for corner in corners):
        raise SheetError(
            f"{path}, line {line}: the outer_polygon '{text}' must have three corners or more, each RA and "
            "Dec with a blank between, the corners with semicolons between."
        )
    return corners


def source_tables(
    path: str | Path, visits: Mapping[int, Sequence[Mapping[str, Any]]], tract: int
) -> dict[str, str]:
    """Source table of each visit that may touch a tract, by the number of the visit as text.

    Parameters
    ----------
    path : path
        Of the sheet of detectors, for messages.
    visits : mapping of int to sequence of mapping
        Rows of the sheet by visit, optional columns included.
    tract : int
        A visit whose column ``tracts`` names others only is left out.

    Raises
    ------
    SheetError
        If a visit has no source table, or more than one.
    """
    tables = {}
    for visit, rows in visits.items():
        if not _may_touch(rows, tract):
            continue
        named = sorted({str(row.get(SOURCE_TABLE) or "") for row in rows})
        if named == [""]:
            raise SheetError(
                f"{path}: visit {visit} has no source table, of which the isolated stars of tract {tract} "
                f"are found; name it in the column '{SOURCE_TABLE}', or the tables of the tract in the sheet "
                "of tracts."
            )
        if len(named) > 1:
            raise SheetError(
                f"{path}: visit {visit} has the {SOURCE_TABLE} '{named[0]}' in one row and '{named[1]}' in "
                "another; a visit has one."
            )
        tables[str(visit)] = named[0]
    return tables


def _may_touch(rows: Iterable[Mapping[str, Any]], tract: int) -> bool:
    """Whether a row of a visit names the tract, or names none."""
    texts = [str(row.get("tracts") or "").replace(";", " ").split() for row in rows]
    return any(not words or tract in map(int, words) for words in texts)
