"""Positions as unit vectors: distances as chords, and means that hold across RA 0 and at the poles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["chord_of", "mean_directions", "unit_vectors"]

FloatArray = npt.NDArray[np.float64]


def unit_vectors(*, ra: FloatArray, dec: FloatArray) -> FloatArray:
    """Unit vectors of positions in degrees, shape (n, 3)."""
    longitude, latitude = np.radians(ra), np.radians(dec)
    across = np.cos(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=-1)


def chord_of(arcsec: float) -> float:
    """Length of the chord of an angle on the sphere (selection specification 1.6.4)."""
    return float(2.0 * np.sin(np.radians(arcsec / 3600.0) / 2.0))


def mean_directions(*, ra: FloatArray, dec: FloatArray, start: npt.NDArray[np.int64]) -> FloatArray:
    """Mean directions of runs of positions.

    Parameters
    ----------
    ra, dec : ndarray of float64, shape (n,)
        Degrees.
    start : ndarray of int64, shape (m,)
        First row of each run; a run ends where the next begins, the last with the rows.

    Returns
    -------
    ndarray of float64, shape (m, 2)
        RA in [0, 360) and Dec, degrees.
    """
    x, y, z = np.add.reduceat(unit_vectors(ra=ra, dec=dec), start, axis=0).T
    return np.stack([np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))], axis=1)
