"""The object archive: grouping, sharing, and every defect that the specification names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.afw_table import AfwTable, Field
from finalchar.formats.archive import Archive, ArchiveWriter, UnknownObject
from finalchar.formats.bounded_fields import ChebyshevField, add_ap_corr_map, add_chebyshev_field
from finalchar.formats.exposure import Box
from finalchar.formats.fits_file import FitsFile, primary_hdu

BOX = Box(3, -5, 102, 94)


def field_of(*coefficients: object) -> ChebyshevField:
    return ChebyshevField(BOX, np.array(coefficients, dtype=np.float64))


def stored(tmp_path: Path, writer: ArchiveWriter, change: tuple[bytes, bytes] | None = None) -> Archive:
    content = b"".join([primary_hdu(), *writer.hdus()])
    if change is not None:
        assert change[0] in content
        content = content.replace(*change)
    (tmp_path / "a.fits").write_bytes(content)
    return Archive(FitsFile(tmp_path / "a.fits"), 1)


def test_a_map_comes_back_and_objects_are_read_once(tmp_path: Path) -> None:
    fields = {"b": field_of([1.0, 2.0], [3.0, 0.0]), "a": field_of([1.5]), "c": field_of([1.0, 0.5, 0.25])}
    writer = ArchiveWriter()
    number = add_ap_corr_map(writer, fields)
    archive = stored(tmp_path, writer)
    read = archive.get(number)
    assert list(read) == ["a", "b", "c"]
    for name, field in fields.items():
        assert read[name].box == BOX
        np.testing.assert_array_equal(read[name].coefficients, field.coefficients)
    assert archive.get(number) is read
    assert archive.get(0) is None
    assert archive.number_of_tables == 4  # one per schema: the map, and coefficients of length 1, 3 and 4


def test_objects_of_one_schema_share_a_table(tmp_path: Path) -> None:
    writer = ArchiveWriter()
    ids = [add_chebyshev_field(writer, field_of([float(k)])) for k in range(5)]
    archive = stored(tmp_path, writer)
    assert archive.number_of_tables == 1
    assert [archive.get(number).coefficients[0, 0] for number in ids] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_unknown_classes_are_objects_and_warn_once(tmp_path: Path) -> None:
    writer = ArchiveWriter()
    table = AfwTable((Field("a", "D"),), {"a": np.zeros(1)})
    ids = [writer.add("NewThing", "lsst.new", [table]), writer.add("NewThing", "lsst.new", [])]
    archive = stored(tmp_path, writer)
    with pytest.warns(UserWarning, match=r"no reader for the class NewThing \(lsst.new\)"):
        assert archive.get(ids[0]) == UnknownObject("NewThing", "lsst.new")
    assert archive.get(ids[1]) == UnknownObject("NewThing", "lsst.new")


def test_identity_objects_have_no_table(tmp_path: Path) -> None:
    writer = ArchiveWriter()
    number = writer.add("IdentityTransmissionCurve", "lsst.afw.image", [])
    assert stored(tmp_path, writer).catalogues(number)[2] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"'ARCHIVE_INDEX'", b"'ARCHIVE_OTHER'"), "HDU 1 of .* is not an archive index"),
        ((b"'ARCHIVE_DATA'", b"'ARCHIVE_OOPS'"), "HDU 2 of .* is not archive table 1"),
        (
            (b"AR_NCAT =                    2", b"AR_NCAT =                    1"),
            "names table 1, the archive has 0",
        ),
        ((b"AR_CATN =                    1", b"AR_CATN =                    7"), "is not archive table 1"),
    ],
)
def test_broken_archives_are_named(tmp_path: Path, change: tuple[bytes, bytes], message: str) -> None:
    writer = ArchiveWriter()
    number = add_chebyshev_field(writer, field_of([1.0]))
    with pytest.raises(InputError, match=message):
        stored(tmp_path, writer, change).get(number)


def test_ids_rows_and_names_are_checked(tmp_path: Path) -> None:
    writer = ArchiveWriter()
    number = add_chebyshev_field(writer, field_of([1.0]))
    with pytest.raises(InputError, match="has no object 17"):
        stored(tmp_path, writer).get(17)
    writer._rows[0] = (number, 1, 0, 1, 1, "ChebyshevBoundedField", "lsst.afw.math")
    with pytest.raises(InputError, match="object 1 lies outside its table"):
        stored(tmp_path, writer).get(number)
    writer._rows[0] = (number, 1, 0, 0, 1, "ChebyshevBoundedField", "lsst.afw.math")
    writer._rows.append((number, 1, 1, 0, 1, "PhotoCalib", ""))
    with pytest.raises(InputError, match="object 1 has two class names"):
        stored(tmp_path, writer).get(number)


def test_a_broken_object_is_one_sentence(tmp_path: Path) -> None:
    writer = ArchiveWriter()
    table = AfwTable((Field("wcs", "B", "Array", 0),), {"wcs": np.array([None])})
    table.columns["wcs"][0] = np.frombuffer(b"1 SkyWcs", dtype=np.uint8)
    number = writer.add("SkyWcs", "lsst.afw.geom", [table])
    with pytest.raises(InputError, match="a stored SkyWcs is broken"):
        stored(tmp_path, writer).get(number)


def test_objects_that_contain_themselves(tmp_path: Path) -> None:
    writer = ArchiveWriter()
    table = AfwTable((Field("id", "J"),), {"id": np.array([1], dtype=np.int32)})
    number = writer.add("ProductBoundedField", "lsst.afw.math", [table])
    with pytest.raises(InputError, match="object 1 contains itself"):
        stored(tmp_path, writer).get(number)


def test_cells_with_negative_places(tmp_path: Path) -> None:
    table = AfwTable((Field("bytes", "B", "Array", 0),), {"bytes": np.array([None])})
    table.columns["bytes"][0] = np.zeros(1, dtype=np.uint8)
    writer = ArchiveWriter()
    number = writer.add("PiffPsf", "lsst.meas.extensions.piff.piffPsf", [table])
    archive = stored(tmp_path, writer)
    start = archive.file.hdu(2).data_start
    content = bytearray(archive.file.buffer[:])
    content[start + 8 : start + 16] = b"\xff" * 8
    (tmp_path / "b.fits").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a cell of column 'bytes' of .* lies outside its heap"):
        Archive(FitsFile(tmp_path / "b.fits"), 1).get(number)
