"""The PSF as two elliptical Hermite shapelets (measurement specification 7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.measure.quadrupoles import Quadrupoles

__all__ = ["UNIT_FLUX", "ShapeletComponents", "basis_functions", "shapelet_orders"]

FloatArray = npt.NDArray[np.float64]

UNIT_FLUX = 2.0 * np.sqrt(np.pi)
"""Integral of a component of one coefficient 1 of order 0: K of the specification."""
ROOT2 = np.sqrt(2.0)


def shapelet_orders(order: int) -> list[tuple[int, int]]:
    """Return (nx, ny) of the coefficients in their order: (0,0); (0,1), (1,0); (0,2), (1,1), (2,0)."""
    return [(nx, total - nx) for total in range(order + 1) for nx in range(total + 1)]


def basis_functions(x: FloatArray, y: FloatArray, orders: list[tuple[int, int]]) -> FloatArray:
    """Return psi_nx(x) psi_ny(y) for all (nx, ny), stacked in front of the last axis.

    Parameters
    ----------
    x, y : ndarray, float64, shape (..., pixels)
        Coordinates in the frame in which the component is the unit circle.
    orders : list of (int, int)
        Orders (nx, ny), at most 2.

    Returns
    -------
    ndarray, float64, shape (..., len(orders), pixels)
    """
    envelope = np.exp(-0.5 * (x * x + y * y)) / np.sqrt(np.pi)
    in_x, in_y = ([np.ones_like(t), ROOT2 * t, (2.0 * t * t - 1.0) / ROOT2] for t in (x, y))
    return np.stack([envelope * in_x[nx] * in_y[ny] for nx, ny in orders], axis=-2)


@dataclass(frozen=True)
class ShapeletComponents:
    """Two-component shapelet functions of n stars; axis 1 is the component, inner before outer.

    Attributes
    ----------
    ellipse : Quadrupoles, shape (n, 2)
    x, y : ndarray, float64, shape (n, 2)
        Centres, relative to the centre of the kernel image, pixels.
    coefficients : ndarray, float64, shape (n, 2, 6)
        In the order of `shapelet_orders`, zero above a component's order.
    """

    ellipse: Quadrupoles
    x: FloatArray
    y: FloatArray
    coefficients: FloatArray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> ShapeletComponents:
        return ShapeletComponents(self.ellipse[index], self.x[index], self.y[index], self.coefficients[index])

    def moments(self) -> tuple[Quadrupoles, FloatArray, FloatArray]:
        """Return second central moments and the centroid (x, y) of the functions, each of shape (n,)."""
        a00, a01, a10, a02, a11, a20 = np.moveaxis(self.coefficients, -1, 0)
        root = self.ellipse.root()
        flux = UNIT_FLUX * (a00 + (a02 + a20) / ROOT2)
        first_x, first_y = root.apply(UNIT_FLUX * ROOT2 * a10, UNIT_FLUX * ROOT2 * a01)
        uu = UNIT_FLUX * (a00 + (5.0 * a20 + a02) / ROOT2)
        vv = UNIT_FLUX * (a00 + (5.0 * a02 + a20) / ROOT2)
        uv = UNIT_FLUX * 2.0 * a11
        matrices = np.stack([root.xx, root.xy, root.xy, root.yy], axis=-1).reshape(*root.xx.shape, 2, 2)
        second = Quadrupoles(uu, vv, uv).transformed(matrices)
        raw_xx = second.xx + 2.0 * self.x * first_x + self.x**2 * flux
        raw_yy = second.yy + 2.0 * self.y * first_y + self.y**2 * flux
        raw_xy = second.xy + self.x * first_y + self.y * first_x + self.x * self.y * flux
        with np.errstate(invalid="ignore", divide="ignore"):
            total = flux.sum(axis=1)
            x = (first_x + self.x * flux).sum(axis=1) / total
            y = (first_y + self.y * flux).sum(axis=1) / total
            central = Quadrupoles(
                raw_xx.sum(axis=1) / total - x * x,
                raw_yy.sum(axis=1) / total - y * y,
                raw_xy.sum(axis=1) / total - x * y,
            )
        return central, x, y
