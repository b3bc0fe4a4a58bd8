"""Clipped mean and variance, for pixels of an image and for anything else.

Selection specification 7.2, measurement specification 2.1 step 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["clipped_mean_and_variance"]

Numbers = npt.NDArray[np.floating[Any]]

QUARTILES_TO_SIGMA = 0.741301109252802
"""Standard deviation of a normal distribution over the distance of its quartiles."""
CLIPPING_WIDTH = 3.0
CLIPPING_PASSES = 3
BLOCK = 1 << 17
"""Values per step, so that a step fits into the processor's cache."""


def clipped_mean_and_variance(values: Numbers) -> tuple[float, float]:
    """Return mean and unbiased variance after three clips at 3 sigma.

    The first clip is around the median, by the distance of the quartiles; each goes over all values again.

    Parameters
    ----------
    values : ndarray of float32 or float64
        Those that are not finite are ignored.

    Returns
    -------
    mean, variance : float
        NaN without a finite value; the variance is NaN of a single one.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return float(values[0]) if len(values) else np.nan, np.nan
    quartile1, centre, quartile3 = _quartiles(values)
    half_width = CLIPPING_WIDTH * QUARTILES_TO_SIGMA * (quartile3 - quartile1)
    variance = 0.0
    for _ in range(CLIPPING_PASSES):
        centre, variance = _clip(values, centre, half_width)
        half_width = CLIPPING_WIDTH * np.sqrt(variance)
    return centre, variance


def _clip(values: Numbers, centre: float, half_width: float) -> tuple[float, float]:
    """Return mean and unbiased variance of the values within `half_width` of `centre`."""
    number, total, squares = 0, 0.0, 0.0
    for start in range(0, len(values), BLOCK):
        offset = values[start : start + BLOCK].astype(np.float64)
        offset -= centre
        kept = offset[np.abs(offset) <= half_width]
        number += len(kept)
        total += float(kept.sum())
        squares += float(np.square(kept).sum())  # not a BLAS product: same bytes with any threads
    if number < 2:
        return centre, 0.0
    shift = total / number
    return centre + shift, (squares - number * shift * shift) / (number - 1)


def _quartiles(values: Numbers) -> tuple[float, float, float]:
    """Return the quartiles by linear interpolation at rank q (n - 1)."""
    rank = np.array([0.25, 0.5, 0.75]) * (len(values) - 1)
    low = np.floor(rank).astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    ordered = np.partition(values, np.unique(np.concatenate([low, high])))
    fraction = rank - low
    result = (1.0 - fraction) * ordered[low].astype(np.float64) + fraction * ordered[high].astype(np.float64)
    return float(result[0]), float(result[1]), float(result[2])
