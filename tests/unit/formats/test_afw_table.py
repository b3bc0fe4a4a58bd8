"""afw tables: every field type, flags, aliases, versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.afw_table import (
    AfwTable,
    Field,
    astropy_unit,
    fields_of,
    read_table,
    table_hdu,
    write_table,
)
from finalchar.formats.fits_file import Card, FitsFile
from finalchar.formats.sources import ColumnInfo


def ragged(*cells: object) -> np.ndarray:
    values = np.empty(len(cells), dtype=object)
    values[:] = [cell if isinstance(cell, str) else np.asarray(cell) for cell in cells]
    return values


def every_type() -> dict[str, np.ndarray]:
    flags = {f"flag_{k}": np.array([k % 2 == 0, k % 3 == 0]) for k in range(19)}
    return {
        "id": np.array([592916301234567891, -1]),
        "coord_ra": np.array([1.5, np.nan]),
        "flag_first": np.array([True, False]),
        "u8": np.array([0, 255], dtype=np.uint8),
        "u16": np.array([0, 65535], dtype=np.uint16),
        "i32": np.array([-(2**31), 2**31 - 1], dtype=np.int32),
        "f32": np.array([np.nan, 1e-40], dtype=np.float32),
        "array1": np.array([[1.0], [2.0]]),
        "array3": np.arange(6, dtype=np.float32).reshape(2, 3),
        "text": np.array(["", "two words"], dtype="U12"),
        "ragged": ragged(np.empty(0), np.array([1.0, 2.0])),
        "ragged_text": ragged("", "abc"),
        **flags,
    }


def test_every_type_comes_back(tmp_path: Path) -> None:
    columns = every_type()
    fields = fields_of(columns, {"i32": ColumnInfo("pixel", "a position's row")}, angles=["coord_ra"])
    write_table(AfwTable(fields, columns, {"slot_X": "array"}, "SOURCE"), tmp_path / "t.fits")
    read = read_table(tmp_path / "t.fits")
    assert list(read.columns) == list(columns)
    assert read.fields == fields
    assert (read.aliases, read.afw_type) == ({"slot_X": "array"}, "SOURCE")
    for name, values in columns.items():
        if values.dtype == object:
            assert all(np.array_equal(a, b) for a, b in zip(read[name], values, strict=True)), name
        else:
            np.testing.assert_array_equal(read[name], values, err_msg=name)
            assert read[name].dtype.kind == values.dtype.kind
            assert read[name].dtype.isnative


def test_independent_readers_agree(tmp_path: Path) -> None:
    """Flags by fitsio and numbers by astropy, which read FITS on their own."""
    import fitsio
    from astropy.io import fits

    columns = every_type()
    write_table(AfwTable(fields_of(columns), columns), tmp_path / "t.fits")
    names = [name for name in columns if name.startswith("flag")]
    bits = fitsio.FITS(str(tmp_path / "t.fits"))[1].read_column("flags")
    np.testing.assert_array_equal(np.asarray(bits, dtype=bool).T, [columns[name] for name in names])
    data = fits.getdata(tmp_path / "t.fits", 1)
    for name in ("id", "u16", "i32", "f32", "array3"):
        np.testing.assert_array_equal(data[name], columns[name])
    assert "".join(data["ragged_text"][1]) == "abc"


def test_flags_alone_and_no_rows(tmp_path: Path) -> None:
    columns = {name: values[:0] for name, values in every_type().items() if values.dtype != object}
    fields = fields_of(every_type() | {"text": np.array(["", ""], dtype="U12")})
    kept = tuple(f for f in fields if f.name in columns)
    write_table(AfwTable(kept, columns), tmp_path / "t.fits")
    read = read_table(tmp_path / "t.fits")
    assert len(read) == 0
    assert {name: values.dtype for name, values in read.columns.items() if name != "text"} == {
        name: values.dtype for name, values in columns.items() if name != "text"
    }


def test_only_named_columns_are_read(tmp_path: Path) -> None:
    columns = every_type()
    write_table(AfwTable(fields_of(columns), columns), tmp_path / "t.fits")
    read = read_table(tmp_path / "t.fits", names=["i32", "flag_3"])
    assert list(read.columns) == ["i32", "flag_3"]
    with pytest.raises(InputError, match="the column 'id' is missing"):
        read["id"]


def test_arrays_of_length_one_stay_arrays(tmp_path: Path) -> None:
    """F-3: only TCCLS tells an array of one element from a scalar."""
    columns = {"a": np.array([[3.0]]), "b": np.array([3.0])}
    write_table(AfwTable(fields_of(columns), columns), tmp_path / "t.fits")
    read = read_table(tmp_path / "t.fits")
    assert read.one("a").shape == (1,)
    assert read.one("b") == 3.0


def test_flag_cards_stand_where_the_field_stands() -> None:
    """F-18: the position of TFLAG among the TTYPE cards is part of the format of some classes."""
    fields = (Field("band_exists", "X", "Flag"), Field("band", "A", "String", 4), Field("x", "X", "Flag"))
    columns = {"band_exists": np.array([True]), "band": np.array(["g"]), "x": np.array([False])}
    header = table_hdu(AfwTable(fields, columns)).decode("latin-1")
    assert header.index("TFLAG1 ") < header.index("TTYPE2 ") < header.index("TFLAG2 ")


def versioned(tmp_path: Path, version: int | None, *names: str) -> Path:
    columns = {name: np.array([float(k)]) for k, name in enumerate(names)}
    fields = tuple(Field(name, "D", unit="count" if "flux" in name else "") for name in names)
    raw = table_hdu(AfwTable(fields, columns, afw_type="SOURCE"))
    old = b"HIERARCH AFW_TABLE_VERSION = 3".ljust(80)
    new = b" " * 80 if version is None else f"HIERARCH AFW_TABLE_VERSION = {version}".ljust(80).encode()
    path = tmp_path / "v.fits"
    from finalchar.formats.fits_file import primary_hdu

    path.write_bytes(primary_hdu() + raw.replace(old, new))
    return path


def test_old_versions_get_modern_names(tmp_path: Path) -> None:
    names = ("base_PsfFlux_flux", "base_PsfFlux_fluxSigma", "base_SdssCentroid_xSigma")
    table = read_table(versioned(tmp_path, 1, *names)).to_source_table()
    assert table["base_PsfFlux_instFlux"] == 0.0
    assert table["base_PsfFlux_instFluxErr"] == 1.0
    assert table["base_SdssCentroid_xErr"] == 2.0
    table = read_table(versioned(tmp_path, 2, "base_PsfFlux_flux", "base_PsfFlux_fluxErr")).to_source_table()
    assert table["base_PsfFlux_instFluxErr"] == 1.0


@pytest.mark.parametrize(("version", "said"), [(None, 0), (0, 0), (4, 4)])
def test_other_versions_are_refused(tmp_path: Path, version: int | None, said: int) -> None:
    with pytest.raises(InputError, match=f"version {said}; versions 1 to 3"):
        read_table(versioned(tmp_path, version, "a"))


def test_texts_that_do_not_fit_are_refused() -> None:
    table = AfwTable((Field("name", "A", "String", 4),), {"name": np.array(["five!"])})
    with pytest.raises(ValueError, match="longer than its 4 bytes"):
        table_hdu(table)
    with pytest.raises(ValueError, match="dtype int16"):
        fields_of({"a": np.zeros(1, dtype=np.int16)})


def test_nulls_in_integers_are_refused(tmp_path: Path) -> None:
    """K10: a null never turns an id into another number."""
    from astropy.io import fits

    column = fits.Column("id", "K", null=-1, array=np.array([592916301234567891, -1]))
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "t.fits")
    with pytest.raises(InputError, match="column 'id' has 1 nulls"):
        read_table(tmp_path / "t.fits")


def test_columns_outside_their_rows_are_found(tmp_path: Path) -> None:
    columns = {"a": np.zeros(3), "b": ragged([1.0], [1.0, 2.0], [3.0])}
    raw = table_hdu(AfwTable(fields_of(columns), columns))
    from finalchar.formats.fits_file import primary_hdu

    path = tmp_path / "t.fits"
    path.write_bytes(primary_hdu() + raw.replace(b"1D      '", b"9D      '"))
    with pytest.raises(InputError, match=r"column 'a' of .* lies outside the rows"):
        read_table(path)
    path.write_bytes(
        primary_hdu() + raw.replace(b"PCOUNT  =                   32", b"PCOUNT  =                    8")
    )
    with pytest.raises(InputError, match=r"a cell of column 'b' of .* lies outside its heap"):
        read_table(path)


def test_metadata_keeps_order_and_repeats(tmp_path: Path) -> None:
    cards = (Card("COMMENT", None, "one"), Card("NOISE_SOURCE", "measure"), Card("COMMENT", None, "two"))
    write_table(
        AfwTable((Field("a", "D"),), {"a": np.zeros(1)}, metadata=cards), tmp_path / "t.fits", archive_hdu=3
    )
    assert read_table(tmp_path / "t.fits").metadata == cards
    assert FitsFile(tmp_path / "t.fits").hdu(1).header.integer("AR_HDU") == 3


@pytest.mark.parametrize(
    ("afw", "astropy"),
    [
        ("count", "ct"),
        ("pixel", "pix"),
        ("pixel^2", "pix2"),
        ("rad rad", "rad2"),
        ("count*pixel^2", "ct pix2"),
        ("rad", "rad"),
        ("", ""),
    ],
)
def test_units_as_astropy_spells_them(afw: str, astropy: str) -> None:
    from astropy import units

    assert astropy_unit(afw) == astropy
    assert units.Unit(astropy) == units.Unit(afw.replace("^", "**"))


def test_a_missing_column_of_sources_is_named_with_the_file():
    """Not a bare KeyError: a plugin that reads it must not flag star after star."""
    from finalchar.formats.sources import SourceTable

    table = SourceTable(
        {"base_PsfFlux_instFlux": np.zeros(1)}, {}, {"slot_PsfFlux": "base_PsfFlux"}, "a/src.fits"
    )
    for part in (table, table.select([0]), table.with_columns({}), table.subset(["base_PsfFlux_instFlux"])):
        with pytest.raises(InputError, match=r"a/src\.fits: the column 'slot_PsfFlux_flag' is missing"):
            part["slot_PsfFlux_flag"]
