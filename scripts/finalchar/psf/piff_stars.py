"""From candidate stamps to the stars of a Piff fit (selection specification 6.4)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.psf.piff_frame import PiffFrame
from finalchar.psf.star_weights import good_pixels, star_weight

__all__ = ["StarStamps", "UsableStars", "piff_stars", "usable_stars"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StarStamps:
    """Stamps of n stars at the size of the fit; all arrays have n rows.

    Attributes
    ----------
    ids : ndarray, int64
    x, y : ndarray, float64
        Centroids, parent pixels.
    image, variance : ndarray, float32, shape (n, size, size)
    mask : ndarray, int32, shape (n, size, size)
        With neighbours marked (selection specification 5.3).
    x0, y0 : ndarray, int64
        Parent position of the first pixel of each stamp.
    color, color_type : ndarray, float64, and sequence of str
        NaN and "" where a star has no colour.
    """

    ids: npt.NDArray[np.int64]
    x: FloatArray
    y: FloatArray
    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    variance: npt.NDArray[np.float32]
    x0: npt.NDArray[np.int64]
    y0: npt.NDArray[np.int64]
    color: FloatArray
    color_type: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class UsableStars:
    """The stars that enter the fit, with their weights.

    Attributes
    ----------
    rows : ndarray, int64, shape (m,)
        Rows of the stamps.
    weight : ndarray, float64, shape (m, size, size)
        Constant on good pixels, 0 elsewhere.
    signal_to_noise : ndarray, float64, shape (m,)
        Before the cap.
    masked : int
        Stars left out because too few of their pixels are good.
    unweighted : int
        Stars left out because no weight could be given (S-Q14; never with compatibility ``lsst``).
    """

    rows: npt.NDArray[np.int64]
    weight: FloatArray
    signal_to_noise: FloatArray
    masked: int
    unweighted: int

    def __len__(self) -> int:
        return len(self.rows)


def usable_stars(
    stamps: StarStamps,
    *,
    bad_bits: np.int32,
    minimum_unmasked_fraction: float,
    max_snr: float,
    compatibility: str,
) -> UsableStars:
    """Choose the stars with enough good pixels and give them weights.

    Parameters
    ----------
    bad_bits : int32
        Mask bits that give zero weight.
    minimum_unmasked_fraction : float
        Stars with a smaller fraction of good pixels are left out.
    max_snr : float
        Signal-to-noise cap.
    """
    good = good_pixels(stamps.image, stamps.mask, stamps.variance, bad_bits=bad_bits)
    fraction = good.mean(axis=(1, 2))
    rows, weights, ratios, unweighted = [], [], [], 0
    for row in np.flatnonzero(~(fraction < minimum_unmasked_fraction)):
        star = star_weight(stamps.image[row], stamps.variance[row], good=good[row], max_snr=max_snr)
        if not star.usable and compatibility != "lsst":
            unweighted += 1
            log.warning(
                "star %d is left out of the PSF fit: its variance without the star comes out as %g",
                stamps.ids[row],
                star.intercept,
            )
            continue
        rows.append(row)
        weights.append(np.where(good[row], star.value, 0.0))
        ratios.append(star.signal_to_noise)
    shape = (len(rows), *stamps.image.shape[1:])
    return UsableStars(
        rows=np.array(rows, dtype=np.int64),
        weight=np.array(weights, dtype=np.float64).reshape(shape),
        signal_to_noise=np.array(ratios, dtype=np.float64),
        masked=int(np.sum(fraction < minimum_unmasked_fraction)),
        unweighted=unweighted,
    )


def piff_stars(
    stamps: StarStamps,
    usable: UsableStars,
    frame: PiffFrame,
    *,
    color: FloatArray,
    color_type: Sequence[str],
    compatibility: str,
) -> list[Any]:
    """Make the Piff stars, in the order of the candidates.

    Piff multiplies pixels of zero weight, so that one NaN under a mask loses the star, or the fit; only
    compatibility ``lsst`` leaves them in (known failure K19).

    Parameters
    ----------
    color, color_type
        Of the usable stars, shape (m,).

    Returns
    -------
    list of piff.Star
    """
    import galsim
    import piff

    stars = []
    for k, row in enumerate(usable.rows):
        corner = {"xmin": int(stamps.x0[row]), "ymin": int(stamps.y0[row])}
        pixels = stamps.image[row].astype(np.float64)
        if compatibility != "lsst":
            pixels[~np.isfinite(pixels)] = 0.0
        data = piff.StarData(
            galsim.Image(pixels, wcs=frame.wcs, **corner),
            galsim.PositionD(float(stamps.x[row]), float(stamps.y[row])),
            weight=galsim.Image(usable.weight[k].copy(), wcs=frame.wcs, **corner),
            pointing=frame.pointing,
            properties={
                "starId": int(stamps.ids[row]),
                "colorValue": float(color[k]),
                "colorType": sys.intern(str(color_type[k])),
            },
        )
        stars.append(piff.Star(data, None))
    return stars
