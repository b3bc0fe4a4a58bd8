"""The PSF as two shapelets."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from finalchar.measure import plugins
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.shapelets import UNIT_FLUX, ShapeletComponents, basis_functions, shapelet_orders

NAME = "modelfit_DoubleShapeletPsfApprox"
SIZE = 25


class StampPsf:
    """A PSF that is the same stamp everywhere, or one for each star."""

    size = SIZE
    average_position = (0.0, 0.0)
    average_color = np.nan

    def __init__(self, *stamps):
        self.stamps = np.stack(stamps)

    def kernel_images(self, *, x, y, color=np.nan):
        return np.resize(self.stamps, (len(np.atleast_1d(x)), SIZE, SIZE))


def moffat():
    profile = galsim.Moffat(beta=3.2, fwhm=4.1).shear(g1=0.04, g2=-0.02)
    image = profile.drawImage(nx=SIZE, ny=SIZE, scale=1.0, method="no_pixel", dtype=float)
    return image.array / image.array.sum()


def measured(scene, psf, settings_of):
    scene.psf = psf
    return scene.measure("lsst", settings_of([NAME]))


@pytest.fixture(name="three")
def three_stars(scene_of):
    return scene_of(x=[40.0, 100.0, 160.0], y=[50.0, 60.0, 70.0], flux=[1e4, 1e4, 1e4])


def test_vector_of_the_specification(three, settings_of):
    table = measured(three, StampPsf(moffat()), settings_of)
    assert not table[f"{NAME}_flag"].any()
    # measurement specification, appendix B 3, to its printed digits
    for name, value in {
        "0_xx": 2.5982468,
        "0_yy": 2.2449307,
        "0_xy": -0.0929583,
        "1_xx": 8.9226723,
        "1_yy": 7.7093447,
        "1_xy": -0.3192294,
        "0_0": 0.1274543738,
        "0_3": -4.318963e-4,
        "0_4": -1.347807e-4,
        "0_5": 4.215755e-4,
        "1_0": 0.1496480682,
    }.items():
        np.testing.assert_allclose(table[f"{NAME}_{name}"], value, rtol=1e-6, err_msg=name)
    for name in ("0_1", "0_2", "1_1", "1_2", "0_x", "1_y"):
        np.testing.assert_allclose(table[f"{NAME}_{name}"], 0.0, atol=1e-9, err_msg=name)


def test_a_psf_that_cannot_be_fitted_fails_alone(three, settings_of):
    narrow = np.zeros((SIZE, SIZE))
    narrow[12, 12] = 1.0
    undrawn = np.full((SIZE, SIZE), np.nan)
    table = measured(three, StampPsf(narrow, undrawn, moffat()), settings_of)
    assert table[f"{NAME}_flag"].tolist() == [True, True, False]
    assert table[f"{NAME}_flag_invalidMoments"].tolist() == [True, False, False]
    assert table[f"{NAME}_flag_invalidPointForPsf"].tolist() == [False, True, False]
    assert table["base_InvalidPsf_flag"].tolist() == [False, True, False]
    assert np.isnan(table[f"{NAME}_0_xx"]).tolist() == [True, True, False]


def test_too_few_iterations_are_said(three, settings_of):
    settings = settings_of([NAME])
    own = plugins.get(NAME).Settings()
    own.optimizer.maxOuterIterations = 1
    setattr(settings.plugins, NAME, own)
    three.psf = StampPsf(moffat())
    table = three.measure("lsst", settings)
    assert table[f"{NAME}_flag_maxIterations"].all()
    assert np.isnan(table[f"{NAME}_0_0"]).all()


def test_star_without_centroid_fails_alone(three, settings_of):
    three.x[1] = np.nan
    table = measured(three, StampPsf(moffat()), settings_of)
    assert table[f"{NAME}_flag"].tolist() == [False, True, False]


def test_columns_follow_the_orders():
    module = plugins.get(NAME)
    plugin = module.Plugin(NAME, module.Settings(innerOrder=1, outerOrder=0))
    names = [field.name.removeprefix(f"{NAME}_") for field in plugin.fields()]
    assert [name for name in names if name[:2] in ("0_", "1_") and name[2:].isdigit()] == [
        "0_0",
        "0_1",
        "0_2",
        "1_0",
    ]


def test_a_star_does_not_depend_on_the_others(three, settings_of, scene_of):
    together = measured(three, StampPsf(moffat()), settings_of)
    alone = measured(scene_of(x=[100.0], y=[60.0], flux=[1e4]), StampPsf(moffat()), settings_of)
    for name in ("0_xx", "0_5", "1_2"):
        column = f"{NAME}_{name}"
        assert alone[column].tobytes() == together[column][:1].tobytes()


def test_basis_is_orthonormal():
    grid = np.linspace(-9, 9, 361)
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    basis = basis_functions(x, y, shapelet_orders(2))
    area = (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(basis @ basis.T * area, np.eye(6), atol=1e-12)
    assert basis[0].sum() * area == pytest.approx(UNIT_FLUX)
    assert shapelet_orders(2) == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]


def test_moments_are_those_of_the_drawn_function():
    rng = np.random.default_rng(5)
    coefficients = np.stack([[0.12, 0.15]])[..., None] * np.array([1, 0.03, -0.02, 0.04, 0.01, -0.03])
    coefficients *= rng.uniform(0.8, 1.2, (1, 2, 6))
    ellipse = Quadrupoles(np.array([[2.6, 8.9]]), np.array([[2.2, 7.7]]), np.array([[-0.1, -0.3]]))
    psf = ShapeletComponents(ellipse, np.array([[0.1, 0.1]]), np.array([[-0.2, -0.2]]), coefficients)
    grid = np.linspace(-30, 30, 601)
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid))
    total = np.zeros_like(x)
    for component in (0, 1):
        root = ellipse[0, component].inverse_root()
        u, v = root.apply(x - psf.x[0, component], y - psf.y[0, component])
        total += root.determinant * coefficients[0, component] @ basis_functions(u, v, shapelet_orders(2))
    flux = total.sum()
    moments, center_x, center_y = psf.moments()
    assert center_x[0] == pytest.approx((x * total).sum() / flux)
    assert center_y[0] == pytest.approx((y * total).sum() / flux)
    dx, dy = x - center_x[0], y - center_y[0]
    for ours, product in ((moments.xx, dx * dx), (moments.yy, dy * dy), (moments.xy, dx * dy)):
        assert ours[0] == pytest.approx((product * total).sum() / flux)
