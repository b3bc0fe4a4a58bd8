"""The tract's tables of isolated stars and of their sources, read by column and checked.

A table is a parquet file, or in the Python API anything whose columns are got by name (an astropy table, a
pandas frame, a `SourceTable`, a dictionary of arrays).  Identities are 64-bit integers all the way (known
failure K10); a null, a fraction or a missing column is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError

__all__ = [
    "ColumnTypes",
    "IsolatedStars",
    "check_star_counts",
    "check_star_rows",
    "column_names",
    "read_columns",
    "read_isolated_stars",
]

BATCH_ROWS = 262_144
"""Rows decoded at a time from a parquet file."""

MOST_EXCESS = 0.05
"""Part of the sources that may be more than their stars have; in tables of two tracts it is 0.14 to 0.29."""

ColumnTypes = Mapping[str, type[np.generic]]
"""Wanted columns and their numpy types."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class IsolatedStars:
    """The columns of a tract's star table that the draw needs (selection specification 1.1).

    Attributes
    ----------
    star_id : ndarray of int64, shape (n,)
    ra, dec : ndarray of float64, shape (n,)
        Mean positions, degrees.
    nsource : dict of str to ndarray of int64, shape (n,)
        Number of sources by band.
    """

    star_id: IntArray
    ra: FloatArray
    dec: FloatArray
    nsource: dict[str, IntArray]

    def __len__(self) -> int:
        return len(self.star_id)


def read_isolated_stars(table: Any, *, bands: Sequence[str], name: str = "") -> IsolatedStars:
    """Read the star table of a tract.

    Parameters
    ----------
    table : path or table
    bands : sequence of str
        Bands that are to be drawn; each needs its column ``nsource_{band}``.
    name : str, optional
        How messages call the table (default: its path).

    Raises
    ------
    InputError
        If a column is missing, has another type, or has nulls.
    """
    name = name or _name(table)
    known = column_names(table)
    for band in bands:
        if f"nsource_{band}" not in known:
            there = ", ".join(c.removeprefix("nsource_") for c in known if c.startswith("nsource_"))
            remedy = f"the association has no band {band!r} in its band_order (bands there: {there})"
            if not there:
                remedy = "it is no table of isolated stars; correct isolated_star_cat in the sheet of tracts"
            raise MissingColumnError(f"nsource_{band}", table=name, remedy=remedy)
    types: ColumnTypes = {"isolated_star_id": np.int64, "ra": np.float64, "dec": np.float64}
    types = {**types, **{f"nsource_{band}": np.int64 for band in bands}}
    columns = read_columns(table, types, name=name)
    return IsolatedStars(
        columns["isolated_star_id"],
        columns["ra"],
        columns["dec"],
        {band: columns[f"nsource_{band}"] for band in bands},
    )


def column_names(table: Any) -> list[str]:
    """Names of the columns of a parquet file or table."""
    if isinstance(table, str | Path):
        return list(_open_parquet(Path(table)).schema_arrow.names)
    if hasattr(table, "colnames"):
        return list(table.colnames)
    return [str(column) for column in table]


def read_columns(
    table: Any,
    types: ColumnTypes,
    *,
    name: str = "",
    null_is_nan: bool = False,
    asked_by: Mapping[str, str] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Read columns exactly, as arrays of the wanted types.

    Parameters
    ----------
    table : path or table
        A file is decoded in batches, by column subset, into arrays that are allocated once.
    types : mapping of str to type
        Wanted columns and their numpy types.
    name : str, optional
        How messages call the table (default: its path).
    null_is_nan : bool, optional
        Whether a null of a floating-point column is NaN instead of an error.
    asked_by : mapping of str to str, optional
        For columns that a setting names: the setting.

    Raises
    ------
    InputError
        If the file cannot be read; if a column is missing, has nulls, or does not fit the type exactly.
    """
    name = name or _name(table)
    known = column_names(table)
    for column in types:
        if column not in known:
            raise MissingColumnError(
                column, table=name, asked_by=(asked_by or {}).get(column, ""), there=known
            )
    if isinstance(table, str | Path):
        return _read_parquet(Path(table), types, name, null_is_nan)
    return {
        column: _exact(_plain(table[column], null_is_nan), types[column], column, name) for column in types
    }


def check_star_rows(
    obj_index: npt.NDArray[np.integer[Any]], number_of_stars: int, *, stars: str, sources: str
) -> None:
    """Refuse sources that point at stars which do not exist.

    Raises
    ------
    InputError
        If an ``obj_index`` is not a row of the star table.
    """
    wrong = (obj_index < 0) | (obj_index >= number_of_stars)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InputError(
            f"{sources} does not belong to {stars}: obj_index is {int(obj_index[first])} in row {first} (and "
            f"outside the table in {int(wrong.sum())} rows) but there are {number_of_stars} stars; take both "
            "tables from the same association"
        )


def check_star_counts(
    obj_index: npt.NDArray[np.integer[Any]],
    nsource: npt.NDArray[np.integer[Any]],
    *,
    stars: str,
    sources: str,
) -> None:
    """Refuse sources of another tract: many stars then have more of them than their table says.

    Fewer are allowed, because somebody may have left visits out, and a few rows more.

    Raises
    ------
    InputError
        If more than `MOST_EXCESS` of the sources are beyond ``nsource`` of their star.
    """
    excess = np.bincount(obj_index, minlength=len(nsource)) - nsource
    too_many = int(excess[excess > 0].sum())
    if too_many > MOST_EXCESS * len(obj_index):
        first = int(np.argmax(excess > 0))
        raise InputError(
            f"{sources} does not belong to {stars}: {too_many} of its {len(obj_index)} sources are more than "
            f"nsource of their stars, first of the star in row {first}; take both tables from the same "
            "association"
        )


def _name(table: Any) -> str:
    return str(table) if isinstance(table, str | Path) else "the table"


def _open_parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a parquet file: {error}") from None


def _read_parquet(
    path: Path, types: ColumnTypes, name: str, null_is_nan: bool
) -> dict[str, npt.NDArray[Any]]:
    import pyarrow

    file = _open_parquet(path)
    number = file.metadata.num_rows
    columns = {column: np.empty(number, dtype=dtype) for column, dtype in types.items()}
    filled = 0
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(types)):
            part = slice(filled, filled + batch.num_rows)
            for column in types:
                values = batch.column(column)
                floating = null_is_nan and pyarrow.types.is_floating(values.type)
                if values.null_count and not floating:
                    raise InputError(f"{name}: the column {column!r} has nulls; every row needs a value")
                columns[column][part] = _exact(
                    values.to_numpy(zero_copy_only=False), types[column], column, name
                )
            filled += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    return columns


def _plain(column: Any, null_is_nan: bool) -> npt.NDArray[Any]:
    """Values of a column of any table; masked entries become None, or NaN if so wanted."""
    mask = getattr(column, "mask", None)
    if mask is not None and not callable(mask) and np.any(mask):
        floating = null_is_nan and np.asarray(column).dtype.kind == "f"
        return np.asarray(column.filled(np.nan)) if floating else np.array([None], dtype=object)
    values = column.to_numpy() if hasattr(column, "to_numpy") else column
    return np.asarray(values)


def _exact(values: npt.NDArray[Any], dtype: type[np.generic], column: str, name: str) -> npt.NDArray[Any]:
    """Return `values` in `dtype`; integers only from integers."""
    if values.dtype == object:
        raise InputError(
            f"{name}: the column {column!r} has nulls or is not numeric; every row needs a number"
        )
    kinds = "iu" if np.issubdtype(dtype, np.integer) else "fiu"
    if values.dtype.kind not in kinds:
        wanted = "whole numbers" if kinds == "iu" else "numbers"
        raise InputError(f"{name}: the column {column!r} has the type {values.dtype}, not {wanted}")
    if issubclass(dtype, np.integer) and len(values):
        limits = np.iinfo(dtype)
        if int(values.max()) > limits.max or int(values.min()) < limits.min:
            raise InputError(f"{name}: the column {column!r} has values that do not fit {np.dtype(dtype)}")
    return values.astype(dtype, copy=False)
