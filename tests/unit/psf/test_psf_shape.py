"""Adaptive moments of images against profiles whose moments are known, and their failures (K18)."""

import galsim
import numpy as np
import pytest

from finalchar.psf.shape import adaptive_moments, determinant_radius


def gaussian(sigma=2.0, g1=0.0, g2=0.0, size=41, shift=(0.0, 0.0)):
    profile = galsim.Gaussian(sigma=sigma).shear(g1=g1, g2=g2).shift(*shift)
    return profile.drawImage(nx=size, ny=size, scale=1.0, method="no_pixel", dtype=float).array


@pytest.mark.parametrize(("sigma", "g1", "g2"), [(1.5, 0, 0), (2.0, 0.1, -0.2), (3.1, -0.3, 0.1)])
def test_moments_of_a_gaussian(sigma, g1, g2):
    moments = adaptive_moments(gaussian(sigma, g1, g2))
    shear = galsim.Shear(g1=g1, g2=g2)
    # Covariance of a sheared Gaussian of the same area.
    matrix = shear.getMatrix() @ shear.getMatrix().T * sigma**2
    found = np.array([moments.xx[0], moments.yy[0], moments.xy[0]])
    # The stopping rule is 1e-4 in the weighted moments, half of the moments proper: 2e-4 of them.
    np.testing.assert_allclose(found, matrix[[0, 1, 0], [0, 1, 1]], atol=4e-4 * sigma**2)
    assert not moments.failed[0]
    assert determinant_radius(moments)[0] == pytest.approx(sigma, rel=2e-4)


def test_a_batch_equals_one_by_one():
    images = np.stack([gaussian(s, g1=g) for s, g in ((1.2, 0.2), (4.0, 0.0), (2.2, -0.4))])
    together = adaptive_moments(images)
    for k, image in enumerate(images):
        alone = adaptive_moments(image)
        assert (together.xx[k], together.yy[k], together.xy[k]) == (alone.xx[0], alone.yy[0], alone.xy[0])
        assert together.passes[k] == alone.passes[0]


def test_undersampled_images_are_measured_between_the_pixels():
    """Weights below half a pixel are sampled at 16 points a pixel."""
    moments = adaptive_moments(gaussian(0.4, size=15))
    assert not moments.failed[0]
    assert 0.1 < moments.xx[0] < 0.4


def test_the_centre_is_fixed():
    """A profile off the centre looks wide, or fails if it is far off; it is never followed."""
    near = adaptive_moments(gaussian(2.0, shift=(1.0, 0.0)))
    assert near.xx[0] == pytest.approx(4 + 1.12, abs=0.01)
    assert near.yy[0] == pytest.approx(4, abs=1e-3)
    assert adaptive_moments(gaussian(2.0, shift=(4.0, 0.0))).failed[0]


@pytest.mark.parametrize("image", [np.zeros((15, 15)), -gaussian(2.0), np.full((15, 15), np.nan)])
def test_failures_are_flagged(image):
    moments = adaptive_moments(image)
    assert moments.failed[0]
    assert not moments.xx[0] > 0.1


def test_failure_of_one_leaves_the_others_alone():
    images = np.stack([gaussian(2.0, size=25), np.zeros((25, 25)), gaussian(1.6, size=25)])
    moments = adaptive_moments(images)
    np.testing.assert_array_equal(moments.failed, [False, True, False])
    assert np.isnan(determinant_radius(moments)[1])
    assert determinant_radius(moments)[2] == pytest.approx(1.6, rel=1e-3)
