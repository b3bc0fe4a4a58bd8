"""Catalogues of PSFs and aperture corrections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.afw_table import AfwTable, Field, read_table, table_hdu, write_table
from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import Box
from finalchar.formats.exposure_catalog import (
    DETECTOR_COMMENTS,
    ExposureRecord,
    read_exposure_catalog,
    write_exposure_catalog,
)
from finalchar.formats.fits_file import Card, FitsFile
from finalchar.formats.psfs import PiffPsf

VISIT = 2026011500101


def record(detector: int, **changes: object) -> ExposureRecord:
    field = ChebyshevField(Box(0, 0, 99, 49), np.array([[1.0, 0.1], [0.2, 0.0]]))
    complete = {
        "psf": PiffPsf(bytes(range(256)) * (detector + 1)),
        "ap_corr_map": {"base_PsfFlux_instFlux": field},
    }
    return ExposureRecord(detector, VISIT, **(complete | changes))


def test_records_come_back_sorted_with_their_bytes(tmp_path: Path) -> None:
    records = [record(7), record(2, psf=None, ap_corr_map=None), record(5, ap_corr_map=None)]
    write_exposure_catalog(tmp_path / "c.fits", records, {"PIFF_VERSION": "1.7.0"})
    catalogue = read_exposure_catalog(tmp_path / "c.fits")
    assert [each.detector for each in catalogue] == [2, 5, 7]
    assert [each.psf for each in catalogue] == [None, record(5).psf, record(7).psf]
    assert [each.ap_corr_map is None for each in catalogue] == [True, True, False]
    assert {each.visit for each in catalogue} == {VISIT}
    assert catalogue.metadata == {"PIFF_VERSION": "1.7.0"}
    found = catalogue.records[2].ap_corr_map["base_PsfFlux_instFlux"]
    np.testing.assert_array_equal(found.coefficients, [[1.0, 0.1], [0.2, 0.0]])


def test_no_detector_at_all(tmp_path: Path) -> None:
    write_exposure_catalog(tmp_path / "c.fits", [])
    assert len(read_exposure_catalog(tmp_path / "c.fits")) == 0
    assert len(FitsFile(tmp_path / "c.fits")) == 3  # the (empty) index follows the table (F-10)


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_exposure_catalog(tmp_path / name, [record(1), record(0)], comments=DETECTOR_COMMENTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_two_records_of_a_detector_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a detector has two records"):
        write_exposure_catalog(tmp_path / "c.fits", [record(1), record(1)])
    assert not list(tmp_path.iterdir())


def test_what_the_stack_requires(tmp_path: Path) -> None:
    """8.1: cards without which the stack refuses the file or dies, types, the archive directly behind."""
    write_exposure_catalog(tmp_path / "c.fits", [record(3)])
    file = FitsFile(tmp_path / "c.fits")
    header = file.hdu(1).header
    assert (header.get("AFW_TYPE"), header.get("EXPTABLE_VER"), header.get("AFW_TABLE_VERSION")) == (
        "EXPOSURE",
        5,
        3,
    )
    assert header.text("TFORM9") == "1K"
    assert file.hdu(2).header.text("EXTTYPE") == "ARCHIVE_INDEX"
    index = read_table(file.hdu(2))
    assert index["name"].tolist() == ["PiffPsf", "ApCorrMap", "ChebyshevBoundedField"]
    assert index["module"].tolist() == [
        "lsst.meas.extensions.piff.piffPsf",
        "lsst.afw.image",
        "lsst.afw.math",
    ]
    assert [f.length for f in index.fields if f.code == "A"] == [64, 64]
    coefficients = read_table(file.hdu(5)).fields[-1]
    assert (coefficients.template, coefficients.length) == ("Array", 4)


def test_more_tables_behind_the_archive(tmp_path: Path) -> None:
    stamps = AfwTable((Field("a", "D"),), {"a": np.arange(3.0)}, metadata=(Card("EXTNAME", "STAMPS"),))
    write_exposure_catalog(tmp_path / "c.fits", [record(3)], extra_hdus=[table_hdu(stamps)])
    assert len(read_exposure_catalog(tmp_path / "c.fits")) == 1
    unit = FitsFile(tmp_path / "c.fits").find("STAMPS")
    assert read_table(unit)["a"].tolist() == [0.0, 1.0, 2.0]
    assert FitsFile(tmp_path / "c.fits").find("OTHER") is None


def test_unknown_psf_classes_are_left_out_with_a_warning(tmp_path: Path) -> None:
    write_exposure_catalog(tmp_path / "c.fits", [record(3)])
    content = (tmp_path / "c.fits").read_bytes()
    (tmp_path / "c.fits").write_bytes(content.replace(b"PiffPsf".ljust(64), b"CoaddPsf".ljust(64)))
    with pytest.warns(UserWarning, match="no reader for the class CoaddPsf"):
        catalogue = read_exposure_catalog(tmp_path / "c.fits")
    assert catalogue.records[0].psf is None
    assert catalogue.records[0].ap_corr_map is not None


def test_a_catalogue_without_archive_is_broken(tmp_path: Path) -> None:
    """F-10: such a file must not read as detectors without PSF."""
    write_exposure_catalog(tmp_path / "c.fits", [record(3)])
    file = FitsFile(tmp_path / "c.fits")
    (tmp_path / "cut.fits").write_bytes(file.buffer[: file.hdu(1).end])
    with pytest.raises(InputError, match=r"cut\.fits has 2 HDUs, HDU 2 is missing"):
        read_exposure_catalog(tmp_path / "cut.fits")


def test_other_catalogues_are_refused(tmp_path: Path) -> None:
    write_table(AfwTable((Field("id", "K"),), {"id": np.array([1])}, afw_type="SOURCE"), tmp_path / "s.fits")
    with pytest.raises(InputError, match="is not an exposure catalogue"):
        read_exposure_catalog(tmp_path / "s.fits")


def test_fields_without_chebyshev_form_cannot_be_stored(tmp_path: Path) -> None:
    from finalchar.formats.bounded_fields import ProductField

    with pytest.raises(TypeError, match="a field of type ProductField cannot be stored"):
        write_exposure_catalog(tmp_path / "c.fits", [record(3, ap_corr_map={"a": ProductField(())})])
