"""The matrix-free fit of `separable` in the place of Piff's own: same stars in, a genuine Piff PSF out.

Applies to ``Simple`` PSFs of a PixelGrid with BasisPolynomial and chi-square outliers at most, which is all
that the configuration can ask for outside `piffPsfConfigYaml`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import PsfError
from finalchar.psf.separable import GridFit, GridSettings, StarStamps, fit_grid
from finalchar.psf.uncertainty import PredictedErrors, predict_errors

__all__ = ["SeparableFit", "applies_to", "fit_in_place"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SeparableFit:
    """What is to be said of a fit beside the Piff object that it filled."""

    converged: bool
    too_small: int
    """Stars left out because their stamp is smaller than the model."""
    solver_steps: int
    errors: PredictedErrors | None
    """Predicted errors of the drawn PSF; None where no variances were given."""


def applies_to(psf: Any) -> bool:
    """Whether a Piff PSF (not yet fitted) is of the kind that the matrix-free fit can do."""
    return (
        type(psf).__name__ == "SimplePSF"
        and type(psf.model).__name__ == "PixelGrid"
        and type(psf.interp).__name__ == "BasisPolynomial"
        and psf.model._init in (None, "hsm")
        and not psf.model._fit_flux
        and all(_is_plain_chisq(outliers) for outliers in psf.outliers or [])
        and len(psf.outliers or []) <= 1
    )


def _is_plain_chisq(outliers: Any) -> bool:
    return type(outliers).__name__ == "ChisqOutliers" and outliers.thresh is None and outliers.ndof is None


def fit_in_place(
    psf: Any,
    stars: list[Any],
    variance: FloatArray | None = None,
    *,
    logger: logging.Logger | None = None,
) -> SeparableFit:
    """Fit stars and fill the Piff object as its own ``fit`` would.

    Parameters
    ----------
    psf : piff.SimplePSF
        Configured, with its context set.
    stars : list of piff.Star
        With images and weights of one size.
    variance : ndarray, float64, shape (n, t, t), or None
        Variances of the pixels, photon noise included, for the predicted errors.

    logger : logging.Logger or None
        Told of every iteration.

    Raises
    ------
    NotDeterminedError
        If the stars do not determine the model.
    PsfError
        If no star is left.
    """
    stamps, too_small = _stamps(psf, stars)
    if not stamps.usable.any():
        raise PsfError(
            f"No star can start the PSF fit: the stamps of {too_small} stars are smaller than the model, "
            f"and {len(stars) - too_small} stars have no adaptive moments."
        )
    settings = _settings(psf)
    fit = fit_grid(stamps, settings, logger=logger)
    _fill(psf, stars, stamps, fit)
    errors = None if variance is None else predict_errors(stamps, variance, settings, fit)
    return SeparableFit(fit.converged, too_small, fit.solver_steps, errors)


def _settings(psf: Any) -> GridSettings:
    outliers = psf.outliers[0] if psf.outliers else None
    return GridSettings(
        size=psf.model.size,
        scale=psf.model.scale,
        interpolant=psf.model.interp,
        centered=psf.model._centered,
        max_iter=psf.max_iter,
        min_iter=psf.min_iter,
        chisq_thresh=psf.chisq_thresh,
        outlier_probability=None if outliers is None else outliers.prob,
        outlier_max_remove=None if outliers is None else outliers.max_remove,
    )


def _stamps(psf: Any, stars: list[Any]) -> tuple[StarStamps, int]:
    """Pixels and positions of the stars; those that Piff could not start are marked as not usable."""
    sigma = np.array([_adaptive_sigma(star) for star in stars])
    side = max(stars[0].image.array.shape)
    scale = np.array([star.image.wcs.maxLinearScale(star.image.center) for star in stars])
    too_small = side < psf.model.size * psf.model.scale / scale
    stamps = StarStamps(
        image=np.array([star.image.array for star in stars]),
        weight=np.array([star.weight.array for star in stars]),
        dx=np.array([_offsets(s.image.xmin, s.image.xmax, s.image_pos.x) for s in stars]),
        dy=np.array([_offsets(s.image.ymin, s.image.ymax, s.image_pos.y) for s in stars]),
        jacobian=np.array([star.data.local_wcs.jacobian().getMatrix() for star in stars]),
        sigma=sigma,
        basis=np.array([psf.interp.basis(star) for star in stars]),
        usable=~too_small & np.isfinite(sigma),
    )
    return stamps, int(too_small.sum())


def _offsets(first: int, last: int, position: float) -> FloatArray:
    return np.arange(first, last + 1, dtype=np.float64) - position


def _adaptive_sigma(star: Any) -> float:
    """Adaptive-moment sigma of a star, arcsec; NaN where it cannot be measured."""
    try:
        return float(star.hsm[3])
    except Exception as error:
        log.warning("star at (%.1f, %.1f) cannot start the PSF fit: %s", star.x, star.y, error)
        return float("nan")


def _fill(psf: Any, stars: list[Any], stamps: StarStamps, fit: GridFit) -> None:
    """Put coefficients, stars and figures into the Piff object."""
    import piff

    psf.interp.q = fit.q
    params = stamps.basis @ fit.q.T
    psf.stars = [
        piff.Star(
            star.data,
            star.fit.newParams(
                params[k],
                num=psf.model._num,
                flux=float(fit.flux[k]),
                center=(float(fit.center[k, 0]), float(fit.center[k, 1])),
                chisq=float(fit.chisq[k]),
                dof=int(fit.dof[k]),
            ),
        ).flag_if(bool(fit.flagged[k]))
        for k, star in enumerate(stars)
    ]
    psf.quadratic_chisq = psf.degenerate_points = True
    psf.chisq, psf.dof = fit.total_chisq, fit.total_dof
    psf.last_delta_chisq = fit.last_delta_chisq
    psf.nremoved = fit.removed + int(np.sum(~stamps.usable))
    psf.niter = fit.iterations
