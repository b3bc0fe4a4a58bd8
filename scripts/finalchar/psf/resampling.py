"""Shifting stored images by less than a pixel (selection specification 0.6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["lanczos5_taps", "shift_images"]

FloatArray = npt.NDArray[np.float64]

ORDER = 5
EDGE_BUFFER = 5
SMALLEST_SIZE = 10
"""The kernel has ten taps; smaller images (buffer included) cannot be shifted."""


def shift_images(images: npt.ArrayLike, *, dx: npt.ArrayLike, dy: npt.ArrayLike) -> FloatArray:
    """Shift images by fractions of a pixel with the Lanczos kernel of order 5 and an edge buffer of 5.

    Parameters
    ----------
    images : array_like, shape (n, ny, nx)
    dx, dy : array_like, shape (n,)
        Shifts in pixels, absolute values below 1.

    Returns
    -------
    ndarray, float64, shape (n, ny, nx)
        Zeros are assumed outside; the sum is not restored.
    """
    stack = np.asarray(images, dtype=np.float64)
    _, ny, nx = stack.shape
    if min(ny, nx) + 2 * EDGE_BUFFER < SMALLEST_SIZE:
        raise ValueError(f"images of {nx} x {ny} pixels are too small to be shifted")
    along_x = _shift_matrices(np.asarray(dx, dtype=np.float64), nx)
    along_y = _shift_matrices(np.asarray(dy, dtype=np.float64), ny)
    return np.asarray(along_y @ stack @ np.swapaxes(along_x, 1, 2))


def lanczos5_taps(shift: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Return positions and weights (unit sum) of the ten taps for each shift, shapes (n, 10)."""
    place = -shift.astype(np.float32).astype(np.float64)
    first = np.where(place >= 0, 1 - ORDER, -ORDER)
    taps = first[:, np.newaxis] + np.arange(2 * ORDER)
    weights = _lanczos(taps - place[:, np.newaxis])
    return taps, weights / weights.sum(axis=1, keepdims=True)


def _lanczos(u: FloatArray) -> FloatArray:
    """sin(pi u) sin(pi u / 5) / (pi^2 u^2 / 5), 1 very near 0."""
    angle = np.pi * u
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.sin(angle) * np.sin(angle / ORDER) / (angle**2 / ORDER)
    return np.where(np.abs(angle) <= 1e-5, 1.0, values)


def _shift_matrices(shift: FloatArray, size: int) -> FloatArray:
    """Matrices (n, size, size) that correlate a row of pixels with the taps; zeros outside the row."""
    taps, weights = lanczos5_taps(shift)
    matrices = np.zeros((len(shift), size, size))
    star = np.arange(len(shift))[:, np.newaxis]
    for row in range(size):
        column = row + taps
        inside = (column >= 0) & (column < size)
        matrices[np.broadcast_to(star, taps.shape)[inside], row, column[inside]] = weights[inside]
    return matrices
