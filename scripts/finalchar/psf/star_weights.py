"""What the pixels of a star are worth in a PSF fit: good pixels, constant weight, signal-to-noise cap.

The weight of a star is constant over its stamp: the inverse of the variance that the star's place would
have without the star (selection specification 6.4).  That is the intercept of a straight line of variance
against image, so it is the same whether or not the variance plane holds the star's own photon noise.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["StarWeight", "good_pixels", "star_weight"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StarWeight:
    """The constant weight of one star and how it came about.

    Attributes
    ----------
    value : float
        Weight of every good pixel after the cap, counts^-2; not positive and finite if the star is unusable.
    slope, intercept : float
        Straight line of variance against image; 1 / intercept is the weight before the cap.
    signal_to_noise : float
        Before the cap.
    """

    value: float
    slope: float
    intercept: float
    signal_to_noise: float

    @property
    def usable(self) -> bool:
        """Whether the weight is a positive, finite number (S-Q14) that the cap could be applied to."""
        return bool(np.isfinite(self.value) and self.value > 0 and np.isfinite(self.signal_to_noise))


def good_pixels(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.int32],
    variance: npt.NDArray[np.float32],
    *,
    bad_bits: np.int32,
) -> BoolArray:
    """Return which pixels take part in a fit (selection specification 6.4, step 2).

    Parameters
    ----------
    image, mask, variance : ndarray, shape (..., ny, nx)
        Planes of one or many stamps.
    bad_bits : int32
        Mask bits that give zero weight.

    Returns
    -------
    ndarray, bool
        Finite image, finite variance other than zero, none of the bits set.  Negative variance passes.
    """
    good: BoolArray = np.isfinite(image) & np.isfinite(variance) & (variance != 0) & ((mask & bad_bits) == 0)
    return good


def star_weight(
    image: npt.NDArray[np.float32],
    variance: npt.NDArray[np.float32],
    *,
    good: BoolArray,
    max_snr: float,
) -> StarWeight:
    """Return the constant weight of one star (selection specification 6.4, steps 4 and 5).

    Parameters
    ----------
    image, variance : ndarray, float32, shape (ny, nx)
        Planes of the stamp.
    good : ndarray, bool, shape (ny, nx)
        Pixels that count.
    max_snr : float
        Stars above this signal-to-noise ratio are weighted down to it.
    """
    pixels = image[good]
    slope, intercept = _straight_line(pixels, variance[good])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        weight = np.float64(1.0) / intercept
        flux_over_noise = float(np.sum(weight * (pixels * pixels)))
        snr = _signal_to_noise(flux_over_noise, len(pixels))
    if snr > max_snr:
        weight = weight * (max_snr / snr) ** 2
    return StarWeight(float(weight), float(slope), float(intercept), snr)


def _straight_line(
    image: npt.NDArray[np.float32], variance: npt.NDArray[np.float32]
) -> tuple[np.float64, np.float64]:
    """Least-squares slope and intercept; NaN where a line cannot be drawn."""
    if len(image) < 2 or not image.any():  # no line through an image of zeros: LAPACK would complain
        return np.float64(np.nan), np.float64(np.nan)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            slope, intercept = np.polyfit(image, variance, 1)
    except np.linalg.LinAlgError:
        return np.float64(np.nan), np.float64(np.nan)
    return np.float64(slope), np.float64(intercept)


def _signal_to_noise(flux_over_noise: float, pixels: int) -> float:
    if not flux_over_noise >= pixels or flux_over_noise == 0:
        return 0.0
    return float((flux_over_noise - pixels) / np.sqrt(flux_over_noise))
