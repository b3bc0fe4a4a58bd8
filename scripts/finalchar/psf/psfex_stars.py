"""The stars of a PSFEx fit: which candidates are samples, and what is known of them (specification 7.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import PsfError
from finalchar.formats.exposure import Exposure
from finalchar.formats.sources import SourceTable, demand_column
from finalchar.psf.clipping import clipped_mean_and_variance
from finalchar.psf.psfex_centroids import windowed_shifts
from finalchar.stars.usable import LARGEST_FLUX

if TYPE_CHECKING:
    from finalchar.stars.candidates import Candidates

__all__ = ["SampleImage", "Samples", "flux_flag", "psfex_samples", "sample_image"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ASKED_BY = "psf_determiner.psfex"
FWHM_OF_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
LEAST_GOOD_PART = 0.5
"""Stars with a smaller part of good pixels are left out unless the reference is followed."""


@dataclass(frozen=True)
class SampleImage:
    """What is the same for all stars of a detector.

    Attributes
    ----------
    fwhm : float
        Median over all candidates that have a shape, pixels.
    background_variance : float
        Of the image, counts squared.
    gain : float
        Electrons per count; 0: unknown, no photon noise.
    """

    fwhm: float
    background_variance: float
    gain: float


@dataclass(frozen=True)
class Samples:
    """Stars as PSFEx gets them, in the order of the candidates.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Rows of the candidates.
    x, y : ndarray of float64, shape (n,)
        Catalogue positions, parent pixels: where the polynomial is evaluated.
    dx, dy : ndarray of float64, shape (n,)
        Centre of the star on its stamp, from the middle of the central pixel.
    flux, flux_error : ndarray of float64, shape (n,)
        By which the stamps are normalised.
    image : ndarray of float32, shape (n, size, size)
        Zero where bad.
    bad : ndarray of bool, shape (n, size, size)
        Pixels that count as missing.
    """

    rows: IntArray
    x: FloatArray
    y: FloatArray
    dx: FloatArray
    dy: FloatArray
    flux: FloatArray
    flux_error: FloatArray
    image: npt.NDArray[np.float32]
    bad: BoolArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Side of the stamps, pixels."""
        return int(self.image.shape[1])

    def select(self, rows: npt.NDArray[Any]) -> Samples:
        """Return the given samples (boolean mask or indices)."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def flux_flag(field: str) -> str:
    """Name of the flag of a flux: that of its measurement."""
    return f"{field.rpartition('_')[0]}_flag"


def sample_image(candidates: Candidates, exposure: Exposure, *, compatibility: str) -> SampleImage:
    """Measure what is the same for all stars of a detector (selection specification 7.2).

    Parameters
    ----------
    candidates : Candidates
        All of them, rejected ones too, with their rows of the catalogue.
    exposure : Exposure
    compatibility : str
        ``lsst`` takes an unknown gain as 1.

    Raises
    ------
    PsfError
        If no candidate has a shape, or the image has no noise.
    """
    sizes = _sizes(_catalogue(candidates))
    sizes = sizes[np.isfinite(sizes)]
    if not len(sizes):
        raise PsfError("No candidate star has a size by which the PSF's could be guessed.")
    _, variance = clipped_mean_and_variance(exposure.image)  # masks ignored
    if not (np.isfinite(variance) and variance > 0):
        raise PsfError("The image has no noise by which pixels could be weighted.")
    fwhm = FWHM_OF_SIGMA * float(np.median(sizes))
    return SampleImage(fwhm, variance, _gain(exposure, compatibility))


def _sizes(catalogue: SourceTable) -> FloatArray:
    """Sizes of the stars, sqrt((Ixx + Iyy) / 2), pixels; NaN where there is none."""
    xx, yy = (
        demand_column(catalogue, f"slot_Shape_{name}", asked_by=ASKED_BY).astype(np.float64)
        for name in ("xx", "yy")
    )
    return np.asarray(np.sqrt(np.where(xx + yy > 0, 0.5 * (xx + yy), np.nan)))


def _gain(exposure: Exposure, compatibility: str) -> float:
    gain = exposure.gain
    if gain is not None and np.isfinite(gain) and gain > 0:
        return float(gain)
    stand_in = 1.0 if compatibility == "lsst" else 0.0
    log.warning("The detector's gain is %s; %s is used.", gain, "1" if stand_in else "no photon noise")
    return stand_in


def psfex_samples(
    candidates: Candidates, exposure: Exposure, settings: Any, *, compatibility: str
) -> tuple[Samples, dict[str, int]]:
    """Cut out the stars that PSFEx gets, and count the others by reason (selection specification 7.2).

    Parameters
    ----------
    candidates : Candidates
        With their rows of the catalogue.
    exposure : Exposure
    settings : Settings
        Section `psf_determiner.psfex`.
    compatibility : str
        ``lsst`` keeps stars with hardly a good pixel.  A flux of zero, by which the reference would divide,
        is refused by both.
    """
    catalogue = _catalogue(candidates)
    flux, error = _fluxes(catalogue, settings.photometricFluxField)
    unusable = _unusable(candidates, catalogue, flux, settings)
    size = settings.stampSize or candidates.size
    stamps = candidates.stamps(exposure, size)
    outside = np.ones(len(candidates), dtype=bool)
    outside[stamps.rows] = False
    bits = exposure.mask_bits(settings.badMaskBits)
    bad = (stamps.mask & bits != 0) | ~np.isfinite(stamps.image)
    masked = np.zeros(len(candidates), dtype=bool)
    if compatibility != "lsst":
        masked[stamps.rows] = (~bad).mean(axis=(1, 2)) < LEAST_GOOD_PART
    reasons = {**unusable, "stars_outside_image": outside, "stars_masked": masked}
    kept, counts = _first_reasons(reasons, len(candidates))
    chosen = kept[stamps.rows]
    rows = stamps.rows[chosen]
    image = np.where(bad[chosen], np.float32(0), stamps.image[chosen])
    x, y = candidates.x[rows], candidates.y[rows]
    dx, dy = (_fraction(place, compatibility) for place in (x, y))
    samples = Samples(rows, x, y, dx, dy, flux[rows], error[rows], image, bad[chosen])
    if settings.recentroid:
        samples = _recentred(samples, catalogue)
    return samples, counts


def _catalogue(candidates: Candidates) -> SourceTable:
    if candidates.catalogue is None:
        raise PsfError("The candidates were handed in without their rows of the catalogue.")
    return candidates.catalogue


def _fluxes(catalogue: SourceTable, field: str) -> tuple[FloatArray, FloatArray]:
    asked = f"{ASKED_BY}.photometricFluxField"
    flux, error = (
        demand_column(catalogue, name, asked_by=asked).astype(np.float64) for name in (field, f"{field}Err")
    )
    return flux, error


def _unusable(
    candidates: Candidates, catalogue: SourceTable, flux: FloatArray, settings: Any
) -> dict[str, BoolArray]:
    """Which candidates cannot be samples, by reason."""
    reasons = {"stars_without_centroid": ~(np.isfinite(candidates.x) & np.isfinite(candidates.y))}
    if settings.rejectFlaggedCentroids:
        asked = f"{ASKED_BY}.rejectFlaggedCentroids"
        for reason, name in (
            ("stars_of_flagged_centroid", "slot_Centroid_flag"),
            ("stars_of_flagged_flux", flux_flag(settings.photometricFluxField)),
        ):
            reasons[reason] = demand_column(catalogue, name, asked_by=asked).astype(bool)
    with np.errstate(invalid="ignore"):
        return {**reasons, "stars_without_flux": ~((flux > 0) & (flux < LARGEST_FLUX))}


def _first_reasons(reasons: Mapping[str, BoolArray], number: int) -> tuple[BoolArray, dict[str, int]]:
    """Stars without any reason, and how many have each of the others as their first."""
    kept, counts = np.ones(number, dtype=bool), {}
    for name, applies in reasons.items():
        counts[name] = int((kept & applies).sum())
        kept &= ~applies
    return kept, counts


def _fraction(position: FloatArray, compatibility: str) -> FloatArray:
    """Where a star lies on its central pixel; `lsst` truncates to zero, which differs at negative places."""
    if compatibility == "lsst":
        return np.asarray(position - np.trunc(position + 0.49999))
    return np.asarray(position - np.floor(position + 0.5))


def _recentred(samples: Samples, catalogue: SourceTable) -> Samples:
    """Centre the stars again on their stamps (setting `recentroid`)."""
    sizes = _sizes(catalogue)[samples.rows]
    dx, dy = windowed_shifts(samples.image, samples.bad, sizes, dx=samples.dx, dy=samples.dy)
    return replace(samples, dx=dx, dy=dy)
