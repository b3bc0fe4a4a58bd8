"""Acceptance of a PSF (K15, K16): figures against truth, limits, marks, broken models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from simulated_stars import candidates, scattered, simulate

from finalchar.errors import ConfigError, PsfError
from finalchar.formats.exposure import Box
from finalchar.psf import acceptance
from finalchar.psf.acceptance import PsfRefusedError, Settings, check_psf
from finalchar.psf.determiners import piff as determiner
from finalchar.psf.model import FitEvidence, PsfFit, PsfImage
from finalchar.psf.shape import adaptive_moments, determinant_radius

EXPOSURE = SimpleNamespace(box=Box(0, 0, 999, 999))


@dataclass(frozen=True)
class GaussianModel:
    """A model whose width is a function of the place."""

    width: object
    scale: float = 1.0
    average_position: tuple[float, float] = (500.0, 500.0)
    average_color: float = np.nan
    size: int = 25

    def kernel_images(self, *, x, y, color=np.nan):
        row, column = np.mgrid[-12:13, -12:13]
        widths = np.array([self.width(a, b) for a, b in zip(np.ravel(x), np.ravel(y), strict=True)])
        squared = np.asarray(widths, float)[:, np.newaxis, np.newaxis] ** 2
        arrays = np.exp(-0.5 * (row**2 + column**2) / squared)
        return self.scale * arrays / arrays.sum(axis=(1, 2), keepdims=True)

    def kernel_image(self, *, x, y, color=np.nan):
        return PsfImage(self.kernel_images(x=x, y=y)[0], -12, -12)


def terms(order):
    def design(*, x, y):
        x, y = np.ravel(x), np.ravel(y)
        return np.column_stack([x**i * y**j for i in range(order + 1) for j in range(order + 1 - i)])

    return design


def evidence(x, y, order=1, snr=100.0, **more):
    design = terms(order)
    ratios = np.full(len(x), snr)
    return FitEvidence(
        np.asarray(x, float), np.asarray(y, float), ratios, ratios, design(x=x, y=y), design, **more
    )


def fit_of(model, proof=None):
    return PsfFit(model, np.ones(3, bool), evidence=proof)


def spread(number, order=1, **more):
    rng = np.random.default_rng(number)
    return evidence(*rng.uniform(0, 999, (2, number)), order, **more)


GOOD = GaussianModel(lambda x, y: 2.0 + 1e-4 * x)


def test_a_good_psf_passes_with_its_figures():
    figures = check_psf(fit_of(GOOD, spread(60)), EXPOSURE, Settings())
    assert figures["poorly_determined"] == 0
    assert figures["stars_per_term"] == 20
    assert figures["extrapolated_fraction"] < 0.25
    # Relative tolerance: the stopping rule of the moments.
    assert figures["smallest_size"] == pytest.approx(2.0, rel=1e-3)
    assert figures["largest_size"] == pytest.approx(2.0999, rel=1e-3)
    assert figures["average_size"] == pytest.approx(2.05, rel=1e-3)


# ------------------------------------------------------------------------------------------------ stars


@pytest.mark.parametrize(("stars", "order"), [(2, 1), (5, 2), (9, 3)])
def test_fewer_stars_than_terms_fail(stars, order):
    """K15: whatever the chi-square says."""
    with pytest.raises(PsfRefusedError, match=f"used {stars} stars for") as caught:
        check_psf(fit_of(GOOD, spread(stars, order)), EXPOSURE, Settings())
    assert caught.value.status == "psf_failed"
    assert caught.value.figures["stars_per_term"] < 1


@pytest.mark.parametrize(("stars", "order"), [(6, 2), (7, 2), (9, 2), (13, 3)])
def test_as_many_or_hardly_more_stars_than_terms_are_marked(stars, order):
    """K15: accepted as the reference does, with the figures that tell."""
    figures = check_psf(fit_of(GOOD, spread(stars, order)), EXPOSURE, Settings())
    assert figures["poorly_determined"] == 1
    assert f"{stars} stars for" in figures["poorly_determined_because"]
    assert figures["predicted_size_error"] > 0.01
    limits = Settings(min_stars_per_term=2.0)
    with pytest.raises(PsfRefusedError, match="min_stars_per_term"):
        check_psf(fit_of(GOOD, spread(stars, order)), EXPOSURE, limits)


def test_stars_in_a_corner_leave_the_rest_extrapolated():
    rng = np.random.default_rng(0)
    proof = evidence(*rng.uniform(0, 400, (2, 60)))
    figures = check_psf(fit_of(GOOD, proof), EXPOSURE, Settings())
    assert figures["extrapolated_fraction"] == pytest.approx(0.86, abs=0.02)
    assert "outside the used stars" in figures["poorly_determined_because"]
    with pytest.raises(PsfRefusedError, match="max_extrapolated_fraction"):
        check_psf(fit_of(GOOD, proof), EXPOSURE, Settings(max_extrapolated_fraction=0.5))


@pytest.mark.parametrize("order", [1, 2])
def test_stars_on_a_line_do_not_determine_a_polynomial(order):
    """K16: a singular system is found, whatever the solver made of it."""
    x = np.linspace(50, 900, 30)
    with pytest.raises(PsfRefusedError, match="do not determine"):
        check_psf(fit_of(GOOD, evidence(x, 0.5 * x + 3, order)), EXPOSURE, Settings())


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_predicted_error_is_the_scatter_of_repeated_fits(order):
    """Sizes of stars with relative noise 1 / S, fitted with the weights of the fit, many times."""
    rng = np.random.default_rng(12)
    x, y = rng.uniform(0, 999, (2, 40))
    snr = rng.uniform(30, 600, 40)
    capped = np.minimum(snr, 200)
    design = terms(order)
    proof = FitEvidence(x, y, snr, capped, design(x=x, y=y), design)
    at_x, at_y = np.array([0.0, 500.0, 999.0]), np.array([0.0, 500.0, 0.0])
    predicted = acceptance.predicted_size_errors(proof, x=at_x, y=at_y)
    scale = proof.design.max(axis=0)
    sizes = 1 + rng.normal(size=(40, 3000)) / snr[:, np.newaxis]
    solved = np.linalg.lstsq(
        capped[:, np.newaxis] * proof.design / scale, capped[:, np.newaxis] * sizes, rcond=None
    )[0]
    scatter = (design(x=at_x, y=at_y) / scale @ solved).std(axis=1)
    # The scatter of 3000 numbers is known to 1.3 per cent; four times that.
    np.testing.assert_allclose(predicted, scatter, rtol=0.052)


def test_the_limit_of_the_predicted_error():
    proof = spread(9, 2, snr=20.0)
    figures = check_psf(fit_of(GOOD, proof), EXPOSURE, Settings())
    assert "predicted error" in figures["poorly_determined_because"]
    with pytest.raises(PsfRefusedError, match="max_predicted_size_error"):
        check_psf(fit_of(GOOD, proof), EXPOSURE, Settings(max_predicted_size_error=0.01))


def test_an_error_that_is_no_number_is_no_good_error():
    errors = SimpleNamespace(at=lambda basis: np.full((len(basis), 3), np.nan), size=2.0)
    proof = spread(60, errors=errors)
    figures = check_psf(fit_of(GOOD, proof), EXPOSURE, Settings())
    assert "predicted error" in figures["poorly_determined_because"]
    with pytest.raises(PsfRefusedError, match="max_predicted_size_error"):
        check_psf(fit_of(GOOD, proof), EXPOSURE, Settings(max_predicted_size_error=0.5))


def test_convex_hull_area():
    x, y = np.array([0, 4, 4, 0, 2, 1, 4]), np.array([0, 0, 3, 3, 1, 2, 0])
    assert acceptance.convex_hull_area(x=x, y=y) == 12
    assert acceptance.convex_hull_area(x=[0, 1, 2], y=[0, 1, 2]) == 0
    assert acceptance.convex_hull_area(x=[0, 1], y=[0, 1]) == 0


def test_grid_points_and_iterations_are_looked_at():
    lacking = replace(spread(60), fewest_stars_on_grid_point=0, unconstrained_grid_points=25)
    with pytest.raises(PsfRefusedError, match="25 points of the model grid"):
        check_psf(fit_of(GOOD, lacking), EXPOSURE, Settings())
    open_ended = replace(spread(60), converged=False)
    with pytest.raises(PsfRefusedError, match="did not converge"):
        check_psf(fit_of(GOOD, open_ended), EXPOSURE, Settings())
    check_psf(fit_of(GOOD, open_ended), EXPOSURE, Settings(require_convergence=False))


# ----------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("model", "sentence", "status"),
    [
        (
            GaussianModel(lambda x, y: np.nan if x > 900 and y > 900 else 2.0),
            "not finite at",
            "psf_not_finite",
        ),
        (GaussianModel(lambda x, y: 2.0, scale=1.001), "unit sum", "psf_not_finite"),
        (GaussianModel(lambda x, y: 2.0, scale=-1.0), "unit sum", "psf_not_finite"),
        (GaussianModel(lambda x, y: 5.0 if x > 900 else 2.0), "runs from", "psf_failed"),
    ],
)
def test_the_psf_is_looked_at_everywhere(model, sentence, status):
    """K16: finite in the centre is not enough."""
    with pytest.raises(PsfRefusedError, match=sentence) as caught:
        check_psf(fit_of(model), EXPOSURE, Settings())
    assert caught.value.status == status


def test_an_error_while_drawing_is_a_failed_psf():
    """S-Q10: the reference ends the job."""

    def fail(x, y):
        raise RuntimeError("no way")

    with pytest.raises(PsfRefusedError, match="cannot be drawn: no way"):
        check_psf(fit_of(GaussianModel(fail)), EXPOSURE, Settings())
    with pytest.raises(RuntimeError, match="no way"):
        check_psf(fit_of(GaussianModel(fail)), EXPOSURE, Settings(), compatibility="lsst")


def test_the_reference_looks_at_one_place_only():
    broken = GaussianModel(lambda x, y: np.nan if x > 900 and y > 900 else 2.0)
    figures = check_psf(fit_of(broken, spread(2)), EXPOSURE, Settings(), compatibility="lsst")
    assert figures == {"average_size": pytest.approx(2.0, rel=1e-3)}
    with pytest.raises(PsfError, match="not a number") as caught:
        check_psf(fit_of(GaussianModel(lambda x, y: np.nan)), EXPOSURE, Settings(), compatibility="lsst")
    assert caught.value.status == "psf_not_finite"


def test_settings_are_checked():
    with pytest.raises((ConfigError, ValueError), match="max_size_ratio"):
        Settings(max_size_ratio=0.5)


# -------------------------------------------------------------------------------- the example of K15


@pytest.mark.parametrize(
    ("number", "order", "outcome"), [(5, 2, "fails"), (9, 2, "poor"), (13, 3, "poor"), (24, 1, "good")]
)
def test_moffat_stars(number, order, outcome):
    """Too high an order for the number of stars: a perfect chi-square, a wrong PSF, and how it is told."""
    places = scattered(number, side=400, seed=11)
    exposure = simulate(places, side=400, seed=5)
    settings = determiner.Settings(modelSize=13, stampSize=15, spatialOrder=order, interpolant="Lanczos(3)")
    chosen = candidates(exposure, places)
    if outcome == "fails":
        with pytest.raises(PsfError, match="5 of at least 6"):
            determiner.determine(chosen, exposure, settings, band="r")
        return
    fit = determiner.determine(chosen, exposure, settings, band="r")
    figures = check_psf(fit, exposure, Settings())
    assert figures["poorly_determined"] == int(outcome == "poor")
    sizes = determinant_radius(adaptive_moments(fit.model.kernel_images(x=[200.0], y=[200.0])))
    assert figures["smallest_size"] <= sizes[0] <= figures["largest_size"]
