"""The sources of a tract: selected rows of its visits' source tables (selection specification 1.6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError
from finalchar.formats.parquet_groups import GroupedTable, RowsOfTable
from finalchar.stars.exact_ids import exact_ids
from finalchar.stars.tract_geometry import TractGeometry

__all__ = ["TractSources", "read_tract_sources"]

Columns = dict[str, npt.NDArray[Any]]
Select = Callable[[Any], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class TractSources:
    """Selected sources that a tract looks at.

    Attributes
    ----------
    columns : dict of str to ndarray
        The persisted columns in their order, and ``source_row``, int32: the row in the visit's table.
    selected : dict of int to int
        Number of sources by visit.
    rows_read, rows : int
        Rows whose selection was looked at, and of all tables.
    """

    columns: Columns
    selected: Mapping[int, int]
    rows_read: int
    rows: int

    def __len__(self) -> int:
        return len(self.columns["source_row"])

    def take(self, rows: npt.NDArray[Any]) -> Columns:
        """The given rows of all columns."""
        return {name: values[rows] for name, values in self.columns.items()}


@dataclass(frozen=True)
class _Part:
    """Selected rows of some row groups of a table."""

    columns: Columns
    rows_read: int
    rows: int


def read_tract_sources(
    source_tables: Mapping[int, str | Path],
    geometry: TractGeometry,
    settings: Any,
    select: Select,
    *,
    whole_tables: bool = False,
    compatibility: str = "fixed",
) -> TractSources:
    """Read the selected sources of a tract, visit by visit in ascending order.

    Parameters
    ----------
    source_tables : mapping of int to path
        The parquet table of each visit.  Of a table only those row groups are read that can hold sources of
        the tract, and only the columns that are needed.
    geometry : TractGeometry
    settings : IsolatedStarAssociation
        The section ``isolated_star_association``.
    select : callable
        From a table to a boolean array over its rows.
    whole_tables : bool, optional
        Whether the selection of a row depends on the other rows of the visit.
    compatibility : {'fixed', 'lsst'}
        The rows of a visit in order of their ids, or as they stand; whether an id may stand twice.

    Returns
    -------
    TractSources

    Raises
    ------
    InputError
        If there is no table; if one is broken, lacks a column, has null identities or rows of another visit;
        if an id stands twice.
    """
    if not source_tables:
        raise InputError(
            f"tract {geometry.tract} has no source tables; name those of its visits in the column "
            "'source_table' of the sheet of detectors"
        )
    visits = sorted(source_tables)
    parts = []
    for visit in visits:
        part = _read_visit(Path(source_tables[visit]), visit, geometry, settings, select, whole_tables)
        parts.append(part if compatibility == "lsst" else _sorted_by_id(part, settings.id_column))
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    if compatibility != "lsst":
        _check_once(columns[settings.id_column], settings.id_column, geometry.tract)
    selected = {visit: len(part.columns["source_row"]) for visit, part in zip(visits, parts, strict=True)}
    return TractSources(
        columns, selected, sum(part.rows_read for part in parts), sum(part.rows for part in parts)
    )


def persisted_columns(settings: Any) -> dict[str, str]:
    """Columns that are kept, in their order, and the setting that asks for each (specification 1.2)."""
    here = "isolated_star_association"
    flux = settings.inst_flux_field
    named = {settings.id_column: "id_column", "visit": "", "detector": "", settings.ra_column: "ra_column"}
    named |= {settings.dec_column: "dec_column", settings.physical_filter_column: "physical_filter_column"}
    named |= {settings.band_column: "band_column", flux: "inst_flux_field", f"{flux}Err": "inst_flux_field"}
    named |= {name: "extra_columns" for name in settings.extra_columns if name not in named}
    return {name: f"{here}.{setting}" if setting else here for name, setting in named.items()}


def _read_visit(
    path: Path, visit: int, geometry: TractGeometry, settings: Any, select: Select, whole_table: bool
) -> _Part:
    """Selected sources of one visit that the tract looks at."""
    kept = persisted_columns(settings)
    with GroupedTable(path) as table:
        for name, setting in kept.items():
            if name not in table.names:
                raise MissingColumnError(name, table=str(path), asked_by=setting, there=table.names)
        groups = list(table.groups())
        number = len(table.rows([group for group, _ in groups]))
        if whole_table:
            wanted = [([group for group, _ in groups], 0)]
        else:
            wanted = [
                ([group], first) for group, first in groups if _may_hold(table, group, geometry, settings)
            ]
        blocks = [
            _read_rows(table.rows(block), first, geometry, settings, select, list(kept))
            for block, first in wanted
        ]
        empty = _read_nothing(table, list(kept))
    for block in blocks:
        _check_visit(block.columns["visit"], visit, path)
    columns = {
        name: np.concatenate([block.columns[name] for block in [empty, *blocks]]) for name in empty.columns
    }
    return _Part(columns, sum(block.rows_read for block in blocks), number)


def _may_hold(table: GroupedTable, group: int, geometry: TractGeometry, settings: Any) -> bool:
    """Whether a row group can hold sources that the tract looks at, as far as its statistics tell."""
    dec = table.limits(group, settings.dec_column)
    ra = table.limits(group, settings.ra_column)
    low, high = geometry.dec_range()
    if dec is not None and (dec[1] < low or dec[0] > high):
        return False
    return ra is None or geometry.may_hold_ra(*ra)


def _read_rows(
    rows: RowsOfTable, first: int, geometry: TractGeometry, settings: Any, select: Select, kept: Sequence[str]
) -> _Part:
    """Selected sources among some rows, of which `first` is the number of the first."""
    ra, dec = (np.asarray(rows[name], dtype=np.float64) for name in (settings.ra_column, settings.dec_column))
    finite = np.isfinite(ra) & np.isfinite(dec)
    near = finite & geometry.looks_at(ra=np.where(finite, ra, 0.0), dec=np.where(finite, dec, 0.0))
    chosen = np.flatnonzero(near & select(rows)) if near.any() else np.zeros(0, dtype=np.int64)
    columns = {name: rows.read(name, chosen) for name in kept}
    columns["source_row"] = (first + chosen).astype(np.int32)
    return _Part(columns, len(rows), len(rows))


def _read_nothing(table: GroupedTable, kept: Sequence[str]) -> _Part:
    """No rows, with the types of the table."""
    nothing, rows = np.zeros(0, dtype=np.int64), table.rows([])
    columns = {name: rows.read(name, nothing) for name in kept}
    return _Part({**columns, "source_row": nothing.astype(np.int32)}, 0, 0)


def _check_visit(visits: npt.NDArray[Any], visit: int, path: Path) -> None:
    """Refuse rows of another visit than that for which the table was named."""
    others = visits[visits != visit]
    if len(others):
        raise InputError(
            f"{path} is named as the source table of visit {visit} but has rows of visit {int(others[0])}; "
            "name the table of each visit"
        )


def _sorted_by_id(part: _Part, id_column: str) -> _Part:
    """Rows in the order of their ids, so that nothing depends on the order in the table [S-Q2]."""
    order = np.argsort(exact_ids(part.columns[id_column], f"the column {id_column!r}"), kind="stable")
    return _Part({name: values[order] for name, values in part.columns.items()}, part.rows_read, part.rows)


def _check_once(ids: npt.NDArray[Any], id_column: str, tract: int) -> None:
    """Refuse a source that stands twice: it would count twice in a star's position and matches."""
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise InputError(
            f"the source tables of tract {tract} have the {id_column} {int(twice[0])} more than once "
            f"({len(twice)} repetitions); take out the repeated rows"
        )
