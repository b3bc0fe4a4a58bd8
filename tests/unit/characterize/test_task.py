"""The Python API: same calls as the reference, same results as the workflow's road, tables or paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from gaussian_psf import gaussian_determiner, quick_config

import finalchar
from finalchar import (
    ConsolidateFinalizeCharacterizationDetectorTask,
    FinalizeCharacterizationDetectorTask,
    read_psf_ap_corr,
    read_source_catalog,
)
from finalchar.characterize import Subtasks, characterize_detector, load_detector_inputs
from finalchar.errors import InputError
from finalchar.formats import products
from finalchar.stars.tract import reserve_stars
from finalchar.stars.visit_list import TractInputs, make_visit_list
from finalchar.status import Status

SURVEY = Path(__file__).parents[3] / "tests/data/golden_small/survey"
VISIT, BAND = 2026011500101, "g"
TRACTS = (4906, 4907)
EXPOSURE, SRC = SURVEY / f"calexp_{VISIT}_0.fits", SURVEY / f"src_{VISIT}_0.fits"


def paths(name):
    return {tract: SURVEY / f"{name}_{tract}.parquet" for tract in TRACTS}


def make_task(**changes):
    task = FinalizeCharacterizationDetectorTask(quick_config(**changes))
    task.psf_determiner = gaussian_determiner
    return task


def run(task, convert=lambda path: path, **changes):
    cats = {tract: convert(path) for tract, path in paths("isolated_star_cat").items()}
    sources = {tract: convert(path) for tract, path in paths("isolated_star_sources").items()}
    arguments = {"src": SRC, "exposure": EXPOSURE, **changes}
    return task.run(VISIT, BAND, 0, cats, sources, **arguments)


@pytest.fixture(scope="module")
def result():
    return run(make_task())


def test_result_has_catalogue_table_and_status(result):
    assert result.status.status is Status.OK
    assert isinstance(result.output_table, Table)
    assert len(result.output_table) == 34
    assert result.output_table["base_PsfFlux_instFlux"].unit == "ct"
    assert result.output_table["base_PsfFlux_instFlux"].description
    row = result.psf_ap_corr_cat[0]
    assert (row.visit, row.detector) == (VISIT, 0)
    assert row.psf.kernel_image(x=480.0, y=470.0).array.sum() == pytest.approx(1.0, abs=1e-12)
    assert "base_PsfFlux_instFlux" in row.ap_corr_map


@pytest.mark.parametrize("convert", [Table.read, pd.read_parquet], ids=["astropy", "pandas"])
def test_tables_instead_of_paths(result, convert):
    other = run(make_task(), convert)
    assert other.status.to_dict() == result.status.to_dict()
    for name in ("id", "calib_psf_reserved", "base_PsfFlux_instFlux"):
        np.testing.assert_array_equal(other.output_table[name], result.output_table[name])


def test_objects_instead_of_paths(result):
    other = run(make_task(), src=read_source_catalog(SRC), exposure=finalchar.read_exposure(EXPOSURE))
    np.testing.assert_array_equal(
        other.output_table["base_PsfFlux_instFlux"], result.output_table["base_PsfFlux_instFlux"]
    )


def test_workflow_gives_the_same_bytes(result, tmp_path):
    """Tract stage, visit list and files on one side, dictionaries of tables on the other."""
    config = quick_config()
    inputs = []
    for tract in TRACTS:
        output = tmp_path / f"reserved_{tract}.parquet"
        reserve_stars(
            tract=tract,
            star_table=paths("isolated_star_cat")[tract],
            source_table=paths("isolated_star_sources")[tract],
            bands=["g", "r", "i"],
            settings=config.reserve_selection,
            id_column=config.id_column,
            output=output,
        )
        inputs.append(TractInputs(tract, output))
    visit_list = tmp_path / "visit_list.parquet"
    make_visit_list(visit=VISIT, band=BAND, tracts=inputs, output=visit_list)
    loaded = load_detector_inputs(
        visit=VISIT, detector=0, band=BAND, exposure=EXPOSURE, src=SRC, visit_list=visit_list, config=config
    )
    other = characterize_detector(
        inputs=loaded, config=config, subtasks=Subtasks(psf_determiner=gaussian_determiner)
    )
    assert other.status.to_dict() == result.status.to_dict()
    products.write_detector_products(other, tmp_path / "a.fits", tmp_path / "a.parquet")
    result.write(tmp_path / "b.fits", tmp_path / "b.parquet")
    for suffix in ("fits", "parquet"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_subtasks_can_be_replaced():
    task = make_task()
    task.source_selector = lambda sources, exposure: np.asarray(sources["base_PsfFlux_instFlux"] > 1e5)
    strict = run(task)
    assert 0 < len(strict.output_table) < 34
    assert (strict.output_table["calib_psf_candidate"]).all()


def test_config_is_an_attribute_that_can_be_changed():
    task = make_task()
    task.config.source_selector.science.signalToNoise.minimum = 1e6
    task.config.source_selector.science.signalToNoise.maximum = 1e7
    nothing = run(task)
    assert nothing.status.status is Status.NO_SELECTED_SOURCES
    assert nothing.psf_ap_corr_cat is None
    assert nothing.output_table is None


def test_colours_without_standard_stars_is_an_error():
    task = make_task()
    task.config.do_add_fgcm_photometry = True
    with pytest.raises(InputError, match="fgcm_standard_star_dict is not given"):
        run(task)


def test_magnitudes_and_sky_moments():
    task = make_task(do_add_fgcm_photometry=True, do_add_sky_moments=True)
    result = run(task, fgcm_standard_star_dict=paths("fgcm_standard_star"))
    table = result.output_table
    assert np.isfinite(table["fgcm_mag_g"]).sum() > 20
    # Sky moments keep the trace up to the pixel area: 0.2 arcsec pixels, distortion of a per cent.
    pixel = table["slot_Shape_xx"] + table["slot_Shape_yy"]
    sky = table["shape_Iuu"] + table["shape_Ivv"]
    good = np.isfinite(pixel)
    np.testing.assert_allclose(sky[good] / pixel[good], 0.2**2, rtol=0.05)
    horizon = table["shape_Ialtalt"] + table["shape_Iazaz"]
    np.testing.assert_allclose(horizon[good], sky[good], rtol=1e-6)  # float32 of a rotation


def test_consolidation(result, tmp_path):
    task = ConsolidateFinalizeCharacterizationDetectorTask()
    result.write(tmp_path / "psf.fits", tmp_path / "src.parquet")
    visit = task.run({0: result.psf_ap_corr_cat}, {0: result.output_table})
    other = task.run({0: tmp_path / "psf.fits"}, {0: tmp_path / "src.parquet"})
    for name in ("id", "base_PsfFlux_instFlux", "psf_color_type"):
        np.testing.assert_array_equal(visit.output_table[name], other.output_table[name])
    visit.psf_ap_corr_cat.write(tmp_path / "a.fits")
    other.psf_ap_corr_cat.write(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    again = read_psf_ap_corr(tmp_path / "a.fits")
    assert list(again) == [0]
    with pytest.raises(KeyError, match="detector 5 has no entry; there are: 0"):
        again[5]


def test_consolidation_refuses_what_does_not_belong_together(result):
    task = ConsolidateFinalizeCharacterizationDetectorTask()
    with pytest.raises(InputError, match="no detector to consolidate"):
        task.run({}, {})
    with pytest.raises(InputError, match=r"for the detectors \[0\] but tables for \[1\]"):
        task.run({0: result.psf_ap_corr_cat}, {1: result.output_table})


def test_unknown_name_of_the_package():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = finalchar.nothing
    assert "read_psf_ap_corr" in dir(finalchar)


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_catalogue_of_the_reference_is_drawn(compatibility):
    """The stack's catalogue, read without the stack: kernels as it draws them, images in their place."""
    folder = SURVEY.parent / "default"
    catalog = read_psf_ap_corr(folder / f"psf_ap_corr_{VISIT}.fits", compatibility=compatibility)
    assert list(catalog) == [0, 1]
    with np.load(folder / f"psf_images_{VISIT}_0.npz") as reference:
        for point, (x, y) in enumerate(reference["position"]):
            kernel = catalog[0].psf.kernel_image(x=x, y=y).array
            peak = reference["kernel"][point].max()
            # Same Piff and GalSim, double precision: rounding only.
            np.testing.assert_allclose(kernel, reference["kernel"][point], rtol=0, atol=1e-12 * peak)
            image = catalog[0].psf.image(x=x, y=y)
            shift = reference["image_xy0"][point] - (image.x0, image.y0)
            if compatibility == "lsst":
                assert not shift.any()
                np.testing.assert_allclose(image.array, reference["image"][point], rtol=0, atol=1e-12 * peak)
            else:
                assert (shift[0], shift[1]) in {(0, 0), (0, 1)}  # S-Q16: y = 35.5 is labelled one too high
    field = catalog[0].ap_corr_map["base_PsfFlux_instFlux"]
    with np.load(folder / "apcorr.npz") as reference:
        row = list(reference["visit_detector"]).index(f"{VISIT}_0")
        column = list(reference["field"]).index("base_PsfFlux_instFlux")
        values = field.evaluate(x=reference["grid_x"][row], y=reference["grid_y"][row])
        np.testing.assert_allclose(values, reference["value"][row, column], rtol=1e-12)
