"""Resampling of star stamps and PSFEx models between rasters (selection specification 7.6).

The kernel is the five-lobed one of the library form of PSFEx, with which the reference works; the program
itself has one of three lobes.  The centres of the two rasters coincide, and each axis is one small matrix.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["nearest_pixels", "resample", "sampling_matrices"]

FloatArray = npt.NDArray[np.float64]
LOBES = 5


def sampling_matrices(
    shift: FloatArray, from_size: int, to_size: int, step: float, *, stretch: float = 1.0
) -> FloatArray:
    """Return matrices that sample a row of pixels at other places.

    Parameters
    ----------
    shift : ndarray of float64, shape (n,)
        Of the object, in pixels of the new row.
    from_size, to_size : int
        Lengths of the rows.
    step : float
        Size of an old pixel in new pixels.
    stretch : float, optional
        Width of the kernel in old pixels, in units of the usual one; above 1 where the new pixels are larger.

    Returns
    -------
    ndarray of float64, shape (n, to_size, from_size)
    """
    centred = (np.arange(to_size) - to_size // 2) - shift[:, np.newaxis]
    place = from_size // 2 + centred / step
    half = int(4.0 * stretch) + 2
    taps = (place.astype(np.int64) - half)[..., np.newaxis] + np.arange(2 * half)
    offset = (taps - place[..., np.newaxis]) / stretch
    weight = np.where(np.abs(offset) <= LOBES, np.sinc(offset) * np.sinc(offset / LOBES), 0.0)
    weight[np.abs(offset) < 1e-5] = 1.0
    weight[(taps < 0) | (taps >= from_size)] = 0.0
    total = weight.sum(axis=-1, keepdims=True)
    weight /= np.where(total > 0, total, 1.0)
    weight[(place < 0) | (place > from_size - 1)] = 0.0
    matrices = np.zeros((*place.shape, from_size))
    star, pixel, _ = np.indices(taps.shape)
    np.add.at(matrices, (star, pixel, np.clip(taps, 0, from_size - 1)), weight)
    return matrices


def resample(
    images: npt.NDArray[np.float32],
    to_size: int,
    step: float,
    *,
    dx: FloatArray,
    dy: FloatArray,
    stretch: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Resample square images, x first, in single precision between the passes as the reference does.

    Parameters
    ----------
    images : ndarray of float32, shape (n, size, size)
    to_size : int
        Side of the new images.
    step : float
        Size of an old pixel in new pixels.
    dx, dy : ndarray of float64, shape (n,)
        Shift of the object, in new pixels.
    stretch : float, optional
        See `sampling_matrices`.

    Returns
    -------
    ndarray of float32, shape (n, to_size, to_size)
    """
    height, width = images.shape[1:]
    along_x = np.swapaxes(sampling_matrices(dx, width, to_size, step, stretch=stretch), 1, 2)
    rows = (images.astype(np.float64) @ along_x).astype(np.float32)
    along_y = sampling_matrices(dy, height, to_size, step, stretch=stretch)
    return np.asarray(along_y @ rows.astype(np.float64)).astype(np.float32)


def nearest_pixels(shift: FloatArray, from_size: int, to_size: int, step: float) -> npt.NDArray[np.int64]:
    """Return the old pixel that each new pixel of a row falls on, shape (n, to_size); see `resample`."""
    centred = (np.arange(to_size) - to_size // 2) - shift[:, np.newaxis]
    place = np.floor(from_size // 2 + centred / step + 0.5)
    return np.clip(place, 0, from_size - 1).astype(np.int64)
