"""What is handed to PSFEx: noise, centres, resampling, filled pixels (selection specification 7)."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from finalchar.psf.psfex_centroids import windowed_shifts
from finalchar.psf.psfex_pixels import fill_bad_pixels, fit_pixels, lowered_degree, signal_to_noise
from finalchar.psf.psfex_resampling import nearest_pixels, resample, sampling_matrices
from finalchar.psf.psfex_stars import flux_flag


def stars_at(dx, dy, *, size=41, sigma=1.9, flux=1e4):
    """Round Gaussian stars without noise at places on their stamps."""
    along = np.arange(size) - size // 2
    u, v = along[None, None, :] - dx[:, None, None], along[None, :, None] - dy[:, None, None]
    profile = np.exp(-(u**2 + v**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return (np.broadcast_to(flux, len(dx))[:, None, None] * profile).astype(np.float32)


@pytest.fixture
def shifts():
    return np.random.default_rng(3).uniform(-0.5, 0.5, (2, 30))


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("base_CircularApertureFlux_9_0_instFlux", "base_CircularApertureFlux_9_0_flag"),
        ("base_PsfFlux_instFlux", "base_PsfFlux_flag"),
        ("slot_CalibFlux_flux", "slot_CalibFlux_flag"),
    ],
)
def test_flag_of_a_flux(field, flag):
    assert flux_flag(field) == flag


def test_larger_pixels_do_not_see_what_they_cannot_hold():
    """Stretched, the kernel leaves nothing of a pattern of the finest scale, of which else 1 is left."""
    pattern = (-1.0) ** np.arange(61)
    (stretched,) = sampling_matrices(np.zeros(1), 61, 21, 0.5, stretch=2.0)
    (plain,) = sampling_matrices(np.zeros(1), 61, 21, 0.5)
    assert np.abs(plain @ pattern) == pytest.approx(1.0, abs=1e-12)
    assert np.abs(stretched @ pattern).max() < 0.02  # five lobes are no perfect filter


# ------------------------------------------------------------------------------------------------ centres


def test_centres_are_found(shifts):
    dx, dy = shifts
    image = stars_at(dx, dy)
    found = windowed_shifts(
        image, np.zeros(image.shape, bool), np.full(30, 1.9), dx=np.zeros(30), dy=np.zeros(30)
    )
    np.testing.assert_allclose(np.stack(found), shifts, atol=2e-3)  # the step at which the search ends


def test_masked_pixels_take_the_opposite_value(shifts):
    dx, dy = 0.0 * shifts
    image = stars_at(dx, dy)
    bad = np.zeros(image.shape, bool)
    bad[:, 20:23, 22:24] = True
    image[bad] = 1e9
    found = windowed_shifts(image, bad, np.full(30, 1.9), dx=dx + 0.1, dy=dy)
    np.testing.assert_allclose(np.stack(found), 0.0, atol=2e-3)


@pytest.mark.parametrize("size", [np.nan, 0.0])
def test_stars_without_size_stay(shifts, size):
    dx, dy = shifts
    image = stars_at(dx, dy)
    found = windowed_shifts(image, np.zeros(image.shape, bool), np.full(30, size), dx=dx + 0.1, dy=dy)
    np.testing.assert_array_equal(found[0], dx + 0.1)


def test_a_search_that_runs_away_is_forgotten(shifts):
    dx, dy = 0.0 * shifts
    image = stars_at(dx, dy, flux=10.0) + stars_at(dx + 6.0, dy, flux=1e6)
    found = windowed_shifts(image, np.zeros(image.shape, bool), np.full(30, 1.9), dx=dx, dy=dy)
    np.testing.assert_array_equal(np.stack(found), np.stack([dx, dy]))


# --------------------------------------------------------------------------------------------- resampling


def test_resampled_as_galsim_does():
    """The five-lobed kernel is GalSim's Lanczos(5), up to the normalisation of the taps."""
    star = stars_at(np.array([0.2]), np.array([-0.3]))
    found = resample(star, 83, 2.0, dx=np.array([-0.4]), dy=np.array([0.6]))[0]
    image = galsim.InterpolatedImage(
        galsim.Image(star[0].astype(float), scale=1.0),
        x_interpolant=galsim.Lanczos(5),
        normalization="sb",
    ).shift(-0.2, 0.3)
    expected = image.drawImage(nx=83, ny=83, scale=0.5, method="sb").array
    # without conserving the mean GalSim's taps do not sum to one: a few 1e-3 of the value
    assert np.abs(found - expected)[10:-10, 10:-10].max() < 4e-3 * expected.max()


def test_whole_pixels_are_copied():
    image = np.random.default_rng(1).normal(size=(2, 11, 11)).astype(np.float32)
    same = resample(image, 11, 1.0, dx=np.zeros(2), dy=np.zeros(2))
    np.testing.assert_allclose(same, image, rtol=0, atol=1e-6)
    moved = resample(image, 11, 1.0, dx=np.full(2, 2.0), dy=np.full(2, -1.0))
    np.testing.assert_allclose(moved[:, :10, 2:], image[:, 1:, :9], rtol=0, atol=1e-6)


@pytest.mark.parametrize("stretch", [1.0, 1.6])
def test_taps_sum_to_one_inside_and_to_nothing_outside(stretch):
    matrices = sampling_matrices(np.array([0.3]), 21, 61, 2.0, stretch=stretch)
    place = 10 + (np.arange(61) - 30 - 0.3) / 2
    inside = (place >= 0) & (place <= 20)
    np.testing.assert_allclose(matrices[0].sum(axis=1), inside.astype(float), atol=1e-12)


def test_nearest_pixels():
    pixels = nearest_pixels(np.array([0.0, -0.8]), 5, 9, 2.0)
    assert pixels[0].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert pixels[1].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert nearest_pixels(np.array([-1.2]), 5, 9, 2.0)[0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 4]


# ------------------------------------------------------------------------------------------ filled pixels


def test_filled_pixels_are_those_of_the_star(shifts):
    """K19: a third of the stars has bad pixels, in the core, of which the others tell the value."""
    dx, dy = shifts
    truth = stars_at(dx, dy, flux=1e4)
    bad = np.zeros(truth.shape, bool)
    bad[::3, 18:23, 20:22] = True
    image = np.where(bad, np.float32(0), truth)
    filled = fill_bad_pixels(
        image,
        bad,
        np.full(30, 1e4),
        np.ones((30, 1)),
        dx=dx,
        dy=dy,
        sampling=0.5,
        model_size=83,
        background_variance=1.0,
    )
    np.testing.assert_array_equal(filled[~bad], truth[~bad])
    # what the five-lobed kernel loses of a star of this size
    assert np.abs(filled - truth)[bad].max() < 3e-3 * truth.max()


def test_nothing_to_fill_is_nothing_to_do():
    image = stars_at(np.zeros(3), np.zeros(3))
    none = np.zeros(image.shape, bool)
    same = fill_bad_pixels(
        image,
        none,
        np.ones(3),
        np.ones((3, 1)),
        dx=np.zeros(3),
        dy=np.zeros(3),
        sampling=0.5,
        model_size=83,
        background_variance=1.0,
    )
    assert same is image


def test_fit_of_pixels_finds_the_polynomial():
    generator = np.random.default_rng(2)
    terms = np.column_stack([np.ones(20), generator.uniform(-0.5, 0.5, 20)])
    truth = np.stack([np.full((3, 3), 1.0), np.full((3, 3), 0.3)])
    images = (1e5 * np.tensordot(terms, truth, axes=1)).astype(np.float32)
    found = fit_pixels(
        images, np.full(20, 1e5), terms, good=np.ones(images.shape, bool), background_variance=4.0
    )
    np.testing.assert_allclose(found, truth, rtol=1e-5)  # the ridge


@pytest.mark.parametrize(
    ("degree", "stars", "lowered"),
    [(2, 8, 2), (2, 7, 1), (2, 4, 1), (2, 3, 0), (1, 99, 1), (4, 17, 4), (4, 16, 3)],
)
def test_degree_is_lowered_as_by_the_program(degree, stars, lowered):
    assert lowered_degree(degree, stars) == lowered


def test_signal_to_noise_is_capped():
    profile = stars_at(np.zeros(1), np.zeros(1), flux=1.0)
    faint, bright = signal_to_noise(profile, np.array([1e3, 1e9]), sampling=1.0, background_variance=100.0)
    # flux over the noise in the effective area 4 pi sigma^2
    assert faint == pytest.approx(1e3 / np.sqrt(100 * 4 * np.pi * 1.9**2), rel=1e-2)
    assert bright <= 41 / 0.01
