"""Consolidation: order, completeness, refusals, summary, deviations, reserve digests, bytes of PSFs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from finalchar.consolidate import (
    DetectorProducts,
    check_reserve_digests,
    consolidate_visit,
    stack_tables,
    summarize_survey,
    summary_table,
)
from finalchar.errors import InputError
from finalchar.formats import products
from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import Box
from finalchar.formats.exposure_catalog import ExposureRecord, read_exposure_catalog
from finalchar.formats.psf_errors import PredictedErrors
from finalchar.formats.psfs import FixedKernel, KernelPsf, PiffPsf
from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.formats.stamps import StampSet
from finalchar.status import DetectorStatus, Status

VISIT = 2026011500101
BOX = Box(0, 0, 99, 79)


def kernel_psf(seed):
    image = np.random.default_rng(seed).uniform(size=(5, 5))
    return KernelPsf(FixedKernel(image / image.sum(), (2, 2)), (50.0, 40.0))


def ap_corr(value):
    return {
        "base_PsfFlux_instFlux": ChebyshevField(box=BOX, coefficients=np.array([[value, 0.01], [0.02, 0.0]])),
        "base_PsfFlux_instFluxErr": ChebyshevField(box=BOX, coefficients=np.array([[0.003]])),
    }


def star_table(detector, rows=3):
    ids = (np.int64(1) << 60) + 1000 * detector + np.arange(rows, dtype=np.int64)
    return SourceTable(
        {
            "id": ids,
            "visit": np.full(rows, VISIT, dtype=np.int64),
            "detector": np.full(rows, detector, dtype=np.int32),
            "base_PsfFlux_instFlux": np.linspace(1.0, 2.0, rows),
            "calib_psf_used": np.arange(rows) % 2 == 0,
            "psf_color_type": np.full(rows, "", dtype="U10"),
        },
        {"base_PsfFlux_instFlux": ColumnInfo("ct", "flux of the PSF model")},
    )


def status(detector, kind=Status.OK, *, centre=None, **changes):
    figures = {"has_psf": kind is Status.OK, "has_ap_corr": kind is Status.OK, "chi_squared": 1.5 * detector}
    if centre is not None:
        figures |= {"ap_corr_base_PsfFlux_centre": centre, "ap_corr_suspect": ""}
    values = {
        "counts": {"candidates": 3, "used": 2},
        "figures": figures,
        "software": {"numpy": "2.4.6"},
        "sentence": "" if kind is Status.OK else f"because of {kind}",
    }
    return DetectorStatus(VISIT, detector, "g", kind, **{**values, **changes})


def write(folder, detector, *, psf=True, rows=3, kind=Status.OK, centre=None):
    result = SimpleNamespace(
        record=ExposureRecord(
            detector,
            VISIT,
            psf=kernel_psf(detector) if psf else None,
            ap_corr_map=ap_corr(1.0) if psf else None,
        ),
        table=star_table(detector, rows),
        stamps=None,
        psf_errors=None,
    )
    paths = folder / f"psf_{detector}.fits", folder / f"src_{detector}.parquet"
    products.write_detector_products(result, *paths)
    return DetectorProducts(status(detector, kind, centre=centre), *paths)


def consolidate(detectors, folder, compatibility="fixed", digests=None):
    return consolidate_visit(
        visit=VISIT,
        band="g",
        detectors=detectors,
        reserve_digests=digests or {4906: "aa", 4907: "bb"},
        config=SimpleNamespace(compatibility=compatibility, output=SimpleNamespace(piff="none")),
        output=folder,
    )


@pytest.fixture
def visit(tmp_path):
    """Four detectors given out of order: two with PSF, one whose PSF failed, one without work."""
    return [
        write(tmp_path, 10, centre=1.02),
        write(tmp_path, 2, centre=1.0),
        write(tmp_path, 5, psf=False, kind=Status.PSF_FAILED),
        DetectorProducts(status(7, Status.NO_MATCHED_SOURCES)),
    ]


def test_products_come_in_detector_order(visit, tmp_path):
    summary = consolidate(visit, tmp_path / "visit")
    catalogue = read_exposure_catalog(tmp_path / "visit/finalized_psf_ap_corr_catalog.fits")
    assert [record.detector for record in catalogue] == [2, 5, 10]
    assert [record.psf is not None for record in catalogue] == [True, False, True]
    table = products.read_star_table(tmp_path / "visit/finalized_src_table.parquet")
    assert table["detector"].tolist() == [2] * 3 + [5] * 3 + [10] * 3
    np.testing.assert_array_equal(
        table["id"], np.concatenate([star_table(detector)["id"] for detector in (2, 5, 10)])
    )
    assert table.info["base_PsfFlux_instFlux"] == ColumnInfo("ct", "flux of the PSF model")
    assert (summary.rows, summary.psfs, summary.detectors) == (9, 2, 4)


def test_detector_without_work_is_in_the_summary_with_its_reason(visit, tmp_path):
    summary = consolidate(visit, tmp_path / "visit")
    table = products.read_star_table(tmp_path / "visit/summary.parquet")
    assert table["detector"].tolist() == [2, 5, 7, 10]
    assert table["status"].tolist() == ["ok", "psf_failed", "no_matched_sources", "ok"]
    assert table["sentence"][2] == "because of no_matched_sources"
    assert table["n_candidates"].dtype == np.int32
    assert summary.complete
    assert "complete, 4 detectors (2 ok, 1 no_matched_sources, 1 psf_failed)" in summary.sentence


@pytest.mark.parametrize("kind", [Status.INPUT_MISSING, Status.INPUT_BROKEN, Status.INTERNAL_ERROR])
def test_visit_with_an_error_is_partial(visit, tmp_path, kind):
    """K23: success is only said by what succeeded; the others are consolidated all the same."""
    summary = consolidate([*visit, DetectorProducts(status(1, kind))], tmp_path / "visit")
    assert not summary.complete
    assert "partial, 5 detectors (2 ok" in summary.sentence
    assert f"1 {kind}" in summary.sentence
    assert summary.psfs == 2
    table = products.read_star_table(tmp_path / "visit/summary.parquet")
    assert table["n_candidates"].tolist()[0] == 3
    assert len(products.read_star_table(tmp_path / "visit/finalized_src_table.parquet")) == 9


def test_no_detector_with_rows_leaves_only_the_summary(tmp_path):
    folder = tmp_path / "visit"
    consolidate([write(tmp_path, 2)], folder)
    assert (folder / "finalized_src_table.parquet").exists()
    summary = consolidate([DetectorProducts(status(2, Status.INPUT_MISSING, figures={}))], folder)
    assert {path.name for path in folder.iterdir()} == {"summary.parquet"}
    assert summary.rows == 0


def test_deviation_from_the_other_detectors(tmp_path):
    """K21: the detector whose correction is unlike the others' stands out in the summary."""
    detectors = [
        write(tmp_path, detector, centre=centre)
        for detector, centre in [(0, 1.00), (1, 1.01), (2, 1.02), (3, 1.45)]
    ]
    summary = consolidate(detectors, tmp_path / "visit")
    table = products.read_star_table(tmp_path / "visit/summary.parquet")
    np.testing.assert_allclose(
        table["ap_corr_base_PsfFlux_deviation"], [-0.02, -0.01, 0.01, 0.44], atol=1e-12
    )
    assert any(
        "detector 3: aperture corrections far from those of the other detectors: base_PsfFlux" in sentence
        for sentence in summary.warnings
    )
    assert "detector 3" in summary.sentence


def test_robustness_figures_of_every_correction_are_in_the_summary(tmp_path):
    """K21: range, scatter and deviation of each field, with what they mean, as columns of the summary."""
    figures = {"has_psf": True, "has_ap_corr": True, "ap_corr_reference_stars": 40}
    fluxes = {"base_PsfFlux": 0.0, "ext_gaap_GaapFlux_1_15x_3_0": 1.0}
    parts = []
    for detector, shift in ((0, 0.0), (1, 0.02), (2, 0.5)):
        own = {}
        for name, base in fluxes.items():
            own |= {
                f"ap_corr_{name}_{figure}": base + value + shift
                for figure, value in (("stars", 30), ("centre", 1.0), ("range", 0.1), ("scatter", 0.01))
            }
        if detector == 1:  # no correction in the small aperture
            own = {name: value for name, value in own.items() if "gaap" not in name}
        parts.append(DetectorProducts(status(detector, figures=figures | own)))
    consolidate(parts, tmp_path / "visit")
    table = products.read_star_table(tmp_path / "visit/summary.parquet")
    for name, base in fluxes.items():
        there = [0, 2] if base else [0, 1, 2]
        for figure, value in (("range", 0.1), ("scatter", 0.01)):
            column = table[f"ap_corr_{name}_{figure}"]
            np.testing.assert_allclose(column[there], base + value + np.array([0, 0.02, 0.5])[there])
            assert np.isnan(np.delete(column, there)).all()
            assert name in table.info[f"ap_corr_{name}_{figure}"].description
    deviation = table["ap_corr_ext_gaap_GaapFlux_1_15x_3_0_deviation"]
    np.testing.assert_allclose(deviation, [-0.5, np.nan, 0.5])
    np.testing.assert_allclose(table["ap_corr_base_PsfFlux_deviation"], [-0.26, -0.23, 0.49])
    assert "minus the median of the visit's other" in table.info["ap_corr_base_PsfFlux_deviation"].description
    assert table.info["ap_corr_reference_stars"].description == "Stars with a good reference flux."


def test_different_library_versions_are_said(visit, tmp_path):
    other = DetectorProducts(status(11, software={"numpy": "2.3.5"}), visit[0].psf_ap_corr, visit[0].table)
    table = summary_table([*visit, other], {})
    assert json.loads(table["software"][-1]) == {"numpy": "2.3.5"}
    odd = DetectorProducts(status(12, Status.NO_ISOLATED_STARS, software={"numpy": "2.3.5"}))
    summary = consolidate([*visit, odd], tmp_path / "visit")
    assert "detectors were made with different versions of numpy: 2.3.5, 2.4.6" in summary.sentence


@pytest.mark.parametrize(
    ("compatibility", "comment"),
    [
        ("fixed", "Only detectors with data have entries."),
        ("lsst", "Only one detector with data has an entry."),
    ],
)
def test_comment_of_the_catalogue(visit, tmp_path, compatibility, comment):
    consolidate(visit, tmp_path / "visit", compatibility)  # S-Q3
    catalogue = read_exposure_catalog(tmp_path / "visit/finalized_psf_ap_corr_catalog.fits")
    assert catalogue.comments == ("Catalog id is detector id, sorted.", comment)


def test_stored_psf_is_copied_byte_for_byte(tmp_path):
    stored = b"\x80\x04N. bytes that no unpickler would accept"
    result = SimpleNamespace(
        record=ExposureRecord(3, VISIT, psf=PiffPsf(stored)),
        table=star_table(3),
        stamps=None,
        psf_errors=None,
    )
    paths = tmp_path / "psf.fits", tmp_path / "src.parquet"
    products.write_detector_products(result, *paths)
    consolidate([DetectorProducts(status(3), *paths)], tmp_path / "visit")
    record = next(iter(read_exposure_catalog(tmp_path / "visit/finalized_psf_ap_corr_catalog.fits")))
    assert record.psf == PiffPsf(stored)


def test_same_inputs_give_the_same_bytes(visit, tmp_path):
    consolidate(visit, tmp_path / "a")
    consolidate(visit[::-1], tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_catalogue_of_another_detector_is_refused(visit, tmp_path):
    wrong = DetectorProducts(status(3), visit[0].psf_ap_corr, visit[0].table)
    with pytest.raises(InputError, match="is of visit 2026011500101 detector 10, not of"):
        consolidate([wrong], tmp_path / "visit")


def test_catalogue_without_table_is_refused(visit, tmp_path):
    half = DetectorProducts(visit[0].status, visit[0].psf_ap_corr)
    with pytest.raises(InputError, match="detector 10 has a PSF catalogue but no star table"):
        consolidate([half], tmp_path / "visit")


# ---------------------------------------------------------------------------------------------- tables


def test_columns_that_differ_are_named():
    first, second = star_table(1), star_table(2)
    del second.columns["calib_psf_used"]
    with pytest.raises(InputError, match=r"different columns \(calib_psf_used\)"):
        stack_tables([first, second])


def test_types_that_differ_are_named():
    first, second = star_table(1), star_table(2)
    second.columns["base_PsfFlux_instFlux"] = second.columns["base_PsfFlux_instFlux"].astype(np.float32)
    with pytest.raises(InputError, match="'base_PsfFlux_instFlux' is float64 on one detector and float32"):
        stack_tables([first, second])


def test_empty_tables_are_left_out():
    assert len(stack_tables([star_table(1, 0), star_table(2)])) == 3
    assert len(stack_tables([star_table(1, 0)])) == 0


def test_nothing_to_stack_is_an_error():
    with pytest.raises(InputError, match="no star table"):
        stack_tables([])


# ----------------------------------------------------------------------------------------------- survey


def summary_of(visit, band, digests):
    state = DetectorStatus(visit, 0, band, Status.NO_ISOLATED_STARS)
    return summary_table([DetectorProducts(state)], digests)


def test_reserve_lists_that_agree():
    tables = [summary_of(1, "g", {7: "x"}), summary_of(2, "g", {7: "x"}), summary_of(3, "r", {7: "y"})]
    assert check_reserve_digests(tables) == []


def test_reserve_lists_that_differ_are_named():
    tables = [
        summary_of(1, "g", {7: "x", 8: "z"}),
        summary_of(2, "g", {7: "other"}),
        summary_of(3, "g", {7: "x"}),
    ]
    (sentence,) = check_reserve_digests(tables)
    assert sentence.startswith(
        "tract 7 band g: the visits [1, 3] and [2] were made with different reserve lists"
    )


def test_survey_summary_has_every_detector_and_every_column(visit, tmp_path):
    consolidate(visit, tmp_path / "a")
    other = DetectorStatus(
        VISIT + 1, 0, "r", Status.INPUT_MISSING, figures={"other_figure": 2.0, "word": "x"}
    )
    products.write_table(summary_table([DetectorProducts(other)], {4906: "cc"}), tmp_path / "other.parquet")
    paths = [tmp_path / "other.parquet", tmp_path / "a/summary.parquet"]
    assert summarize_survey(summaries=paths, output=tmp_path / "survey.parquet") == []
    table = products.read_star_table(tmp_path / "survey.parquet")
    assert list(zip(table["visit"].tolist(), table["detector"].tolist(), strict=True)) == [
        (VISIT, 2),
        (VISIT, 5),
        (VISIT, 7),
        (VISIT, 10),
        (VISIT + 1, 0),
    ]
    assert np.isnan(table["other_figure"][:4]).all()
    assert table["word"].tolist() == ["", "", "", "", "x"]


# --------------------------------------------------------------------------------------------- detector


def make_stamps(n=3, size=5):
    rng = np.random.default_rng(9)
    return StampSet(
        source_id=(np.int64(1) << 61) + np.arange(n),
        reserved=np.arange(n) % 2 == 1,
        rank=np.arange(1, n + 1, dtype=np.int32),
        reduced_chi_squared=rng.uniform(size=n).astype(np.float32),
        flux=rng.uniform(size=n).astype(np.float32),
        x0=np.arange(n, dtype=np.int32),
        y0=np.arange(n, dtype=np.int32) - 1,
        data=rng.normal(size=(n, size, size)).astype(np.float32),
        model=rng.normal(size=(n, size, size)).astype(np.float32),
        weight=rng.uniform(size=(n, size, size)).astype(np.float32),
    )


def test_extra_tables_are_read_back_by_us_and_stamps_by_astropy(tmp_path):
    from astropy.io import fits

    stamps = make_stamps()
    result = SimpleNamespace(
        record=ExposureRecord(3, VISIT, psf=kernel_psf(1), ap_corr_map=ap_corr(1.0)),
        table=star_table(3),
        stamps=stamps,
        psf_errors=PredictedErrors(np.arange(12.0).reshape(3, 2, 2), 1.5),
    )
    paths = tmp_path / "psf.fits", tmp_path / "src.parquet"
    products.write_detector_products(result, *paths)
    errors = products.read_psf_errors(paths[0])
    assert errors.size == 1.5
    np.testing.assert_array_equal(errors.root, result.psf_errors.root)
    again = products.read_stamps(paths[0])
    for name in ("source_id", "reserved", "rank", "reduced_chi_squared", "flux", "x0", "y0"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stamps, name), err_msg=name)
    for name in ("data", "model", "weight"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stamps, name), err_msg=name)
    with fits.open(paths[0]) as file:
        file.verify("exception")
        assert file[-1].name == "FINALCHAR_STAMPS"
        assert file[-1].data["data"].shape == (3, 5, 5)
        np.testing.assert_array_equal(file[-1].data["model"], stamps.model)
    record = products.read_detector_record(paths[0])  # the archive is read as if there were no stamps
    assert set(record.ap_corr_map) == set(ap_corr(1.0))


def test_catalogue_without_stamps(tmp_path):
    write(tmp_path, 4)
    assert products.read_stamps(tmp_path / "psf_4.fits") is None


def test_detector_without_rows_writes_nothing(tmp_path):
    result = SimpleNamespace(record=None, table=None, stamps=None)
    products.write_detector_products(result, tmp_path / "a.fits", tmp_path / "b.parquet")
    assert list(tmp_path.iterdir()) == []


def test_same_detector_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, 4)
    for file in ("psf_4.fits", "src_4.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"psf_4.fits", "src_4.parquet"}
