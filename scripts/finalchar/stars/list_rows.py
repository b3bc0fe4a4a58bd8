"""Rows of one detector in a visit's list: all that a detector job reads of it.

Apart from the making of lists, on whose code no detector depends: its rows are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from finalchar.errors import InputError
from finalchar.stars.colors import FgcmStars
from finalchar.stars.isolated_sources import IsolatedSources

__all__ = ["METADATA_KEY", "open_product", "read_detector_rows", "read_rows"]

METADATA_KEY = b"finalchar_visit_list"
"""Key of the parquet metadata under which the figures of the visit stand, as JSON."""


def open_product(path: Path, made_by: str) -> Any:
    """Open a parquet product; `InputError` if it is missing or broken."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; it is made by {made_by}") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable product of {made_by}: {error}") from None


def read_rows(file: Any, column: str, value: int, columns: Sequence[str]) -> Any:
    """Rows of a sorted parquet file in which `column` equals `value`; other row groups are not read."""
    index = file.schema_arrow.names.index(column)
    groups = []
    for group in range(file.metadata.num_row_groups):
        limits = file.metadata.row_group(group).column(index).statistics
        if limits is None or limits.min <= value <= limits.max:
            groups.append(group)
    table = file.read_row_groups(groups, columns=[column, *columns])
    return table.filter(table.column(column).to_numpy() == value)


def _figures(file: Any, path: Path) -> dict[str, Any]:
    text = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise InputError(f"{path} is not a product of list_visit")
    figures: dict[str, Any] = json.loads(text)
    return figures


def read_detector_rows(path: Path, detector: int) -> IsolatedSources:
    """Read a detector's rows of a visit's list.

    Parameters
    ----------
    path : Path
        Product of `make_visit_list`.
    detector : int

    Returns
    -------
    IsolatedSources
        Without rows if the detector has no source of an isolated star.

    Raises
    ------
    InputError
        If the file is missing or broken.
    """
    file = open_product(Path(path), "list_visit")
    figures = _figures(file, Path(path))
    names = [name for name in file.schema_arrow.names if name != "detector"]
    table = read_rows(file, "detector", detector, names)
    rows = IsolatedSources(
        table.column("detector").to_numpy().astype(np.int32, copy=False),
        table.column("sourceId").to_numpy(),
        table.column("tract").to_numpy(),
        table.column("isolated_star_id").to_numpy(),
        table.column("reserved").to_numpy(),
        table.column("sources_of_star").to_numpy(),
    )
    if "fgcm_bands" not in figures:
        return rows
    return replace(rows, fgcm=_unpack_standard_stars(table, figures["fgcm_bands"]))


def _unpack_standard_stars(table: Any, has_band: Mapping[str, bool]) -> FgcmStars:
    """Standard stars of the rows, each once, in ascending (tract, row)."""

    def flat(name: str) -> Any:
        return table.column(f"fgcm_{name}").combine_chunks().flatten().to_numpy()

    tract, row = flat("tract"), flat("row")
    _, once = np.unique(np.stack([tract, row], axis=1), axis=0, return_index=True)
    return FgcmStars(
        tract[once],
        row[once],
        flat("ra")[once],
        flat("dec")[once],
        {band: flat(f"mag_{band}")[once] for band in has_band},
        dict(has_band),
    )
