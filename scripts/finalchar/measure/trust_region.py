"""Nonlinear least squares with a prior for many stars at once (measurement specification 8.5).

The trust-region method with Gauss-Newton Hessian and an SR1 term that the shapelet and galaxy-model fits
share.  All stars step together; each ends on its own, and its result does not depend on which others are
fitted with it: sums over pixels are made in blocks of fixed length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import Section

__all__ = [
    "PIXEL_BLOCK",
    "FitState",
    "LeastSquaresProblem",
    "OptimizerSettings",
    "eigenvectors",
    "minimize",
    "sum_pixels",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

PIXEL_BLOCK = 64
"""Pixels added up in one go; padded arrays have a multiple of it."""
ROOT_EPSILON = float(np.sqrt(np.finfo(np.float64).eps))
NEWTON_UPDATES = 9


class OptimizerSettings(Section):
    """Settings of the optimiser; the reference's names and defaults."""

    noSR1Term: bool = SettingsField(False, description="leave out the symmetric-rank-1 term of the Hessian")
    skipSR1UpdateThreshold: float = SettingsField(1e-8, description="skip updates of the term below this")
    minTrustRadiusThreshold: float = SettingsField(1e-5, description="a smaller trust radius ends the fit")
    gradientThreshold: float = SettingsField(1e-5, description="a smaller gradient ends the fit")
    numDiffRelStep: float = SettingsField(0.0, description="derivative step relative to the parameter")
    numDiffAbsStep: float = SettingsField(0.0, description="absolute part of the derivative step")
    numDiffTrustRadiusStep: float = SettingsField(0.1, description="derivative step in trust radii")
    stepAcceptThreshold: float = SettingsField(0.0, description="accept steps with more gain than this ratio")
    trustRegionInitialSize: float = SettingsField(1.0, gt=0, description="trust radius at the start")
    trustRegionGrowReductionRatio: float = SettingsField(0.75, description="grow above this gain ratio")
    trustRegionGrowStepFraction: float = SettingsField(0.8, description="grow only after steps this long")
    trustRegionGrowFactor: float = SettingsField(2.0, description="growth of the radius")
    trustRegionShrinkReductionRatio: float = SettingsField(0.25, description="shrink below this gain ratio")
    trustRegionShrinkFactor: float = SettingsField(1.0 / 3.0, description="factor of a shrinking radius")
    trustRegionSolverTolerance: float = SettingsField(1e-8, description="relative tolerance of |step|")
    maxInnerIterations: int = SettingsField(20, ge=1, description="most rejected steps in a row")
    maxOuterIterations: int = SettingsField(500, ge=1, description="most accepted steps")
    doSaveIterations: Literal[False] = SettingsField(
        False, description="keep the course of the fit; not supported"
    )


class FitState(IntEnum):
    """How the fit of a star ended."""

    RUNNING = 0
    CONVERGED_GRADIENT = 1
    CONVERGED_SMALL_RADIUS = 2
    FAILED_ITERATIONS = 3
    FAILED_NUMERIC = 4
    FAILED_MODEL = 5
    """The model could not be evaluated."""

    @property
    def failed(self) -> bool:
        """Whether there is no solution."""
        return self >= FitState.FAILED_ITERATIONS


class LeastSquaresProblem:
    """Residuals and prior of n stars; what a fit has to define.

    `stars` are indices of stars, of shape (k,), repeated or not; parameters have shape (k, d).
    """

    def residuals(self, stars: IntArray, parameters: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Return residuals, shape (k, pixels), and where the model could not be evaluated, shape (k,)."""
        raise NotImplementedError

    def prior(self, stars: IntArray, parameters: FloatArray) -> FloatArray:
        """Return the prior probability density, shape (k,)."""
        raise NotImplementedError

    def prior_derivatives(
        self, stars: IntArray, parameters: FloatArray
    ) -> tuple[FloatArray, FloatArray] | None:
        """Return gradient (k, d) and Hessian (k, d, d) of the prior; None if they vanish."""
        return None

    def jacobian(
        self, stars: IntArray, parameters: FloatArray, residuals: FloatArray, step: FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return derivatives of the residuals, shape (k, d, pixels), and where they could not be had.

        By forward differences of the given step, shape (k, d).
        """
        number, dimension = parameters.shape
        moved = np.repeat(parameters, dimension, axis=0)
        index = np.arange(dimension)
        moved.reshape(number, dimension, dimension)[:, index, index] += step
        there, failed = self.residuals(np.repeat(stars, dimension), moved)
        difference = there.reshape(number, dimension, -1) - residuals[:, np.newaxis, :]
        return difference / step[:, :, np.newaxis], np.any(failed.reshape(number, dimension), axis=1)


@dataclass
class _Fit:
    """State of all fits; row k belongs to star k."""

    parameters: FloatArray
    residuals: FloatArray
    prior: FloatArray
    objective: FloatArray
    gradient: FloatArray
    likelihood_gradient: FloatArray
    hessian: FloatArray
    update: FloatArray
    """Sum of the SR1 terms."""
    radius: FloatArray
    state: IntArray
    outer: IntArray
    inner: IntArray
    recorded: IntArray


@dataclass(frozen=True)
class FitResult:
    """Parameters (n, d), objective (n,), `FitState` (n,) and number of recorded steps (n,)."""

    parameters: FloatArray
    objective: FloatArray
    state: IntArray
    recorded: IntArray


def minimize(problem: LeastSquaresProblem, start: FloatArray, settings: OptimizerSettings) -> FitResult:
    """Minimise half the squared residuals minus the logarithm of the prior (8.5).

    Parameters
    ----------
    problem : LeastSquaresProblem
        Residuals and prior of n stars.
    start : ndarray, float64, shape (n, d)
        Parameters to start from.
    settings : OptimizerSettings
        Thresholds and limits.
    """
    with np.errstate(all="ignore"):
        fit = _start(problem, start, settings)
        while True:
            _begin_outer_iterations(fit, settings)
            active = np.flatnonzero(fit.state == FitState.RUNNING)
            if not len(active):
                break
            _one_step(problem, fit, active, settings)
    return FitResult(fit.parameters, fit.objective, fit.state, fit.recorded)


def sum_pixels(terms: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the sum over the last axis, in the type of the terms, block after block of pixels."""
    whole = terms.shape[-1] // PIXEL_BLOCK * PIXEL_BLOCK
    blocks = terms[..., :whole].reshape(*terms.shape[:-1], -1, PIXEL_BLOCK).sum(axis=-1, dtype=terms.dtype)
    if whole < terms.shape[-1]:
        rest = terms[..., whole:].sum(axis=-1, keepdims=True, dtype=terms.dtype)
        blocks = np.concatenate([blocks, rest], axis=-1)
    return np.asarray(np.add.accumulate(blocks, axis=-1)[..., -1])


def _start(problem: LeastSquaresProblem, start: FloatArray, settings: OptimizerSettings) -> _Fit:
    number, dimension = start.shape
    stars = np.arange(number)
    residuals, failed = problem.residuals(stars, start)
    prior = problem.prior(stars, start)
    fit = _Fit(
        parameters=start.copy(),
        residuals=residuals,
        prior=prior,
        objective=0.5 * sum_pixels(residuals * residuals) - np.log(prior),
        gradient=np.full((number, dimension), np.nan),
        likelihood_gradient=np.full((number, dimension), np.nan),
        hessian=np.full((number, dimension, dimension), np.nan),
        update=np.zeros((number, dimension, dimension)),
        radius=np.full(number, settings.trustRegionInitialSize),
        state=np.where(failed, FitState.FAILED_MODEL, FitState.RUNNING).astype(np.int64),
        outer=np.zeros(number, dtype=np.int64),
        inner=np.zeros(number, dtype=np.int64),
        recorded=np.zeros(number, dtype=np.int64),
    )
    _differentiate(problem, fit, np.flatnonzero(~failed), settings)
    return fit


def _differentiate(
    problem: LeastSquaresProblem, fit: _Fit, stars: IntArray, settings: OptimizerSettings
) -> None:
    """Set gradient and Hessian of the objective at the current parameters."""
    if not len(stars):
        return
    parameters = fit.parameters[stars]
    step = (
        settings.numDiffAbsStep
        + settings.numDiffRelStep * np.abs(parameters)
        + settings.numDiffTrustRadiusStep * fit.radius[stars, np.newaxis]
    )
    jacobian, failed = problem.jacobian(stars, parameters, fit.residuals[stars], step)
    fit.state[stars[failed]] = FitState.FAILED_MODEL
    gradient, hessian = _products(jacobian, fit.residuals[stars])
    fit.likelihood_gradient[stars] = gradient
    derivatives = problem.prior_derivatives(stars, parameters)
    if derivatives is not None:
        density = fit.prior[stars, np.newaxis]
        slope = -derivatives[0] / density
        gradient = gradient + slope
        hessian += slope[:, :, np.newaxis] * slope[:, np.newaxis, :]
        hessian -= derivatives[1] / density[:, :, np.newaxis]
    fit.gradient[stars] = gradient
    fit.hessian[stars] = hessian


def _products(jacobian: FloatArray, residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return D r, shape (k, d), and D D^T, shape (k, d, d), for D of shape (k, d, pixels).

    Matrix products of blocks of pixels, all of one size, so that padding changes nothing.
    """
    both = np.concatenate([jacobian, residuals[:, np.newaxis]], axis=1)
    number, rows, pixels = both.shape
    if pixels % PIXEL_BLOCK:
        both = np.pad(both, ((0, 0), (0, 0), (0, -pixels % PIXEL_BLOCK)))
    blocks = both.reshape(number, rows, -1, PIXEL_BLOCK).transpose(0, 2, 1, 3)
    products = np.matmul(blocks[:, :, :-1], blocks.transpose(0, 1, 3, 2))
    total = np.add.accumulate(products, axis=1)[:, -1]
    return total[:, :, -1], np.array(total[:, :, :-1])


def _begin_outer_iterations(fit: _Fit, settings: OptimizerSettings) -> None:
    """Stop at the gradient threshold or the outer limit, once after each accepted step."""
    new = (fit.state == FitState.RUNNING) & (fit.inner == 0)
    spent = new & (fit.outer >= settings.maxOuterIterations)
    small = new & ~spent & (np.abs(fit.gradient).max(axis=1) <= settings.gradientThreshold)
    fit.state[spent] = FitState.FAILED_ITERATIONS
    fit.state[small] = FitState.CONVERGED_GRADIENT
    fit.outer[new] += 1


def _one_step(problem: LeastSquaresProblem, fit: _Fit, active: IntArray, settings: OptimizerSettings) -> None:
    """Try one step of every active star (inner steps 1-5)."""
    step = solve_trust_region(
        fit.hessian[active], fit.gradient[active], fit.radius[active], settings.trustRegionSolverTolerance
    )
    length = np.sqrt((step * step).sum(axis=1))
    active, step, length = _stop(fit, active, np.isnan(length), FitState.FAILED_NUMERIC, step, length)
    where = fit.parameters[active] + step
    trial = _Trial(step, length, where, problem.prior(active, where))
    possible = trial.prior > 0
    _reject(fit, active[~possible], length[~possible], settings)
    if possible.any():
        _judge(problem, fit, active[possible], trial[possible], settings)


@dataclass(frozen=True)
class _Trial:
    """Steps tried, their lengths, where they lead, and the prior there."""

    step: FloatArray
    length: FloatArray
    parameters: FloatArray
    prior: FloatArray

    def __getitem__(self, rows: BoolArray) -> _Trial:
        return _Trial(self.step[rows], self.length[rows], self.parameters[rows], self.prior[rows])


def _judge(
    problem: LeastSquaresProblem, fit: _Fit, active: IntArray, trial: _Trial, settings: OptimizerSettings
) -> None:
    """Accept or reject steps by the ratio of the gain to the gain expected."""
    residuals, failed = problem.residuals(active, trial.parameters)
    objective = 0.5 * sum_pixels(residuals * residuals) - np.log(trial.prior)
    curved = (fit.hessian[active] * trial.step[:, np.newaxis, :]).sum(axis=2)
    expected = (trial.step * (fit.gradient[active] + 0.5 * curved)).sum(axis=1)
    gain = (objective - fit.objective[active]) / expected
    fit.state[active[failed]] = FitState.FAILED_MODEL
    numeric = ~failed & np.isnan(gain)
    fit.state[active[numeric]] = FitState.FAILED_NUMERIC
    alive = ~failed & ~numeric
    better = alive & (gain > settings.stepAcceptThreshold) & (objective < fit.objective[active])
    worse = alive & ~better
    _reject(fit, active[worse], trial.length[worse], settings)
    accepted = active[better]
    if not len(accepted):
        return
    fit.parameters[accepted] = trial.parameters[better]
    fit.residuals[accepted] = residuals[better]
    fit.prior[accepted] = trial.prior[better]
    fit.objective[accepted] = objective[better]
    _accept(problem, fit, accepted, trial[better], gain[better], settings)


def _accept(
    problem: LeastSquaresProblem,
    fit: _Fit,
    stars: IntArray,
    trial: _Trial,
    gain: FloatArray,
    settings: OptimizerSettings,
) -> None:
    """Renew the derivatives with the old trust radius, then adapt the radius."""
    old_gradient = fit.likelihood_gradient[stars].copy()
    _differentiate(problem, fit, stars, settings)
    if not settings.noSR1Term:
        _update_hessian(fit, stars, trial, fit.likelihood_gradient[stars] - old_gradient, settings)
    radius = fit.radius[stars]
    grow = (gain > settings.trustRegionGrowReductionRatio) & (
        trial.length / radius > settings.trustRegionGrowStepFraction
    )
    shrink = ~grow & (gain < settings.trustRegionShrinkReductionRatio)
    factor = np.where(grow, settings.trustRegionGrowFactor, 1.0)
    fit.radius[stars] = radius * np.where(shrink, settings.trustRegionShrinkFactor, factor)
    fit.recorded[stars] += 1
    fit.inner[stars] = 0


def _update_hessian(
    fit: _Fit, stars: IntArray, trial: _Trial, change: FloatArray, settings: OptimizerSettings
) -> None:
    """Add the SR1 term; the 1.0 makes its updates rare [M-Q12]."""
    along = (change * trial.step).sum(axis=1)
    norm = np.sqrt((change * change).sum(axis=1)) * trial.length
    renewed = along >= settings.skipSR1UpdateThreshold * norm + 1.0
    vector = change[renewed]
    fit.update[stars[renewed]] += (
        vector[:, :, np.newaxis] * vector[:, np.newaxis, :] / along[renewed, np.newaxis, np.newaxis]
    )
    fit.hessian[stars] += fit.update[stars]


def _reject(fit: _Fit, stars: IntArray, length: FloatArray, settings: OptimizerSettings) -> None:
    """Shrink the trust radius; a small one ends the fit, and so do too many rejections."""
    radius = np.minimum(fit.radius[stars], length) * settings.trustRegionShrinkFactor
    fit.radius[stars] = radius
    small = radius <= settings.minTrustRadiusThreshold
    fit.state[stars[small]] = FitState.CONVERGED_SMALL_RADIUS
    going_on = stars[~small]
    fit.recorded[going_on] += 1
    fit.inner[going_on] += 1
    spent = going_on[fit.inner[going_on] >= settings.maxInnerIterations]
    fit.state[spent] = FitState.FAILED_ITERATIONS


def _stop(
    fit: _Fit, active: IntArray, where: BoolArray, state: FitState, *values: FloatArray
) -> tuple[Any, ...]:
    """End fits in a state and return what goes on."""
    fit.state[active[where]] = state
    return (active[~where], *(value[~where] for value in values))


def solve_trust_region(
    hessian: FloatArray, gradient: FloatArray, radius: FloatArray, tolerance: float
) -> FloatArray:
    """Return the steps that minimise g.s + s.H s / 2 within |s| <= radius.

    Parameters
    ----------
    hessian, gradient, radius : ndarray, float64, shapes (k, d, d), (k, d), (k,)
    tolerance : float
        Relative tolerance of the length of a step that ends on the sphere.

    Returns
    -------
    ndarray, float64, shape (k, d)
        NaN where Hessian or gradient is not finite.
    """
    step = np.full(gradient.shape, np.nan)
    finite = np.isfinite(hessian).all(axis=(1, 2)) & np.isfinite(gradient).all(axis=1)
    if finite.any():
        values, vectors = eigenvectors(hessian[finite])
        rotated = (vectors * gradient[finite][:, :, np.newaxis]).sum(axis=1)
        subproblem = _Subproblem(values, vectors, rotated, radius[finite], tolerance)
        step[finite] = subproblem.solve(np.abs(gradient[finite]).max(axis=1))
    return step


def eigenvectors(matrices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rising eigenvalues (k, d) and eigenvectors (k, d, d) of symmetric matrices, or NaN."""
    try:
        values, vectors = np.linalg.eigh(matrices)
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full(matrices.shape[:2], np.nan), np.full(matrices.shape, np.nan)
        parts = [eigenvectors(matrices[row : row + 1]) for row in range(len(matrices))]
        values, vectors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return values, vectors


@dataclass(frozen=True)
class _Subproblem:
    """Trust-region subproblems in the frame of the eigenvectors; `vectors[k, :, i]` belongs to value i."""

    values: FloatArray
    vectors: FloatArray
    gradient: FloatArray
    radius: FloatArray
    tolerance: float

    def solve(self, largest: FloatArray) -> FloatArray:
        """Return the steps; `largest` is the largest element of the gradient, by absolute value."""
        threshold = ROOT_EPSILON * self.values[:, -1]
        regular = self.values[:, 0] >= threshold
        shift = np.where(regular, 0.0, -self.values[:, 0] + 2.0 * ROOT_EPSILON * self.values[:, -1])
        scaled = self.gradient / (self.values + shift[:, np.newaxis])
        step = self._rotate_back(scaled)
        upper = (self.radius * (1.0 + self.tolerance)) ** 2
        done = regular & (_square(step) <= upper)
        for row in np.flatnonzero(~regular).tolist():
            done[row] = self._solve_singular(row, threshold[row], largest[row], scaled[row], step)
        self._search_sphere(step, shift, np.flatnonzero(~done))
        return step

    def _rotate_back(self, scaled: FloatArray, rows: IntArray | None = None) -> FloatArray:
        vectors = self.vectors if rows is None else self.vectors[rows]
        return np.asarray(-(vectors * scaled[:, np.newaxis, :]).sum(axis=2))

    def _solve_singular(
        self, row: int, threshold: float, largest: float, scaled: FloatArray, step: FloatArray
    ) -> bool:
        """Treat a singular problem as the reference does [M-Q13]; True if the step is final.

        The comparison has no absolute value, and the last n eigenvectors are taken where the last d - n are
        meant.
        """
        leading = max(1, int(np.cumprod(self.values[row] < threshold).sum()))
        if not (self.gradient[row, :leading] < ROOT_EPSILON * largest).all():
            return False
        vectors = self.vectors[row]
        step[row] = -(vectors[:, -leading:] * scaled[-leading:]).sum(axis=1)
        square = float((step[row] ** 2).sum())
        if square >= (self.radius[row] * (1.0 - self.tolerance)) ** 2:
            return False
        step[row] += np.sqrt(self.radius[row] ** 2 - square) * vectors[:, 0]
        return True

    def _search_sphere(self, step: FloatArray, shift: FloatArray, rows: IntArray) -> None:
        """Newton updates of the shift until the steps end on the sphere."""
        square = _square(step[rows])
        for _ in range(NEWTON_UPDATES):
            radius = self.radius[rows]
            inside = square < (radius * (1.0 - self.tolerance)) ** 2
            missed = inside | ~(square <= (radius * (1.0 + self.tolerance)) ** 2)
            rows, square, radius = rows[missed], square[missed], radius[missed]
            if not len(rows):
                return
            gradient, values = self.gradient[rows], self.values[rows]
            scaled = gradient / (values + shift[rows, np.newaxis])
            slope = (scaled * scaled / (values + shift[rows, np.newaxis])).sum(axis=1)
            shift[rows] += square * (np.sqrt(square) / radius - 1.0) / slope
            scaled = gradient / (values + shift[rows, np.newaxis])
            step[rows] = self._rotate_back(scaled, rows)
            square = _square(scaled)


def _square(step: FloatArray) -> FloatArray:
    return np.asarray((step * step).sum(axis=1))
