"""The optimiser shared by the shapelet and galaxy fits."""

from __future__ import annotations

import numpy as np
import pytest

from finalchar.measure.trust_region import (
    FitState,
    LeastSquaresProblem,
    OptimizerSettings,
    eigenvectors,
    minimize,
    solve_trust_region,
    sum_pixels,
)

PIXELS = 150


class ExponentialDecay(LeastSquaresProblem):
    """y = a exp(-b t) for many stars; parameters a, b."""

    def __init__(self, truth, *, noise=0.0, least_b=-np.inf):
        self.t = np.linspace(0, 3, PIXELS)
        self.least_b = least_b
        self.data = self.model(np.asarray(truth, dtype=float))
        self.data += noise * np.random.default_rng(3).normal(size=self.data.shape)

    def model(self, parameters):
        return parameters[:, :1] * np.exp(-parameters[:, 1:] * self.t)

    def residuals(self, stars, parameters):
        return self.model(parameters) - self.data[stars], np.zeros(len(stars), dtype=bool)

    def prior(self, stars, parameters):
        return np.where(parameters[:, 1] < self.least_b, 0.0, 1.0)


class Broken(ExponentialDecay):
    def residuals(self, stars, parameters):
        return super().residuals(stars, parameters)[0], parameters[:, 1] > 1.4


TRUTH = [[2.0, 0.5], [5.0, 1.5], [1.0, 3.0]]
START = np.tile([1.0, 1.0], (3, 1))


def test_finds_the_truth_without_analytic_derivatives():
    result = minimize(ExponentialDecay(TRUTH), START, OptimizerSettings())
    assert not any(FitState(state).failed for state in result.state)
    # forward differences of 0.1 trust radii: the last steps are of the size of the smallest radius, 1e-5
    np.testing.assert_allclose(result.parameters, TRUTH, rtol=1e-3)
    assert (result.recorded > 0).all()


def test_agrees_with_scipy_on_noisy_data():
    from scipy.optimize import least_squares

    problem = ExponentialDecay(TRUTH, noise=0.05)
    settings = OptimizerSettings(numDiffTrustRadiusStep=1e-4)
    result = minimize(problem, START, settings)
    for star in range(3):
        other = least_squares(lambda p, k=star: problem.residuals(np.array([k]), p[None])[0][0], START[star])
        assert result.objective[star] == pytest.approx(other.cost, rel=1e-8)  # flat at the minimum
        np.testing.assert_allclose(result.parameters[star], other.x, rtol=1e-4)


def test_a_star_does_not_depend_on_the_others():
    problem = ExponentialDecay(TRUTH, noise=0.05)
    together = minimize(problem, START, OptimizerSettings())
    for star in range(3):
        alone = ExponentialDecay(TRUTH[star : star + 1])
        alone.data = problem.data[star : star + 1]
        result = minimize(alone, START[:1], OptimizerSettings())
        assert result.parameters[0].tobytes() == together.parameters[star].tobytes()
        assert result.recorded[0] == together.recorded[star]


def test_steps_into_the_impossible_are_rejected():
    problem = ExponentialDecay(TRUTH[:1], least_b=0.8)
    result = minimize(problem, START[:1], OptimizerSettings())
    assert result.state[0] == FitState.CONVERGED_SMALL_RADIUS
    assert result.parameters[0, 1] == pytest.approx(0.8, abs=1e-3)
    assert result.parameters[0, 1] >= 0.8


def test_ends_of_a_fit():
    problem = ExponentialDecay(TRUTH)
    few = minimize(problem, START, OptimizerSettings(maxOuterIterations=1))
    assert (few.state == FitState.FAILED_ITERATIONS).all()
    problem.data[0, 5] = np.nan
    numeric = minimize(problem, START, OptimizerSettings())
    assert numeric.state[0] == FitState.FAILED_NUMERIC
    assert numeric.recorded[0] == 0
    assert not FitState(numeric.state[1]).failed  # the others are not touched
    broken = minimize(Broken(TRUTH), START, OptimizerSettings())
    assert broken.state[1] == FitState.FAILED_MODEL


def test_steps_solve_the_trust_region_problem():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(50, 4, 4))
    hessian = factors @ np.swapaxes(factors, 1, 2)
    hessian[25:] -= 2.0 * np.eye(4)  # indefinite
    gradient = rng.normal(size=(50, 4))
    radius = rng.uniform(0.1, 2.0, 50)
    step = solve_trust_region(hessian, gradient, radius, 1e-8)
    length = np.linalg.norm(step, axis=1)
    assert (length <= radius * (1 + 1e-7)).all()
    # where the Hessian is singular or indefinite the reference's branch depends on a sign [M-Q13]
    np.testing.assert_allclose(length[25:], radius[25:], rtol=1e-7)
    for k in range(25):
        # (H + mu) s = -g with mu >= 0, and mu = 0 inside
        residual = hessian[k] @ step[k] + gradient[k]
        mu = -(residual @ step[k]) / (step[k] @ step[k])
        np.testing.assert_allclose(residual, -mu * step[k], atol=1e-6 * np.abs(gradient[k]).max())
        assert mu >= -1e-9
        assert mu == pytest.approx(0.0, abs=1e-9) or length[k] == pytest.approx(radius[k], rel=1e-7)


def test_no_step_where_nothing_is_finite():
    step = solve_trust_region(np.full((1, 2, 2), np.nan), np.ones((1, 2)), np.ones(1), 1e-8)
    assert np.isnan(step).all()


def test_sums_do_not_change_with_padding():
    rng = np.random.default_rng(1)
    for kind in (np.float32, np.float64):
        values = rng.normal(size=(3, 130)).astype(kind)
        padded = np.zeros((3, 640), dtype=kind)
        padded[:, :130] = values
        short = np.zeros((3, 192), dtype=kind)
        short[:, :130] = values
        assert sum_pixels(padded).tobytes() == sum_pixels(short).tobytes()
        assert sum_pixels(padded).dtype == kind
        np.testing.assert_allclose(sum_pixels(values), values.astype(float).sum(axis=1), atol=1e-4)


def test_eigenvectors_fail_one_by_one(monkeypatch):
    true_solver = np.linalg.eigh

    def solver(matrices):
        if (matrices == 7.0).any():
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return true_solver(matrices)

    monkeypatch.setattr(np.linalg, "eigh", solver)
    values, vectors = eigenvectors(np.stack([np.eye(2), np.full((2, 2), 7.0), 2.0 * np.eye(2)]))
    assert np.isnan(values[1]).all()
    assert np.isnan(vectors[1]).all()
    np.testing.assert_array_equal(values[[0, 2]], [[1, 1], [2, 2]])
