"""The truth table of a detector (selection specification 4.10) on two detectors of the small reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gaussian_psf import gaussian_determiner, quick_config

from finalchar.characterize import (
    DetectorInputs,
    Subtasks,
    characterize_detector,
    load_detector_inputs,
    read_detector,
)
from finalchar.errors import ApCorrError, ConfigError, InputError, MeasurementError, PsfError
from finalchar.measure.schema import correctable_fluxes
from finalchar.parity.survey import isolated_stars, paths_of
from finalchar.status import DetectorStatus, Status

ROOT = Path(__file__).parents[3] / "tests/data/golden_small"
VISIT, BAND = 2026011500101, "g"


def raising(error):
    def step(*arguments, **keywords):
        raise error

    return step


QUICK = Subtasks(psf_determiner=gaussian_determiner)


@pytest.fixture(scope="module")
def config():
    return quick_config()


def read(visit, detector, config):
    exposure, src, band = paths_of(ROOT, visit, detector)
    isolated = isolated_stars(ROOT, visit, detector, band, config)
    return read_detector(
        visit=visit, detector=detector, band=band, exposure=exposure, src=src, isolated=isolated
    )


@pytest.fixture(scope="module")
def inputs(config):
    return read(VISIT, 0, config)


def check_rows(result, *, rows=34, reserved=3):
    table = result.table
    assert table is not None
    assert len(table) == rows
    assert table["calib_psf_candidate"].all()
    assert table["calib_psf_reserved"].sum() == reserved
    assert not (table["calib_psf_reserved"] & table["calib_psf_used"]).any()
    assert (table["visit"] == result.status.visit).all()
    assert (table["detector"] == result.status.detector).all()
    assert result.record is not None
    assert (result.record.visit, result.record.detector) == (result.status.visit, result.status.detector)


def is_corrected(table):
    return not table["base_PsfFlux_flag_apCorr"].all()


def test_success(inputs, config):
    result = characterize_detector(inputs=inputs, config=config, subtasks=QUICK)
    assert result.status.status is Status.OK, result.status.sentence
    check_rows(result)
    assert result.record.psf is not None
    assert "base_PsfFlux_instFlux" in result.record.ap_corr_map
    assert "base_CompensatedTophatFlux_12_instFlux" in result.record.ap_corr_map  # came with the exposure
    assert result.table["calib_psf_used"].sum() == 34 - 3 - 1
    assert np.isfinite(result.table["base_PsfFlux_instFlux"]).all()
    assert np.isfinite(result.table["psf_max_value"]).all()
    assert result.status.counts["used"] == 30
    assert result.status.figures["has_psf"] is True
    assert result.status.figures["has_ap_corr"] is True
    assert "numpy" in result.status.software


@pytest.mark.parametrize("error", [PsfError("no star fits"), PsfError("size is NaN")])
def test_determiner_raised(inputs, config, error):
    result = characterize_detector(
        inputs=inputs, config=config, subtasks=Subtasks(psf_determiner=raising(error))
    )
    assert result.status.status is Status.PSF_FAILED
    assert result.status.sentence == str(error)
    check_rows(result)
    assert result.record.psf is None
    assert result.record.ap_corr_map is None
    assert not result.table["calib_psf_used"].any()
    assert np.isnan(result.table["base_PsfFlux_instFlux"]).all()
    assert not result.table["base_PsfFlux_flag"].any()
    assert np.isfinite(result.table["psf_max_value"]).all()
    assert result.stamps is None


def test_too_few_stars(config):
    """Three candidates: rows, an empty entry, and the sentence says how many stars are needed."""
    result = characterize_detector(inputs=read(2026011500188, 3, config), config=config)
    assert result.status.status is Status.PSF_FAILED
    assert "3 of at least 6" in result.status.sentence
    check_rows(result, rows=3, reserved=0)
    assert result.record.psf is None


def test_measurement_raised(inputs, config):
    subtasks = dataclasses.replace(QUICK, measurement=raising(MeasurementError("the noise is not finite")))
    result = characterize_detector(inputs=inputs, config=config, subtasks=subtasks)
    assert result.status.status is Status.MEASUREMENT_FAILED
    check_rows(result)
    assert result.record.psf is not None
    assert result.record.ap_corr_map is None
    assert result.table["calib_psf_used"].sum() == 30


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_ap_corr_raised(inputs, config, compatibility):
    config = config.checked()
    config.compatibility = compatibility
    subtasks = dataclasses.replace(QUICK, measure_ap_corr=raising(ApCorrError("base_PsfFlux (1)")))
    result = characterize_detector(inputs=inputs, config=config, subtasks=subtasks)
    # K22: no flux may look corrected; the reference leaves the flags unset [M-Q31].
    assert result.table["base_PsfFlux_flag_apCorr"].all() == (compatibility == "fixed")
    assert result.status.status is Status.AP_CORR_FAILED
    check_rows(result)
    assert result.record.psf is not None
    assert result.record.ap_corr_map is None
    assert np.isfinite(result.table["base_PsfFlux_instFlux"]).all()
    assert np.isnan(result.table["base_PsfFlux_apCorr"]).all()
    assert not result.table["apcorr_base_PsfFlux_used"].any()


def test_too_few_stars_for_a_required_correction(inputs, config):
    """K22: the status names the flux and the count, and no field stands in for the missing one."""
    strict = config.checked()
    strict.measure_ap_corr.sourceSelector.science.signalToNoise.minimum = 1e6
    result = characterize_detector(inputs=inputs, config=strict, subtasks=QUICK)
    assert result.status.status is Status.AP_CORR_FAILED
    assert "base_PsfFlux (0)" in result.status.sentence
    assert result.record.ap_corr_map is None


def test_nothing_selected(inputs, config):
    strict = config.checked()
    strict.source_selector.science.signalToNoise.minimum = 1e7
    strict.source_selector.science.signalToNoise.maximum = 1e8
    result = characterize_detector(inputs=inputs, config=strict, subtasks=QUICK)
    assert result.status.status is Status.NO_SELECTED_SOURCES
    assert "none of 161 sources" in result.status.sentence
    assert result.table is None
    assert result.record is None


def test_nothing_matched(config):
    result = characterize_detector(inputs=read(2026020300212, 3, config), config=config)
    assert result.status.status is Status.NO_MATCHED_SOURCES
    assert result.table is None
    assert result.status.counts["selected"] == 9


def test_no_isolated_star_reads_no_image(inputs, config):
    empty = inputs.isolated.select(np.zeros(len(inputs.isolated), dtype=bool))
    nothing = read_detector(
        visit=VISIT, detector=7, band=BAND, exposure=Path("absent"), src=Path("absent"), isolated=empty
    )
    result = characterize_detector(inputs=nothing, config=config)
    assert result.status.status is Status.NO_ISOLATED_STARS
    assert result.record is None


def test_unexpected_error_is_a_status_with_its_traceback_in_the_log(inputs, config, caplog):
    subtasks = Subtasks(psf_determiner=raising(ZeroDivisionError("a slip")))
    result = characterize_detector(inputs=inputs, config=config, subtasks=subtasks)
    assert result.status.status is Status.INTERNAL_ERROR
    assert "ZeroDivisionError: a slip" in result.status.sentence
    assert result.table is None
    assert "Traceback" in caplog.text
    assert result.status.counts["candidates"] == 34


def test_error_of_the_input_is_a_status(inputs, config):
    bare = dataclasses.replace(inputs, sources=inputs.sources.subset(["id", "parent"]))
    result = characterize_detector(inputs=bare, config=config)
    assert result.status.status is Status.INPUT_BROKEN
    assert "column" in result.status.sentence


def test_impossible_configuration_raises(inputs, config):
    subtasks = Subtasks(psf_determiner=raising(ConfigError("the stamp is smaller than the model")))
    with pytest.raises(ConfigError, match="smaller than the model"):
        characterize_detector(inputs=inputs, config=config, subtasks=subtasks)


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_exposure_without_map(inputs, config, compatibility):
    """M-Q21: the reference stops, `fixed` takes it as an empty map."""
    changed = config.checked()
    changed.compatibility = compatibility
    bare = dataclasses.replace(inputs, exposure=dataclasses.replace(inputs.exposure, initial_ap_corr=None))
    result = characterize_detector(inputs=bare, config=changed, subtasks=QUICK)
    if compatibility == "lsst":
        assert result.status.status is Status.INPUT_BROKEN
        assert "no aperture-correction map" in result.status.sentence
    else:
        assert result.status.status is Status.OK
        fluxes = set(correctable_fluxes(changed.measurement, "fixed"))
        wanted = {f"{flux}_instFlux" for flux in fluxes - set(changed.measure_ap_corr.allowFailure)}
        assert wanted <= {name.removesuffix("Err") for name in result.record.ap_corr_map}


def test_stamps_of_best_and_worst_stars(inputs, config):
    result = characterize_detector(inputs=inputs, config=config, subtasks=QUICK)
    stamps = result.stamps
    assert stamps is not None
    used, reserved = stamps.rank[~stamps.reserved], stamps.rank[stamps.reserved]
    assert sorted(used) == [*range(-10, 0), *range(1, 11)]
    assert len(reserved) == 3
    chi = dict(zip(used, stamps.reduced_chi_squared[~stamps.reserved], strict=True))
    assert chi[1] <= chi[10] <= chi[-10] <= chi[-1]
    assert stamps.data.shape == (23, 21, 21)
    assert stamps.data.nbytes * 3 < 150_000
    shown = np.isin(result.table["id"], stamps.source_id)
    assert set(result.table["id"][shown]) == set(stamps.source_id)
    best = int(np.flatnonzero((stamps.rank == 1) & ~stamps.reserved)[0])
    # The model is centred on the star and scaled to it: data and model have their light in the same place.
    peak = np.unravel_index(np.argmax(stamps.model[best]), (21, 21))
    assert abs(peak[0] - 10) <= 1
    assert abs(peak[1] - 10) <= 1
    assert stamps.model[best].sum() == pytest.approx(stamps.flux[best], rel=0.05)


def test_inputs_from_files_say_what_is_missing(tmp_path, config):
    with pytest.raises(InputError, match="does not exist"):
        load_detector_inputs(
            visit=VISIT,
            detector=0,
            band=BAND,
            exposure=tmp_path / "none.fits",
            src=tmp_path / "none.fits",
            visit_list=tmp_path / "none.parquet",
            config=config,
        )


def test_nothing_is_changed_in_the_inputs(inputs, config):
    image, mask = inputs.exposure.image.copy(), inputs.exposure.mask.copy()
    flags = inputs.sources["calib_psf_used"].copy() if "calib_psf_used" in inputs.sources else None
    characterize_detector(inputs=inputs, config=config, subtasks=QUICK)
    np.testing.assert_array_equal(inputs.exposure.image, image)
    np.testing.assert_array_equal(inputs.exposure.mask, mask)
    if flags is not None:
        np.testing.assert_array_equal(inputs.sources["calib_psf_used"], flags)


def test_status_survives_json():
    import json

    status = DetectorStatus(
        1,
        2,
        "g",
        Status.OK,
        counts={"used": np.int64(3)},
        figures={"a": np.float64(np.nan), "b": "x", "c": np.bool_(True)},
        warnings=("w",),
        software={"numpy": "1"},
    )
    again = DetectorStatus.from_dict(json.loads(json.dumps(status.to_dict(), allow_nan=False)))
    assert again.counts == {"used": 3}
    assert np.isnan(again.figures["a"])
    assert again.figures["c"] is True
    assert again.warnings == ("w",)
    assert again.software == {"numpy": "1"}


def test_every_status_is_explained_and_sorted_into_kinds():
    for status in Status:
        assert status.meaning
        is_no_work = status.name.startswith("NO_")  # a regular outcome, not a fault
        assert sum([status.has_rows, is_no_work, status.is_error]) == 1


def test_inputs_are_frozen(inputs):
    with pytest.raises(dataclasses.FrozenInstanceError):
        inputs.visit = 3
    assert isinstance(inputs, DetectorInputs)


# ------------------------------------------------------------------------------------- missing columns


def without(inputs, *columns):
    """Inputs whose catalogue lacks columns, as every catalogue of that survey does."""
    sources = inputs.sources
    left = {name: values for name, values in sources.columns.items() if name not in columns}
    return dataclasses.replace(inputs, sources=dataclasses.replace(sources, columns=left))


def never(*args, **kwargs):
    raise AssertionError("the fit must not be reached")


MISSING = [
    ("measure_ap_corr.refFluxName", "slot_NoFlux", "slot_NoFlux_instFlux"),
    ("apply_ap_corr.xColumn", "no_x", "no_x"),
    ("apply_ap_corr.yColumn", "no_y", "no_y"),
    ("measure_ap_corr.sourceSelector.science.signalToNoise.fluxField", "no_flux", "no_flux"),
    ("measure_ap_corr.sourceSelector.flagged.field", "no_flag", "no_flag"),
    ("measure_ap_corr.sourceSelector.objectSize.sourceFluxField", "no_flux", "no_flux"),
    ("source_selector.science.signalToNoise.errField", "no_error", "no_error"),
    ("source_selector.science.flags.bad", ["no_flag"], "no_flag"),
    ("source_selector.objectSize.badFlags", ["no_flag"], "no_flag"),
]


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
@pytest.mark.parametrize(("path", "value", "column"), MISSING)
def test_a_column_that_no_detector_has_is_an_error_that_names_file_setting_and_remedy(
    inputs, config, path, value, column, compatibility
):
    """A catalogue of another schema is no outcome of a detector: an error, before the fit, in one wording."""
    config = config.checked()
    config.compatibility = compatibility
    *above, leaf = path.split(".")
    section = config
    for part in above:
        if part in ("flagged", "objectSize"):
            section.name = part
        section = getattr(section, part)
    setattr(section, leaf, value)
    stopped = dataclasses.replace(QUICK, psf_determiner=never, measure_ap_corr=None, apply_ap_corr=None)
    result = characterize_detector(inputs=inputs, config=config, subtasks=stopped)
    assert result.status.status is Status.INPUT_BROKEN
    assert result.status.status.is_error
    assert result.status.sentence.startswith(
        f"{inputs.sources.origin}: the column {column!r} is missing, which {path} asks for; "
    )
    assert inputs.sources.origin.endswith(".fits")


def test_the_nearest_column_is_looked_for_among_the_aliases_too(inputs, config):
    config = config.checked()
    config.measure_ap_corr.refFluxName = "slot_CalbFlux"
    result = characterize_detector(inputs=inputs, config=config, subtasks=QUICK)
    assert result.status.sentence.endswith("(similar: 'slot_CalibFlux_instFlux')")


def test_a_catalogue_without_the_calibration_flux_is_an_error(inputs, config):
    target = inputs.sources.aliases["slot_CalibFlux"]
    poor = without(inputs, *(name for name in inputs.sources.columns if name.startswith(f"{target}_")))
    result = characterize_detector(
        inputs=poor, config=config, subtasks=dataclasses.replace(QUICK, psf_determiner=never)
    )
    assert result.status.status is Status.INPUT_BROKEN
    assert "'slot_CalibFlux_instFlux' is missing, which measure_ap_corr.refFluxName asks for" in (
        result.status.sentence
    )
