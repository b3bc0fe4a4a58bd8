"""Parquet tables as the LSST butler writes them (storage class ArrowAstropy, specification 10).

64-bit integers stay what they are: a null in an integer or bool column is refused by name, never turned
into a floating-point number.  Units and descriptions stand in the metadata, so that astropy reads them back.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError
from finalchar.formats.fits_file import write_atomically
from finalchar.formats.sources import ColumnInfo, SourceTable

__all__ = ["column_names", "read_columns", "write_table"]

_ROW_GROUP_BYTES = 1_000_000_000
_PANDAS_INDEX = "__index_level_"


def read_columns(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, *, filters: object = None
) -> SourceTable:
    """Read columns of a parquet table.

    Parameters
    ----------
    path : path-like
        The file.
    names : iterable of str, optional
        Columns to read, in the wanted order; default all (without an unnamed pandas index).
    filters : optional
        A row filter of pyarrow, such as ``[("visit", "=", 2026011500101)]``.

    Returns
    -------
    SourceTable
        Native numpy columns: integers and bools exact, text as ``U``, fixed-size lists as (n, ...) arrays;
        null floats are NaN and null texts ''.

    Raises
    ------
    InputError
        If the file is missing or broken, lacks a column, or has a null in an integer or bool column.
    """
    import pyarrow.parquet as pq

    file = _open(path)
    wanted = _wanted(path, file.schema_arrow.names, names)
    try:
        table = file.read(wanted) if filters is None else pq.read_table(path, columns=wanted, filters=filters)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error
    finally:
        file.close()
    metadata = _decoded(table.schema.metadata)
    columns = {name: _to_numpy(path, name, table.column(name), metadata) for name in wanted}
    info = {name: _info(table.schema.field(name)) for name in wanted}
    if names is None and not any(about.unit or about.description for about in info.values()):
        info.update(_info_of_yaml(metadata.get("table_meta_yaml", "")))
    return SourceTable(columns, info)


def column_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the names of all columns, without reading any."""
    with _open(path) as file:
        return list(file.schema_arrow.names)


def _open(path: str | os.PathLike[str]) -> Any:
    import pyarrow.parquet as pq

    if not Path(path).exists():
        raise InputError(f"{path} does not exist")
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error


def _wanted(path: object, available: list[str], names: Iterable[str] | None) -> list[str]:
    if names is None:
        return [name for name in available if not name.startswith(_PANDAS_INDEX)]
    wanted = list(names)
    missing = [name for name in wanted if name not in available]
    if missing:
        raise MissingColumnError(missing[0], table=str(path), there=available)
    return wanted


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {k.decode(): v.decode("utf-8", "replace") for k, v in (metadata or {}).items()}


def _info(field: Any) -> ColumnInfo:
    metadata = _decoded(field.metadata)
    return ColumnInfo(metadata.get("unit", ""), metadata.get("description", ""))


def _info_of_yaml(text: str) -> dict[str, ColumnInfo]:
    """Return units and descriptions of astropy's header; nothing if it cannot be understood."""
    import yaml

    if not text:
        return {}
    head = text.split("\nmeta:")[0]
    try:
        columns = (yaml.safe_load(head) or {}).get("datatype", [])
    except yaml.YAMLError:
        return {}
    return {
        column["name"]: ColumnInfo(str(column.get("unit", "")), str(column.get("description", "")))
        for column in columns
    }


def _to_numpy(path: object, name: str, column: Any, metadata: Mapping[str, str]) -> npt.NDArray[Any]:
    import pyarrow as pa

    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        return _cells(path, name, array, metadata)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(array, metadata.get(f"lsst::arrow::len::{name}", metadata.get(f"table::len::{name}")))
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if array.null_count and not pa.types.is_floating(kind):
        raise InputError(
            f"{path}: column {name!r} has {array.null_count} nulls, which {kind} cannot express; drop them"
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return np.array(array.to_pylist(), dtype="S")
    if not (pa.types.is_primitive(kind) or pa.types.is_boolean(kind)):
        raise InputError(f"{path}: column {name!r} has the type {kind}, which is not supported")
    return np.array(array.to_numpy(zero_copy_only=False))


def _texts(array: Any, length: str | None) -> npt.NDArray[np.str_]:
    values = ["" if value is None else value for value in array.to_pylist()]
    longest = max((len(value) for value in values), default=1 if length else 10)
    return np.array(values, dtype=f"U{max(longest, int(length or 1), 1)}")


def _cells(path: object, name: str, array: Any, metadata: Mapping[str, str]) -> npt.NDArray[Any]:
    if array.null_count:
        raise InputError(f"{path}: column {name!r} has {array.null_count} nulls in a column of arrays")
    flat = _to_numpy(path, name, _Chunk(array.flatten()), {})
    shape = metadata.get(f"lsst::arrow::shape::{name}")
    cell = ast.literal_eval(shape) if shape else (array.type.list_size,)
    return flat.reshape(len(array), *cell)


class _Chunk:
    """An array that looks like a chunked column."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def combine_chunks(self) -> Any:
        return self._array


# --------------------------------------------------------------------------------------------- writing


def write_table(
    table: SourceTable, path: str | os.PathLike[str], meta: Mapping[str, str | int | float] | None = None
) -> None:
    """Write a table so that the LSST stack, astropy and `read_columns` read types, units and descriptions.

    The same table gives the same bytes; the file appears under its name only when it is complete.

    Parameters
    ----------
    table : SourceTable
        Columns of bool, integers, floats, text or fixed-size cells, in the order to be written.
    path : path-like
        Target.
    meta : mapping, optional
        Metadata of the table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: _to_arrow(name, values) for name, values in table.columns.items()}
    fields = [
        pa.field(name, array.type, metadata=_field_metadata(table, name)) for name, array in arrays.items()
    ]
    schema = pa.schema(fields, metadata=_schema_metadata(table, meta or {}))
    built = pa.Table.from_arrays(list(arrays.values()), schema=schema)
    width = sum(values.nbytes for values in table.columns.values()) // max(1, len(table))
    sink = pa.BufferOutputStream()
    pq.write_table(built, sink, row_group_size=max(1, _ROW_GROUP_BYTES // max(1, width)))
    write_atomically(path, (sink.getvalue(),))


def _to_arrow(name: str, values: npt.NDArray[Any]) -> Any:
    import pyarrow as pa

    if values.dtype == object:
        raise ValueError(f"column {name!r} has dtype object, which a parquet table cannot store")
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    if values.ndim > 1:
        flat = _to_arrow(name, native.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    if values.dtype.kind == "U":
        return pa.array(native.tolist(), type=pa.string())
    if values.dtype.kind == "S":
        return pa.array(native.tolist(), type=pa.binary())
    return pa.array(native)


def _field_metadata(table: SourceTable, name: str) -> dict[str, str] | None:
    about = table.info.get(name, ColumnInfo())
    found = {"description": about.description, "unit": about.unit}
    return {key: value for key, value in found.items() if value} or None


def _schema_metadata(table: SourceTable, meta: Mapping[str, str | int | float]) -> dict[str, str]:
    metadata = {"lsst::arrow::rowcount": str(len(table))}
    for name, values in table.columns.items():
        if values.dtype.kind in "US":
            length = values.dtype.itemsize // (4 if values.dtype.kind == "U" else 1)
            metadata[f"lsst::arrow::len::{name}"] = metadata[f"table::len::{name}"] = str(length)
        if values.ndim > 1:
            metadata[f"lsst::arrow::shape::{name}"] = str(tuple(values.shape[1:]))
    metadata["table_meta_yaml"] = _yaml_header(table, meta)
    return metadata


def _yaml_header(table: SourceTable, meta: Mapping[str, str | int | float]) -> str:
    """Return astropy's header of a table as text; JSON strings are YAML strings."""
    lines = ["datatype:"]
    for name, values in table.columns.items():
        about = table.info.get(name, ColumnInfo())
        parts = [f"name: {json.dumps(name)}"]
        parts += [f"unit: {json.dumps(about.unit)}"] if about.unit else []
        parts.append(f"datatype: {_yaml_type(values.dtype)}")
        parts += [f"description: {json.dumps(about.description)}"] if about.description else []
        lines.append(f"- {{{', '.join(parts)}}}")
    if meta:
        lines += [
            "meta: !!omap",
            *(f"- {{{json.dumps(key)}: {json.dumps(value)}}}" for key, value in meta.items()),
        ]
    return "\n".join(lines)


def _yaml_type(dtype: np.dtype[Any]) -> str:
    return {"U": "string", "S": "bytes", "b": "bool"}.get(dtype.kind, dtype.name)
