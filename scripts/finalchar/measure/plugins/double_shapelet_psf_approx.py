"""The PSF as two elliptical shapelets (measurement specification 7); what CModel convolves with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import only, subsection
from finalchar.formats.sources import SourceTable
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import INVALID_PSF_FLAG, BatchPlugin, Field, PluginSettings, flag
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.shapelets import UNIT_FLUX, basis_functions, shapelet_orders
from finalchar.measure.trust_region import (
    FitState,
    LeastSquaresProblem,
    OptimizerSettings,
    eigenvectors,
    minimize,
)

NAME = "modelfit_DoubleShapeletPsfApprox"
ORDER = 1.0

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

RELATIVE_EPSILON = 2.2e-16
"""Eigenvalues below this part of the largest are dropped."""


class AnalyticOptimizerSettings(OptimizerSettings):
    """The optimiser of a model that has analytic derivatives: there is no derivative step."""

    numDiffRelStep: Annotated[float, only(0.0)] = SettingsField(
        0.0, description="not supported: derivatives are analytic"
    )
    numDiffAbsStep: Annotated[float, only(0.0)] = SettingsField(
        0.0, description="not supported: derivatives are analytic"
    )
    numDiffTrustRadiusStep: Annotated[float, only(0.1)] = SettingsField(
        0.1, description="not supported: derivatives are analytic"
    )


class Settings(PluginSettings):
    """Settings of modelfit_DoubleShapeletPsfApprox."""

    innerOrder: int = SettingsField(2, ge=0, le=2, description="shapelet order of the inner component")
    outerOrder: int = SettingsField(1, ge=0, le=2, description="shapelet order of the outer component")
    radiusRatio: float = SettingsField(2.0, gt=0, description="outer radius over inner radius at the start")
    peakRatio: float = SettingsField(0.1, gt=0, description="outer peak over inner peak at the start")
    minRadius: float = SettingsField(
        0.25, ge=0, description="smallest semi-minor axis of the inner one, pixels"
    )
    minRadiusDiff: float = SettingsField(0.5, ge=0, description="smallest difference of the radii, pixels")
    maxRadiusBoxFraction: float = SettingsField(
        0.4, gt=0, description="largest semi-major axis of the outer one, in sides of the PSF image"
    )
    optimizer: AnalyticOptimizerSettings = subsection(AnalyticOptimizerSettings, "the optimiser of the radii")


class Plugin(BatchPlugin[Settings]):
    """Fit two shapelet components of common ellipticity and centre to the PSF at all stars together."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        sentence = "Double-Shapelet approximation to the PSF model at the position of this source"
        result = []
        for component, order in enumerate((self.settings.innerOrder, self.settings.outerOrder)):
            names = [(axes, "pix2") for axes in ("xx", "yy", "xy")] + [("x", "pix"), ("y", "pix")]
            names += [(str(index), "") for index in range(len(shapelet_orders(order)))]
            result += [Field(f"{NAME}_{component}_{name}", "float64", unit, sentence) for name, unit in names]
        return [
            *result,
            flag(f"{NAME}_flag", "General Failure Flag"),
            flag(
                f"{NAME}_flag_invalidPointForPsf", "PSF model could not be evaluated at the source position"
            ),
            flag(f"{NAME}_flag_invalidMoments", "Moments of the PSF model were not a valid ellipse"),
            flag(
                f"{NAME}_flag_maxIterations",
                "optimizer exceeded the maximum number (inner or outer) iterations",
            ),
        ]

    def aliases(self, *, centroid: str, shape: str) -> dict[str, str]:
        """Return the alias of the flag of the centroid."""
        return {f"{NAME}_flag_badCentroid": f"{centroid}_flag"}

    def measure_batch(self, context: MeasurementContext, table: SourceTable, stars: IntArray) -> None:
        """Fit stars; the columns of those that fail stay NaN."""
        self.flag_bad_centroids(context, table)
        located = np.isfinite(context.x[stars]) & np.isfinite(context.y[stars])
        self._fail(table, stars[~located])
        drawn = located & context.psf_kernels.valid[stars]
        undrawn = stars[located & ~drawn]
        self._fail(table, undrawn, "flag_invalidPointForPsf")
        table.columns[INVALID_PSF_FLAG][undrawn] = True
        stars = stars[drawn]
        if not len(stars):
            return
        kernels = _Kernels.of(context.psf_kernels.arrays[stars])
        start = _Start.of(kernels, self.settings)
        self._fail(table, stars[~start.valid], "flag_invalidMoments")
        good = start.valid
        if good.any():
            self._fit(table, stars[good], kernels[good], start[good])

    def _fail(self, table: SourceTable, stars: IntArray, suffix: str | None = None) -> None:
        self.column(table, "flag")[stars] = True
        if suffix is not None:
            self.column(table, suffix)[stars] = True

    def _fit(self, table: SourceTable, stars: IntArray, kernels: _Kernels, start: _Start) -> None:
        problem = _RadialProfile(kernels, start, self.settings)
        fitted = minimize(problem, problem.start_parameters(), self.settings.optimizer)
        spent = fitted.state == FitState.FAILED_ITERATIONS
        self._fail(table, stars[spent], "flag_maxIterations")
        failed = fitted.state >= FitState.FAILED_ITERATIONS
        self._fail(table, stars[failed & ~spent])
        good = np.flatnonzero(~failed)
        amplitude = fitted.parameters[good, :2]
        radius = fitted.parameters[good, 2:] * problem.radius[good, np.newaxis]
        kernels, start = kernels[good], start[good]
        shape = start.moments.scaled(1.0 / start.moments.determinant_radius)
        ellipses = [shape.scaled(radius[:, component]) for component in (0, 1)]
        orders = [shapelet_orders(self.settings.innerOrder), shapelet_orders(self.settings.outerOrder)]
        coefficients = _fit_coefficients(kernels, start, ellipses, amplitude, orders)
        for component in (0, 1):
            self._store(table, stars[good], component, ellipses[component], start, coefficients[component])

    def _store(
        self,
        table: SourceTable,
        stars: IntArray,
        component: int,
        ellipse: Quadrupoles,
        start: _Start,
        coefficients: FloatArray,
    ) -> None:
        values = {"xx": ellipse.xx, "yy": ellipse.yy, "xy": ellipse.xy, "x": start.x, "y": start.y}
        values |= {str(index): coefficients[:, index] for index in range(coefficients.shape[1])}
        for name, value in values.items():
            self.column(table, f"{component}_{name}")[stars] = value


@dataclass(frozen=True)
class _Kernels:
    """Kernel images as rows of pixels, shape (n, pixels), and the places of the pixels, shape (pixels,)."""

    data: FloatArray
    x: FloatArray
    y: FloatArray

    @classmethod
    def of(cls, images: FloatArray) -> _Kernels:
        """Return kernel images of shape (n, size, size), centred on the middle pixel."""
        number, height, width = images.shape
        y, x = np.mgrid[:height, :width].astype(np.float64)
        return cls(images.reshape(number, -1), (x - width // 2).ravel(), (y - height // 2).ravel())

    def __getitem__(self, index: BoolArray | IntArray) -> _Kernels:
        return _Kernels(self.data[index], self.x, self.y)

    @property
    def side(self) -> float:
        """Square root of the number of pixels."""
        return float(np.sqrt(len(self.x)))


@dataclass(frozen=True)
class _Start:
    """Template of both components with the moments of the images (7.2 steps 1, 2).

    `flux`, `x`, `y` and `moments` are those of the whole images; `fraction` and `size` the components' shares
    of the flux and radii in units of the moments'.
    """

    flux: FloatArray
    x: FloatArray
    y: FloatArray
    moments: Quadrupoles
    fraction: tuple[float, float]
    size: tuple[float, float]
    valid: BoolArray

    @classmethod
    def of(cls, kernels: _Kernels, settings: Settings) -> _Start:
        """Return the start of the fit of all images."""
        outer = settings.peakRatio * settings.radiusRatio**2
        fraction = (1.0 / (1.0 + outer), outer / (1.0 + outer))
        inner_size = 1.0 / np.sqrt(fraction[0] + fraction[1] * settings.radiusRatio**2)
        size = (float(inner_size), float(inner_size * settings.radiusRatio))
        flux = kernels.data.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            x = (kernels.data * kernels.x).sum(axis=1) / flux
            y = (kernels.data * kernels.y).sum(axis=1) / flux
            dx, dy = kernels.x - x[:, np.newaxis], kernels.y - y[:, np.newaxis]
            xx, yy, xy = (
                (kernels.data * product).sum(axis=1) / flux for product in (dx * dx, dy * dy, dx * dy)
            )
            moments = Quadrupoles(xx, yy, xy)
            valid = _valid_moments(moments, size, kernels.side, settings)
        return cls(flux, x, y, moments, fraction, size, valid)

    def __getitem__(self, index: BoolArray | IntArray) -> _Start:
        return _Start(
            self.flux[index],
            self.x[index],
            self.y[index],
            self.moments[index],
            self.fraction,
            self.size,
            self.valid[index],
        )


def _valid_moments(
    moments: Quadrupoles, size: tuple[float, float], side: float, settings: Settings
) -> BoolArray:
    """Whether the components of the template fit the pixels; NaN does not."""
    major, minor = moments.semi_axes
    radius = moments.determinant_radius
    return np.asarray(
        moments.valid
        & (size[0] * minor >= settings.minRadius)
        & (size[1] * major <= settings.maxRadiusBoxFraction * side)
        & ((size[1] - size[0]) * radius >= settings.minRadiusDiff)
    )


class _RadialProfile(LeastSquaresProblem):
    """Amplitudes and radii of two Gaussians of the images' ellipticity (7.2 step 3).

    Parameters: amplitude of the inner and of the outer component, radius of the inner and of the outer, in
    units of the images' determinant radius.
    """

    def __init__(self, kernels: _Kernels, start: _Start, settings: Settings) -> None:
        grid = start.moments.inverse_root()
        u, v = (
            grid.xx[:, np.newaxis] * (kernels.x - start.x[:, np.newaxis])
            + grid.xy[:, np.newaxis] * (kernels.y - start.y[:, np.newaxis]),
            grid.xy[:, np.newaxis] * (kernels.x - start.x[:, np.newaxis])
            + grid.yy[:, np.newaxis] * (kernels.y - start.y[:, np.newaxis]),
        )
        major, minor = start.moments.semi_axes
        self.radius = start.moments.determinant_radius
        self._start = start
        self._data = kernels.data
        self._exponent = -0.5 * (u * u + v * v)
        self._scale = grid.determinant * UNIT_FLUX / (2.0 * np.pi)
        self._least_difference = settings.minRadiusDiff / self.radius
        self._largest_outer = settings.maxRadiusBoxFraction * kernels.side / major
        self._smallest_inner = settings.minRadius / minor

    def start_parameters(self) -> FloatArray:
        """Return the parameters of the template."""
        start = self._start
        amplitudes = [start.flux * fraction / UNIT_FLUX for fraction in start.fraction]
        sizes = [np.full(len(start.flux), size) for size in start.size]
        return np.stack([*amplitudes, *sizes], axis=1)

    def _components(
        self, stars: IntArray, parameters: FloatArray
    ) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
        """Return exponent, value for amplitude one, and radius of each component."""
        result = []
        for component in (0, 1):
            radius = parameters[:, 2 + component, np.newaxis]
            exponent = self._exponent[stars] / (radius * radius)
            value = self._scale[stars, np.newaxis] / (radius * radius) * np.exp(exponent)
            result.append((exponent, value, radius))
        return result

    def residuals(self, stars: IntArray, parameters: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Return image minus model."""
        inner, outer = self._components(stars, parameters)
        model = parameters[:, 0, np.newaxis] * inner[1] + parameters[:, 1, np.newaxis] * outer[1]
        return self._data[stars] - model, np.zeros(len(stars), dtype=bool)

    def jacobian(
        self, stars: IntArray, parameters: FloatArray, residuals: FloatArray, step: FloatArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return the analytic derivatives."""
        components = self._components(stars, parameters)
        amplitude = [-value for _, value, _ in components]
        size = [
            2.0 * value * (exponent + 1.0) * parameters[:, component, np.newaxis] / radius
            for component, (exponent, value, radius) in enumerate(components)
        ]
        return np.stack([*amplitude, *size], axis=1), np.zeros(len(stars), dtype=bool)

    def prior(self, stars: IntArray, parameters: FloatArray) -> FloatArray:
        """Return one where the radii are possible, else zero."""
        inner, outer = parameters[:, 2], parameters[:, 3]
        impossible = (
            (outer - inner < self._least_difference[stars])
            | (outer > self._largest_outer[stars])
            | (inner < self._smallest_inner[stars])
        )
        return np.where(impossible, 0.0, 1.0)


def _fit_coefficients(
    kernels: _Kernels,
    start: _Start,
    ellipses: list[Quadrupoles],
    amplitude: FloatArray,
    orders: list[list[tuple[int, int]]],
) -> list[FloatArray]:
    """Return all coefficients of both components; those above order 0 by linear least squares (step 4)."""
    dx, dy = kernels.x - start.x[:, np.newaxis], kernels.y - start.y[:, np.newaxis]
    bases = []
    for ellipse, wanted in zip(ellipses, orders, strict=True):
        grid = ellipse.inverse_root()
        u = grid.xx[:, np.newaxis] * dx + grid.xy[:, np.newaxis] * dy
        v = grid.xy[:, np.newaxis] * dx + grid.yy[:, np.newaxis] * dy
        bases.append(grid.determinant[:, np.newaxis, np.newaxis] * basis_functions(u, v, wanted))
    zeroth = sum(basis[:, 0] * amplitude[:, k, np.newaxis] for k, basis in enumerate(bases))
    higher = np.concatenate([basis[:, 1:] for basis in bases], axis=1)
    solved = _solve_normal_equations(higher, kernels.data - zeroth)
    split = len(orders[0]) - 1
    return [
        np.concatenate([amplitude[:, :1], solved[:, :split]], axis=1),
        np.concatenate([amplitude[:, 1:], solved[:, split:]], axis=1),
    ]


def _solve_normal_equations(basis: FloatArray, data: FloatArray) -> FloatArray:
    """Return least-squares coefficients (n, terms) for a basis (n, terms, pixels); singular terms dropped."""
    matrix = np.matmul(basis, np.swapaxes(basis, 1, 2))
    right = (basis * data[:, np.newaxis, :]).sum(axis=2)
    if not basis.shape[1]:
        return np.zeros((len(data), 0))
    values, vectors = eigenvectors(matrix)
    kept = values > RELATIVE_EPSILON * values[:, -1:]
    inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    rotated = (vectors * right[:, :, np.newaxis]).sum(axis=1)
    return np.asarray((vectors * (inverse * rotated)[:, np.newaxis, :]).sum(axis=2))
