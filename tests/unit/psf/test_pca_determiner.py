"""The determiner `pca` against simulated stars of known PSF, and what happens where there is little to fit.

Degenerate detectors are the kind of known failures K12 (bad numbers), K15 (too few stars) and K19 (NaN under
the mask).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from simulated_stars import candidates, scattered, simulate, truth_profile, with_mask

from finalchar.errors import ConfigError, InputError, PsfError
from finalchar.formats.exposure_catalog import ExposureRecord, read_exposure_catalog, write_exposure_catalog
from finalchar.formats.sources import SourceTable
from finalchar.psf import acceptance, pca_nonlinear
from finalchar.psf.determiners import pca as determiner
from finalchar.psf.pca_spatial import SpatialModel, chi2_of_stars
from finalchar.psf.pca_stamps import pca_stars
from finalchar.psf.shape import adaptive_moments, determinant_radius
from finalchar.psf.stored import model_from_stored

SIDE = 600
SIZE = 27
PROBES = {"x": np.array([60.0, 300.2, 540.7, 300.0]), "y": np.array([80.3, 299.6, 520.0, 60.0])}


def with_flux(found, flux, **columns):
    """Candidates with catalogue rows; columns are full arrays over the candidates."""
    number = len(found)
    flux = np.broadcast_to(np.asarray(flux, dtype=np.float64), number).copy()
    table = {"slot_PsfFlux_instFlux": flux, "slot_PsfFlux_instFluxErr": np.full(number, 100.0)}
    return replace(found, catalogue=SourceTable({**table, **columns}))


def settings(**more):
    return determiner.Settings(**{"stampSize": SIZE, "sizeCellX": 200, "sizeCellY": 200, **more})


def determine(found, exposure, compatibility="fixed", **more):
    return determiner.determine(found, exposure, settings(**more), band="r", compatibility=compatibility)


def truth(x, y, **more):
    """The true PSF, centred."""
    profile = truth_profile(x, y, side=SIDE, fwhm=4.0, **more)
    return profile.drawImage(nx=SIZE, ny=SIZE, scale=1.0, method="no_pixel", dtype=float).array


@pytest.fixture(scope="module")
def places():
    return scattered(60, side=SIDE, seed=4)


@pytest.fixture(scope="module")
def fluxes():
    return np.random.default_rng(2).uniform(3e5, 6e5, 60)


@pytest.fixture(scope="module")
def exposure(places, fluxes):
    return simulate(places, side=SIDE, flux=fluxes, source_noise=True)


@pytest.fixture(scope="module")
def found(exposure, places, fluxes):
    return with_flux(candidates(exposure, places), fluxes)


@pytest.fixture(scope="module")
def fit(found, exposure):
    return determine(found, exposure)


# ------------------------------------------------------------------------------------------------- truth


@pytest.mark.parametrize("more", [{}, {"nonLinearSpatialFit": True}], ids=["linear", "non-linear"])
def test_varying_psf_is_found(found, exposure, more):
    fit = determine(found, exposure, **more)
    # 4.5e5 counts have 0.8 per cent photon noise in the central pixel and 0.15 per cent in the size; 4
    # components with 6 terms share 50 stars, and the probes are at the rim of the stars
    for x, y, kernel in zip(PROBES["x"], PROBES["y"], fit.model.kernel_images(**PROBES), strict=True):
        expected = truth(x, y)
        assert np.abs(kernel - expected).max() < 0.02 * expected.max()
    sizes = determinant_radius(adaptive_moments(fit.model.kernel_images(**PROBES)))
    expected = determinant_radius(
        adaptive_moments(np.stack([truth(*at) for at in zip(*PROBES.values(), strict=True)]))
    )
    np.testing.assert_allclose(sizes, expected, rtol=1e-2)
    assert fit.used.sum() > 40


def test_constant_psf_needs_one_component():
    places = scattered(20, side=SIDE, seed=6)
    exposure = simulate(places, side=SIDE, flux=1e5, variation=0.0)
    fit = determine(with_flux(candidates(exposure, places), 1e5), exposure, nEigenComponents=1)
    assert fit.figures["eigen_images"] == 1
    kernels = fit.model.kernel_images(**PROBES)
    np.testing.assert_array_equal(kernels, np.broadcast_to(kernels[0], kernels.shape))
    assert kernels.sum(axis=(1, 2)) == pytest.approx(1.0, abs=1e-12)


def test_average_position_and_figures(fit, found):
    figures = fit.figures
    average = (found.x[fit.used].mean(), found.y[fit.used].mean())
    assert fit.model.average_position == pytest.approx(average, abs=1e-9)
    assert (figures["average_x"], figures["average_y"]) == fit.model.average_position
    assert figures["stars_used"] == fit.used.sum()
    assert figures["stars_available"] == len(found)
    assert figures["terms"] == 6


def test_accepted(fit, exposure):
    figures = acceptance.check_psf(fit, exposure, acceptance.Settings())
    assert figures["stars_per_term"] == fit.figures["stars_fitted"] / 6
    assert figures["smallest_size"] < figures["average_size"] < figures["largest_size"]


# ----------------------------------------------------------------------------------------- invariances


def test_order_of_the_stars_does_not_matter(fit, found, exposure):
    order = np.random.default_rng(1).permutation(len(found))
    again = determine(found.select(order), exposure)
    np.testing.assert_array_equal(again.used, fit.used[order])
    # the sum of the centroids is all that is done in the given order: none of it is in the kernels
    np.testing.assert_array_equal(again.model.kernel_images(**PROBES), fit.model.kernel_images(**PROBES))


def test_same_stars_give_the_same_bytes(fit, found, exposure):
    again = determine(found, exposure)
    first, second = (f.model.kernel.components for f in (fit, again))
    assert [c.image.tobytes() for c in first] == [c.image.tobytes() for c in second]


def test_parent_coordinates_do_not_matter(fit, found, exposure):
    """The detector may be a part of something larger."""
    box = exposure.box
    moved = replace(exposure, box=type(box)(1000, 2000, 1000 + box.max_x, 2000 + box.max_y))
    shifted = replace(found, x=found.x + 1000, y=found.y + 2000, x0=found.x0 + 1000, y0=found.y0 + 2000)
    again = determine(shifted, moved)
    np.testing.assert_array_equal(again.used, fit.used)
    kernels = again.model.kernel_images(x=PROBES["x"] + 1000, y=PROBES["y"] + 2000)
    # positions are kept in float32: 1e-4 pixel at 2000 times the gradient, 0.3 of the peak per pixel
    expected = fit.model.kernel_images(**PROBES)
    np.testing.assert_allclose(kernels, expected, rtol=0, atol=1e-4 * expected.max())


def test_product_draws_the_same(fit, tmp_path):
    record = ExposureRecord(3, 99, psf=fit.serialized, ap_corr_map={})
    write_exposure_catalog(tmp_path / "catalogue.fits", [record])
    stored = read_exposure_catalog(tmp_path / "catalogue.fits").records[0].psf
    assert (stored.persisted_class, fit.persisted_class) == ("PcaPsf", "PcaPsf")
    model = model_from_stored(stored)
    assert model.average_position == fit.model.average_position
    for drawn, expected in zip(model.images(**PROBES), fit.model.images(**PROBES), strict=True):
        np.testing.assert_array_equal(drawn, expected)


# ---------------------------------------------------------------------------------------------- rejection


def test_star_that_is_two_stars_is_rejected(places, fluxes):
    exposure = simulate(
        np.vstack([places, places[7] + 3.0]), side=SIDE, flux=np.append(fluxes, fluxes[7]), source_noise=True
    )
    fit = determine(with_flux(candidates(exposure, places), fluxes), exposure)
    assert not fit.used[7]
    kernel = fit.model.kernel_images(x=places[7, :1], y=places[7, 1:])[0]
    expected = truth(*places[7])
    assert np.abs(kernel - expected).max() < 0.02 * expected.max()


def test_pixels_under_a_cosmic_ray_do_not_matter(fit, found, exposure):
    row = int(np.flatnonzero(fit.used)[3])
    x, y = int(found.x[row]), int(found.y[row])
    part = np.s_[y + 2 : y + 4, x - 1 : x + 2]
    image = exposure.image.copy()
    image[part] = 1e6
    again = determine(found, with_mask(replace(exposure, image=image), "CR", *part))
    kernels, expected = (f.model.kernel_images(**PROBES) for f in (again, fit))
    assert np.abs(kernels - expected).max() < 0.01 * expected.max()


def test_without_rounds_nothing_is_rejected(found, exposure):
    assert determine(found, exposure, nIterForPsf=0).used.all()


@pytest.mark.parametrize(
    ("number", "rounds"),
    [
        (1, [0, 0, 1]),
        (2, [0, 1, 2]),
        (3, [1, 2, 3]),
        (4, [1, 2, 4]),
        (5, [1, 3, 5]),
        (7, [2, 4, 7]),
        (10, [3, 6, 10]),
    ],
)
def test_so_many_are_rejected_in_each_round(number, rounds, found, exposure):
    """Selection specification 8.6."""
    from finalchar.psf.pca_fit import MaskBits, _Iteration

    config = settings()
    stars, _ = pca_stars(found, exposure, config, size=SIZE, compatibility="fixed")
    work = _Iteration(stars, exposure.box, config, MaskBits(np.int32(0), np.int32(0)), 0, "fixed")
    badness = np.arange(number, dtype=float)
    for iteration, expected in enumerate(rounds):
        worst = work._worst(np.arange(number), badness, iteration)
        np.testing.assert_array_equal(worst, number - 1 - np.arange(expected))


def test_reduced_chi2_of_a_star(found, exposure):
    """By hand (8.4): two pixels off by 2 sigma, one masked, one degree of freedom for the flux."""
    one = stars_of(found, exposure)[0].select(np.array([0]))
    kernel = np.zeros((1, SIZE, SIZE))
    kernel[0, 5, 5:9] = 0.25
    image = 12.0 * kernel.astype(np.float32)
    image[0, 20, 20:22] = (2.0, -2.0)
    image[0, 1, 1] = 1e6
    mask = np.zeros(image.shape, dtype=np.int32)
    mask[0, 1, 1] = 4
    star = replace(one, centred=image, variance=np.ones_like(image), mask=mask)
    result = chi2_of_stars(kernel, star, bad_bits=np.int32(4), lam=0.0)
    assert result.amplitude == pytest.approx(12.0, rel=1e-12)
    assert result.chi2 == pytest.approx(8.0 / (SIZE**2 - 1 - 1), rel=1e-12)


def test_stored_polynomials_are_those_that_were_fitted(found, exposure):
    """The range of the Chebyshev polynomials ends one pixel beyond the last, in fit and file alike."""
    box = replace(exposure.box, min_x=30, max_x=30 + 299)
    coefficients = np.random.default_rng(5).normal(size=(2, 6))
    model = SpatialModel(np.zeros((2, SIZE, SIZE)), coefficients, box, 2)
    x, y = np.array([30.0, 200.5, 329.0]), np.array([0.0, 300.3, 599.0])
    stored = model.stored((0.0, 0.0)).kernel.functions
    expected = np.stack([function.evaluate(x=x, y=y) for function in stored], axis=1)
    np.testing.assert_allclose(model.amplitudes(x=x, y=y), expected, rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------------- cells


def stars_of(found, exposure, compatibility="fixed", **more):
    config = settings(**more)
    return pca_stars(found, exposure, config, size=SIZE, compatibility=compatibility)


def test_cells_go_row_by_row_the_brightest_first(found, exposure):
    stars, _ = stars_of(found, exposure)
    cells = np.floor((found.y[stars.row] + 0.5) / 200) * 3 + np.floor((found.x[stars.row] + 0.5) / 200)
    np.testing.assert_array_equal(stars.cell, cells)
    assert (np.diff(stars.cell) >= 0).all()
    assert (np.diff(stars.flux)[np.diff(stars.cell) == 0] <= 0).all()


def test_of_equal_stars_the_later_goes_first(found, exposure):
    stars, _ = stars_of(with_flux(found, 1e5), exposure)
    assert (np.diff(stars.row)[np.diff(stars.cell) == 0] < 0).all()


def test_first_of_each_cell(found, exposure):
    stars, _ = stars_of(found, exposure)
    eligible = np.ones(len(stars), dtype=bool)
    eligible[0] = False
    rows = stars.first_of_cells(2, eligible)
    assert 0 not in rows
    assert np.unique(stars.cell[rows], return_counts=True)[1].max() == 2
    assert {1, 2} <= set(rows.tolist())
    assert len(stars.first_of_cells(0, eligible)) == len(stars) - 1
    assert len(stars.first_of_cells(2, ~np.ones(len(stars), dtype=bool))) == 0


# -------------------------------------------------------------------------------------- what is left out


def test_flagged_stars_are_left_out(found, exposure):
    flag = np.zeros(len(found), dtype=bool)
    flag[[4, 9]] = True
    fit = determine(with_flux(found, 1e5, slot_PsfFlux_flag=flag), exposure)
    assert fit.figures["stars_flagged"] == 2
    assert not fit.used[[4, 9]].any()


def test_stars_without_a_positive_flux_are_left_out(found, exposure):
    """K12."""
    flux = np.full(len(found), 1e5)
    flux[:5] = np.nan, -5.0, 0.0, np.inf, 1e30
    fit = determine(with_flux(found, flux), exposure)
    assert fit.figures["stars_without_flux"] == 5
    assert not fit.used[:5].any()


def test_pixels_that_are_no_numbers_cost_themselves_only(fit, found, exposure):
    """K19: one pixel in a thousand, under the mask or not, is in most stamps; plain images are like that."""
    holes = np.random.default_rng(1).random((2, *exposure.image.shape)) < 5e-4
    image = np.where(holes[0], np.nan, exposure.image).astype(np.float32)
    variance = np.where(holes[1], np.inf, exposure.variance).astype(np.float32)
    again = determine(found, replace(exposure, image=image, variance=variance))
    assert again.figures["stars_masked"] <= 3
    assert again.used.sum() >= fit.used.sum() - 5
    # 0.3 per cent of the peak is what other realisations of the noise change, too
    expected = fit.model.kernel_images(**PROBES)
    np.testing.assert_allclose(
        again.model.kernel_images(**PROBES), expected, rtol=0, atol=0.005 * expected.max()
    )


def test_stars_with_a_hole_in_the_core_or_hardly_a_pixel_are_left_out(found, exposure):
    image = exposure.image.copy()
    image[int(found.y[2]) + 1, int(found.x[2])] = np.nan
    image[int(found.y[5]) - 20 : int(found.y[5]) + 21, int(found.x[5]) + 3 : int(found.x[5]) + 20] = np.nan
    image[int(found.y[5]) - 20 : int(found.y[5]) + 21, int(found.x[5]) - 20 : int(found.x[5]) - 3] = np.nan
    fit = determine(found, replace(exposure, image=image))
    assert fit.figures["stars_masked"] >= 2
    assert not fit.used[[2, 5]].any()
    assert np.isfinite(fit.model.kernel_images(**PROBES)).all()


@pytest.mark.filterwarnings("error")
def test_pixels_that_are_no_numbers_end_in_a_refusal_in_the_reference(found, exposure):
    image = exposure.image.copy()
    image[int(found.y[2]) + 6, int(found.x[2])] = np.nan
    spoilt = replace(exposure, image=image)
    with pytest.raises(PsfError, match="principal components"):
        determine(found, spoilt, "lsst", nStarPerCell=0, nIterForPsf=0)


def test_stars_at_the_edge_are_left_out(exposure, places, fluxes):
    """Their stamps of 27 pixels fit, those of the fit do not [S-Q20]."""
    at_edge = np.vstack([places, [[15.0, 300.0], [300.0, SIDE - 16.0]]])
    found = with_flux(candidates(exposure, at_edge), np.append(fluxes, [1e6, 1e6]))
    assert len(found) == len(at_edge)
    fit = determine(found, exposure, stampSize=41)
    assert fit.figures["stars_without_stamp"] >= 2
    assert not fit.used[-2:].any()
    in_reference = determine(found, exposure, "lsst", stampSize=41)
    assert "stars_without_stamp" not in in_reference.figures
    assert not in_reference.used[-2:].any()


def test_blends_are_left_out_or_masked(found, exposure):
    peaks = np.zeros(2, dtype=np.int64)
    footprints = replace(
        found.footprints,
        source_id=found.source_id[:1],
        parent=np.zeros(1, np.int64),
        span_offset=np.array([0, 1]),
        span_y=np.array([int(found.y[0])], np.int32),
        span_x0=np.array([int(found.x[0]) - 9], np.int32),
        span_x1=np.array([int(found.x[0]) + 9], np.int32),
        peak_offset=np.array([0, 2]),
        peak_x=(peaks + np.rint(found.x[0]) + [0, 8]).astype(np.int32),
        peak_y=(peaks + np.rint(found.y[0])).astype(np.int32),
        peak_f_x=peaks.astype(np.float32),
        peak_f_y=peaks.astype(np.float32),
        heavy=np.zeros(1, bool),
        heavy_offset=np.zeros(2, np.int64),
    )
    place = np.full(len(found), -1)
    place[0] = 0
    blended = replace(found, footprints=footprints, footprint_index=place)
    stars, left_out = stars_of(blended, exposure, doRejectBlends=True)
    assert left_out["stars_blended"] == 1
    assert 0 not in stars.row
    ignored = exposure.mask_bits(["INTRP"])
    for masks, expected in ((True, True), (False, False)):
        stars, _ = stars_of(blended, exposure, doMaskBlends=masks)
        assert ((stars.mask[stars.row == 0] & ignored) != 0).any() == expected


# ------------------------------------------------------------------------------------- little to fit


def some(found, number):
    return found.select(np.arange(number))


def test_a_single_star_is_not_enough_for_a_polynomial(found, exposure):
    """K15."""
    fit = determine(some(found, 1), exposure)
    assert fit.figures["eigen_images"] == 1
    with pytest.raises(acceptance.PsfRefusedError, match="1 stars for 6 terms"):
        acceptance.check_psf(fit, exposure, acceptance.Settings())


def test_a_single_star_can_be_a_constant_psf(found, exposure):
    fit = determine(some(found, 1), exposure, spatialOrder=0)
    acceptance.check_psf(fit, exposure, acceptance.Settings())
    expected = truth(found.x[0], found.y[0])
    kernel = fit.model.kernel_images(**PROBES)[0]
    # photon noise of one star of 4e5 counts: 0.8 per cent in the central pixel
    assert np.abs(kernel - expected).max() < 0.04 * expected.max()


@pytest.mark.parametrize("components", [4, 60])
def test_no_more_components_than_stars(found, exposure, components, caplog):
    with caplog.at_level(logging.WARNING):
        fit = determine(some(found, 3), exposure, nEigenComponents=components, spatialOrder=0)
    assert fit.figures["eigen_images"] <= 3
    assert f"Only 3 stars for {components} eigen-images" in caplog.text
    assert np.isfinite(fit.model.kernel_images(**PROBES)).all()


@pytest.mark.parametrize("noise", [0.0, 10.0])
@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_stars_that_are_all_alike(noise, compatibility):
    places = np.array([[x, y] for x in (100.25, 250.25, 400.25) for y in (100.5, 250.5, 400.5)])
    exposure = simulate(places, side=SIDE, flux=1e6, variation=0.0, noise=noise)
    variance = np.full_like(exposure.variance, 100.0)
    exposure = replace(exposure, variance=variance)
    found = with_flux(candidates(exposure, places), 1e6)
    try:
        fit = determine(found, exposure, compatibility, spatialOrder=1)
    except PsfError:
        assert (noise, compatibility) == (0.0, "lsst"), "exactly equal stars have no chi-square above 0"
        return
    if compatibility == "fixed":
        kernel = fit.model.kernel_images(**PROBES)
        expected = truth(300, 300, variation=0.0)
        # what is shifted by a kernel of ten taps, and the shear of the truth at the other places
        assert np.abs(kernel[1] - expected).max() < 0.02 * expected.max()


def test_no_candidate(found, exposure):
    with pytest.raises(PsfError, match="no candidate star"):
        determine(some(found, 0), exposure)


def test_no_usable_candidate_says_why(found, exposure):
    flag = np.ones(len(found), dtype=bool)
    with pytest.raises(PsfError, match=r"None of 60 candidate stars .* 60 stars flagged"):
        determine(with_flux(found, 1e5, slot_PsfFlux_flag=flag), exposure)


def test_catalogue_without_psf_flux(found, exposure):
    for table in (None, SourceTable({"id": found.source_id})):
        with pytest.raises(InputError, match="slot_PsfFlux_instFlux"):
            determine(replace(found, catalogue=table), exposure)


def test_down_sampled_stars_are_not_used(found, exposure):
    fit = determine(found, exposure, maxCandidates=30)
    assert fit.figures["stars_down_sampled"] == 30
    assert fit.used.sum() <= 30


# ----------------------------------------------------------------------------------------------- settings


def test_stamps_of_the_candidates(found, exposure):
    fit = determine(found, exposure, stampSize=None)
    assert fit.model.size == found.size


@pytest.mark.parametrize(
    ("name", "value"),
    [("stampSize", 40), ("nEigenComponents", 0), ("sizeCellX", 9), ("lam", -0.1), ("tolerance", 0.0)],
)
def test_impossible_settings_are_refused(name, value):
    config = settings()
    with pytest.raises(ConfigError, match=name):
        setattr(config, name, value)


def test_stamps_too_small_to_shift_are_refused():
    with pytest.raises(ConfigError, match="smaller than 9 pixels"):
        determiner.check_settings(settings(stampSize=7))


def test_borders_that_leave_nothing_are_refused(found, exposure):
    with pytest.raises(
        ConfigError, match=r"psf_determiner\.pca\.borderWidth is 10, which leaves less than 9 of"
    ):
        determine(found, exposure, borderWidth=10)
    with pytest.raises(ConfigError, match=r"make_psf_candidates\.borderWidth is 11"):
        determine(replace(found, border_width=11), exposure)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
@pytest.mark.filterwarnings("error")
def test_troubles_end_in_a_psf_or_in_a_sentence(found, exposure, seed, compatibility):
    rng = np.random.default_rng(seed)
    image, variance, mask = (plane.copy() for plane in (exposure.image, exposure.variance, exposure.mask))
    for plane, values in ((image, (np.nan, np.inf, 1e6, -1e6)), (variance, (np.nan, np.inf, 0.0, -5.0))):
        for x, y in rng.integers(0, SIDE, (rng.integers(0, 5), 2)):
            plane[y : y + 5, x : x + 5] = rng.choice(values)
    for x, y in rng.integers(0, SIDE, (8, 2)):
        mask[y : y + 30, x : x + 30] |= exposure.mask_bits([rng.choice(["BAD", "CR", "INTRP", "DETECTED"])])
    flux = found.catalogue["slot_PsfFlux_instFlux"].copy()
    flux[rng.integers(0, len(flux))] = rng.choice([np.nan, np.inf, 0.0, -1e4, 1e9])
    stars = with_flux(found, flux).select(rng.permutation(len(found))[: rng.integers(1, 61)])
    more = {
        "stampSize": int(rng.choice([15, 27, 41])),
        "nEigenComponents": int(rng.integers(1, 9)),
        "spatialOrder": int(rng.integers(0, 4)),
        "nStarPerCell": int(rng.integers(0, 6)),
        "nStarPerCellSpatialFit": int(rng.integers(0, 8)),
        "constantWeight": bool(rng.integers(0, 2)),
        "nIterForPsf": int(rng.integers(0, 4)),
        "nonLinearSpatialFit": bool(rng.integers(0, 2)),
        "pixelThreshold": float(rng.choice([0.0, 3.0])),
    }
    troubled = replace(exposure, image=image, variance=variance, mask=mask)
    try:
        fit = determine(stars, troubled, compatibility, **more)
        acceptance.check_psf(fit, troubled, acceptance.Settings(), compatibility=compatibility)
    except PsfError:
        return
    assert fit.used.any()
    x, y = fit.model.average_position
    assert np.isfinite(fit.model.kernel_images(x=x, y=y)).all()


def test_non_linear_fit_lowers_chi2(found, exposure):
    """It starts from the linear solution and never ends above it."""
    linear, free = (
        determine(found, exposure, nonLinearSpatialFit=on, nIterForPsf=0, lam=0.0) for on in (False, True)
    )
    assert free.figures["chi_squared"] < linear.figures["chi_squared"]


def test_a_minimisation_that_does_not_end_is_refused(found, exposure, monkeypatch):
    """K16."""
    monkeypatch.setattr(pca_nonlinear, "MOST_STEPS", 1)
    fit = determine(found, exposure, nonLinearSpatialFit=True, tolerance=1e-12)
    with pytest.raises(acceptance.PsfRefusedError, match="did not converge"):
        acceptance.check_psf(fit, exposure, acceptance.Settings())
