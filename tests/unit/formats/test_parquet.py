"""Parquet tables: exact integers, nulls, units for astropy, the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finalchar.errors import InputError
from finalchar.formats.parquet import column_names, read_columns, write_table
from finalchar.formats.sources import ColumnInfo, SourceTable

IDS = [592916301234567891, 592916301234567892]
"""Two ids that are one number as float64."""


def every_type(rows: int = 2) -> SourceTable:
    columns = {
        "id": np.array(IDS, dtype=np.int64),
        "flag": np.array([True, False]),
        "i16": np.array([-(2**15), 1], dtype=np.int16),
        "u64": np.array([0, 2**64 - 1], dtype=np.uint64),
        "f32": np.array([np.nan, 1.5], dtype=np.float32),
        "f64": np.array([np.inf, 0.1]),
        "text": np.array(["", 'ä "quoted": {x}\n'], dtype="U20"),
        "raw": np.array([b"ab", b""], dtype="S4"),
        "cell": np.arange(12.0).reshape(2, 2, 3),
    }
    info = {"f64": ColumnInfo("rad", "an angle: with 'colon'"), "cell": ColumnInfo("pix2")}
    return SourceTable({name: values[:rows] for name, values in columns.items()}, info)


@pytest.mark.parametrize("rows", [2, 0])
def test_types_survive_even_without_rows(tmp_path: Path, rows: int) -> None:
    table = every_type(rows)
    write_table(table, tmp_path / "t.parquet")
    read = read_columns(tmp_path / "t.parquet")
    assert list(read) == list(table)
    for name in table:
        np.testing.assert_array_equal(read[name], table[name])
        assert read[name].dtype.kind == table[name].dtype.kind, name
        if table[name].dtype.kind not in "S":
            assert read[name].dtype == table[name].dtype, name
    assert {name: about for name, about in read.info.items() if about != ColumnInfo()} == table.info


def test_astropy_reads_units_descriptions_and_meta(tmp_path: Path) -> None:
    from astropy.table import Table

    write_table(every_type(), tmp_path / "t.parquet", {"version": "1: two", "number": 3})
    table = Table.read(tmp_path / "t.parquet")
    assert table["f64"].unit == "rad"
    assert table["f64"].description == "an angle: with 'colon'"
    assert dict(table.meta) == {"version": "1: two", "number": 3}
    assert table["id"].tolist() == IDS


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(every_type(), tmp_path / name, {"k": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "values",
    [pa.array([*IDS, None], pa.int64()), pa.array([True, None]), pa.array([1, None], pa.uint8())],
    ids=["ids", "flags", "u8"],
)
def test_nulls_that_would_change_numbers_are_refused(tmp_path: Path, values: pa.Array) -> None:
    """K10: neither an id nor a flag goes through floating point because a neighbour is missing."""
    pq.write_table(pa.table({"sourceId": values}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: column 'sourceId' has 1 nulls"):
        read_columns(tmp_path / "t.parquet")


def test_ids_from_pandas_and_dictionaries(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {"id": pd.array(IDS, dtype="Int64"), "band": pd.Categorical(["g", "i"])}, index=[7, 9]
    )
    frame.to_parquet(tmp_path / "t.parquet")
    read = read_columns(tmp_path / "t.parquet")
    assert read["id"].tolist() == IDS
    assert read["id"].dtype == np.int64
    assert read["band"].tolist() == ["g", "i"]


def test_nulls_with_a_meaning(tmp_path: Path) -> None:
    table = pa.table({"f": pa.array([1.0, None]), "t": pa.array(["a", None]), "n": pa.nulls(2)})
    pq.write_table(table, tmp_path / "t.parquet")
    read = read_columns(tmp_path / "t.parquet")
    np.testing.assert_array_equal(read["f"], [1.0, np.nan])
    assert read["t"].tolist() == ["a", ""]
    assert np.isnan(read["n"]).all()


def test_columns_rows_and_order(tmp_path: Path) -> None:
    write_table(every_type(), tmp_path / "t.parquet")
    read = read_columns(tmp_path / "t.parquet", ["f64", "id"], filters=[("i16", "=", 1)])
    assert list(read) == ["f64", "id"]
    assert read["id"].tolist() == IDS[1:]
    assert column_names(tmp_path / "t.parquet") == list(every_type())
    assert pq.read_schema(tmp_path / "t.parquet").metadata[b"lsst::arrow::rowcount"] == b"2"


def test_one_sentence_for_files_and_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet does not exist"):
        read_columns(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"bad\.parquet cannot be read as parquet"):
        read_columns(tmp_path / "bad.parquet")
    write_table(every_type(), tmp_path / "t.parquet")
    with pytest.raises(
        InputError, match=r"t\.parquet: the column 'visit' is missing \(columns there: id, flag"
    ):
        read_columns(tmp_path / "t.parquet", ["visit"])
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.parquet cannot be read as parquet"):
        read_columns(tmp_path / "cut.parquet")


def test_nested_types_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"list": pa.array([[1], [1, 2]])}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'list' has the type list"):
        read_columns(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="column 'o' has dtype object"):
        write_table(SourceTable({"o": np.array([1, "a"], dtype=object)}), tmp_path / "t.parquet")
