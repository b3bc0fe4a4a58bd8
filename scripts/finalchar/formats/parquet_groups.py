"""A parquet table that is read row group by row group, and of it only the columns that are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError
from finalchar.formats import parquet

__all__ = ["GroupedTable", "RowsOfTable"]


class GroupedTable:
    """An open parquet file.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    InputError
        If the file is missing or broken.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._file = parquet._open(path)
        self.metadata = parquet._decoded(self._file.schema_arrow.metadata)
        self.names: list[str] = list(self._file.schema_arrow.names)

    def __enter__(self) -> GroupedTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def groups(self) -> Iterator[tuple[int, int]]:
        """Number of each row group, and of its first row in the table."""
        first = 0
        for group in range(self._file.num_row_groups):
            yield group, first
            first += self._file.metadata.row_group(group).num_rows

    def limits(self, group: int, name: str) -> tuple[float, float] | None:
        """Least and greatest value of a column in a row group, None where the file does not say."""
        about = self._file.metadata.row_group(group)
        for index in range(about.num_columns):
            column = about.column(index)
            if column.path_in_schema == name:
                known = column.is_stats_set and column.statistics.has_min_max
                return (column.statistics.min, column.statistics.max) if known else None
        return None

    def rows(self, groups: Sequence[int]) -> RowsOfTable:
        """The rows of some row groups, of which no column is read yet."""
        return RowsOfTable(self, groups)

    def _read(self, groups: Sequence[int], name: str) -> Any:
        try:
            return self._file.read_row_groups(list(groups), columns=[name]).column(name)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path} cannot be read as parquet: {error}") from error


class RowsOfTable:
    """Rows of a table, whose columns are read when they are asked for and kept.

    A selector of sources takes it for a `SourceTable`.
    """

    def __init__(self, table: GroupedTable, groups: Sequence[int]) -> None:
        self._table = table
        self._groups = groups
        self._columns: dict[str, npt.NDArray[Any]] = {}
        self.origin = str(table.path)
        self._length = int(sum(table._file.metadata.row_group(group).num_rows for group in groups))

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: object) -> bool:
        return name in self._table.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._columns:
            self._columns[name] = self.read(name)
        return self._columns[name]

    def read(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[Any]:
        """A column, or the given rows of it.

        Raises
        ------
        InputError
            If there is none, or it has a null that its type cannot express.
        """
        if name in self._columns:
            return self._columns[name] if rows is None else self._columns[name][rows]
        if name not in self._table.names:
            raise MissingColumnError(name, table=self.origin, there=self._table.names)
        column = self._table._read(self._groups, name)
        if rows is not None:
            column = column.take(rows)
        return parquet._to_numpy(self._table.path, name, column, self._table.metadata)
