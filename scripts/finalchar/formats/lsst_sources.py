"""Source catalogues and footprints as the LSST stack writes them (specification 2.6, 2.7)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError
from finalchar.formats.afw_table import AfwTable, read_table
from finalchar.formats.archive import Archive
from finalchar.formats.fits_file import FitsFile
from finalchar.formats.sources import Footprints, SourceTable

__all__ = ["find_footprints", "read_footprints", "read_source_table"]

Ints = npt.NDArray[np.int64]
_SOURCE_CLASSES = ("SOURCE", "SIMPLE", "BASE", "")


def read_source_table(
    path: str | os.PathLike[str] | FitsFile, names: Iterable[str] | None = None
) -> SourceTable:
    """Read a source catalogue: all fields, flags as bool columns, aliases; without footprints.

    Parameters
    ----------
    path : path-like or FitsFile
        The ``src`` file, or the file opened.
    names : iterable of str, optional
        True column names to read; default all.

    Returns
    -------
    SourceTable
        Columns in schema order, angles in radians, units in astropy's spelling.

    Raises
    ------
    InputError
        If the file is missing or broken, or is not a source catalogue of table version 1 to 3.
    """
    file = path if isinstance(path, FitsFile) else FitsFile(path)
    path = file.path
    table = read_table(file.hdu(1), names=names)
    if table.afw_type not in _SOURCE_CLASSES:
        raise InputError(f"{path} is a catalogue of type {table.afw_type}, a source catalogue is needed")
    sources = table.to_source_table()
    sources.columns.pop("footprint", None)
    sources.info.pop("footprint", None)
    if names is None and "id" not in sources.columns:
        raise MissingColumnError("id", table=str(path), remedy="it is not a source catalogue")
    return sources


def read_footprints(path: str | os.PathLike[str] | FitsFile) -> Footprints:
    """Read spans, peaks and heavy pixels of all sources of a catalogue, in catalogue order.

    Parameters
    ----------
    path : path-like or FitsFile
        The ``src`` file, or the file opened.

    Raises
    ------
    InputError
        If the file is missing or broken, or was written without footprints.
    """
    file = path if isinstance(path, FitsFile) else FitsFile(path)
    path, unit = file.path, file.hdu(1)
    table = read_table(unit, names=("id", "parent", "footprint"))
    if "footprint" not in table or "AR_HDU" not in unit.header:
        raise InputError(f"{path} was written without footprints; noise replacement needs them")
    archive = Archive(file, unit.header.integer("AR_HDU") - 1)
    return _footprints(archive, table)


def find_footprints(path: str | os.PathLike[str] | FitsFile) -> Footprints | None:
    """Return the footprints of a catalogue as `read_footprints`; None if it was written without.

    Raises
    ------
    InputError
        If the file is missing or broken.
    """
    file = path if isinstance(path, FitsFile) else FitsFile(path)
    unit = file.hdu(1)
    has_column = "footprint" in read_table(unit, names=("id", "footprint"))
    return read_footprints(file) if has_column and "AR_HDU" in unit.header else None


def _footprints(archive: Archive, table: AfwTable) -> Footprints:
    ids = table["footprint"].astype(np.int64)
    first = _Rows.of_part(archive, ids, 0)
    spans = first if "y" in first.names() else _Rows.of_part(archive, first.single("id", ids > 0), 0)
    peaks, heavy = _Rows.of_part(archive, ids, 1), _Rows.of_part(archive, ids, 2)
    heavy_offset, heavy_image = _heavy_pixels(heavy)
    return Footprints(
        source_id=table["id"],
        parent=table["parent"],
        span_offset=spans.offset,
        span_y=spans.column("y", np.int32),
        span_x0=spans.column("x0", np.int32),
        span_x1=spans.column("x1", np.int32),
        peak_offset=peaks.offset,
        peak_x=peaks.column("i_x", np.int32),
        peak_y=peaks.column("i_y", np.int32),
        peak_f_x=peaks.column("f_x", np.float32),
        peak_f_y=peaks.column("f_y", np.float32),
        heavy=heavy.found,
        heavy_offset=heavy_offset,
        heavy_image=heavy_image,
    )


def _heavy_pixels(rows: _Rows) -> tuple[Ints, npt.NDArray[np.float32]]:
    cells = rows.cells("image")
    counts = np.zeros(len(rows.found), dtype=np.int64)
    counts[rows.found] = [len(cell) for cell in cells]
    values = np.concatenate(cells).astype(np.float32) if len(cells) else np.empty(0, np.float32)
    return np.concatenate([[0], np.cumsum(counts)]), values


class _Rows:
    """Rows of one catalogue part of many archive objects, possibly spread over several tables.

    Attributes
    ----------
    found : ndarray of bool
        Which objects have this part.
    offset : ndarray of int64, length objects + 1
        Ragged limits of the rows of each object.
    """

    def __init__(
        self, archive: Archive, found: npt.NDArray[np.bool_], table: Ints, row0: Ints, n: Ints
    ) -> None:
        self._tables = [archive.table(int(number)) for number in np.unique(table[found])]
        base = np.zeros(archive.number_of_tables + 1, dtype=np.int64)
        lengths = [len(part) for part in self._tables]
        base[np.unique(table[found])] = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if lengths else 0
        limit = np.zeros(archive.number_of_tables + 1, dtype=np.int64)
        limit[np.unique(table[found])] = lengths
        if np.any(row0[found] + n[found] > limit[table[found]]):
            raise InputError(f"{archive.file.path}: a footprint lies outside its archive table")
        self.found = found
        counts = np.where(found, n, 0)
        self.offset = np.concatenate([[0], np.cumsum(counts)])
        start = np.where(found, base[np.where(found, table, 0)] + row0, 0)
        self._rows = np.repeat(start - self.offset[:-1], counts) + np.arange(self.offset[-1])

    @classmethod
    def of_part(cls, archive: Archive, ids: Ints, part: int) -> _Rows:
        """Find part `part` of the objects `ids`; id 0 has none."""
        index = archive.index
        rows, found = index.find(ids, part)
        if part == 0 and not np.all(found | (ids == 0)):
            missing = ids[~(found | (ids == 0))][0]
            raise InputError(f"{archive.file.path}: the archive has no object {missing}")
        found &= ids > 0
        if len(index.table):
            found &= index.table[rows] > 0
            return cls(archive, found, index.table[rows], index.row0[rows], index.nrows[rows])
        empty = np.zeros(len(ids), dtype=np.int64)
        return cls(archive, found, empty, empty, empty)

    def names(self) -> set[str]:
        """Names of the columns that all tables have."""
        return set.intersection(*(set(table.columns) for table in self._tables)) if self._tables else set()

    def cells(self, name: str) -> npt.NDArray[Any]:
        """Return the values of one column, objects one after the other."""
        if not self._tables:
            return np.empty(0)
        values: npt.NDArray[Any] = np.concatenate([table[name] for table in self._tables])[self._rows]
        return values

    def column(self, name: str, dtype: type[Any]) -> npt.NDArray[Any]:
        """Return the values of one column as `dtype`."""
        return self.cells(name).astype(dtype)

    def single(self, name: str, wanted: npt.NDArray[np.bool_]) -> Ints:
        """Return one value per object, 0 where the object is not wanted."""
        values = np.zeros(len(wanted), dtype=np.int64)
        if np.any(np.diff(self.offset)[wanted] != 1):
            raise InputError("a stored footprint has not exactly one span set")
        values[wanted] = self.cells(name)
        return values
