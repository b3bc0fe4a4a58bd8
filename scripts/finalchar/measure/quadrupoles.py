"""Ellipses of many stars at once, as second moments (measurement specification, conventions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box

__all__ = ["Quadrupoles", "pixels_of_ellipse"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Quadrupoles:
    """Symmetric 2 x 2 matrices of second moments, pixels squared; arrays of any one shape.

    Where a matrix is not an ellipse the properties give NaN or infinity, without a warning.
    """

    xx: FloatArray
    yy: FloatArray
    xy: FloatArray

    def __len__(self) -> int:
        return len(self.xx)

    def __getitem__(self, index: Any) -> Quadrupoles:
        return Quadrupoles(self.xx[index], self.yy[index], self.xy[index])

    def __add__(self, other: Quadrupoles) -> Quadrupoles:
        return Quadrupoles(self.xx + other.xx, self.yy + other.yy, self.xy + other.xy)

    def __sub__(self, other: Quadrupoles) -> Quadrupoles:
        return Quadrupoles(self.xx - other.xx, self.yy - other.yy, self.xy - other.xy)

    @classmethod
    def circles(cls, variance: FloatArray) -> Quadrupoles:
        """Return circles of the given variances."""
        return cls(variance, variance, np.zeros_like(variance))

    @classmethod
    def where(cls, condition: BoolArray, first: Quadrupoles, second: Quadrupoles) -> Quadrupoles:
        """Return the first where the condition holds, else the second."""
        return cls(
            np.where(condition, first.xx, second.xx),
            np.where(condition, first.yy, second.yy),
            np.where(condition, first.xy, second.xy),
        )

    @property
    def determinant(self) -> FloatArray:
        """Ixx Iyy - Ixy^2."""
        return self.xx * self.yy - self.xy * self.xy

    @property
    def determinant_radius(self) -> FloatArray:
        """Fourth root of the determinant."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.sqrt(np.sqrt(self.determinant)))

    @property
    def area(self) -> FloatArray:
        """Area, pi a b."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.pi * np.sqrt(self.determinant))

    @property
    def semi_axes(self) -> tuple[FloatArray, FloatArray]:
        """Major and minor semi-axis."""
        trace = self.xx + self.yy
        spread = np.hypot(self.xx - self.yy, 2.0 * self.xy)
        with np.errstate(invalid="ignore"):
            return np.sqrt(0.5 * (trace + spread)), np.sqrt(0.5 * (trace - spread))

    @property
    def valid(self) -> BoolArray:
        """Whether these are ellipses: no NaN, no negative moment or determinant."""
        with np.errstate(invalid="ignore"):
            return np.asarray((self.xx >= 0) & (self.yy >= 0) & (self.determinant >= 0))

    def scaled(self, factor: FloatArray | float) -> Quadrupoles:
        """Return ellipses with both semi-axes times `factor`."""
        return self.times(factor * factor)

    def times(self, factor: FloatArray | float) -> Quadrupoles:
        """Return the moments times `factor`."""
        return Quadrupoles(self.xx * factor, self.yy * factor, self.xy * factor)

    def transformed(self, matrices: FloatArray) -> Quadrupoles:
        """Return M Q M^T for matrices M of shape (..., 2, 2)."""
        a, b, c, d = matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 0], matrices[..., 1, 1]
        return Quadrupoles(
            xx=a * a * self.xx + 2.0 * a * b * self.xy + b * b * self.yy,
            yy=c * c * self.xx + 2.0 * c * d * self.xy + d * d * self.yy,
            xy=a * c * self.xx + (a * d + b * c) * self.xy + b * d * self.yy,
        )

    def root(self) -> Quadrupoles:
        """Return the symmetric square root Q^(1/2)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(self.determinant)
            norm = np.sqrt(self.xx + self.yy + 2.0 * root)
            return Quadrupoles((self.xx + root) / norm, (self.yy + root) / norm, self.xy / norm)

    def inverse_root(self) -> Quadrupoles:
        """Return the symmetric inverse square root Q^(-1/2): the grid transform of the ellipse."""
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(self.determinant)
            norm = root * np.sqrt(self.xx + self.yy + 2.0 * root)
            return Quadrupoles((self.yy + root) / norm, (self.xx + root) / norm, -self.xy / norm)

    def apply(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the vectors (x, y) multiplied by the matrices."""
        return self.xx * x + self.xy * y, self.xy * x + self.yy * y


def pixels_of_ellipse(
    *, xx: float, yy: float, xy: float, x: float, y: float, box: Box
) -> tuple[IntArray, IntArray]:
    """Return x and y of the pixels of `box` whose centre is inside or on an ellipse, row after row.

    Parameters
    ----------
    xx, yy, xy : float
        Second moments of the ellipse.
    x, y : float
        Its centre.
    box : Box
        The image.
    """
    nothing = np.zeros(0, dtype=np.int64)
    if not (np.isfinite([xx, yy, xy, x, y]).all() and yy > 0 and xx > 0):
        return nothing, nothing
    if yy < np.finfo(float).eps * xx:
        skew, rest, ratio = 0.0, xx, 0.0
    else:
        skew = xy / yy
        rest = xx - xy * skew
        ratio = rest / yy
    half = np.sqrt(yy)
    first_row = max(int(np.ceil(y - half - 0.5)), box.min_y)
    last_row = min(int(np.floor(y + half + 0.5)), box.max_y)
    rows = np.arange(first_row, last_row + 1)
    offset = rows - y
    reach = rest - ratio * offset**2
    rows, offset, reach = rows[reach >= 0], offset[reach >= 0], np.sqrt(reach[reach >= 0])
    start = np.maximum(np.ceil(x + skew * offset - reach), box.min_x).astype(np.int64)
    stop = np.minimum(np.floor(x + skew * offset + reach), box.max_x).astype(np.int64)
    width = np.maximum(stop - start + 1, 0)
    before = np.cumsum(width) - width
    columns = np.arange(int(width.sum())) + np.repeat(start - before, width)
    return columns, np.repeat(rows, width)
