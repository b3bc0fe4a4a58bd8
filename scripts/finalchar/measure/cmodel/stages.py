"""The nonlinear fits and what is read off them (measurement specification 8.4 - 8.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.measure.cmodel.model import ConvolvedModel, FitFrame
from finalchar.measure.cmodel.prior import EmpiricalPrior
from finalchar.measure.cmodel.profiles import profile_of
from finalchar.measure.cmodel.region import FitPixels
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.shapelets import ShapeletComponents
from finalchar.measure.trust_region import (
    ROOT_EPSILON,
    FitState,
    LeastSquaresProblem,
    eigenvectors,
    minimize,
    sum_pixels,
)

__all__ = ["Combination", "FluxMeasure", "Galaxies", "StageResult", "combine", "fit_stage"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SINGULAR = 1e-15
"""A normal matrix whose eigenvalues have a smaller ratio is singular."""


@dataclass(frozen=True)
class Galaxies:
    """What is known of n galaxies besides their pixels.

    Attributes
    ----------
    psf : ShapeletComponents
    center_x, center_y : ndarray, float64, shape (n,)
        Their centres, parent pixels.
    fixed : ndarray, float64, shape (n, 2)
        The same in the fit frame, arcsec from the catalogue's centroid.
    flux_unit : ndarray, float64, shape (n,)
        Counts of amplitude one.
    frame : FitFrame
    """

    psf: ShapeletComponents
    center_x: FloatArray
    center_y: FloatArray
    fixed: FloatArray
    flux_unit: FloatArray
    frame: FitFrame

    def __getitem__(self, index: Any) -> Galaxies:
        return Galaxies(
            self.psf[index],
            self.center_x[index],
            self.center_y[index],
            self.fixed[index],
            self.flux_unit[index],
            FitFrame(self.frame.jacobian[index]),
        )

    def model(self, pixels: FitPixels, profile_name: str, components: int) -> ConvolvedModel:
        """Return the models of a profile at the pixels."""
        return ConvolvedModel(
            x=pixels.x,
            y=pixels.y,
            number=pixels.number,
            psf=self.psf,
            center_x=self.center_x,
            center_y=self.center_y,
            flux_unit=self.flux_unit,
            frame=self.frame,
            profile=profile_of(profile_name, components),
        )


@dataclass(frozen=True)
class FluxMeasure:
    """Fluxes of n models, counts.

    Attributes
    ----------
    flux : ndarray, float64
        Total flux of the model.
    error : ndarray, float64
    inner : ndarray, float64
        Model-weighted flux inside the region.
    linear : ndarray, float64
        Amplitude that fits the data best without weights.
    """

    flux: FloatArray
    error: FloatArray
    inner: FloatArray
    linear: FloatArray

    def __getitem__(self, index: Any) -> FluxMeasure:
        return FluxMeasure(self.flux[index], self.error[index], self.inner[index], self.linear[index])


@dataclass(frozen=True)
class StageResult:
    """Result of one nonlinear fit of n galaxies.

    Attributes
    ----------
    parameters : ndarray, float64, shape (n, 4)
        eta1, eta2, ln R, amplitude.
    state : ndarray, int64, shape (n,)
        `FitState` of each.
    objective : ndarray, float64, shape (n,)
    iterations : ndarray, int64, shape (n,)
    ellipse : Quadrupoles, shape (n,)
        Half-light ellipses, pixels.
    model : ndarray, float32, shape (n, pixels)
        Counts for amplitude one, 0 at unused pixels.
    measure : FluxMeasure
    """

    parameters: FloatArray
    state: IntArray
    objective: FloatArray
    iterations: IntArray
    ellipse: Quadrupoles
    model: SingleArray
    measure: FluxMeasure

    @property
    def failed(self) -> BoolArray:
        """Whether the fit has no solution."""
        return np.asarray(self.state >= FitState.FAILED_ITERATIONS)


class _StageProblem(LeastSquaresProblem):
    """Weighted residuals of the pixels; parameters eta1, eta2, ln R, amplitude."""

    def __init__(self, model: ConvolvedModel, pixels: FitPixels, settings: Any) -> None:
        self._model = model
        self._prior = EmpiricalPrior(settings.empiricalPriorConfig)
        self._weights = _weights(pixels, settings)
        self._data = (pixels.data * self._weights).astype(np.float64)
        self._current = np.zeros_like(pixels.data)

    def _weighted_models(self, stars: IntArray, parameters: FloatArray) -> tuple[SingleArray, BoolArray]:
        model, impossible = self._model.evaluate(stars, parameters)
        model *= self._weights[stars]
        return model, impossible

    def residuals(self, stars: IntArray, parameters: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Return weight (model - data); the models are kept for the derivatives."""
        model, impossible = self._weighted_models(stars, parameters)
        self._current[stars] = model
        return model.astype(np.float64) * parameters[:, 3:] - self._data[stars], impossible

    def jacobian(
        self, stars: IntArray, parameters: FloatArray, residuals: FloatArray, step: FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return forward differences; that of the amplitude needs no new model."""
        number, shapes = len(stars), 3
        moved = np.repeat(parameters, shapes, axis=0)
        index = np.arange(shapes)
        moved.reshape(number, shapes, 4)[:, index, index] += step[:, :shapes]
        model, impossible = self._weighted_models(np.repeat(stars, shapes), moved)
        result = np.empty((number, 4, model.shape[1]))
        result[:, 3] = self._current[stars]
        np.subtract(model.reshape(number, shapes, -1), result[:, 3:], out=result[:, :shapes])
        result[:, :shapes] *= (parameters[:, 3:] / step[:, :shapes])[:, :, np.newaxis]
        return result, np.any(impossible.reshape(number, shapes), axis=1)

    def prior(self, stars: IntArray, parameters: FloatArray) -> FloatArray:
        """Return the prior."""
        return self._prior.density(parameters)

    def prior_derivatives(
        self, stars: IntArray, parameters: FloatArray
    ) -> tuple[FloatArray, FloatArray] | None:
        """Return gradient and Hessian of the prior."""
        return self._prior.derivatives(parameters)


def _weights(pixels: FitPixels, settings: Any) -> SingleArray:
    """Return 1 / sqrt(variance), or its geometric mean for all pixels, single precision."""
    with np.errstate(all="ignore"):
        weights = np.float32(1.0) / np.sqrt(pixels.variance)
        if not settings.usePixelWeights:
            total = sum_pixels(np.log(weights) * pixels.used)
            weights = np.exp(total / pixels.number.astype(np.float32))[:, np.newaxis]
        return np.asarray(weights * np.float32(settings.weightsMultiplier) * pixels.used)


def fit_stage(
    galaxies: Galaxies, pixels: FitPixels, start: FloatArray, settings: Any, *, refit_amplitude: bool
) -> StageResult:
    """Fit one profile to all galaxies.

    Parameters
    ----------
    galaxies : Galaxies
    pixels : FitPixels
    start : ndarray, float64, shape (n, 4)
        eta1, eta2, ln R, amplitude to start from.
    settings : section
        Settings of the stage.
    refit_amplitude : bool
        Replace the amplitude by that of the fit without weights (8.6).
    """
    model = galaxies.model(pixels, settings.profileName, settings.nComponents)
    with np.errstate(all="ignore"):
        fitted = minimize(_StageProblem(model, pixels, settings), start, settings.optimizer)
        parameters = fitted.parameters.copy()
        stars = np.arange(len(start))
        counts, _ = model.evaluate(stars, parameters)
        counts *= pixels.used
        measure = measure_flux(counts, pixels, parameters[:, 3] * galaxies.flux_unit)
        if refit_amplitude:
            parameters[:, 3] = measure.linear
            measure = measure_flux(counts, pixels, parameters[:, 3] * galaxies.flux_unit)
        ellipse = galaxies.frame.to_pixels(stars, parameters)
    return StageResult(
        parameters=parameters,
        state=fitted.state,
        objective=fitted.objective,
        iterations=1 + fitted.recorded,
        ellipse=ellipse,
        model=counts,
        measure=measure,
    )


def measure_flux(model: SingleArray, pixels: FitPixels, flux: FloatArray) -> FluxMeasure:
    """Return the fluxes of models whose total flux is known; sums in single precision (8.6)."""
    total, with_data, square, with_variance = (
        sum_pixels(terms).astype(np.float64)
        for terms in (model, model * pixels.data, model * model, model * model * pixels.variance)
    )
    ratio = total / square
    inner = with_data * ratio
    error = np.sqrt(with_variance * ratio**2) * flux / inner
    return FluxMeasure(flux, error, inner, with_data / square)


@dataclass(frozen=True)
class Combination:
    """The linear combination of an exponential and a de Vaucouleurs model of n galaxies."""

    measure: FluxMeasure
    de_vaucouleurs_fraction: FloatArray
    objective: FloatArray
    ellipse: Quadrupoles
    solved: BoolArray

    def __getitem__(self, index: Any) -> Combination:
        return Combination(
            self.measure[index],
            self.de_vaucouleurs_fraction[index],
            self.objective[index],
            self.ellipse[index],
            self.solved[index],
        )


def combine(
    galaxies: Galaxies, pixels: FitPixels, exponential: StageResult, de_vaucouleurs: StageResult
) -> Combination:
    """Return the best combination without negative amplitudes (8.7)."""
    first, second = exponential.model, de_vaucouleurs.model
    with np.errstate(all="ignore"):
        gradient = -np.stack([sum_pixels(first * pixels.data), sum_pixels(second * pixels.data)], axis=1)
        gradient = gradient.astype(np.float64)
        wide = np.stack([first, second], axis=1).astype(np.float64)
        h11, h22, h12 = (sum_pixels(wide[:, i] * wide[:, j]) for i, j in ((0, 0), (1, 1), (0, 1)))
        hessian = np.stack([h11, h12, h12, h22], axis=-1).reshape(-1, 2, 2)
        amplitudes, solved = _solve_non_negative(hessian, gradient)
        mixed = (wide * amplitudes[:, :, np.newaxis]).sum(axis=1).astype(np.float32)
        total = amplitudes.sum(axis=1)
        fraction = amplitudes[:, 1] / total
        squares = sum_pixels(pixels.data * pixels.data).astype(np.float64)
        curved = (hessian * amplitudes[:, np.newaxis, :]).sum(axis=2)
        objective = 0.5 * squares + (amplitudes * (gradient + 0.5 * curved)).sum(axis=1)
        measure = measure_flux(mixed, pixels, total * galaxies.flux_unit)
        ellipse = exponential.ellipse.times(1.0 - fraction) + de_vaucouleurs.ellipse.times(fraction)
    return Combination(measure, fraction, objective, ellipse, solved)


def _solve_non_negative(hessian: FloatArray, gradient: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Return the amplitudes (n, 2) that minimise g.A + A.H A / 2 with A >= 0, and where there are any."""
    amplitudes = np.full(gradient.shape, np.nan)
    finite = np.all(np.isfinite(hessian), axis=(1, 2)) & np.all(np.isfinite(gradient), axis=1)
    values, vectors = eigenvectors(hessian[finite])
    rotated = (vectors * gradient[finite][:, :, np.newaxis]).sum(axis=1)
    regular = values >= SINGULAR * values[:, 1:]
    inverse = np.where(regular, 1.0 / values, 0.0)
    solvable = np.zeros(len(gradient), dtype=bool)
    solvable[finite] = np.all(regular | (np.abs(rotated) <= ROOT_EPSILON * np.abs(rotated[:, 1:])), axis=1)
    amplitudes[finite] = -(vectors * (rotated * inverse)[:, np.newaxis, :]).sum(axis=2)
    negative = amplitudes < 0
    both = np.all(negative, axis=1)
    for kept, dropped in ((0, 1), (1, 0)):
        rows = np.flatnonzero(negative[:, dropped] & ~both)
        moved = hessian[rows, 0, 1] * amplitudes[rows, dropped] / hessian[rows, kept, kept]
        amplitudes[rows, kept] += moved
        amplitudes[rows, dropped] = 0.0
    amplitudes[both] = 0.0
    return amplitudes, solvable
