"""Tables of sources and their footprints, as every room sees them.

A `SourceTable` is an ordered set of equally long columns with units, descriptions and aliases; both the
input catalogue and the measured table are one.  `Footprints` are ragged arrays of spans, peaks and heavy
pixels for all sources of a detector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import MissingColumnError

__all__ = ["ColumnInfo", "Footprints", "SourceTable", "demand_column"]

Column = npt.NDArray[Any]


@dataclass(frozen=True)
class ColumnInfo:
    """Unit (astropy spelling, '' for none) and one-sentence description of a column."""

    unit: str = ""
    description: str = ""


@dataclass
class SourceTable:
    """Columns of equal length, addressed by name or alias.

    Attributes
    ----------
    columns : dict of str to ndarray
        True columns in schema order; flags are bool arrays.
    info : dict of str to ColumnInfo
        Unit and description of columns (may lack some).
    aliases : dict of str to str
        Alias -> target; an alias stands for a whole name or for a leading part of it.
    origin : str
        Path of the file that the table was read from, or how messages call it.
    """

    columns: dict[str, Column]
    info: dict[str, ColumnInfo] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    origin: str = field(default="the source catalogue", compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.resolve(name) in self.columns

    def __getitem__(self, name: str) -> Column:
        try:
            return self.columns[self.resolve(name)]
        except KeyError:
            raise MissingColumnError(name, table=self.origin, there=self) from None

    def __setitem__(self, name: str, values: Column) -> None:
        self.columns[self.resolve(name)] = values

    def resolve(self, name: str) -> str:
        """Return the true column name behind `name` (``lsst_file_formats`` section 2.5)."""
        for _ in range(len(self.aliases) + 1):
            if name in self.columns:
                return name
            target = self._replace_prefix(name)
            if target is None:
                return name
            name = target
        raise ValueError(f"the aliases of {name!r} run in a circle")

    def _replace_prefix(self, name: str) -> str | None:
        if name in self.aliases:
            return self.aliases[name]
        before = [alias for alias in self.aliases if alias < name]
        if not before:
            return None
        alias = max(before)
        return self.aliases[alias] + name[len(alias) :] if name.startswith(alias) else None

    def select(self, rows: Column) -> SourceTable:
        """Return a new table with the given rows (boolean mask or indices), columns copied."""
        return SourceTable(
            {name: values[rows] for name, values in self.columns.items()},
            dict(self.info),
            dict(self.aliases),
            self.origin,
        )

    def with_columns(
        self,
        columns: Mapping[str, Column],
        info: Mapping[str, ColumnInfo] | None = None,
    ) -> SourceTable:
        """Return a table that has `columns` added (or replaced), sharing the other arrays."""
        return SourceTable(
            {**self.columns, **columns}, {**self.info, **(info or {})}, dict(self.aliases), self.origin
        )

    def subset(self, names: Iterable[str]) -> SourceTable:
        """Return a table of the named true columns, sharing arrays."""
        names = list(names)
        return SourceTable(
            {name: self.columns[name] for name in names},
            {name: self.info[name] for name in names if name in self.info},
            dict(self.aliases),
            self.origin,
        )


def demand_column(table: Any, name: str, *, asked_by: str, remedy: str = "") -> Column:
    """Return a column of a table.

    Parameters
    ----------
    table : SourceTable, or mapping of str to array
    name : str
        Name or alias.
    asked_by : str
        The setting, or the step, that needs it.
    remedy : str, optional
        What to do if it is missing; by default to correct the setting or to add the column.

    Raises
    ------
    MissingColumnError
        If the table has no such column.
    """
    if name not in table:
        origin = getattr(table, "origin", "the source catalogue")
        there = [*table, *_aliased_names(table)]
        raise MissingColumnError(name, table=origin, asked_by=asked_by, remedy=remedy, there=there)
    return np.asarray(table[name])


def _aliased_names(table: Any) -> list[str]:
    """Names under which the aliases of a table show its columns."""
    aliases = getattr(table, "aliases", {})
    return [
        alias + name[len(target) :]
        for alias, target in aliases.items()
        for name in table
        if name.startswith(target)
    ]


@dataclass(frozen=True)
class Footprints:
    """Footprints of all sources of a detector, in catalogue order (parent pixel coordinates).

    Ragged arrays: the spans of source ``k`` are the rows ``span_offset[k]:span_offset[k + 1]`` of `span_y`,
    `span_x0`, `span_x1` (both ends inclusive), its peaks ``peak_offset[k]:peak_offset[k + 1]`` of `peak_x`,
    `peak_y` (integer positions) and `peak_f_x`, `peak_f_y`; the heavy pixels
    ``heavy_offset[k]:heavy_offset[k + 1]`` of `heavy_image`, in span order (empty unless ``heavy[k]``).
    """

    source_id: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int64]
    span_offset: npt.NDArray[np.int64]
    span_y: npt.NDArray[np.int32]
    span_x0: npt.NDArray[np.int32]
    span_x1: npt.NDArray[np.int32]
    peak_offset: npt.NDArray[np.int64]
    peak_x: npt.NDArray[np.int32]
    peak_y: npt.NDArray[np.int32]
    peak_f_x: npt.NDArray[np.float32]
    peak_f_y: npt.NDArray[np.float32]
    heavy: npt.NDArray[np.bool_]
    heavy_offset: npt.NDArray[np.int64]
    heavy_image: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.source_id)

    def index_of(self, source_id: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the place of each source by id, -1 where it has none; neither side needs to be sorted.

        Ids are compared as signed 64-bit integers: numpy searches among signed and unsigned ones as doubles.
        """
        if not len(self):
            return np.full(len(source_id), -1, dtype=np.int64)
        wanted, known = source_id.astype(np.int64, copy=False), self.source_id.astype(np.int64, copy=False)
        order = np.argsort(known, kind="stable")
        place = order[np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)]
        return np.where(known[place] == wanted, place, -1).astype(np.int64)

    def spans(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return (y, x0, x1) of the spans of source `index`, x1 inclusive."""
        part = slice(self.span_offset[index], self.span_offset[index + 1])
        return self.span_y[part], self.span_x0[part], self.span_x1[part]

    def peaks(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return integer (x, y) of the peaks of source `index`."""
        part = slice(self.peak_offset[index], self.peak_offset[index + 1])
        return self.peak_x[part], self.peak_y[part]

    def pixels(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (y, x) of all pixels of source `index`, span after span, x ascending."""
        y, x0, x1 = self.spans(index)
        width = (x1 - x0 + 1).astype(np.int64)
        start = np.repeat(x0.astype(np.int64) - np.concatenate([[0], np.cumsum(width)[:-1]]), width)
        return np.repeat(y.astype(np.int64), width), start + np.arange(width.sum(), dtype=np.int64)

    def heavy_pixels(self, index: int) -> npt.NDArray[np.float32]:
        """Return the heavy pixel values of source `index` in the order of `pixels`."""
        return self.heavy_image[self.heavy_offset[index] : self.heavy_offset[index + 1]]
