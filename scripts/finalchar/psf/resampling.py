"""Shifting stored images by less than a pixel (selection specification 0.6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "combine_masks",
    "lanczos5_taps",
    "separable_shifts",
    "shift_images",
    "shift_stamps",
    "unshifted_rim",
]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

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


def separable_shifts(shift: npt.ArrayLike, size: int) -> FloatArray:
    """Return one matrix per shift, shape (n, size, size), that shifts a row of pixels; zeros outside."""
    return _shift_matrices(np.asarray(shift, dtype=np.float64), size)


def shift_stamps(
    image: Float32Array, variance: Float32Array, *, dx: npt.ArrayLike, dy: npt.ArrayLike
) -> tuple[Float32Array, Float32Array]:
    """Shift stamps and their variances without an edge buffer; the rim stays as it is [S-Q17].

    The reference adds up in float32, and where the stamps are subtracted from one another later its roundings
    show.  They are ours too: rows are combined in the order in which a buffer of ten rows holds them.

    Parameters
    ----------
    image, variance : ndarray of float32, shape (n, size, size)
    dx, dy : array_like, shape (n,)
        Shifts in pixels, absolute values below 1.
    """
    size = image.shape[-1]
    rim_x, rim_y = (unshifted_rim(shift, size, edge_buffer=0) for shift in (dx, dy))
    rim = rim_y[:, :, np.newaxis] | rim_x[:, np.newaxis, :]
    taps_x, taps_y = (_float32_taps(shift) for shift in (dx, dy))
    squared_x, squared_y = ((taps, weights**2) for taps, weights in (taps_x, taps_y))
    with np.errstate(invalid="ignore", over="ignore"):  # pixels that are no numbers stay so
        moved = _combined_rows(_combined_columns(image, *taps_x), *taps_y)
        spread = _combined_rows(_combined_columns(variance, *squared_x), *squared_y)
    return np.where(rim, image, moved), np.where(rim, variance, spread)


def _float32_taps(shift: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], Float32Array]:
    taps, weights = lanczos5_taps(np.asarray(shift, dtype=np.float64))
    return taps, weights.astype(np.float32)


def _combined_columns(
    images: Float32Array, taps: npt.NDArray[np.int64], weights: Float32Array
) -> Float32Array:
    """Weighted sums of the pixels beside each pixel; of no meaning where the taps leave the image."""
    total, pixels = np.zeros_like(images), np.arange(images.shape[2])
    for tap in range(taps.shape[1]):
        column = np.clip(pixels + taps[:, tap, np.newaxis], 0, len(pixels) - 1)
        neighbour = np.take_along_axis(images, column[:, np.newaxis, :], axis=2)
        total += neighbour * weights[:, tap, np.newaxis, np.newaxis]
    return total


def _combined_rows(images: Float32Array, taps: npt.NDArray[np.int64], weights: Float32Array) -> Float32Array:
    """Weighted sums of the pixels above and below each pixel, in the order of a cyclic buffer of rows."""
    total, pixels = np.zeros_like(images), np.arange(images.shape[1])
    for place in range(taps.shape[1]):
        tap = (place - taps[:, :1] - pixels) % taps.shape[1]
        row = np.clip(pixels + np.take_along_axis(taps, tap, axis=1), 0, len(pixels) - 1)
        neighbour = np.take_along_axis(images, row[:, :, np.newaxis], axis=1)
        total += neighbour * np.take_along_axis(weights, tap, axis=1)[:, :, np.newaxis]
    return total


def unshifted_rim(shift: npt.ArrayLike, size: int, *, edge_buffer: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of an axis that the kernel does not reach completely, shape (n, size).

    The reference copies them unshifted [S-Q17].

    Parameters
    ----------
    shift : array_like, shape (n,)
        Shifts, pixels.
    size : int
        Pixels along the axis.
    edge_buffer : int
        Zeros that the image is embedded in, on each side.
    """
    taps, _ = lanczos5_taps(np.asarray(shift, dtype=np.float64))
    pixels = np.arange(size)
    first, last = taps[:, :1] + pixels, taps[:, -1:] + pixels
    return np.asarray((first < -edge_buffer) | (last >= size + edge_buffer))


def combine_masks(
    mask: npt.NDArray[np.int32], *, dx: npt.ArrayLike, dy: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    """Combine the masks of all pixels that enter a shifted pixel, however little; the rim stays as it is.

    Parameters
    ----------
    mask : ndarray of int32, shape (n, size, size)
    dx, dy : array_like, shape (n,)
        Shifts as in `shift_images`, without an edge buffer.
    """
    size = mask.shape[-1]
    combined = _combine_last_axis(mask, dx)
    combined = np.swapaxes(_combine_last_axis(np.swapaxes(combined, 1, 2), dy), 1, 2)
    rim_x, rim_y = (unshifted_rim(shift, size, edge_buffer=0) for shift in (dx, dy))
    return np.where(rim_y[:, :, np.newaxis] | rim_x[:, np.newaxis, :], mask, combined)


def _combine_last_axis(mask: npt.NDArray[np.int32], shift: npt.ArrayLike) -> npt.NDArray[np.int32]:
    taps, _ = lanczos5_taps(np.asarray(shift, dtype=np.float64))
    size = mask.shape[-1]
    combined = np.zeros_like(mask)
    for tap in range(taps.shape[1]):
        column = np.clip(np.arange(size) + taps[:, tap, np.newaxis], 0, size - 1)
        combined |= np.take_along_axis(mask, column[:, np.newaxis, :], axis=2)
    return combined


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
