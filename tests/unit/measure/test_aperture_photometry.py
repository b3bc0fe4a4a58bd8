"""Sinc apertures, plain sums, smoothing: the building blocks, against definitions and truth."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from finalchar.formats.exposure import Box
from finalchar.measure.apertures import (
    aperture_reach,
    coefficient_half_width,
    prepare_apertures,
    shift_coefficients,
    sinc_coefficients,
)
from finalchar.measure.apertures import measure_apertures as measure_prepared
from finalchar.measure.gaussian_smoothing import gaussian_kernel, smooth_windows
from finalchar.measure.kron_radius import kron_radii
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.star_windows import PixelLimits, StarWindows, nearest_pixel, required_half_width


def measure_apertures(windows, *, shape, x, y, max_sinc_radius, region_only=False):
    """Prepare apertures and measure one window each."""
    apertures = prepare_apertures(shape, x=x, y=y, max_sinc_radius=max_sinc_radius)
    return measure_prepared(windows, apertures, region_only=region_only)


def circle(*radii):
    return Quadrupoles.circles(np.array(radii, dtype=float) ** 2)


def windows_of(image, *, x, y, limits=None, variance=None):
    """Make windows of single images whose middle pixel is (x, y)."""
    image = np.asarray(image, dtype=np.float32)
    variance = np.ones_like(image) if variance is None else np.asarray(variance, dtype=np.float32)
    half = image.shape[-1] // 2
    box = limits or Box(x - half, y - half, x + half, y + half)
    column, row = np.full(len(image), x), np.full(len(image), y)
    return StarWindows(image, variance, column, row, PixelLimits.of([box] * len(image)))


def gaussian_image(sigma, dx, dy, half=31, flux=1e4):
    stamp = galsim.ImageD(2 * half + 1, 2 * half + 1, scale=1.0)
    profile = galsim.Gaussian(sigma=sigma, flux=flux)
    return profile.drawImage(image=stamp, offset=(dx, dy), method="no_pixel").array


def test_coefficients_are_those_of_the_specification():
    small, large = sinc_coefficients(circle(3.3), 8)[0], sinc_coefficients(circle(6.0), 16)[0]
    assert small.shape == (15, 15)
    assert large.shape == (31, 31)
    # Appendix B item 2; stored as float32
    np.testing.assert_allclose(
        [small[7, 7], small[7, 8], small[7, 10], small[10, 10]],
        [1.068658487, 1.035182074, 0.758648957, -0.032793458],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        [large[15, 15], large[15, 16], large[15, 18], large[18, 18]],
        [0.924037644, 1.006790482, 1.086629228, 0.889316230],
        rtol=1e-6,
    )
    assert small.sum() == pytest.approx(np.pi * 3.3**2, rel=1e-6)


def test_shifted_coefficients_are_those_of_the_specification():
    shift = {"dx": np.array([0.25]), "dy": np.array([-0.40])}
    small = shift_coefficients(sinc_coefficients(circle(3.3), 8), **shift)[0]
    large = shift_coefficients(sinc_coefficients(circle(6.0), 16), **shift)[0]
    np.testing.assert_allclose(
        [small.sum(), small[7, 7], small[7, 8], small[8, 7]],
        [35.980829, 1.053011312, 0.994386614, 1.011011893],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        [large.sum(), large[15, 15], large[15, 16], large[16, 15]],
        [113.133771, 0.966234523, 1.019744075, 0.978867250],
        rtol=1e-6,
    )


@pytest.mark.parametrize(("dx", "first"), [(0.3, -5), (-0.3, -4), (0.0, -4)])
def test_the_shift_keeps_the_border(dx, first):
    image = np.random.default_rng(1).normal(size=(1, 15, 15)).astype(np.float32)
    shifted = shift_coefficients(image, dx=np.array([dx]), dy=np.array([0.0]))[0]
    left, right = -first, 15 - 9 - first
    moved = shifted != image[0]
    assert not moved[:, :left].any()
    assert not moved[:, right:].any()
    assert moved[4:10, left:right].any() == (dx != 0)
    assert not moved[:4].any()  # no shift in y needs the rows -4 ... 5
    assert not moved[10:].any()


@pytest.mark.parametrize(
    ("radius", "half"), [(0.0, 8), (3.3, 8), (4.0, 8), (4.1, 16), (8.0, 16), (8.1, 32), (16.5, 64)]
)
def test_half_widths_are_powers_of_two(radius, half):
    assert coefficient_half_width(radius) == half
    assert required_half_width(half - 1) == max(half, 16) - 1


@pytest.mark.parametrize("radius", [4.5, 6.0, 9.0])
def test_sinc_flux_of_a_gaussian_is_the_light_in_the_circle(radius):
    sigma = 2.0
    image = gaussian_image(sigma, 0.0, 0.0)[np.newaxis]
    fluxes = measure_apertures(
        windows_of(image, x=500, y=400),
        shape=circle(radius),
        x=np.array([500.0]),
        y=np.array([400.0]),
        max_sinc_radius=10.0,
    )
    inside = 1e4 * (1 - np.exp(-0.5 * (radius / sigma) ** 2))
    # the coefficient image ends after 8 or 16 pixels: a few 1e-5 of the light
    assert fluxes.flux[0] == pytest.approx(inside, rel=1e-4)
    assert not fluxes.sinc_truncated[0]
    assert not fluxes.aperture_truncated[0]


def test_sinc_flux_of_an_ellipse():
    shape = Quadrupoles(np.array([36.0]), np.array([16.0]), np.array([4.0]))
    stamp = galsim.ImageD(63, 63, scale=1.0)
    matrix = np.array([[36.0, 4.0], [4.0, 16.0]]) / 9.0  # sigma is a third of the boundary
    root = np.linalg.cholesky(matrix)
    profile = galsim.Gaussian(sigma=1.0, flux=1e4).transform(*root.ravel()) * (1 / np.linalg.det(root))
    image = profile.drawImage(image=stamp, method="no_pixel").array[np.newaxis]
    fluxes = measure_apertures(
        windows_of(image, x=20, y=30),
        shape=shape,
        x=np.array([20.0]),
        y=np.array([30.0]),
        max_sinc_radius=10.0,
    )
    # as for the circle, sigma along the minor axis is only 1.3 pixels: sampling adds 1e-3
    assert fluxes.flux[0] == pytest.approx(1e4 * (1 - np.exp(-4.5)), rel=2e-3)


def test_small_apertures_are_too_bright_off_centre():
    """The shift moves only the interior of the coefficient image: reproduced, not repaired [M-Q27]."""
    image = gaussian_image(2.0, 0.4, 0.35)[np.newaxis]
    at = {"x": np.array([50.4]), "y": np.array([60.35]), "max_sinc_radius": 10.0}
    truth = [1 - np.exp(-0.5 * (radius / 2.0) ** 2) for radius in (3.0, 9.0)]
    excess = [
        measure_apertures(windows_of(image, x=50, y=60), shape=circle(radius), **at).flux[0] / inside / 1e4
        - 1
        for radius, inside in zip((3.0, 9.0), truth, strict=True)
    ]
    assert 5e-3 < excess[0] < 2.5e-2
    assert abs(excess[1]) < 3e-4


def test_plain_sums_count_pixels():
    windows = windows_of(np.ones((1, 63, 63)), x=100, y=100, variance=np.full((1, 63, 63), 4.0))
    fluxes = measure_apertures(
        windows, shape=circle(12.3), x=np.array([100.2]), y=np.array([99.9]), max_sinc_radius=10.0
    )
    y, x = np.mgrid[69:132, 69:132]
    number = int((np.hypot(x - 100.2, y - 99.9) <= 12.3).sum())
    assert fluxes.flux[0] == number
    assert fluxes.error[0] == pytest.approx(2 * np.sqrt(number))


def test_truncation_of_sinc_apertures():
    image = gaussian_image(2.0, 0.0, 0.0)[np.newaxis].repeat(3, axis=0)
    whole = Box(469, 369, 531, 431)
    tests = [
        (Box(485, 369, 531, 431), False, False),  # the coefficient image begins at 485
        (Box(486, 369, 531, 431), True, False),
        (Box(495, 369, 531, 431), True, True),  # the aperture of 6 pixels begins at 494
    ]
    for limits, sinc, aperture in tests:
        windows = windows_of(image[:1], x=500, y=400, limits=limits)
        fluxes = measure_apertures(
            windows, shape=circle(6.0), x=np.array([500.0]), y=np.array([400.0]), max_sinc_radius=10.0
        )
        assert fluxes.sinc_truncated[0] == sinc
        assert fluxes.aperture_truncated[0] == aperture
        assert np.isnan(fluxes.flux[0]) == aperture
        assert np.isnan(fluxes.error[0]) == aperture
    assert whole.contains(tests[0][0])


@pytest.mark.parametrize(
    ("limit", "region_only", "lost"), [(88, True, False), (88, False, True), (87, False, False)]
)
def test_truncation_of_plain_sums(limit, region_only, lost):
    """A circle of 11.7 pixels about 100 has pixels from 89; its expanded bounding box begins at 88."""
    windows = windows_of(np.ones((1, 63, 63)), x=100, y=100, limits=Box(limit + 1, 69, 131, 131))
    fluxes = measure_apertures(
        windows,
        shape=circle(11.7),
        x=np.array([100.0]),
        y=np.array([100.0]),
        max_sinc_radius=10.0,
        region_only=region_only,
    )
    assert fluxes.aperture_truncated[0] == lost
    assert np.isnan(fluxes.flux[0]) == lost


def test_what_is_no_ellipse_gives_nan():
    bad = Quadrupoles(
        np.array([np.nan, -1.0, 1.0, 1e8]), np.array([1.0, 1.0, 1.0, 1e8]), np.array([0, 0, 2.0, 0])
    )
    assert (aperture_reach(bad, 10.0) == 0).all()
    fluxes = measure_apertures(
        windows_of(np.ones((4, 31, 31)), x=10, y=10),
        shape=bad,
        x=np.full(4, 10.0),
        y=np.full(4, 10.0),
        max_sinc_radius=10.0,
    )
    assert np.isnan(fluxes.flux).all()
    assert fluxes.aperture_truncated.all()


def test_a_nan_pixel_counts_only_where_the_coefficients_reach():
    image = gaussian_image(2.0, 0.0, 0.0)[np.newaxis].repeat(2, axis=0)
    image[0, 31, 33] = np.nan
    image[1, 31, 31 + 20] = np.nan
    fluxes = measure_apertures(
        windows_of(image, x=50, y=50), shape=circle(6.0, 6.0), x=np.full(2, 50.0), y=np.full(2, 50.0),
        max_sinc_radius=10.0,
    )  # fmt: skip
    assert np.isnan(fluxes.flux).tolist() == [True, False]


def test_nearest_pixels_at_the_origin():
    x, y = nearest_pixel([0.7, 0.7, -0.6, 5.5], [0.2, 3.2, 0.9, 4.5])
    assert x.tolist() == [0, 1, 0, 6]
    assert y.tolist() == [0, 3, 0, 5]


def test_smoothing_adds_variances_and_leaves_the_edges():
    image = gaussian_image(1.5, 0.2, -0.3, half=40)[np.newaxis]
    box = Box(60, 60, 140, 140)
    windows = windows_of(image, x=100, y=100, variance=np.full_like(image, 9.0))
    smooth = smooth_windows(windows, sub_images=[box], sigma=np.array([2.0]), halves=np.array([8]))
    expected = gaussian_image(2.5, 0.2, -0.3, half=40)
    # the kernel is a sampled Gaussian cut at 4 sigma: 1e-4 of its light is missing
    np.testing.assert_allclose(
        smooth.image[0, 10:-10, 10:-10], expected[10:-10, 10:-10], atol=2e-4 * expected.max()
    )
    edge = np.ones((81, 81), dtype=bool)
    edge[8:-8, 8:-8] = False
    np.testing.assert_array_equal(smooth.image[0][edge], windows.image[0][edge])
    kernel = gaussian_kernel(2.0, 8)
    # one rounding to float32 between the passes, one after
    np.testing.assert_allclose(smooth.variance[0, 40, 40], 9.0 * (kernel**2).sum() ** 2, rtol=2e-7)


def test_smoothing_of_a_smaller_sub_image_hides_the_rest():
    image = np.ones((1, 41, 41))
    windows = windows_of(image, x=100, y=100)
    box = Box(90, 85, 110, 115)
    smooth = smooth_windows(windows, sub_images=[box], sigma=np.array([1.0]), halves=np.array([4]))
    assert smooth.limits.box(0) == box
    inside = np.zeros((41, 41), dtype=bool)
    inside[5:36, 10:31] = True
    assert (smooth.image[0][~inside] == 0).all()
    np.testing.assert_allclose(smooth.image[0][inside], 1.0, rtol=2e-7)


def test_a_nan_pixel_spoils_only_what_the_kernel_reaches():
    image = gaussian_image(2.0, 0.0, 0.0, half=30)[np.newaxis]
    image[0, 30, 30] = np.nan
    box = Box(70, 70, 130, 130)
    smooth = smooth_windows(
        windows_of(image, x=100, y=100), sub_images=[box], sigma=np.array([1.0]), halves=np.array([4])
    )
    bad = np.zeros((61, 61), dtype=bool)
    bad[26:35, 26:35] = True
    np.testing.assert_array_equal(np.isnan(smooth.image[0]), bad)


def test_kron_radius_of_a_gaussian():
    sigma = 2.5
    image = gaussian_image(sigma, 0.3, -0.2, half=31)[np.newaxis].astype(np.float32)
    offset = np.arange(-31, 32)[np.newaxis]
    measured = kron_radii(image, region=circle(6 * sigma), dx=offset - 0.3, dy=offset + 0.2)
    # sqrt(pi / 2) sigma; the mean distance in the central pixel, 2.5 % of the light, is overestimated by 0.25
    assert measured.radius[0] == pytest.approx(np.sqrt(np.pi / 2) * sigma, rel=3e-3)
    assert measured.light[0] == pytest.approx(1e4, rel=1e-5)
    assert measured.usable[0]
    assert not kron_radii(-image, region=circle(15.0), dx=offset - 0.3, dy=offset + 0.2).usable[0]


def test_kron_region_is_the_ellipse():
    """Unit pixels: the sum of the light counts the pixels whose centre lies inside or on the ellipse."""
    region = Quadrupoles(np.array([100.0]), np.array([49.0]), np.array([30.0]))
    dx, dy = np.arange(-15, 16) - 0.25, np.arange(-15, 16) + 0.4
    measured = kron_radii(
        np.ones((1, 31, 31), dtype=np.float32), region=region, dx=dx[np.newaxis], dy=dy[np.newaxis]
    )
    inverse = np.linalg.inv(np.array([[100.0, 30.0], [30.0, 49.0]]))
    grid = np.stack(np.meshgrid(dx, dy), axis=-1)
    number = int((np.einsum("yxi,ij,yxj->yx", grid, inverse, grid) <= 1.0).sum())
    assert measured.light[0] == number
