"""Chebyshev polynomials over a pixel box: basis, least-squares fit (measurement specification 13.3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box

__all__ = ["chebyshev_basis", "count_terms", "fit_chebyshev", "scale_to_box"]

FloatArray = npt.NDArray[np.float64]

EIGENVALUE_FLOOR = 2.2e-16
"""Eigenvalues of the normal equations below this fraction of the largest carry no information."""


def scale_to_box(*, x: npt.ArrayLike, y: npt.ArrayLike, box: Box) -> tuple[FloatArray, FloatArray]:
    """Map parent pixel positions so that the outer pixel edges of `box` become -1 and +1."""
    centre_x, centre_y = box.centre
    scaled_x = 2.0 * (np.asarray(x, dtype=np.float64) - centre_x) / box.width
    scaled_y = 2.0 * (np.asarray(y, dtype=np.float64) - centre_y) / box.height
    return scaled_x, scaled_y


def _terms(order_x: int, order_y: int, triangular: bool) -> list[tuple[int, int]]:
    """Return (y order, x order) of every term; triangular: total order up to the larger of both."""
    limit = max(order_x, order_y) if triangular else order_x + order_y
    return [(j, i) for j in range(order_y + 1) for i in range(order_x + 1) if i + j <= limit]


def count_terms(order_x: int, order_y: int, *, triangular: bool = True) -> int:
    """Return the number of free coefficients of a fit."""
    return len(_terms(order_x, order_y, triangular))


def chebyshev_basis(
    *, x: npt.ArrayLike, y: npt.ArrayLike, box: Box, order_x: int, order_y: int, triangular: bool = True
) -> FloatArray:
    """Return T_i(X) T_j(Y) of every term at the positions, shape (n, terms)."""
    scaled_x, scaled_y = scale_to_box(x=x, y=y, box=box)
    in_x = np.polynomial.chebyshev.chebvander(scaled_x, order_x)
    in_y = np.polynomial.chebyshev.chebvander(scaled_y, order_y)
    rows, columns = np.transpose(_terms(order_x, order_y, triangular))
    return np.asarray(in_y[:, rows] * in_x[:, columns])


def fit_chebyshev(
    *,
    x: FloatArray,
    y: FloatArray,
    z: FloatArray,
    box: Box,
    order_x: int,
    order_y: int,
    triangular: bool = True,
) -> FloatArray:
    """Fit z(x, y) by unweighted least squares.

    Parameters
    ----------
    x, y, z : ndarray, float64, shape (n,)
        Parent pixel positions and values.
    box : Box
        The box that becomes [-1, 1] in both axes.
    order_x, order_y : int
        Highest orders.
    triangular : bool
        Whether the total order is limited too.

    Returns
    -------
    ndarray, float64, shape (order_y + 1, order_x + 1)
        Coefficients, zero in the unused triangle.

    Notes
    -----
    Normal equations solved through their eigen-decomposition, as measurement specification 13.3 says.
    """
    basis = chebyshev_basis(x=x, y=y, box=box, order_x=order_x, order_y=order_y, triangular=triangular)
    values, vectors = np.linalg.eigh(basis.T @ basis)
    kept = values > EIGENVALUE_FLOOR * values[-1]
    projected = vectors.T @ (basis.T @ z)
    solution = vectors[:, kept] @ (projected[kept] / values[kept])
    coefficients = np.zeros((order_y + 1, order_x + 1))
    for (row, column), value in zip(_terms(order_x, order_y, triangular), solution, strict=True):
        coefficients[row, column] = value
    return coefficients
