"""Source tables of the visits of plain images, of which isolated stars are found (``finalchar tabulate``).

LSST's surveys bring such tables along.  Here they are put together from the catalogues of a visit's
detectors, with the pixel flags that the masks give; `isolated_star_association` reads them as any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.image_rows import image_set_of_row
from finalchar.formats.image_set import read_image_set
from finalchar.formats.parquet import write_table
from finalchar.formats.sextractor import read_sextractor
from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.tract_regions import SOURCE_TABLE

__all__ = ["visit_source_table", "write_source_tables"]

Columns = dict[str, npt.NDArray[Any]]
Row = Mapping[str, Any]


def write_source_tables(visits: Mapping[int, Sequence[Row]], *, survey: Path, settings: Any) -> list[str]:
    """Write the table of every visit that the sheet names one of.

    Parameters
    ----------
    visits : mapping of int to sequence of rows
        Rows of the sheet by visit, with the column ``source_table``.
    survey : Path
        Folder that the paths of the sheet are relative to.
    settings : section
        Configuration section ``input``.

    Returns
    -------
    list of str
        A line for each table.

    Raises
    ------
    InputError
        If the images are LSST's, no table is named, or a file cannot be read.
    """
    if settings.kind != "images":
        raise InputError("source tables are made of plain images only; surveys of LSST bring theirs along")
    lines = []
    for visit, rows in visits.items():
        named = sorted({str(row.get(SOURCE_TABLE) or "") for row in rows})
        if len(named) != 1 or not named[0]:
            raise InputError(
                f"visit {visit} has not one source table; name the file to be written in the column "
                f"'{SOURCE_TABLE}' of detectors.csv, the same in all its rows"
            )
        table = visit_source_table(rows, survey=survey, settings=settings)
        path = survey / named[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(table, path)
        lines.append(f"visit {visit}: {len(table)} sources of {len(rows)} detectors in {path}")
    return lines


def visit_source_table(rows: Sequence[Row], *, survey: Path, settings: Any) -> SourceTable:
    """Return the sources of the detectors of a visit.

    Parameters
    ----------
    rows, survey, settings
        As those of `write_source_tables`; the rows of one visit.

    Returns
    -------
    SourceTable
        ``sourceId``, ``visit``, ``detector``, ``ra``, ``dec`` (degrees), ``physical_filter``, ``band``, then
        the columns of `finalchar.formats.sextractor.read_sextractor`.
    """
    parts = [_of_detector(row, survey, settings) for row in rows]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return SourceTable(columns, parts[0].info)


def _of_detector(row: Row, survey: Path, settings: Any) -> SourceTable:
    visit, detector, band = int(row["visit"]), int(row["detector"]), str(row["band"])
    images = image_set_of_row(
        survey / row["exposure"], row, survey=survey, band=band, settings=settings.images
    )
    exposure = read_image_set(images)
    sources = read_sextractor(
        survey / row["src"], settings.catalogue, exposure, visit=visit, detector=detector
    )
    rows = len(sources)
    first: Columns = {
        "sourceId": sources["id"],
        "visit": np.full(rows, visit, dtype=np.int64),
        "detector": np.full(rows, detector, dtype=np.int16),
        "ra": np.degrees(sources["coord_ra"]),
        "dec": np.degrees(sources["coord_dec"]),
        "physical_filter": np.full(rows, band),
        "band": np.full(rows, band),
    }
    kept = {name: values for name, values in sources.columns.items() if name not in ("id", "parent")}
    info = {
        **sources.info,
        "ra": ColumnInfo("deg", "right ascension"),
        "dec": ColumnInfo("deg", "declination"),
    }
    return SourceTable({**first, **kept}, info)
