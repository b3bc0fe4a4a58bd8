"""Predicted errors of the PSF against the scatter of repeated fits of the same stars."""

from dataclasses import replace

import galsim
import numpy as np
import pytest
from simulated_stars import candidates, scattered, simulate

from finalchar.psf.acceptance import Settings as AcceptanceSettings
from finalchar.psf.acceptance import check_psf
from finalchar.psf.determiners import piff as determiner
from finalchar.psf.separable import (
    GridSettings,
    Rendering,
    StarStamps,
    fit_grid,
    orthonormal_basis,
    star_grids,
    unit_sum,
)
from finalchar.psf.shape import adaptive_moments
from finalchar.psf.uncertainty import PredictedErrors, predict_errors

SIZE, SCALE, SKY = 25, 0.2, 200.0
TERMS = [(i, j) for i in range(3) for j in range(3) if i + j <= 2]


def basis_at(x, y):
    return np.stack([x**i * y**j for i, j in TERMS], axis=1)


def draw_star(x, y, offset, flux):
    """A star that the order-2 grid model can represent: smooth variation, well sampled."""
    profile = galsim.Gaussian(sigma=0.35 * (1 + 0.05 * (x - 500) / 500)).shear(
        g1=0.03 * (y - 500) / 500, g2=0.02
    )
    image = galsim.Image(SIZE, SIZE, dtype=float, scale=SCALE)
    return profile.withFlux(flux).drawImage(image, offset=offset).array


@pytest.fixture(scope="module")
def setting():
    rng = np.random.default_rng(5)
    count = 30
    x, y = rng.uniform(30, 970, (2, count))
    flux = 10 ** rng.uniform(4, 5.3, count)
    offset = np.arange(SIZE) - SIZE // 2
    column, row = np.floor(x + 0.5), np.floor(y + 0.5)
    clean = np.array(
        [draw_star(x[k], y[k], (x[k] - column[k], y[k] - row[k]), flux[k]) for k in range(count)]
    )
    cap = np.minimum(1.0, 200.0 / (flux / np.sqrt(SKY * 50))) ** 2
    stamps = StarStamps(
        image=clean,
        weight=np.ones_like(clean) / SKY * cap[:, None, None],
        dx=column[:, None] + offset - x[:, None],
        dy=row[:, None] + offset - y[:, None],
        jacobian=np.tile(np.eye(2) * SCALE, (count, 1, 1)),
        sigma=np.full(count, 0.37),
        basis=basis_at(x, y),
        usable=np.ones(count, dtype=bool),
    )
    return stamps, np.maximum(clean, 0) + SKY, GridSettings(SIZE, SCALE, galsim.Lanczos(11)), rng


def shapes(fit, basis):
    offset = np.arange(SIZE, dtype=float)[None] - SIZE // 2
    empty = np.zeros((1, SIZE, SIZE))
    centred = StarStamps(
        empty, empty, offset, offset, np.eye(2)[None] * SCALE, np.ones(1), np.ones((1, 1)), np.ones(1, bool)
    )
    rendering = Rendering(centred, GridSettings(SIZE, SCALE, galsim.Lanczos(11)), np.zeros((1, 2)))
    grids = unit_sum(star_grids(fit.q, basis, SIZE))
    return np.concatenate([shape_of(rendering.draw(grid[None])) for grid in grids])


def shape_of(images):
    moments = adaptive_moments(images)
    xx, yy, xy = np.ravel(moments.xx), np.ravel(moments.yy), np.ravel(moments.xy)
    return np.stack([(xx * yy - xy**2) ** 0.25, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)], axis=1)


def test_true_value_lies_within_one_predicted_error_as_often_as_promised(setting):
    stamps, variance, settings, rng = setting
    places = np.array([[20, 20], [500, 500], [980, 980], [20, 980], [500, 20], [700, 300]], dtype=float)
    basis = basis_at(places[:, 0], places[:, 1])
    truth = shapes(fit_grid(stamps, settings), basis)
    inside = []
    for _ in range(60):
        noisy = StarStamps(
            **{
                **{name: getattr(stamps, name) for name in StarStamps.__dataclass_fields__},
                "image": stamps.image + rng.normal(size=variance.shape) * np.sqrt(variance),
            }
        )
        fit = fit_grid(noisy, settings)
        errors = predict_errors(noisy, variance, settings, fit).at(basis)
        inside.append(np.abs(shapes(fit, basis) - truth) < errors)
    # 1080 values, places of one fit correlated: 68 +- 5 per cent is the promise of docs/psf.md
    assert np.mean(inside) == pytest.approx(0.68, abs=0.05)


def test_errors_grow_outside_the_stars(setting):
    stamps, variance, settings, _ = setting
    errors = predict_errors(stamps, variance, settings, fit_grid(stamps, settings))
    inside, outside = errors.at(basis_at(np.array([500.0, 2500.0]), np.array([500.0, 2500.0])))
    assert (outside > 5 * inside).all()


@pytest.mark.parametrize("value", [-100.0, -1e8])
def test_a_negative_variance_is_no_noise(setting, value):
    """Pixels of negative variance take part in the fit; the predicted error stays a number."""
    stamps, variance, settings, _ = setting
    fit = fit_grid(stamps, settings)
    changed = variance.copy()
    changed[0, 3:9, 3:9] = value
    place = basis_at(np.array([500.0]), np.array([500.0]))
    plain, other = (predict_errors(stamps, each, settings, fit).at(place) for each in (variance, changed))
    # 36 pixels of one star in 20 or more: the error hardly changes.
    assert other == pytest.approx(plain, rel=0.1)


def test_errors_fall_with_more_signal(setting):
    stamps, variance, settings, _ = setting
    fit = fit_grid(stamps, settings)
    at = basis_at(np.array([500.0]), np.array([500.0]))
    quiet = predict_errors(stamps, variance / 4, settings, fit).at(at)
    # the error is linear in the noise: a quarter of the variance is half the error
    assert quiet == pytest.approx(predict_errors(stamps, variance, settings, fit).at(at) / 2, rel=1e-12)


def test_errors_do_not_lose_digits_at_high_order_in_pixel_coordinates():
    """Raw powers of 4000 pixels span 14 decades at order 4: the variance of the sum must not cancel."""
    x, y = np.random.default_rng(8).uniform(0, 4000, (2, 60))
    powers = [(i, j) for i in range(5) for j in range(5) if i + j <= 4]

    def terms(u, v):
        return np.stack([u**i * v**j for i, j in powers], axis=1)

    weight = np.ones(len(x))
    roots = []
    for centre, scale in ((0.0, 1.0), (2000.0, 2000.0)):
        scaled, back = orthonormal_basis(terms((x - centre) / scale, (y - centre) / scale), weight)
        triangle = np.linalg.qr(scaled, mode="r")
        roots.append(PredictedErrors(np.array([back @ triangle.T] * 3), 1.0))
    at = np.array([0.0, 2000.0, 4000.0])
    raw = roots[0].at(terms(at, at))
    centred = roots[1].at(terms((at - 2000) / 2000, (at - 2000) / 2000))
    # condition number of the raw powers, about 1e7, times double precision
    assert raw == pytest.approx(centred, rel=1e-7)


def test_errors_reach_acceptance_and_product():
    places = scattered(40)
    exposure = simulate(places)
    fit = determiner.determine(candidates(exposure, places), exposure, determiner.Settings(), band="r")
    figures = check_psf(fit, exposure, AcceptanceSettings())
    assert fit.evidence.errors.root.shape == (3, 6, 6)
    rough = replace(fit, evidence=replace(fit.evidence, errors=None))
    approximation = check_psf(rough, exposure, AcceptanceSettings())
    assert "predicted_e1_error" not in approximation
    # without photon noise of the stars the approximation, 1/S for the size of a star, is right within 2
    assert 0.5 < figures["predicted_size_error"] / approximation["predicted_size_error"] < 2
    for name in ("predicted_e1_error", "predicted_e2_error"):
        # for a round PSF the error of e1 and e2 is twice that of ln(size)
        assert 1 < figures[name] / figures["predicted_size_error"] < 4
