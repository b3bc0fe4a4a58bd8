"""The Piff determiner on simulated stars: truth, equality with plain Piff, settings, and known failures."""

from __future__ import annotations

import logging
from dataclasses import replace

import galsim
import numpy as np
import piff
import pytest
from simulated_stars import FlatSky, candidates, scattered, simulate, truth_profile, with_mask

from finalchar.errors import ConfigError, PsfError
from finalchar.formats.psfs import loads_piff
from finalchar.psf import acceptance, determiners
from finalchar.psf.determiners import piff as determiner
from finalchar.psf.piff_model import piff_model
from finalchar.psf.shape import adaptive_moments, determinant_radius

TINY = {"modelSize": 9, "stampSize": 11, "interpolant": "Lanczos(3)"}
QUICK = {"modelSize": 17, "stampSize": 19, "spatialOrder": 1, "interpolant": "Lanczos(5)"}


def settings(**more):
    return determiner.Settings(**{**QUICK, **more})


@pytest.fixture(scope="module")
def places():
    return scattered(24)


@pytest.fixture(scope="module")
def exposure(places):
    return simulate(places)


def determine(exposure, places, *, compatibility="fixed", color=None, size=27, **more):
    chosen = candidates(exposure, places, color=color, size=size)
    return determiner.determine(chosen, exposure, settings(**more), band="r", compatibility=compatibility)


def true_size(x, y, side=400, fwhm=4.0):
    image = truth_profile(x, y, side=side, fwhm=fwhm).drawImage(
        nx=25, ny=25, scale=1.0, method="no_pixel", dtype=float
    )
    return float(determinant_radius(adaptive_moments(image.array))[0])


def test_the_registry_finds_the_determiner():
    assert "piff" in determiners.names()
    module = determiners.get("piff")
    assert module.NAME == "piff"
    assert issubclass(module.Settings, object)
    with pytest.raises(ConfigError, match=r"no PSF determiner 'psf'; did you mean .* There are: .*piff"):
        determiners.get("psf")


# ------------------------------------------------------------------------------------------------ truth


def test_the_fit_recovers_the_true_size_everywhere(exposure, places):
    fit = determine(exposure, places)
    x, y = np.array([60.0, 200.0, 340.0]), np.array([330.0, 200.0, 70.0])
    sizes = determinant_radius(adaptive_moments(fit.model.kernel_images(x=x, y=y)))
    truth = np.array([true_size(a, b) for a, b in zip(x, y, strict=True)])
    # Signal-to-noise of a star is about 400, of a size with 24 stars and 3 terms about 0.1 per cent.
    np.testing.assert_allclose(sizes, truth, rtol=0.006)
    assert fit.used.all()
    assert fit.figures["stars_used"] == 24
    assert fit.figures["terms"] == fit.figures["minimum_stars"] == 3


def test_the_fit_is_the_one_of_plain_piff(exposure, places):
    """The same numbers through Piff's own way of making stars, without any of our code."""
    fit = determine(exposure, places)
    wcs = galsim.PixelScale(0.2)
    stars = []
    for k, (x, y) in enumerate(places):
        x0, y0 = (int(np.floor(value + 0.5)) - 9 for value in (x, y))
        pixels = exposure.image[y0 : y0 + 19, x0 : x0 + 19]
        flat = np.polyfit(pixels.ravel(), exposure.variance[y0 : y0 + 19, x0 : x0 + 19].ravel(), 1)[1]
        weight = 1 / flat
        total = np.sum(weight * (pixels * pixels))
        weight *= min(1, 200 / ((total - 361) / np.sqrt(total))) ** 2
        image = galsim.Image(pixels.astype(float), xmin=x0, ymin=y0, wcs=wcs)
        weights = galsim.Image(np.full((19, 19), weight), xmin=x0, ymin=y0, wcs=wcs)
        data = piff.StarData(image, galsim.PositionD(x, y), weight=weights, properties={"starId": k})
        stars.append(piff.Star(data, None))
    config = {
        "type": "Simple",
        "model": {"type": "PixelGrid", "scale": 0.2, "size": 17, "interp": "Lanczos(5)"},
        "interp": {"type": "BasisPolynomial", "order": [1, 1], "keys": ["x", "y"]},
        "outliers": {"type": "Chisq", "nsigma": 4.0, "max_remove": 0.05},
        "max_iter": 15,
    }
    plain = piff.PSF.process(config)
    plain.set_context({0: wcs})
    plain.fit(stars)
    array = plain.draw(123.4, 210.9, stamp_size=19).array
    ours = fit.model.image(x=123.4, y=210.9)
    # Rounding of weights and of the normal equations, relative to the peak.
    np.testing.assert_allclose(ours.array, array / array.sum(), atol=1e-12)
    assert fit.figures["chi_squared"] == pytest.approx(plain.chisq, rel=1e-10)


def test_outliers_are_not_used_and_marked_so(places):
    clean = simulate(places)
    x, y = places[5]
    image = clean.image.copy()
    image[int(y) - 3 : int(y) + 3, int(x) + 3] += 1500
    fit = determine(replace(clean, image=image), places)
    assert not fit.used[5]
    assert fit.used.sum() >= 22
    assert fit.figures["stars_available"] == 24


# --------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("number", "most", "expected"), [(20, 5, [1, 3, 5, 8, 18]), (5, 5, [0, 1, 2, 3, 4])])
def test_down_sampling_draws_as_the_reference(number, most, expected):
    rows = determiner.down_sample(number, settings(maxCandidates=most))
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("number", "missing"), [(310, {9, 11, 38, 74, 106, 169, 200, 219, 274, 277}), (301, {277})]
)
def test_down_sampling_from_many(number, missing):
    assert set(range(number)) - set(determiner.down_sample(number, settings())) == missing


def test_down_sampled_stars_are_not_used(exposure, places):
    fit = determine(exposure, places, maxCandidates=12)
    assert fit.used.sum() <= 12
    assert fit.figures["stars_down_sampled"] == 12


@pytest.mark.parametrize(
    ("more", "needed"),
    [
        ({"modelSize": 25, "stampSize": 21}, 25),
        ({"modelSize": 25, "stampSize": 25, "useCoordinates": "sky"}, 36),
    ],
)
def test_stamps_smaller_than_the_model_are_refused(more, needed):
    """K14: named before any star is looked at."""
    with pytest.raises(ConfigError, match=f"stampSize is .*at least {needed}"):
        determiner.check_settings(settings(**more))


def test_finer_sampling_needs_smaller_stamps_and_the_reference_asks_for_larger():
    """S-Q12: modelSize 27 at samplingSize 0.5 covers 13.5 detector pixels; the reference asks for 54."""
    chosen = settings(modelSize=27, samplingSize=0.5, stampSize=15)
    determiner.check_settings(chosen)
    with pytest.raises(ConfigError, match="at least 54"):
        determiner.check_settings(chosen, compatibility="lsst")


@pytest.mark.parametrize("value", ["Lanczos", "galsim.Lanczos(x)", "eval('1')", "Quintic"])
def test_interpolants_are_a_closed_list(value):
    with pytest.raises(ValueError, match="interpolant"):
        determiner.Settings(interpolant=value)


@pytest.mark.parametrize("value", ["Lanczos(3)", "galsim.Lanczos(7)", "galsim.Quintic"])
def test_known_interpolants_pass(value):
    assert determiner.Settings(interpolant=value).interpolant == value


def test_even_stamps_are_refused():
    with pytest.raises(ValueError, match="odd"):
        determiner.Settings(stampSize=24)


def test_order_by_band(exposure, places):
    fit = determine(exposure, places, spatialOrderPerBand={"r": 0, "i": 2})
    assert fit.figures["terms"] == 1


@pytest.mark.parametrize("solver", ["scipy", "cpp", "qr"])
def test_solvers_agree(exposure, places, solver):
    base = determine(exposure, places, **TINY).model.kernel_image(x=100, y=300).array
    other = determine(exposure, places, **TINY, piffBasisPolynomialSolver=solver).model
    # Conditioning of the normal equations at order 1: about 1e7 roundings.
    np.testing.assert_allclose(other.kernel_image(x=100, y=300).array, base, atol=1e-8)


def test_a_larger_stamp_than_the_candidates_is_cut_with_a_warning(exposure, places, caplog):
    with caplog.at_level(logging.WARNING):
        fit = determine(exposure, places, stampSize=31, size=21)
    assert fit.model.size == 21
    assert "stampSize 31 is larger" in caplog.text


def test_stamp_size_of_the_candidates(exposure, places):
    assert determine(exposure, places, stampSize=None, size=23).model.size == 23


def test_the_drawn_size_grows_with_the_sampling(exposure, places):
    """S-Q12, kept: n = 2 floor(0.5 t / samplingSize) + 1 detector pixels."""
    fit = determine(exposure, places, samplingSize=0.5, modelSize=27, stampSize=19)
    assert fit.model.size == 39


def test_complete_configuration_as_yaml(exposure, places):
    text = """
    type: Simple
    model: {type: Moffat, beta: 3.5, fastfit: True}
    interp: {type: Polynomial, order: 1}
    max_iter: 5
    """
    fit = determine(exposure, places, piffPsfConfigYaml=text)
    x, y = 200.0, 210.0
    size = determinant_radius(adaptive_moments(fit.model.kernel_image(x=x, y=y).array))[0]
    # An untruncated Moffat fitted by moments: a per cent.
    assert size == pytest.approx(true_size(x, y), rel=0.02)
    _, _, again = loads_piff(fit.serialized)
    assert type(again.model).__name__ == "Moffat"
    assert fit.evidence is None


@pytest.mark.parametrize("text", ["[", "7", "model: {}"])
def test_a_broken_yaml_configuration_is_named(exposure, places, text):
    with pytest.raises(ConfigError, match="piffPsfConfigYaml"):
        determine(exposure, places, piffPsfConfigYaml=text)


def test_a_configuration_that_piff_refuses_is_a_failed_psf(exposure, places):
    with pytest.raises(PsfError, match="cannot be configured"):
        determine(exposure, places, piffPsfConfigYaml="{model: {type: None}, interp: {type: Mean}}")


def test_piff_messages_reach_the_log_by_level(exposure, places, caplog):
    with caplog.at_level(logging.DEBUG):
        determine(exposure, places, piffLoggingLevel=2)
    assert "Piff: Iteration 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        determine(exposure, places)
    assert "Piff" not in caplog.text


def test_stamps_are_kept_on_demand(exposure, places):
    _, _, lean = loads_piff(determine(exposure, places).serialized)
    assert not hasattr(lean.stars[0].data, "image")
    _, _, full = loads_piff(determine(exposure, places, debugStarData=True).serialized)
    assert full.stars[0].image.array.shape == (19, 19)


# ----------------------------------------------------------------------------------------------- colours


def test_colour_is_a_variable_and_missing_colours_are_the_mean(places):
    color = np.linspace(0.5, 2.5, len(places)).astype(np.float32)
    stars = np.stack([simulate(places, fwhm=f, variation=0).image for f in (3.6, 4.4)])
    exposure = simulate(places)
    image = exposure.image.copy()
    for (x, y), c in zip(places, color, strict=True):
        part = np.s_[int(y) - 15 : int(y) + 16, int(x) - 15 : int(x) + 16]
        share = (c - 0.5) / 2
        image[part] = (1 - share) * stars[0][part] + share * stars[1][part]
    exposure = replace(exposure, image=image)
    color[3] = np.nan
    chosen = candidates(exposure, places, color=color)
    fit = determiner.determine(
        chosen, exposure, settings(useColor=True, color={"r": "g-i"}), band="r", compatibility="fixed"
    )
    assert fit.figures["terms"] == 4
    assert fit.model.average_color == pytest.approx(np.nanmean(color.astype(float)), abs=1e-12)
    sizes = determinant_radius(
        adaptive_moments(fit.model.kernel_images(x=200, y=200, color=np.array([0.5, 2.5, np.nan])))
    )
    # Bluest, reddest, mean.  The sizes of the two profiles differ by 20 per cent (pixel included: 19).
    assert sizes[1] / sizes[0] == pytest.approx(1.19, abs=0.03)
    assert sizes[0] < sizes[2] < sizes[1]


@pytest.mark.parametrize("known", [0, 1, 24])
def test_colours_that_determine_no_term(exposure, places, known, caplog):
    """S-Q9, K14: no star with a colour, one, or all with the same; the PSF is that without colour term."""
    color = np.full(len(places), np.nan, np.float32)
    color[:known] = 1.2
    chosen = candidates(exposure, places, color=color)
    fit = determiner.determine(chosen, exposure, settings(useColor=True, color={"r": "g-i"}), band="r")
    assert (fit.figures["terms"], fit.figures["color_order"]) == (3, 0)
    assert "order 0 in colour, not 1" in caplog.text
    plain = determine(exposure, places)
    for value in (np.nan, 2.5):
        np.testing.assert_allclose(
            fit.model.kernel_image(x=100, y=300, color=value).array,
            plain.model.kernel_image(x=100, y=300).array,
            atol=1e-9,  # the same equations but for one column of ones
        )


def test_two_colours_make_a_line_and_no_parabola(exposure, places):
    color = np.where(np.arange(len(places)) % 2, 0.5, 1.5).astype(np.float32)
    chosen = candidates(exposure, places, color=color)
    more = settings(useColor=True, color={"r": "g-i"}, colorOrder=2)
    fit = determiner.determine(chosen, exposure, more, band="r")
    assert fit.figures["color_order"] == 1


def test_without_any_colour(exposure, places):
    """S-Q9: the reference ends the detector; here the mean colour is 0 and its kind the configured one."""
    color = np.full(len(places), np.nan, np.float32)
    chosen = candidates(exposure, places, color=color, color_type="")
    more = settings(useColor=True, color={"r": "g-i"})
    fit = determiner.determine(chosen, exposure, more, band="r")
    assert fit.model.average_color == 0.0
    _, _, again = loads_piff(fit.serialized)
    assert again.stars[0]["colorType"] == "g-i"
    with pytest.raises(PsfError, match="S-Q9"):
        determiner.determine(chosen, exposure, more, band="r", compatibility="lsst")


def test_colours_of_several_kinds_are_refused(exposure, places):
    chosen = candidates(exposure, places, color=np.ones(len(places)))
    kinds = chosen.color_type.copy()
    kinds[0] = "r-i"
    with pytest.raises(PsfError, match="g-i, r-i"):
        determiner.determine(replace(chosen, color_type=kinds), exposure, settings(useColor=True), band="r")


def test_more_terms_with_colour_need_more_stars(exposure, places):
    """S-Q12: order 2 with colour has 9 terms; the reference asks for 7 stars."""
    color = np.linspace(0, 1, len(places))
    chosen = candidates(exposure, places, color=color).select(np.arange(8))
    more = settings(**TINY, spatialOrder=2, useColor=True)
    with pytest.raises(PsfError, match="8 of at least 9"):
        determiner.determine(chosen, exposure, more, band="r")
    determiner.determine(chosen, exposure, more, band="r", compatibility="lsst")


# -------------------------------------------------------------------------------------------- few stars


def test_no_star_at_all(exposure, places):
    chosen = candidates(exposure, places).select(np.zeros(0, np.int64))
    with pytest.raises(PsfError, match="no candidate"):
        determiner.determine(chosen, exposure, settings(), band="r")


def test_too_few_stars(exposure, places):
    with pytest.raises(PsfError, match="2 of at least 3"):
        determine(exposure, places[:2])


def test_too_few_stars_give_a_constant_psf_on_demand(exposure, places, caplog):
    fit = determine(exposure, places[:2], zerothOrderInterpNotEnoughStars=True)
    assert fit.figures["terms"] == 1
    assert fit.used.all()
    kernels = fit.model.kernel_images(x=[10.0, 390.0], y=[10.0, 390.0])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert "constant PSF" in caplog.text
    acceptance.check_psf(fit, exposure, acceptance.Settings())


@pytest.fixture(scope="module")
def four_stars_with_two_outliers(places):
    exposure = simulate(places[:4])
    image = exposure.image.copy()
    for k in (1, 3):
        x, y = places[k]
        image[int(y) - 4 : int(y) + 5, int(x) + 2 + k] += 4000
    return replace(exposure, image=image), places[:4]


def test_stars_are_counted_again_after_rejection(four_stars_with_two_outliers):
    """K15: what counts is the number of used stars."""
    exposure, places = four_stars_with_two_outliers
    with pytest.raises(PsfError, match=r"[012] of at least 3"):
        determine(exposure, places, outlierMaxRemove=0.5, maxSNR=1000.0, outlierNSigma=2.0)


def test_the_second_fit_is_of_order_zero(four_stars_with_two_outliers):
    """S-Q12: after rejection the constant model is fitted anew; the reference fails here."""
    exposure, places = four_stars_with_two_outliers
    more = {"outlierMaxRemove": 0.5, "maxSNR": 1000.0, "outlierNSigma": 2.0}
    fit = determine(exposure, places, zerothOrderInterpNotEnoughStars=True, **more)
    assert fit.figures["terms"] == 1
    with pytest.raises(PsfError, match="S-Q12"):
        determine(exposure, places, zerothOrderInterpNotEnoughStars=True, compatibility="lsst", **more)


# -------------------------------------------------------------------------------------- known failures

FAILING_SCALES = [0.16204867619680974, 0.17609346955379712]


@pytest.mark.parametrize("scale", FAILING_SCALES)
def test_no_detector_is_lost_to_rounding(scale):
    """S-Q27: with model and stamp of 25 these scales lose every star in the reference."""
    assert 25 * scale / scale > 25
    places = scattered(4, side=160, margin=30, seed=8)
    exposure = simulate(places, side=160, wcs=FlatSky(scale))
    more = {"modelSize": 25, "stampSize": 25, "spatialOrder": 0}
    fit = determine(exposure, places, **more)
    assert fit.used.all()
    with pytest.raises(PsfError, match="4 stars are smaller than the model"):
        determine(exposure, places, compatibility="lsst", **more)


def test_the_repaired_scale_is_the_same_to_rounding():
    places = scattered(4, side=160, margin=30, seed=8)
    good = 0.17348933568819352
    images = []
    for scale in (good, FAILING_SCALES[1]):
        exposure = simulate(places, side=160, wcs=FlatSky(scale))
        fit = determine(exposure, places, modelSize=25, stampSize=25, spatialOrder=0)
        images.append(fit.model.kernel_image(x=80, y=80).array)
    # The scale itself drops out of a model in pixel coordinates.
    np.testing.assert_allclose(images[0], images[1], atol=1e-10)


def test_one_bad_pixel_costs_one_pixel(exposure, places):
    """K19: NaN in image or variance, zero or infinite variance, under a mask or not."""
    image, variance = exposure.image.copy(), exposure.variance.copy()
    x, y = np.floor(places + 0.5).astype(int).T
    image[y[0] + 5, x[0] + 5] = np.nan
    image[y[1] + 5, x[1] - 5] = np.inf
    variance[y[2], x[2] + 6] = np.nan
    variance[y[3], x[3] + 6] = 0
    variance[y[4], x[4] + 6] = np.inf
    fit = determine(replace(exposure, image=image, variance=variance), places)
    clean = determine(exposure, places)
    assert fit.used.all()
    difference = fit.model.kernel_image(x=200, y=200).array - clean.model.kernel_image(x=200, y=200).array
    # Five pixels of 24 x 361 more or less: far below the noise of the model (1e-3 of the peak).
    assert np.abs(difference).max() < 1e-3 * clean.model.kernel_image(x=200, y=200).array.max()


@pytest.mark.parametrize("value", [1e6, 1e12, 1e20, 1e38])
def test_a_garbage_value_costs_one_star(exposure, places, value):
    """K19: a finite number that is no count, without a mask, never costs the detector."""
    image = exposure.image.copy()
    x, y = np.floor(places[0] + 0.5).astype(int)
    image[y + 5, x + 5] = value
    fit = determine(replace(exposure, image=image), places)
    assert fit.used.tolist() == [False] + [True] * 23
    size = determinant_radius(adaptive_moments(fit.model.kernel_image(x=200, y=200).array))[0]
    # 23 stars of S/N above 100 fix the size to better than a percent.
    assert size == pytest.approx(true_size(200, 200), rel=0.01)


def test_columns_without_data_cost_the_pixels_only(exposure, places):
    """K19 (c): five columns of NaN through a stamp."""
    image = exposure.image.copy()
    column = int(places[0, 0]) + 4
    image[:, column : column + 5] = np.nan
    broken = with_mask(replace(exposure, image=image), "NO_DATA", np.s_[:], np.s_[column : column + 5])
    fit = determine(broken, places)
    assert fit.used.sum() >= 22
    assert np.isfinite(fit.model.kernel_image(x=200, y=200).array).all()


def test_mostly_masked_stars_are_left_out(exposure, places):
    x, y = np.floor(places[0] + 0.5).astype(int)
    masked = with_mask(exposure, "BAD", np.s_[y - 9 : y + 10], np.s_[x - 9 : x + 2])
    fit = determine(masked, places)
    assert not fit.used[0]
    assert fit.figures["stars_masked"] == 1


def test_stars_without_weight_are_left_out(exposure, places, caplog):
    """S-Q14: a variance plane that falls below zero under one star."""
    variance = exposure.variance.copy()
    x, y = np.floor(places[0] + 0.5).astype(int)
    part = np.s_[y - 9 : y + 10, x - 9 : x + 10]
    variance[part] = exposure.image[part] * 0.5 - 100
    fit = determine(replace(exposure, variance=variance), places)
    assert not fit.used[0]
    assert fit.figures["stars_without_weight"] == 1
    assert "star 101 is left out" in caplog.text


def test_the_noise_model_of_the_input_does_not_matter(places):
    """K17: variance with the photon noise of the stars, without it, and as a flat weight map."""
    noisy = simulate(places, source_noise=True, gain=4.0)
    sky = replace(noisy, variance=np.full_like(noisy.variance, 100))
    models = [determine(e, places, maxSNR=50.0).model.kernel_image(x=200, y=200) for e in (noisy, sky)]
    peak = models[0].array.max()
    # The straight line of variance on image has a scatter: weights agree to a few per cent, the PSF far
    # within its noise.
    np.testing.assert_allclose(models[0].array, models[1].array, atol=2e-3 * peak)


def test_grid_points_without_pixels_are_found(exposure, places):
    """K14: one column masked in every star, so that part of the model grid has no data."""
    masked = exposure
    for x, y in np.floor(places + 0.5).astype(int):
        masked = with_mask(masked, "BAD", np.s_[y - 9 : y + 10], np.s_[x - 8])
    fit = determine(masked, places, modelSize=19)
    assert fit.evidence.unconstrained_grid_points > 0
    with pytest.raises(acceptance.PsfRefusedError, match="points of the model grid"):
        acceptance.check_psf(fit, masked, acceptance.Settings())
    good = determine(exposure, places, modelSize=19)
    assert good.evidence.unconstrained_grid_points == 0
    acceptance.check_psf(good, exposure, acceptance.Settings())


def test_a_fit_that_did_not_end_is_refused(exposure, places):
    """K16: the limit of iterations is a failed step."""
    fit = determine(exposure, places, piffMaxIter=1)
    assert fit.figures["converged"] == 0
    with pytest.raises(acceptance.PsfRefusedError, match="did not converge"):
        acceptance.check_psf(fit, exposure, acceptance.Settings())
    acceptance.check_psf(fit, exposure, acceptance.Settings(require_convergence=False))


def test_stars_at_one_place_do_not_make_a_polynomial(exposure, places):
    """K16: a singular system (order 1, all stars at two places)."""
    twice = np.concatenate([places[:2]] * 2)
    fit = determine(exposure, twice, piffBasisPolynomialSolver="scipy")
    assert fit.used.sum() >= 3
    with pytest.raises(acceptance.PsfRefusedError, match="do not determine"):
        acceptance.check_psf(fit, exposure, acceptance.Settings())


# ------------------------------------------------------------------------------------------- same bytes


def test_the_same_stars_give_the_same_bytes(exposure, places):
    first, second = (determine(exposure, places) for _ in range(2))
    assert first.serialized == second.serialized
    assert first.persisted_class == "PiffPsf"


def test_stored_bytes_draw_the_same(exposure, places):
    fit = determine(exposure, places)
    width, height, psf = loads_piff(fit.serialized)
    assert width == height == fit.model.size
    again = piff_model(psf, size=width)
    assert again.average_position == fit.model.average_position
    np.testing.assert_array_equal(
        again.kernel_image(x=150, y=60).array, fit.model.kernel_image(x=150, y=60).array
    )
