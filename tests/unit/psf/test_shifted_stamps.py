"""Stamps and components shifted by fractions of a pixel: rims and masks (selection specification 0.6)."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_stars import truth_profile

from finalchar.psf.pca_spatial import shifted_components
from finalchar.psf.resampling import combine_masks, shift_images, shift_stamps, unshifted_rim

SIZE = 31


def star(dx=0.0, dy=0.0):
    profile = truth_profile(15, 15, side=SIZE, fwhm=4.0).shift(dx, dy)
    return profile.drawImage(nx=SIZE, ny=SIZE, scale=1.0, method="no_pixel", dtype=float).array


@pytest.mark.parametrize(
    ("shift", "buffer", "first", "last"),
    [
        (-0.3, 0, 4, 5),
        (0.0, 0, 4, 5),
        (0.3, 0, 5, 4),
        (-0.3, 1, 3, 4),
        (0.3, 1, 4, 3),
        (-0.3, 5, 0, 0),
        (0.3, 5, 0, 0),
    ],
)
def test_rim_that_is_not_shifted(shift, buffer, first, last):
    """k = -shift: for k >= 0 the first 4 and last 5 pixels, for k < 0 the first 5 and last 4 [S-Q17]."""
    (rim,) = unshifted_rim([shift], SIZE, edge_buffer=buffer)
    expected = np.zeros(SIZE, dtype=bool)
    expected[:first] = True
    expected[SIZE - last :] = True
    np.testing.assert_array_equal(rim, expected)


@pytest.mark.parametrize(("dx", "dy"), [(0.3, -0.4), (-0.5, 0.25), (0.0, 0.1), (0.0, 0.0)])
def test_star_is_shifted_within_its_rim(dx, dy):
    image, variance = star().astype(np.float32), np.full((SIZE, SIZE), 4.0, dtype=np.float32)
    moved, spread = shift_stamps(image[np.newaxis], variance[np.newaxis], dx=[dx], dy=[dy])
    inner = np.s_[5:-5, 5:-5]
    expected = star(dx, dy)
    # a star of 4 pixels FWHM is well sampled for a kernel of ten taps, which is not quite flat
    np.testing.assert_allclose(moved[0][inner], expected[inner], rtol=0, atol=2e-3 * expected.max())
    np.testing.assert_array_equal(moved[0][:4], image[:4])
    np.testing.assert_array_equal(moved[0][:, -4:], image[:, -4:])
    # noise of neighbours is mixed: the sum of the squared weights is 1 for no shift, less otherwise
    assert (spread[0][inner] <= 4.0 * (1 + 1e-6)).all()
    if not (dx or dy):
        np.testing.assert_allclose(moved[0], image, rtol=0, atol=1e-9)
        np.testing.assert_allclose(spread[0], variance, rtol=1e-6)


def test_stamps_are_shifted_like_images_away_from_the_rim():
    images = np.random.default_rng(1).normal(size=(4, SIZE, SIZE)).astype(np.float32)
    dx, dy = np.array([0.3, -0.2, 0.5, -0.5]), np.array([-0.4, 0.1, 0.0, 0.45])
    moved, _ = shift_stamps(images, np.ones_like(images), dx=dx, dy=dy)
    # twenty sums in single precision
    expected = shift_images(images, dx=dx, dy=dy)[:, 5:-5, 5:-5]
    np.testing.assert_allclose(moved[:, 5:-5, 5:-5], expected, rtol=0, atol=2e-6)


def test_components_are_shifted_like_images_away_from_the_rim():
    components = np.stack([star(), star(0.2, 0.1) - star()])
    moved = shifted_components(components, x=np.array([100.3, 7.5]), y=np.array([55.75, 9.2]))
    for k, (dx, dy) in enumerate([(0.3, -0.25), (-0.5, 0.2)]):
        expected = shift_images(components, dx=[dx, dx], dy=[dy, dy])
        np.testing.assert_allclose(moved[k][:, 5:-5, 5:-5], expected[:, 5:-5, 5:-5], rtol=0, atol=1e-15)


@pytest.mark.parametrize(("shift", "before", "after"), [(-0.3, 5, 4), (0.0, 5, 4), (0.3, 4, 5)])
def test_masks_spread_to_all_pixels_that_a_pixel_enters(shift, before, after):
    """Also for a shift of nothing, for which the taps are tiny, not zero [S-Q17]."""
    mask = np.zeros((1, SIZE, SIZE), dtype=np.int32)
    mask[0, 15, 15] = 4
    combined = combine_masks(mask, dx=[shift], dy=[0.3])
    expected = np.zeros_like(mask)
    expected[0, 15 - 4 : 15 + 6, 15 - before : 15 + after + 1] = 4
    np.testing.assert_array_equal(combined, expected)


def test_masks_of_the_rim_stay():
    mask = np.zeros((1, SIZE, SIZE), dtype=np.int32)
    mask[0, 2, 15] = 1
    combined = combine_masks(mask, dx=[0.2], dy=[0.2])
    assert combined[0, 2, 15] == 1
    np.testing.assert_array_equal(np.flatnonzero(combined[0, :5]), [2 * SIZE + 15])
