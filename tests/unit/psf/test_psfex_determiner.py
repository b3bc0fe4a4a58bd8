"""The determiner `psfex` against simulated stars of known PSF, and where there is little to fit.

The program is called; the tests are skipped on a machine without it (see the fixture `psfex`).  Known
failures K12 (bad numbers), K15 (too few stars), K16 (failed fits) and K19 (bad pixels) have a test of their
kind.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from simulated_stars import candidates, scattered, simulate, truth_profile, with_mask

from finalchar.errors import ConfigError, InputError, MissingProgramError, PsfError
from finalchar.formats.exposure import Box
from finalchar.formats.exposure_catalog import ExposureRecord, read_exposure_catalog, write_exposure_catalog
from finalchar.formats.sources import SourceTable
from finalchar.psf import acceptance, export
from finalchar.psf.determiners import psfex as determiner
from finalchar.psf.shape import adaptive_moments, determinant_radius
from finalchar.psf.stored import model_from_stored

pytestmark = pytest.mark.usefixtures("psfex")

SIDE, STAMP, NUMBER = 700, 41, 45
PROBES = {"x": np.array([80.0, 350.2, 620.7, 350.0]), "y": np.array([90.3, 349.6, 600.0, 80.0])}
SIZE_VARIANCE = 4.0
"""Second moment of the stars as the catalogue has it, pixels squared: FWHM 4.7."""


def with_catalogue(found, flux, **columns):
    """Candidates with catalogue rows; columns are full arrays over the candidates."""
    number = len(found)
    flux = np.broadcast_to(np.asarray(flux, dtype=np.float64), number).copy()
    table = {
        "base_CircularApertureFlux_9_0_instFlux": flux,
        "base_CircularApertureFlux_9_0_instFluxErr": np.full(number, 100.0),
        "base_CircularApertureFlux_9_0_flag": np.zeros(number, bool),
        "slot_Centroid_flag": np.zeros(number, bool),
        "slot_Shape_xx": np.full(number, SIZE_VARIANCE),
        "slot_Shape_yy": np.full(number, SIZE_VARIANCE),
    }
    return replace(found, catalogue=SourceTable({**table, **columns}))


def determine(found, exposure, compatibility="fixed", **more):
    return determiner.determine(
        found, exposure, determiner.Settings(**more), band="r", compatibility=compatibility
    )


def truth(x, y, **more):
    """The true PSF, centred."""
    profile = truth_profile(x, y, side=SIDE, fwhm=4.0, **more)
    return profile.drawImage(nx=STAMP, ny=STAMP, scale=1.0, method="no_pixel", dtype=float).array


@pytest.fixture(scope="module")
def places():
    return scattered(NUMBER, side=SIDE, seed=4)


@pytest.fixture(scope="module")
def exposure(places):
    return simulate(places, side=SIDE, flux=3e5, source_noise=True, gain=1.0)


@pytest.fixture(scope="module")
def found(exposure, places):
    return with_catalogue(candidates(exposure, places), 3e5)


@pytest.fixture(scope="module")
def fit(found, exposure, psfex):
    return determine(found, exposure)


# ------------------------------------------------------------------------------------------------- truth


def test_varying_psf_is_found(fit):
    # 3e5 counts: 0.6 per cent of noise in the central pixel, and 45 stars for 6 terms; a model pixel has the
    # noise of a detector pixel, 2e-3 of the peak at the rim of the stars
    for x, y, kernel in zip(PROBES["x"], PROBES["y"], fit.model.kernel_images(**PROBES), strict=True):
        expected = truth(x, y) / truth(x, y).sum()
        assert np.abs(kernel - expected).max() < 0.015 * expected.max()
    sizes = determinant_radius(adaptive_moments(fit.model.kernel_images(**PROBES)))
    expected = determinant_radius(
        adaptive_moments(np.stack([truth(*at) for at in zip(*PROBES.values(), strict=True)]))
    )
    np.testing.assert_allclose(sizes, expected, rtol=5e-3)


def test_image_lies_at_its_place(fit):
    """Drawn at a sub-pixel place the model is the true star there, not only when it is centred."""
    x, y = 350.3, 349.6
    drawn = fit.model.image(x=x, y=y)
    profile = truth_profile(x, y, side=SIDE, fwhm=4.0)
    import galsim

    stamp = galsim.ImageD(STAMP, STAMP, xmin=drawn.x0, ymin=drawn.y0)
    profile.drawImage(stamp, method="no_pixel", center=galsim.PositionD(x, y), scale=1.0)
    assert np.abs(drawn.array - stamp.array / stamp.array.sum()).max() < 0.015 * stamp.array.max()


def test_stars_are_used_and_told(fit, found):
    assert fit.used.sum() >= NUMBER - 2  # three sigma of 45 stars
    assert fit.figures["stars_used"] == fit.used.sum()
    assert fit.figures["stars_available"] == NUMBER
    assert fit.figures["terms"] == 6
    assert fit.figures["stellar_fwhm"] == pytest.approx(2.354820045 * SIZE_VARIANCE**0.5, rel=1e-9)
    assert fit.figures["solver"].startswith("psfex 3.")
    assert fit.model.average_position == pytest.approx((found.x.mean(), found.y.mean()), abs=1e-9)


def test_accepted(fit, exposure):
    figures = acceptance.check_psf(fit, exposure, acceptance.Settings())
    assert figures["stars_per_term"] == fit.used.sum() / 6
    assert not figures["poorly_determined"], figures["poorly_determined_because"]
    assert 0 < figures["predicted_size_error"] < 0.01


def test_a_wrong_star_is_rejected(exposure, places):
    broken = exposure.image.copy()
    x, y = (round(place) for place in places[7])
    broken[y - 3 : y + 4, x + 4 : x + 9] += 8000.0
    found = with_catalogue(candidates(replace(exposure, image=broken), places), 3e5)
    fit = determine(found, replace(exposure, image=broken))
    assert not fit.used[7]
    assert fit.used.sum() >= NUMBER - 3


def test_frame_does_not_matter(exposure, places, fit):
    """A detector image whose first pixel is elsewhere, at negative coordinates too, has the same PSF."""
    dx, dy = -1000, 250
    box = Box(dx, dy, dx + SIDE - 1, dy + SIDE - 1)
    moved = replace(exposure, box=box)
    found = with_catalogue(candidates(moved, places + np.array([dx, dy])), 3e5)
    other = determine(found, moved)
    kernels = other.model.kernel_images(x=PROBES["x"] + dx, y=PROBES["y"] + dy)
    # the sums of the normal equations are the same up to the rounding of the normalised positions
    np.testing.assert_allclose(kernels, fit.model.kernel_images(**PROBES), rtol=0, atol=1e-7)
    np.testing.assert_array_equal(other.used, fit.used)


def test_recentroid_finds_wrong_centres(exposure, places):
    generator = np.random.default_rng(9)
    wrong = places + generator.uniform(-0.3, 0.3, places.shape)
    found = with_catalogue(candidates(exposure, wrong), 3e5)
    # 0.3 pixels on a slope of 10 per cent of the peak per pixel, against 0.6 per cent of noise
    assert determine(found, exposure).figures["reduced_chi_squared"] > 4
    fit = determine(found, exposure, recentroid=True)
    assert fit.figures["reduced_chi_squared"] < 1.2
    for x, y, kernel in zip(PROBES["x"], PROBES["y"], fit.model.kernel_images(**PROBES), strict=True):
        expected = truth(x, y) / truth(x, y).sum()
        assert np.abs(kernel - expected).max() < 0.015 * expected.max()


@pytest.mark.parametrize("sampling", [0.35, 1.0, 1.4])
def test_any_sampling(found, exposure, sampling):
    fit = determine(found, exposure, samplingSize=sampling)
    assert fit.serialized.pixel_step == pytest.approx(sampling, rel=1e-6)
    assert fit.model.size == STAMP or sampling == 1.4
    size = determinant_radius(adaptive_moments(fit.model.kernel_images(x=[350.0], y=[350.0])))[0]
    expected = determinant_radius(adaptive_moments(truth(350.0, 350.0)[np.newaxis]))[0]
    # pixels of 1.4 average over a part of the star
    assert size == pytest.approx(expected, rel=0.005 if sampling <= 1 else 0.05)


def test_sharp_stars_are_refined():
    """Stars of 2.2 pixels: the refined model, made from the pixels as they are, has the true size."""
    places = scattered(60, side=SIDE, seed=8)
    exposure = simulate(places, side=SIDE, flux=1e5, fwhm=1.6, variation=0.0)
    found = with_catalogue(
        candidates(exposure, places), 1e5, slot_Shape_xx=np.full(60, 0.8), slot_Shape_yy=np.full(60, 0.8)
    )
    fit = determine(found, exposure)
    assert fit.figures["refined"] == 1
    profile = truth_profile(350.0, 350.0, side=SIDE, fwhm=1.6, variation=0.0)
    expected = profile.drawImage(nx=STAMP, ny=STAMP, scale=1.0, method="no_pixel", dtype=float).array
    drawn = fit.model.kernel_image(x=350.0, y=350.0).array
    # undersampled stars: what is left of the kernel's error
    assert np.abs(drawn - expected / expected.sum()).max() < 0.03 * expected.max()


# ------------------------------------------------------------------------------------------ reproducibility


def test_same_bytes_twice_and_nothing_left_behind(found, exposure, fit, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    again = determine(found, exposure)
    assert again.serialized.components.tobytes() == fit.serialized.components.tobytes()
    np.testing.assert_array_equal(again.used, fit.used)
    assert again.figures == fit.figures
    assert list(tmp_path.iterdir()) == []


def test_locale_does_not_matter(found, exposure, fit, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    again = determine(found, exposure)
    assert again.serialized.components.tobytes() == fit.serialized.components.tobytes()


def test_stored_and_read_without_the_program(fit, tmp_path, monkeypatch):
    path = tmp_path / "psf.fits"
    write_exposure_catalog(path, [ExposureRecord(3, 7, psf=fit.serialized, ap_corr_map=None)])
    monkeypatch.setenv("PATH", str(tmp_path))
    record = next(iter(read_exposure_catalog(path).records))
    model = model_from_stored(record.psf)
    np.testing.assert_array_equal(model.kernel_images(**PROBES), fit.model.kernel_images(**PROBES))
    assert model.average_position == fit.model.average_position


def test_exported_file_is_read_by_galsim(fit, tmp_path, capsys):
    """Its PSF at a place is ours, up to the other kernel with which it is resampled."""
    import galsim
    import galsim.des
    from astropy.io import fits

    from finalchar.__main__ import main

    path = tmp_path / "psf.fits"
    write_exposure_catalog(path, [ExposureRecord(3, 7, psf=fit.serialized, ap_corr_map=None)])
    assert main(["export", "psfex", str(path)]) == 0
    assert f"wrote {tmp_path}/psf.psf" in capsys.readouterr().out
    # arrays of pixels are counted from 1 there
    psf = galsim.des.DES_PSFEx(str(tmp_path / "psf.psf")).getPSF(galsim.PositionD(351.0, 201.0))
    drawn = psf.drawImage(nx=STAMP, ny=STAMP, scale=1.0, method="no_pixel", dtype=float).array
    ours = fit.model.kernel_image(x=350.0, y=200.0).array
    assert np.abs(drawn / drawn.sum() - ours).max() < 2e-3 * ours.max()
    with fits.open(tmp_path / "psf.psf") as file:  # one pixel is less than can be seen in the image
        zero = [file[1].header[f"POLZERO{axis}"] for axis in (1, 2)]
    np.testing.assert_allclose(zero, fit.serialized.context_first + 1.0, rtol=1e-12)


def test_every_detector_of_a_visit_is_exported(fit, tmp_path):
    path = tmp_path / "finalized_psf_ap_corr_catalog.fits"
    records = [ExposureRecord(number, 7, psf=fit.serialized, ap_corr_map=None) for number in (3, 14)]
    write_exposure_catalog(path, records)
    folder = export.export_psfex(tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["psf_003.psf", "psf_014.psf"]
    with pytest.raises(InputError, match="no Piff model"):
        export.export_piff(tmp_path)


# ---------------------------------------------------------------------------------------------- bad input


def test_bad_pixels_cost_one_pixel(found, exposure, places, fit):
    """K19: NaN, or nonsense under the mask, on the shoulder of every third star hardly changes the PSF."""
    image, mask = exposure.image.copy(), exposure.mask.copy()
    for k, (x, y) in enumerate(np.rint(places[::3]).astype(int)):
        image[y + 1, x - 1 : x + 1] = np.nan if k % 2 else 1e6
        mask[y + 1, x - 1 : x + 1] |= exposure.mask_bits(["INTRP"])
        image[y - 2, x + 1] = np.nan  # without a bit
    broken = replace(exposure, image=image, mask=mask)
    other = determine(with_catalogue(candidates(broken, places), 3e5), broken)
    expected = fit.model.kernel_images(**PROBES)
    deviation = np.abs(other.model.kernel_images(**PROBES) - expected).max() / expected.max()
    # a pixel has 0.9 per cent of noise, 0.3 with 45 stars for 6 terms, 0.4 without a third of the stars
    assert deviation < 5e-3
    as_zeros = determine(with_catalogue(candidates(broken, places), 3e5), broken, compatibility="lsst")
    kernels = as_zeros.model.kernel_images(**PROBES)
    assert np.abs(kernels - expected).max() / expected.max() > 0.05  # what the reference does
    assert other.figures["bad_pixels"] == 45
    assert other.used.sum() >= NUMBER - 2


def test_star_without_good_pixels_is_left_out(found, exposure, places):
    x, y = np.rint(places[0]).astype(int)
    masked = with_mask(exposure, "SAT", slice(y - 20, y + 21), slice(x - 20, x + 3))
    fit = determine(with_catalogue(candidates(masked, places), 3e5), masked)
    assert not fit.used[0]
    assert fit.figures["stars_masked"] == 1


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("slot_Centroid_flag", True, "stars_of_flagged_centroid"),
        ("base_CircularApertureFlux_9_0_flag", True, "stars_of_flagged_flux"),
        ("base_CircularApertureFlux_9_0_instFlux", np.nan, "stars_without_flux"),
        ("base_CircularApertureFlux_9_0_instFlux", np.inf, "stars_without_flux"),
        ("base_CircularApertureFlux_9_0_instFlux", -50.0, "stars_without_flux"),
        ("base_CircularApertureFlux_9_0_instFlux", 1e30, "stars_without_flux"),
        ("base_CircularApertureFlux_9_0_instFlux", 0.0, "stars_without_flux"),
    ],
)
def test_bad_numbers_never_enter(found, exposure, column, value, reason):
    """K12."""
    values = found.catalogue[column].copy()
    values[5] = value
    changed = replace(found, catalogue=found.catalogue.with_columns({column: values}))
    fit = determine(changed, exposure)
    assert not fit.used[5]
    assert fit.figures[reason] == 1
    assert fit.figures["stars_available"] == NUMBER - 1


def test_flags_are_ignored_where_that_is_wanted(found, exposure):
    flagged = np.ones(NUMBER, bool)
    changed = replace(found, catalogue=found.catalogue.with_columns({"slot_Centroid_flag": flagged}))
    fit = determine(changed, exposure, rejectFlaggedCentroids=False)
    assert fit.figures["stars_available"] == NUMBER


def test_missing_column_is_named(found, exposure):
    with pytest.raises(InputError, match=r"base_Other_instFlux.*photometricFluxField"):
        determine(found, exposure, photometricFluxField="base_Other_instFlux")


@pytest.mark.parametrize(("number", "outcome"), [(1, "too few"), (3, "too few"), (4, 3), (7, 3), (8, 6)])
def test_few_stars(found, exposure, number, outcome):
    """K15: the order falls with the number of stars, and is never 0."""
    few = found.select(np.arange(number))
    if outcome == "too few":
        with pytest.raises(PsfError, match=f"too few good stars.*{number} of at least 4"):
            determine(few, exposure)
        return
    fit = determine(few, exposure)
    assert fit.figures["terms"] == outcome
    assert fit.used.sum() <= number


def test_no_star_at_all(found, exposure):
    with pytest.raises(PsfError, match="no candidate"):
        determine(found.select(np.zeros(0, int)), exposure)


def test_nobody_is_usable(found, exposure):
    flags = {"slot_Centroid_flag": np.ones(NUMBER, bool)}
    changed = replace(found, catalogue=found.catalogue.with_columns(flags))
    with pytest.raises(PsfError, match=r"None of 45 candidate stars.*45 stars of flagged centroid"):
        determine(changed, exposure)


def test_stars_at_one_place_do_not_determine_a_polynomial(exposure, found):
    """K16: a singular system gives no PSF that is accepted."""
    one = found.select(np.zeros(12, int))

    def determine_and_accept():
        acceptance.check_psf(determine(one, exposure), exposure, acceptance.Settings())

    with pytest.raises(PsfError):
        determine_and_accept()


def test_stars_in_one_column_do_not_determine_a_polynomial(exposure, places):
    column = np.column_stack([np.full(NUMBER, 350.0), places[:, 1]])
    found = with_catalogue(candidates(exposure, column), 3e5)
    with pytest.raises(PsfError, match="one row or column"):
        determine(found, exposure)


def test_image_without_noise_is_refused(found, exposure):
    flat = replace(exposure, image=np.zeros_like(exposure.image))
    with pytest.raises(PsfError, match="no noise"):
        determine(found, flat)


def test_missing_gain(found, exposure, fit, caplog):
    """K17: no gain, no photon noise; the model's photon term is tiny (S-Q18), whatever the gain."""
    assert "no photon noise" in caplog.text or exposure.gain is None
    with_gain = determine(found, replace(exposure, gain=1.0))
    kernels = with_gain.model.kernel_images(**PROBES)
    np.testing.assert_allclose(kernels, fit.model.kernel_images(**PROBES), rtol=0, atol=1e-6)


def test_down_sampling(found, exposure):
    fit = determine(found, exposure, maxCandidates=20)
    assert fit.figures["stars_available"] == 20
    assert fit.figures["stars_down_sampled"] == NUMBER - 20


# ----------------------------------------------------------------------------------------------- settings


def test_program_is_missing(found, exposure, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match=r"apt-get install psfex.*astromatic-psfex"):
        determine(found, exposure)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stampSize", 40),
        ("photometricFluxField", "base_CircularApertureFlux_9_0_flag"),
        ("photometricFluxField", "flux"),
        ("spatialOrder", 0),
        ("samplingSize", 0.0),
        ("psfexBasis", "GAUSS-LAGUERRE"),
        ("sizeCellX", 300),
        ("lam", 0.1),
    ],
)
def test_impossible_settings_are_refused(name, value):
    settings = determiner.Settings()
    with pytest.raises(ConfigError, match=name):
        setattr(settings, name, value)


@pytest.mark.parametrize(("sampling", "size"), [(0.03, 1367), (30.0, 1)])
def test_model_of_an_impossible_size_is_refused(sampling, size):
    with pytest.raises(ConfigError, match=f"make a model of {size} pixels a side"):
        determiner.check_settings(determiner.Settings(samplingSize=sampling))


def test_environment_is_not_changed(found, exposure):
    before = dict(os.environ)
    determine(found, exposure)
    assert dict(os.environ) == before
