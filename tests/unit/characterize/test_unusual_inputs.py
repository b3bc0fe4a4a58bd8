"""Unusual pixels and rows through the whole chain: the right status, no silent number, no harm to others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gaussian_psf import gaussian_determiner, quick_config

from finalchar.characterize import Subtasks, characterize_detector, read_detector
from finalchar.parity.survey import isolated_stars, paths_of
from finalchar.status import Status

ROOT = Path(__file__).parents[3] / "tests/data/golden_small"
VISIT, DETECTOR = 2026011500101, 0
QUICK = Subtasks(psf_determiner=gaussian_determiner)
FLUXES = ("base_PsfFlux", "base_GaussianFlux")


@pytest.fixture(scope="module")
def config():
    return quick_config()


@pytest.fixture(scope="module")
def inputs(config):
    exposure, src, band = paths_of(ROOT, VISIT, DETECTOR)
    isolated = isolated_stars(ROOT, VISIT, DETECTOR, band, config)
    return read_detector(
        visit=VISIT, detector=DETECTOR, band=band, exposure=exposure, src=src, isolated=isolated
    )


@pytest.fixture(scope="module")
def plain(inputs, config):
    return characterize_detector(inputs=inputs, config=config, subtasks=QUICK)


def with_planes(inputs, **planes):
    return dataclasses.replace(inputs, exposure=dataclasses.replace(inputs.exposure, **planes))


def with_column(inputs, name, values):
    table = inputs.sources.with_columns({inputs.sources.resolve(name): values})
    return dataclasses.replace(inputs, sources=table)


def first_star(inputs, plain):
    """Return row of the catalogue, pixel x and y of the first used star."""
    star = int(np.flatnonzero(plain.table["calib_psf_used"])[0])
    row = int(np.flatnonzero(inputs.sources["id"] == plain.table["id"][star])[0])
    x, y = (int(np.floor(inputs.sources[f"slot_Centroid_{axis}"][row] + 0.5)) for axis in "xy")
    return star, row, x, y


def check_no_silent_number(table):
    for name in FLUXES:
        good = ~table[f"{name}_flag"]
        assert np.isfinite(table[f"{name}_instFlux"][good]).all(), name


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("plane", ["image", "variance"])
def test_one_bad_pixel_flags_its_star_only(inputs, plain, config, plane, value):
    star, _, x, y = first_star(inputs, plain)
    pixels = getattr(inputs.exposure, plane).copy()
    pixels[y + 2, x] = value
    result = characterize_detector(
        inputs=with_planes(inputs, **{plane: pixels}), config=config, subtasks=QUICK
    )
    assert result.status.status is Status.OK
    check_no_silent_number(result.table)
    flagged = result.table["base_PsfFlux_flag"] & ~plain.table["base_PsfFlux_flag"]
    assert flagged.tolist() == [row == star for row in range(len(flagged))]
    others = ~flagged
    for name in ("ext_shapeHSM_HsmSourceMoments_xx", "ext_shapeHSM_HsmPsfMoments_xx"):
        np.testing.assert_allclose(result.table[name][others], plain.table[name][others], rtol=1e-6)


@pytest.mark.parametrize(
    ("plane", "value", "used"),
    [
        ("image", np.nan, 0),
        ("image", 0.0, 0),
        ("variance", 0.0, 0),
        ("variance", np.nan, 0),
        ("variance", -9.0, 0),
    ],
)
def test_a_plane_without_a_sound_number_is_a_failed_psf(inputs, config, plane, value, used):
    pixels = np.full_like(getattr(inputs.exposure, plane), value)
    result = characterize_detector(inputs=with_planes(inputs, **{plane: pixels}), config=config)
    assert result.status.status is Status.PSF_FAILED
    assert result.record.psf is None
    assert result.status.counts["used"] == used
    assert np.isnan(result.table["base_PsfFlux_instFlux"]).all()


def test_everything_masked_is_a_failed_psf(inputs, config):
    mask = inputs.exposure.mask | inputs.exposure.mask_bits(["BAD"])
    result = characterize_detector(inputs=with_planes(inputs, mask=mask), config=config)
    assert result.status.status is Status.PSF_FAILED
    assert "0 of at least 6" in result.status.sentence


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf, -1e9, 1e12, -0.5, 0.0, 3.0])
def test_a_centroid_off_the_image_costs_its_star(inputs, plain, config, x):
    """K12: not finite, far away, at the very edge: never in the fit, flagged, and the others as before."""
    star, row, _, _ = first_star(inputs, plain)
    column = inputs.sources["slot_Centroid_x"].copy()
    column[row] = x
    result = characterize_detector(
        inputs=with_column(inputs, "slot_Centroid_x", column), config=config, subtasks=QUICK
    )
    assert result.status.status is Status.OK
    assert not result.table["calib_psf_used"][star]
    assert result.status.counts["good_stamps"] == plain.status.counts["good_stamps"] - 1
    assert result.table["base_PsfFlux_flag"][star]
    assert result.table["finalchar_Plausibility_flag"][star]
    check_no_silent_number(result.table)
    others = np.arange(len(plain.table)) != star
    name = "ext_shapeHSM_HsmSourceMoments_xx"
    np.testing.assert_allclose(result.table[name][others], plain.table[name][others], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_ids_of_either_kind(inputs, plain, config, dtype):
    """K10: neighbouring ids beyond 2**53, signed or not, give the same stars."""
    shift = 2**62 - int(inputs.sources["id"].max())

    def moved(ids):
        return np.where(ids == 0, 0, ids + shift)

    footprints = dataclasses.replace(
        inputs.footprints,
        source_id=moved(inputs.footprints.source_id).astype(dtype),
        parent=moved(inputs.footprints.parent).astype(dtype),
    )
    isolated = dataclasses.replace(inputs.isolated, source_id=moved(inputs.isolated.source_id))
    changed = with_column(inputs, "id", moved(inputs.sources["id"]).astype(dtype))
    changed = dataclasses.replace(changed, footprints=footprints, isolated=isolated)
    result = characterize_detector(inputs=changed, config=config, subtasks=QUICK)
    assert result.table["id"].dtype == np.int64
    np.testing.assert_array_equal(result.table["id"], moved(plain.table["id"]))
    for name in ("calib_psf_used", "calib_psf_reserved", "base_PsfFlux_flag"):
        np.testing.assert_array_equal(result.table[name], plain.table[name])


def test_rows_in_any_order(inputs, plain, config):
    """K11: the catalogue shuffled, its footprints not."""
    order = np.random.default_rng(5).permutation(len(inputs.sources))
    shuffled = dataclasses.replace(inputs, sources=inputs.sources.select(order))
    result = characterize_detector(inputs=shuffled, config=config, subtasks=QUICK)
    back = np.argsort(result.table["id"])
    assert result.status.status is Status.OK
    for name in ("id", "calib_psf_reserved", "calib_psf_candidate"):
        np.testing.assert_array_equal(result.table[name][back], plain.table[name])
    # The fluxes are corrected with a fit whose sums run in another order.
    np.testing.assert_allclose(
        result.table["base_PsfFlux_instFlux"][back], plain.table["base_PsfFlux_instFlux"], rtol=1e-10
    )


@pytest.mark.parametrize("number", [1, 2])
def test_hardly_any_star(inputs, plain, config, number):
    """One or two stars below S/N 200: a constant PSF where that is wanted, no aperture correction."""
    few = config.checked()
    few.psf_determiner.piff.zerothOrderInterpNotEnoughStars = True
    kept = np.isin(inputs.sources["id"], plain.table["id"][plain.table["calib_psf_used"]][:number])
    changed = with_column(inputs, "base_GaussianFlux_flag", inputs.sources["base_GaussianFlux_flag"] | ~kept)
    result = characterize_detector(inputs=changed, config=few)
    assert len(result.table) == result.status.counts["used"] == number
    assert result.record.psf is not None
    assert result.status.status is Status.AP_CORR_FAILED
    assert result.table["base_PsfFlux_flag_apCorr"].all()


def moved_frame(inputs, dx, dy):
    """The same pixels in another parent frame: the first one is (dx, dy)."""
    exposure, footprints, sources = inputs.exposure, inputs.footprints, inputs.sources
    box = exposure.box
    moved_box = dataclasses.replace(
        box, min_x=box.min_x + dx, max_x=box.max_x + dx, min_y=box.min_y + dy, max_y=box.max_y + dy
    )
    columns = {
        sources.resolve(f"slot_Centroid_{axis}"): sources[f"slot_Centroid_{axis}"] + step
        for axis, step in (("x", dx), ("y", dy))
    }
    shifts = {"span_x0": dx, "span_x1": dx, "peak_x": dx, "peak_f_x": dx}
    shifts |= {"span_y": dy, "peak_y": dy, "peak_f_y": dy}
    spans = {
        name: (getattr(footprints, name) + step).astype(getattr(footprints, name).dtype)
        for name, step in shifts.items()
    }
    return dataclasses.replace(
        inputs,
        exposure=dataclasses.replace(exposure, box=moved_box),
        sources=sources.with_columns(columns),
        footprints=dataclasses.replace(footprints, **spans),
    )


@pytest.mark.parametrize(("dx", "dy"), [(1024, 512), (-700, 3000)])
def test_the_parent_frame_does_not_matter(inputs, config, dx, dy):
    """K09: a cut-out whose first pixel is not (0, 0), also with negative positions."""
    here = characterize_detector(inputs=inputs, config=config)
    there = characterize_detector(inputs=moved_frame(inputs, dx, dy), config=config)
    assert there.status.status is here.status.status is Status.OK
    for name in ("id", "calib_psf_used", "base_PsfFlux_flag", "base_GaussianFlux_flag", "psf_max_value"):
        np.testing.assert_array_equal(there.table[name], here.table[name])
    for name in (
        "base_PsfFlux_instFlux",
        "base_GaussianFlux_instFlux",
        "ext_shapeHSM_HsmPsfMoments_xx",
        "ext_shapeHSM_HsmPsfMoments_xy",
        "ext_shapeHSM_HsmSourceMoments_yy",
    ):
        # Positions of some thousand pixels keep 1e-12 of a pixel; moments stop at 1e-6 of their value.
        np.testing.assert_allclose(there.table[name], here.table[name], rtol=2e-6, err_msg=name)
    offset = there.table["ext_shapeHSM_HsmSourceMoments_x"] - here.table["ext_shapeHSM_HsmSourceMoments_x"]
    np.testing.assert_allclose(offset, dx, atol=1e-5)
    for name in ("base_PsfFlux_instFlux", "base_GaussianFlux_instFlux"):
        one = here.record.ap_corr_map[name].evaluate(x=[300.0], y=[400.0])
        other = there.record.ap_corr_map[name].evaluate(x=[300.0 + dx], y=[400.0 + dy])
        np.testing.assert_allclose(other, one, rtol=2e-6)


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_predicted_errors_of_the_psf_at_every_star(inputs, compatibility):
    """Acceptance figures in columns of our own: at no star above the worst place; not in lsst."""
    config = quick_config()
    config.compatibility = compatibility
    result = characterize_detector(inputs=inputs, config=config)
    assert result.status.status is Status.OK, result.status.sentence
    prefix = "finalchar_Plausibility_psf"
    if compatibility == "lsst":
        assert not [name for name in result.table if name.startswith("finalchar_")]
        return
    for name, figure in (("Size", "size"), ("E1", "e1"), ("E2", "e2")):
        errors = result.table[f"{prefix}{name}Error"]
        assert errors.dtype == np.float32
        assert (errors > 0).all()
        # the worst place is a corner of the detector, beyond all stars
        assert errors.max() <= np.float32(result.status.figures[f"predicted_{figure}_error"])


def test_a_determiner_without_evidence_predicts_no_errors(plain):
    assert np.isnan(plain.table["finalchar_Plausibility_psfSizeError"]).all()


@pytest.fixture(params=["piff", "pca", "psfex"])
def real(request):
    """The configuration with one of the determiners."""
    config = quick_config()
    config.psf_determiner.name = request.param
    if request.param == "psfex":
        request.getfixturevalue("psfex")
        config.psf_determiner.psfex.photometricFluxField = "base_CircularApertureFlux_12_0_instFlux"
    return config


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9, 1e12])
def test_every_determiner_bears_places_that_are_none(inputs, real, value):
    x = inputs.sources["slot_Centroid_x"].copy()
    x[::7] = value
    result = characterize_detector(inputs=with_column(inputs, "slot_Centroid_x", x), config=real)
    assert result.status.status is Status.OK, result.status.sentence
    lost = np.isin(result.table["id"], inputs.sources["id"][::7])
    assert lost.any()
    assert not result.table["calib_psf_used"][lost].any()
    assert np.isfinite(result.table["base_PsfFlux_instFlux"][~lost]).all()
    errors = result.table["finalchar_Plausibility_psfSizeError"]
    assert np.isfinite(errors[~lost]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_no_determiner_makes_a_psf_of_nothing(inputs, real, value):
    image = np.full_like(inputs.exposure.image, value)
    result = characterize_detector(inputs=with_planes(inputs, image=image), config=real)
    assert result.status.status is Status.PSF_FAILED, result.status.sentence
    assert result.record.psf is None


def test_no_determiner_makes_a_psf_of_masked_pixels(inputs, real):
    bits = inputs.exposure.mask_bits(["BAD", "CR", "INTRP", "SAT"])
    result = characterize_detector(inputs=with_planes(inputs, mask=inputs.exposure.mask | bits), config=real)
    assert result.status.status is Status.PSF_FAILED, result.status.sentence
    assert result.record.psf is None
