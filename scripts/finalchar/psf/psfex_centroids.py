"""Centres of stars by a Gaussian window, as PSFEx finds them (selection specification 7.6, `recentroid`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["windowed_shifts"]

FloatArray = npt.NDArray[np.float64]

ROUNDS = 16
ENDED = 1e-3
"""Pixels; a step below this is the last."""
WINDOW_OF_SIZE = 2.0 / 2.35
APERTURE_OF_SIGMA = 4.0
EDGE = 0.75
"""Pixels on both sides of the aperture's edge in which pixels are divided."""
PARTS = 3


def windowed_shifts(
    image: npt.NDArray[np.float32],
    bad: npt.NDArray[np.bool_],
    sizes: FloatArray,
    *,
    dx: FloatArray,
    dy: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Find the centres of stars on their stamps.

    Parameters
    ----------
    image : ndarray of float32, shape (n, size, size)
    bad : ndarray of bool, shape (n, size, size)
        Pixels that take the value of the one opposite the centre of the stamp, or 0 if that is bad, too.
    sizes : ndarray of float64, shape (n,)
        Of the stars, sqrt((Ixx + Iyy) / 2), pixels.
    dx, dy : ndarray of float64, shape (n,)
        Where the search begins, from the middle of the central pixel.

    Returns
    -------
    dx, dy : ndarray of float64, shape (n,)
        Where it ended; the beginning for stars whose search left the central pixel's neighbourhood.
    """
    values = _mirrored(image.astype(np.float64), bad)
    middle = image.shape[1] // 2
    sigma = sizes * WINDOW_OF_SIZE
    place = np.stack([dx, dy]).astype(np.float64)
    running = np.isfinite(sigma) & (sigma > 0)
    for _ in range(ROUNDS):
        if not running.any():
            break
        rows = np.flatnonzero(running)
        step = 2.0 * _barycentres(values[rows], sigma[rows], place[:, rows], middle)
        step[:, ~np.isfinite(step).all(axis=0)] = 0.0
        place[:, rows] += step
        running[rows] = np.hypot(*step) >= ENDED
    lost = np.abs(place - np.stack([dx, dy])).max(axis=0) > 1.0
    place[:, lost] = np.stack([dx, dy])[:, lost]
    return place[0], place[1]


def _mirrored(values: FloatArray, bad: npt.NDArray[np.bool_]) -> FloatArray:
    opposite = np.where(bad[:, ::-1, ::-1], 0.0, values[:, ::-1, ::-1])
    return np.where(bad, opposite, values)


def _barycentres(values: FloatArray, sigma: FloatArray, place: FloatArray, middle: int) -> FloatArray:
    """Barycentre about a place under a Gaussian window, relative to it, shape (2, n)."""
    along = np.arange(values.shape[1]) - middle
    u = along[np.newaxis, np.newaxis, :] - place[0][:, np.newaxis, np.newaxis]
    v = along[np.newaxis, :, np.newaxis] - place[1][:, np.newaxis, np.newaxis]
    width = sigma[:, np.newaxis, np.newaxis]
    inside = _part_inside(u, v, APERTURE_OF_SIGMA * width)
    weight = values * inside * np.exp(-(u**2 + v**2) / (2.0 * width**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weight.sum(axis=(1, 2))
        moments = np.stack([(weight * u).sum(axis=(1, 2)), (weight * v).sum(axis=(1, 2))])
        return np.asarray(moments / total)


def _part_inside(u: FloatArray, v: FloatArray, radius: FloatArray) -> FloatArray:
    """Part of each pixel inside the aperture; pixels at its edge are divided."""
    distance = np.hypot(u, v)
    offsets = (np.arange(PARTS) - PARTS // 2) / PARTS
    parts = np.zeros(distance.shape)
    for offset_x in offsets:
        for offset_y in offsets:
            parts += np.hypot(u + offset_x, v + offset_y) < radius
    return np.asarray(np.where(np.abs(distance - radius) < EDGE, parts / PARTS**2, distance < radius))
