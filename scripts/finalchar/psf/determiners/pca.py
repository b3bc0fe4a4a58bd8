"""The determiner `pca`: principal components of the stars (selection specification 8).

The detector is divided into cells, so that a crowded corner does not decide for all.  The brightest stars of
each cell give the components; a few more give the polynomials by which the components vary over the detector.
What does not fit is rejected step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field
from finalchar.errors import ConfigError, PsfError
from finalchar.formats.exposure import Exposure
from finalchar.psf.down_sampling import down_sample
from finalchar.psf.kernel_model import kernel_model
from finalchar.psf.model import FitEvidence, PsfFit
from finalchar.psf.pca_fit import MaskBits, PcaFit, fit_pca
from finalchar.psf.pca_stamps import pca_stars
from finalchar.psf.shared_settings import DeterminerSettings

if TYPE_CHECKING:
    from finalchar.stars.candidates import Candidates

__all__ = ["NAME", "Settings", "check_settings", "determine"]

NAME = "pca"
PERSISTED_CLASS = "PcaPsf"
SMALLEST_STAMP = 9
"""Pixels; smaller stamps cannot be shifted by a kernel of ten taps."""
REPLACED_PLANES = ("BAD", "CR", "INTRP")
LEFT_OUT_PLANES = ("BAD", "CR")

log = logging.getLogger(__name__)


class Settings(DeterminerSettings):
    """Settings of the determiner `pca` (selection specification 6.1, 8.1)."""

    nonLinearSpatialFit: bool = Field(
        False, description="fit the polynomials by minimising chi-square instead of by linear algebra"
    )
    nEigenComponents: int = Field(4, ge=1, description="principal components of the PSF")
    spatialOrder: int = Field(2, ge=0, description="order of the polynomials of the components")
    sizeCellX: int = Field(256, ge=10, description="width of the cells, pixels")
    sizeCellY: int = Field(256, ge=10, description="height of the cells, pixels")
    nStarPerCell: int = Field(
        3, ge=0, description="stars of each cell that give the principal components; 0: all"
    )
    nStarPerCellSpatialFit: int = Field(
        5, ge=0, description="stars of each cell that give the polynomials; 0: all"
    )
    borderWidth: int = Field(
        0,
        ge=0,
        description="rim of the stamps that the analysis leaves out, pixels; without effect in the reference",
    )
    constantWeight: bool = Field(
        True, description="all stars have the same weight in the analysis, whatever their flux"
    )
    nIterForPsf: int = Field(3, ge=0, description="rounds of fit and rejection")
    tolerance: float = Field(0.01, gt=0, description="when the minimisation of nonLinearSpatialFit ends")
    lam: float = Field(
        0.05, ge=0, description="part of the signal by which the variance is raised in chi-squares"
    )
    reducedChi2ForPsfCandidates: float = Field(
        2.0, gt=0, description="stars of a larger reduced chi-square are rejected"
    )
    spatialReject: float = Field(
        3.0, gt=0, description="stars whose components are off by more are rejected, standard deviations"
    )
    pixelThreshold: float = Field(
        0.0,
        ge=0,
        description="objects beside the star brighter than this are masked, in units of the noise; 0: none",
    )
    doRejectBlends: bool = Field(False, description="leave out stars whose footprint has several peaks")
    doMaskBlends: bool = Field(True, description="mask the pixels that are nearer to another peak")


def determine(
    candidates: Candidates,
    exposure: Exposure,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str = "fixed",
) -> PsfFit:
    """Fit principal components to candidate stars (selection specification 8).

    Parameters
    ----------
    candidates : Candidates
        Stars for the fit, reserved ones not among them, with their rows of the catalogue.
    exposure : Exposure
        The detector image they are on.
    settings : Settings
        Section `psf_determiner.pca`.
    band : str or None
        Without meaning here.
    compatibility : str
        ``lsst`` keeps S-Q17 (no `lam` in the non-linear fit) and S-Q20 (stars without a stamp of this size
        stand among the others until they are rejected), and lets `borderWidth` do nothing.

    Returns
    -------
    PsfFit
        With ``used`` over all candidates handed in.

    Raises
    ------
    PsfError
        If no star is left, or the stars allow no fit.
    ConfigError
        If the stamps are too small.
    """
    check_settings(settings, compatibility=compatibility)
    chosen = down_sample(len(candidates), settings)
    size = candidates.size if settings.stampSize is None else settings.stampSize
    if size > candidates.size:
        level = logging.WARNING if compatibility == "lsst" else logging.INFO  # it is so with the defaults
        log.log(level, "stampSize %d is larger than the candidates' %d", size, candidates.size)
    _check_borders(size, settings, candidates.border_width, compatibility)
    stars, left_out = pca_stars(
        candidates.select(chosen), exposure, settings, size=size, compatibility=compatibility
    )
    if not len(stars):
        raise PsfError(
            f"None of {len(chosen)} candidate stars can be used for the PSF: {_reasons(left_out)}."
        )
    fit = fit_pca(
        stars,
        exposure.box,
        settings,
        bits=MaskBits(exposure.mask_bits(REPLACED_PLANES), exposure.mask_bits(LEFT_OUT_PLANES)),
        stamp_border=candidates.border_width,
        compatibility=compatibility,
    )
    left_out = {**left_out, "stars_down_sampled": len(candidates) - len(chosen)}
    return _result(fit, chosen, len(candidates), left_out)


def check_settings(settings: Settings, *, compatibility: str = "fixed") -> None:
    """Check that the stamps can be shifted (selection specification 0.6).

    Raises
    ------
    ConfigError
        If `stampSize` is too small.
    """
    if settings.stampSize is not None and settings.stampSize < SMALLEST_STAMP:
        raise ConfigError(
            f"psf_determiner.pca.stampSize is {settings.stampSize}, but stamps smaller than {SMALLEST_STAMP} "
            "pixels cannot be shifted."
        )


def _check_borders(size: int, settings: Settings, stamp_border: int, compatibility: str) -> None:
    """Check that the rims which are left out of sums leave enough of the stamps."""
    borders = {"make_psf_candidates.borderWidth": stamp_border}
    if compatibility != "lsst":  # where it acts
        borders["psf_determiner.pca.borderWidth"] = settings.borderWidth
    for name, border in borders.items():
        if size - 2 * border < SMALLEST_STAMP:
            raise ConfigError(
                f"{name} is {border}, which leaves less than {SMALLEST_STAMP} of the {size} pixels of a "
                "stamp (psf_determiner.pca.stampSize)."
            )


def _reasons(left_out: Mapping[str, int]) -> str:
    named = [f"{number} {name.replace('_', ' ')}" for name, number in left_out.items() if number]
    return ", ".join(named) or "they lie outside the image"


def _used(fit: PcaFit) -> npt.NDArray[np.int64]:
    """Rows of the stars left in their cells that are not bad (8.7)."""
    used = np.flatnonzero(~fit.rejected)
    if not len(used):
        raise PsfError(f"All {len(fit.stars)} stars of the PSF fit were rejected.")
    return used


def _result(fit: PcaFit, offered: npt.NDArray[np.int64], number: int, figures: Mapping[str, int]) -> PsfFit:
    """Make the model, its stored form and the figures of the fit; `offered` are rows of the candidates."""
    rows = _used(fit)
    used = np.zeros(number, dtype=bool)
    used[offered[fit.stars.row[rows]]] = True
    average = (float(fit.stars.catalogue_x[rows].mean()), float(fit.stars.catalogue_y[rows].mean()))
    stored = fit.model.stored(average)
    return PsfFit(
        model=kernel_model(stored),
        used=used,
        figures={**_figures(fit, average), "stars_used": len(rows), **figures},
        persisted_class=PERSISTED_CLASS,
        serialized=stored,
        evidence=_evidence(fit),
    )


def _figures(fit: PcaFit, average: tuple[float, float]) -> dict[str, float | int | str]:
    measured = fit.stars.has_centred & np.isfinite(fit.chi2)
    return {
        "chi_squared": float(fit.chi2[measured].sum()),
        "stars_available": len(fit.stars),
        "stars_analysed": fit.analysed,
        "stars_fitted": len(fit.fitted),
        "stars_without_chi_squared": fit.removed,
        "eigen_images": len(fit.model.components),
        "terms": fit.model.coefficients.shape[1],
        "spatial_order": fit.model.order,
        "average_x": average[0],
        "average_y": average[1],
    }


def _evidence(fit: PcaFit) -> FitEvidence:
    """What the acceptance needs: the stars that the polynomials were fitted to, all with the same weight."""
    stars = fit.stars.select(fit.fitted)
    known = np.isfinite(stars.signal_to_noise)
    return FitEvidence(
        x=stars.x,
        y=stars.y,
        signal_to_noise=np.where(known, stars.signal_to_noise, 1.0),
        fitted_signal_to_noise=np.ones(len(stars)),
        design=fit.model.terms(x=stars.x, y=stars.y),
        design_at=lambda *, x, y, color=np.nan: fit.model.terms(x=x, y=y),
        converged=fit.model.converged,
    )
