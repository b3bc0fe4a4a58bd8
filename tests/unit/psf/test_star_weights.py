"""Weights of stars: the vector of selection specification 6.4, and variances of every kind (K17, K19)."""

import numpy as np
import pytest

from finalchar.psf.star_weights import good_pixels, star_weight


@pytest.fixture
def star():
    """The star of the vector in 6.4; evaluated in double precision, then rounded."""
    y, x = np.mgrid[-12:13, -12:13].astype(float)
    image = (
        20000 / (2 * np.pi * 1.9**2) * np.exp(-(x**2 + y**2) / (2 * 1.9**2)) + 8 * np.sin(3 * x + 5 * y)
    ).astype(np.float32)
    variance = (64 + np.maximum(image, 0) / 1.6 + 0.5 * np.cos(2 * x - y)).astype(np.float32)
    mask = np.zeros((25, 25), np.int32)
    mask[3, 4] = 1
    return image, mask, variance


def test_the_vector_of_the_specification(star):
    image, mask, variance = star
    good = good_pixels(image, mask, variance, bad_bits=np.int32(1))
    weight = star_weight(image, variance, good=good, max_snr=200.0)
    assert good.sum() == 624
    # All digits that the specification gives.
    assert weight.slope == pytest.approx(0.6213644643, abs=1e-10)
    assert weight.intercept == pytest.approx(65.3662308931, abs=1e-9)
    assert weight.signal_to_noise == pytest.approx(365.99825261, abs=1e-8)
    assert weight.value == pytest.approx(0.00456823591414, abs=1e-14)
    uncapped = star_weight(image, variance, good=good, max_snr=1e9)
    assert uncapped.value == pytest.approx(0.0152984191736, abs=1e-13)


def test_weight_does_not_depend_on_whose_noise_the_variance_holds():
    """K17: variance with the star's photon noise, without it, or a flat weight map give one weight."""
    y, x = np.mgrid[-12:13, -12:13].astype(float)
    image = (2e4 * np.exp(-(x**2 + y**2) / 8)).astype(np.float32)
    good = np.ones(image.shape, bool)
    with_stars = (100 + image / 4).astype(np.float32)
    without = np.full(image.shape, 100, np.float32)
    weights = [star_weight(image, v, good=good, max_snr=1e9).value for v in (with_stars, without)]
    # The line through points on a line is exact to single precision of the largest variance (5100).
    assert weights[0] == pytest.approx(weights[1], rel=1e-5)
    assert weights[0] == pytest.approx(0.01, rel=1e-5)


def test_bad_numbers_make_bad_pixels_not_bad_stars():
    """K19: NaN or infinite image, NaN, infinite or zero variance; negative variance passes."""
    image = np.ones((5, 5), np.float32)
    variance = np.full((5, 5), 4, np.float32)
    image[0, 0], image[0, 1] = np.nan, np.inf
    variance[1, 0], variance[1, 1], variance[1, 2], variance[1, 3] = np.nan, np.inf, 0, -1
    mask = np.zeros((5, 5), np.int32)
    mask[2, 2] = np.int32(-(2**31)) | 4
    good = good_pixels(image, mask, variance, bad_bits=np.int32(-(2**31)))
    expected = np.ones((5, 5), bool)
    expected[[0, 0, 1, 1, 1, 2], [0, 1, 0, 1, 2, 2]] = False
    np.testing.assert_array_equal(good, expected)


@pytest.mark.parametrize("case", ["intercept not positive", "one pixel", "zero image", "1e20"])
def test_unusable_weights_are_known_as_such(case):
    """S-Q14: nothing but a positive finite number is a weight."""
    image = np.linspace(100, 200, 25, dtype=np.float32).reshape(5, 5)
    variance = (image - 150).astype(np.float32)
    good = np.ones((5, 5), bool)
    if case == "one pixel":
        good[:] = False
        good[2, 2] = True
    if case == "zero image":
        image[:] = 0
        variance = image + 1
    if case == "1e20":  # its square is no single-precision number, so the cap cannot be applied
        image[1, 1] = 1e20
        variance[:] = 100
    assert not star_weight(image, variance, good=good, max_snr=200.0).usable


def test_faint_stars_have_no_signal():
    image = np.full((5, 5), 0.1, np.float32)
    image[0, 0] = 0.2
    variance = np.full((5, 5), 100, np.float32)
    weight = star_weight(image, variance, good=np.ones((5, 5), bool), max_snr=1.0)
    assert weight.signal_to_noise == 0
    assert weight.value == pytest.approx(0.01, rel=1e-6)
