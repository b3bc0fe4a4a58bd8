"""The prior of ellipticity and radius (measurement specification 8.4, "EMPIRICAL")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EmpiricalPrior"]

FloatArray = npt.NDArray[np.float64]

RAMP = (-6.001, -6.0)
RAMP_INTEGRAL = 0.00063967705
"""Of the default ramp, as the reference's ill-conditioned coefficients give it; of a smooth ramp, half its
width."""


@dataclass(frozen=True)
class _Factor:
    """A factor of the density, its gradient and its Hessian."""

    value: FloatArray
    gradient: FloatArray
    hessian: FloatArray


@dataclass(frozen=True)
class EmpiricalPrior:
    """P = E(eta1, eta2) L(ln R); zero where the amplitude is negative.

    Parameters of the model have shape (k, 4): eta1, eta2, ln R (arcsec), amplitude.
    """

    settings: Any

    def density(self, parameters: FloatArray) -> FloatArray:
        """Return P, shape (k,)."""
        density = self._ellipticity_value(parameters)[0] * self._radius(parameters).value
        return np.where(parameters[:, 3] < 0.0, 0.0, density)

    def derivatives(self, parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return gradient (k, 4) and Hessian (k, 4, 4) of P.

        The mixed derivative by ln R and eta2 is that by ln R and eta1, as in the reference [M-Q11].
        """
        ellipticity, radius = self._ellipticity(parameters), self._radius(parameters)
        gradient = np.zeros(parameters.shape)
        hessian = np.zeros((*parameters.shape, parameters.shape[1]))
        gradient[:, :2] = ellipticity.gradient * radius.value[:, np.newaxis]
        gradient[:, 2] = ellipticity.value * radius.gradient
        hessian[:, :2, :2] = ellipticity.hessian * radius.value[:, np.newaxis, np.newaxis]
        hessian[:, 2, 2] = ellipticity.value * radius.hessian
        mixed = ellipticity.gradient[:, 0] * radius.gradient
        hessian[:, 2, 0] = hessian[:, 0, 2] = hessian[:, 2, 1] = hessian[:, 1, 2] = mixed
        negative = parameters[:, 3] < 0.0
        gradient[negative] = 0.0
        hessian[negative] = 0.0
        return gradient, hessian

    def _ellipticity_value(self, parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return a softened exponential in |eta|, and the softened |eta|."""
        sigma, core = self.settings.ellipticitySigma, self.settings.ellipticityCore
        eta1, eta2 = parameters[:, 0], parameters[:, 1]
        soft = np.sqrt(eta1 * eta1 + eta2 * eta2 + core * core)
        norm = math.exp(core / sigma) / ((sigma + core) * sigma) / (2.0 * math.pi)
        return norm * np.exp(-soft / sigma), soft

    def _ellipticity(self, parameters: FloatArray) -> _Factor:
        """Return the same with derivatives; at eta = 0 they are set to zero."""
        sigma = self.settings.ellipticitySigma
        eta = parameters[:, :2]
        value, soft = self._ellipticity_value(parameters)
        slope = -value / (sigma * soft)
        gradient = slope[:, np.newaxis] * eta
        outer = eta[:, :, np.newaxis] * eta[:, np.newaxis, :]
        curvature = value * (1.0 / (sigma * soft) ** 2 + 1.0 / (sigma * soft**3))
        hessian = curvature[:, np.newaxis, np.newaxis] * outer + slope[:, np.newaxis, np.newaxis] * np.eye(2)
        hessian[(eta == 0.0).all(axis=1)] = 0.0
        return _Factor(value, gradient, hessian)

    def _radius(self, parameters: FloatArray) -> _Factor:
        """Zero, a smooth ramp, a plateau, and the tail of Student's t."""
        low, high = self.settings.logRadiusMinOuter, self.settings.logRadiusMinInner
        log_radius = parameters[:, 2]
        norm = self._norm
        value, gradient, hessian = np.full((3, len(log_radius)), [[1.0 / norm], [0.0], [0.0]])
        ramp = ~(log_radius >= high)
        if ramp.any():
            width = high - low
            u = (log_radius[ramp] - low) / width
            inside = u >= 0.0
            value[ramp] = inside * u * u * (3.0 - 2.0 * u) / norm
            gradient[ramp] = inside * 6.0 * u * (1.0 - u) / width / norm
            hessian[ramp] = inside * (6.0 - 12.0 * u) / width**2 / norm
        tail = log_radius > self.settings.logRadiusMu
        if tail.any():
            density, slope, bend = self._student(log_radius[tail])
            value[tail] = density / norm
            gradient[tail] = density * slope / norm
            hessian[tail] = density * (slope**2 + bend) / norm
        return _Factor(value, gradient, hessian)

    def _student(self, log_radius: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the tail, one at its start, and the first and second derivative of its logarithm."""
        mu, sigma, nu = (getattr(self.settings, f"logRadius{name}") for name in ("Mu", "Sigma", "Nu"))
        z = (log_radius - mu) / sigma
        density = (1.0 + z * z / nu) ** (-0.5 * (nu + 1.0))
        slope = -(nu + 1.0) * z / (nu + z * z) / sigma
        bend = -(nu + 1.0) * (nu - z * z) / (nu + z * z) ** 2 / sigma**2
        return density, slope, bend

    @cached_property
    def _norm(self) -> float:
        low, high = self.settings.logRadiusMinOuter, self.settings.logRadiusMinInner
        mu, sigma, nu = (getattr(self.settings, f"logRadius{name}") for name in ("Mu", "Sigma", "Nu"))
        ramp = RAMP_INTEGRAL if (low, high) == RAMP else 0.5 * (high - low)
        tail = math.exp(math.lgamma(0.5 * nu) - math.lgamma(0.5 * nu + 0.5))
        return float(ramp + (mu - high) + 0.5 * math.sqrt(math.pi * nu) * sigma * tail)
