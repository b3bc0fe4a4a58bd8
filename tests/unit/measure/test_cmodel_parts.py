"""The parts of the galaxy-model fit: profiles, prior, frame, convolved model, regions, combination."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from finalchar.errors import ConfigError
from finalchar.formats.exposure import Box
from finalchar.measure.cmodel.measurement import local_jacobian
from finalchar.measure.cmodel.model import ConvolvedModel, FitFrame
from finalchar.measure.cmodel.prior import EmpiricalPrior
from finalchar.measure.cmodel.profiles import PROFILES, profile_of
from finalchar.measure.cmodel.region import initial_region, revised_region
from finalchar.measure.cmodel.settings import CModelSettings, EmpiricalPriorSettings
from finalchar.measure.cmodel.stages import _solve_non_negative
from finalchar.measure.quadrupoles import Quadrupoles, pixels_of_ellipse
from finalchar.measure.shapelets import ShapeletComponents

JACOBIAN = np.array([[[-4.9, 0.6], [0.5, 5.1]]])


def quadrupole(xx, yy, xy):
    return Quadrupoles(np.array([xx]), np.array([yy]), np.array([xy]))


@pytest.mark.parametrize("key", list(PROFILES))
def test_profiles_have_flux_one_and_half_of_it_inside_the_half_light_radius(key):
    profile = PROFILES[key]
    assert profile.fraction.sum() == pytest.approx(1.0, abs=1e-12)
    inside = (profile.fraction * -np.expm1(-0.5 / profile.variance)).sum()
    assert inside == pytest.approx(0.5, abs=0.03)  # they are fits, of truncated profiles


def test_unknown_profile_is_refused_in_one_sentence():
    with pytest.raises(ConfigError, match=r"no profile 'luv' of 3 Gaussians; .* luv of 8"):
        profile_of("luv", 3)


def test_moments_radius_of_the_exponential():
    profile = PROFILES["lux", 3]
    radius = np.sqrt((profile.fraction * profile.variance).sum())
    assert radius == pytest.approx(0.95473, abs=0.01)  # of the profile itself, not of its three Gaussians


def test_parameters_and_back():
    frame = FitFrame(np.repeat(JACOBIAN, 3, axis=0))
    ellipse = Quadrupoles(np.array([4.0, 9.0, 1.0]), np.array([3.0, 9.0, 7.0]), np.array([0.5, 0.0, -2.0]))
    parameters = frame.to_parameters(ellipse)
    back = frame.to_pixels(np.arange(3), parameters)
    for axes in ("xx", "yy", "xy"):
        np.testing.assert_allclose(getattr(back, axes), getattr(ellipse, axes), rtol=1e-12, atol=1e-12)
    circle = FitFrame(np.eye(2)[np.newaxis]).to_parameters(quadrupole(9.0, 9.0, 0.0))
    np.testing.assert_allclose(circle, [[0.0, 0.0, np.log(3.0)]], atol=1e-15)


def test_frame_points_west_and_north():
    class Sky:
        """0.2 arcsec pixels, x to the west, y to the north, at declination 60 degrees."""

        def pixel_to_sky(self, *, x, y):
            dec = np.deg2rad(60.0) + np.asarray(y) * 0.2 / 206264.80624709636
            return 1.0 - np.asarray(x) * 0.2 / 206264.80624709636 / np.cos(dec), dec

    jacobian = local_jacobian(Sky(), np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(jacobian, [[[5.0, 0.0], [0.0, 5.0]]], atol=1e-7)  # arcs of one pixel


def prior_at(parameters):
    return EmpiricalPrior(EmpiricalPriorSettings()).density(np.atleast_2d(parameters))


def test_prior_is_normalised():
    radii = np.linspace(-6.5, 4.0, 200001)
    eta = np.zeros((len(radii), 4))
    eta[:, 2] = radii
    in_radius = prior_at(eta) / prior_at([0.0, 0.0, -3.0, 1.0])
    plateau = 1.0 / 5.567457868456  # measurement specification 8.4
    assert in_radius.mean() * (radii[-1] - radii[0]) * plateau == pytest.approx(1.0, abs=1e-4)
    grid = np.linspace(0, 5, 100001)
    ring = np.stack([grid, 0 * grid, -3 + 0 * grid, 1 + 0 * grid], axis=1)
    in_ellipticity = (prior_at(ring) / plateau * 2 * np.pi * grid).mean() * 5
    assert in_ellipticity == pytest.approx(1.0, abs=1e-3)


def test_prior_is_zero_for_negative_amplitudes_and_tiny_radii():
    assert prior_at([0.1, 0.1, -3.0, -1e-9])[0] == 0
    assert prior_at([0.1, 0.1, -6.0011, 1.0])[0] == 0
    assert prior_at([0.1, 0.1, -5.9999, 1.0])[0] == prior_at([0.1, 0.1, -2.0, 1.0])[0]


@pytest.mark.parametrize("log_radius", [-6.0004, -3.0, -0.3])
def test_prior_derivatives(log_radius):
    prior = EmpiricalPrior(EmpiricalPriorSettings())
    center = np.array([[0.2, -0.1, log_radius, 1.0]])
    gradient, hessian = prior.derivatives(center)
    step = np.array([1e-5, 1e-5, 1e-7, 1.0])
    scale = np.abs(gradient).max()
    for axis in range(3):
        moved = center.copy(), center.copy()
        moved[0][0, axis] -= step[axis]
        moved[1][0, axis] += step[axis]
        slope = (prior.density(moved[1]) - prior.density(moved[0])) / (2 * step[axis])
        assert gradient[0, axis] == pytest.approx(slope[0], rel=1e-4, abs=1e-6 * scale)
        bend = (prior.derivatives(moved[1])[0] - prior.derivatives(moved[0])[0])[0] / (2 * step[axis])
        for other in range(3):
            if {axis, other} != {1, 2}:
                assert hessian[0, axis, other] == pytest.approx(bend[other], rel=1e-4, abs=1e-5 * scale)
    assert hessian[0, 2, 1] == hessian[0, 2, 0]  # M-Q11
    assert (gradient[0, 3], np.abs(hessian[0, 3]).max()) == (0, 0)


def test_prior_of_round_shapes_has_no_slope_in_ellipticity():
    gradient, hessian = EmpiricalPrior(EmpiricalPriorSettings()).derivatives(
        np.array([[0.0, 0.0, -3.0, 1.0]])
    )
    assert np.abs(gradient).max() == 0
    assert np.abs(hessian).max() == 0


def convolved_model(psf, profile, grid):
    y, x = np.mgrid[:grid, :grid]
    return ConvolvedModel(
        x=x.ravel()[np.newaxis].astype(np.float32),
        y=y.ravel()[np.newaxis].astype(np.float32),
        number=np.array([grid * grid]),
        psf=psf,
        center_x=np.array([0.5 * (grid - 1) + 0.3]),
        center_y=np.array([0.5 * (grid - 1) - 0.2]),
        flux_unit=np.array([1000.0]),
        frame=FitFrame(JACOBIAN),
        profile=profile,
    )


def gaussian_of(ellipse, flux=1.0):
    root = ellipse.root()
    matrix = np.array([[root.xx[0], root.xy[0]], [root.xy[0], root.yy[0]]])
    return galsim.Transform(galsim.Gaussian(sigma=1.0), jac=matrix).withFlux(flux)


@pytest.mark.parametrize("key", list(PROFILES))
def test_model_with_gaussian_psf_is_that_of_galsim(key):
    profile, grid = PROFILES[key], 64
    ellipse = Quadrupoles(np.array([[2.6, 8.9]]), np.array([[2.2, 7.7]]), np.array([[-0.1, -0.3]]))
    coefficients = np.zeros((1, 2, 6))
    coefficients[0, :, 0] = 0.2, 0.08
    psf = ShapeletComponents(ellipse, np.zeros((1, 2)), np.zeros((1, 2)), coefficients)
    parameters = np.array([[0.2, -0.1, np.log(0.5), 1.0]])
    model = convolved_model(psf, profile, grid)
    ours, impossible = model.evaluate(np.array([0]), parameters)
    assert not impossible.any()
    half_light = model.frame.to_pixels(np.array([0]), parameters)
    parts = [
        gaussian_of(half_light.times(variance) + ellipse[:, j], 1000 * fraction * flux * 2 * np.sqrt(np.pi))
        for fraction, variance in zip(profile.fraction, profile.variance, strict=True)
        for j, flux in ((0, 0.2), (1, 0.08))
    ]
    image = galsim.ImageD(grid, grid, scale=1.0)
    galsim.Add(parts).drawImage(image=image, offset=(0.3, -0.2), method="no_pixel")
    # single precision, and GalSim draws sharp Gaussians by transforms of 5e-3 kvalue accuracy at worst
    np.testing.assert_allclose(ours.reshape(grid, grid), image.array, atol=2e-5 * image.array.max())


def test_model_with_shapelets_is_a_convolution():
    """Against a sum over a fine grid of points of the galaxy, each a shifted PSF."""
    from finalchar.measure.cmodel.profiles import Profile
    from finalchar.measure.shapelets import basis_functions, shapelet_orders

    ellipse = Quadrupoles(np.array([[2.6, 8.9]]), np.array([[2.2, 7.7]]), np.array([[-0.1, -0.3]]))
    coefficients = np.array([[[0.12, 0.03, -0.02, 0.04, 0.01, -0.03], [0.15, 0.01, 0.02, 0.0, 0.0, 0.0]]])
    psf = ShapeletComponents(ellipse, np.array([[0.1, 0.1]]), np.array([[-0.2, -0.2]]), coefficients)
    model = convolved_model(psf, Profile(np.array([1.0]), np.array([1.0])), 25)
    parameters = np.array([[0.1, 0.2, np.log(0.4), 1.0]])
    ours, _ = model.evaluate(np.array([0]), parameters)
    galaxy = model.frame.to_pixels(np.array([0]), parameters)[0]
    offsets = np.linspace(-8, 8, 81) * float(galaxy.determinant_radius)
    dx, dy = (axis.ravel() for axis in np.meshgrid(offsets, offsets))
    inverse = galaxy.inverse_root()
    u, v = inverse.apply(dx, dy)
    weight = np.exp(-0.5 * (u**2 + v**2))
    weight /= weight.sum()
    total = np.zeros(ours.shape[1])
    for component in (0, 1):
        root = ellipse[0, component].inverse_root()
        for a, b, w in zip(dx[weight > 1e-9], dy[weight > 1e-9], weight[weight > 1e-9], strict=True):
            s, t = root.apply(model.x[0] - model.center_x - 0.1 - a, model.y[0] - model.center_y + 0.2 - b)
            basis = basis_functions(s, t, shapelet_orders(2))
            total += w * root.determinant * (coefficients[0, component] @ basis)
    np.testing.assert_allclose(ours[0], 1000 * total, atol=2e-6 * ours.max())  # single precision


def test_model_of_an_impossible_shape_is_reported():
    ellipse = Quadrupoles(np.array([[2.6, 8.9]]), np.array([[2.2, 7.7]]), np.array([[-0.1, -0.3]]))
    psf = ShapeletComponents(ellipse, np.zeros((1, 2)), np.zeros((1, 2)), np.ones((1, 2, 6)))
    model = convolved_model(psf, PROFILES["lux", 3], 9)
    with np.errstate(invalid="ignore"):
        _, impossible = model.evaluate(np.zeros(2, dtype=int), np.array([[np.nan, 0, 0], [0, 0, 0.0]]))
    assert impossible.tolist() == [True, False]


def test_pixels_of_an_ellipse():
    box = Box(-3, -2, 30, 30)
    x, y = pixels_of_ellipse(xx=40.0, yy=20.0, xy=9.0, x=5.3, y=4.8, box=box)
    rows, columns = np.mgrid[-2:31, -3:31]
    inverse = np.linalg.inv([[40.0, 9.0], [9.0, 20.0]])
    offset = np.stack([columns - 5.3, rows - 4.8], axis=-1)
    inside = np.einsum("...i,ij,...j", offset, inverse, offset) <= 1
    assert np.array_equal(np.stack([y, x]), np.stack([rows[inside], columns[inside]]))


@pytest.mark.parametrize("moments", [(np.nan, 1.0, 0.0), (-1.0, 2.0, 0.0), (1.0, 0.0, 0.0)])
def test_no_pixels_without_an_ellipse(moments):
    xx, yy, xy = moments
    x, y = pixels_of_ellipse(xx=xx, yy=yy, xy=xy, x=5.0, y=5.0, box=Box(0, 0, 9, 9))
    assert (len(x), len(y)) == (0, 0)


REGION = CModelSettings().region


def region_of(*, kron, area, moments=(6.0, 6.0, 0.0)):
    return initial_region(
        moments=quadrupole(*moments),
        psf=quadrupole(4.0, 4.0, 0.0),
        kron_radius=np.array([kron]),
        footprint_area=np.array([area]),
        settings=REGION,
    )


@pytest.mark.parametrize(
    ("kron", "area", "expected_area", "flag"),
    [
        (10.0, 500, np.pi * 15.0**2, None),
        (3.0, 500, 500.0, "flags_region_usedFootprintArea"),  # the Kron region is smaller than 16 psf areas
        (np.nan, 100, 16 * np.pi * 4.0, "flags_region_usedPsfArea"),
        (-1.0, 900, 900.0, "flags_region_usedFootprintArea"),
        (300.0, 500, np.pi * 450.0**2, "flag_region_maxArea"),
    ],
)
def test_initial_region(kron, area, expected_area, flag):
    region = region_of(kron=kron, area=area)
    assert region.ellipse.area[0] == pytest.approx(expected_area)
    assert [name for name, values in region.flags.items() if values[0]] == ([flag] if flag else [])


def test_initial_region_without_moments_does_not_use_the_kron_radius():
    region = region_of(kron=20.0, area=500, moments=(np.nan, 6.0, 0.0))
    assert region.flags["flags_region_usedFootprintArea"][0]


def test_revised_region_is_bounded():
    psf, initial = quadrupole(4.0, 4.0, 0.0), quadrupole(150.0, 150.0, 0.0)
    for size, flag, scale in ((0.01, "Max", 3.0), (140.0, "Min", 1.0)):
        region = revised_region(fitted=quadrupole(size, size, 0.0), psf=psf, initial=initial, settings=REGION)
        assert region.flags[f"flags_region_usedInitialEllipse{flag}"][0]
        assert region.ellipse.xx[0] == pytest.approx(scale**2 * size + 16.0)
    between = revised_region(fitted=quadrupole(80.0, 80.0, 0.0), psf=psf, initial=initial, settings=REGION)
    assert not any(values[0] for values in between.flags.values())
    alpha = (150.0 - 16.0) / 80.0  # root of the equation for the moments, used for the radius [M-Q9]
    assert between.ellipse.xx[0] == pytest.approx(alpha**2 * 80.0 + 16.0)


def test_non_negative_solutions():
    hessian = np.array([[2.0, 0.5], [0.5, 1.0]])
    wanted = np.array([[0.3, 0.7], [0.4, -0.2], [-0.4, 0.3], [-0.1, -0.3]])
    gradient = -wanted @ hessian
    amplitudes, solved = _solve_non_negative(np.repeat(hessian[np.newaxis], 4, axis=0), gradient)
    assert solved.all()
    np.testing.assert_allclose(amplitudes[0], wanted[0])
    np.testing.assert_allclose(amplitudes[1], [0.4 + 0.5 * -0.2 / 2.0, 0.0])
    np.testing.assert_allclose(amplitudes[2], [0.0, 0.3 + 0.5 * -0.4 / 1.0])
    assert (amplitudes[3] == 0).all()


def test_singular_combinations():
    hessian = np.ones((3, 2, 2))
    hessian[2] = np.nan
    gradient = np.array([[-1.0, -1.0], [-1.0, 0.0], [-1.0, -1.0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        amplitudes, solved = _solve_non_negative(hessian, gradient)
    assert solved.tolist() == [True, False, False]
    np.testing.assert_allclose(amplitudes[0], [0.5, 0.5])
