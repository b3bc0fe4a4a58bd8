"""When a PSF is accepted: a good chi-square is no proof of a good PSF (known failures K14 to K16).

Looked at, in this order: did every step of the fit succeed; are there enough stars for the terms of the
model, after rejection and with the true number of terms; do their positions and good pixels determine all of
them; is the drawn PSF finite, of unit sum and of a sensible size everywhere on the detector.  What is just
above a limit is accepted, as the reference does, and marked as poorly determined.

The predicted errors of the PSF's size and ellipticity come from the normal equations of the fit
(`finalchar.psf.uncertainty`).  Where the fit gives none, that of the size is an approximation: the model at a
place p is, to first order, a weighted sum of the stars, with weights h_i(p) that follow from the terms of the
polynomial and from the weights of the stars in the fit; the size of a star of signal-to-noise ratio S has a
relative error of 1 / S; so the relative error at p is sqrt(sum h_i(p)^2 / S_i^2).  Both hold the noise, not
what the polynomial cannot follow.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, Section
from finalchar.errors import PsfError
from finalchar.formats.exposure import Box, Exposure
from finalchar.psf.model import FitEvidence, PsfFit, PsfModel
from finalchar.psf.shape import adaptive_moments, determinant_radius

__all__ = [
    "PsfRefusedError",
    "Settings",
    "check_psf",
    "convex_hull_area",
    "predicted_errors",
    "predicted_size_errors",
]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
Figures = dict[str, float | int | str]

SINGULAR = 1e-11
"""Singular values of the design matrix below this part of the largest count as zero."""


class Settings(Section):
    """When a PSF is accepted, and when an accepted one is marked as poorly determined."""

    min_stars_per_term: float = Field(
        1.0, ge=0, description="used stars per term of the polynomial; fewer: the PSF fails"
    )
    poor_stars_per_term: float = Field(2.0, ge=0, description="fewer: marked as poorly determined")
    max_extrapolated_fraction: float = Field(
        1.0, ge=0, le=1, description="part of the detector outside the used stars; more: the PSF fails"
    )
    poor_extrapolated_fraction: float = Field(
        0.6, ge=0, le=1, description="more: marked as poorly determined"
    )
    max_predicted_size_error: float | None = Field(
        None, gt=0, description="predicted relative error of the size at the worst place; more: the PSF fails"
    )
    poor_predicted_size_error: float = Field(0.02, gt=0, description="more: marked as poorly determined")
    max_size_ratio: float = Field(
        2.0, gt=1, description="size anywhere over size at the average position, or inverse; more: it fails"
    )
    unit_sum_tolerance: float = Field(1e-5, gt=0, description="deviation of the drawn PSF's sum from 1")
    grid_points: int = Field(
        5, ge=2, description="the drawn PSF is checked on a grid of so many points per axis, corners included"
    )
    require_convergence: bool = Field(True, description="a fit that has not ended by its own criterion fails")


class PsfRefusedError(PsfError):
    """A fitted PSF is not accepted; `status` names the outcome, `figures` are those found so far."""

    def __init__(
        self, sentence: str, figures: Mapping[str, float | int | str], status: str = "psf_failed"
    ) -> None:
        super().__init__(sentence)
        self.figures = dict(figures)
        self.status = status


def check_psf(
    fit: PsfFit, exposure: Exposure, settings: Settings, *, compatibility: str = "fixed"
) -> Figures:
    """Check a fitted PSF and return what was found.

    Parameters
    ----------
    fit : PsfFit
        The fit.
    exposure : Exposure
        Its box is where the PSF will be used.
    settings : Settings
        Section `psf_acceptance`.
    compatibility : str
        ``lsst`` accepts what the reference does: a finite size at the average position (selection
        specification 4.7).

    Returns
    -------
    dict
        ``stars_per_term``, ``extrapolated_fraction``, ``predicted_size_error`` (relative) and, where the fit
        gives them, ``predicted_e1_error``, ``predicted_e2_error``, each at its worst place;
        ``smallest_size``, ``largest_size``, ``average_size`` (determinant radius, pixels),
        ``poorly_determined`` (0 or 1) and ``poorly_determined_because``.

    Raises
    ------
    PsfRefusedError
        In one sentence, if the PSF is not accepted.
    """
    if compatibility == "lsst":
        return _check_like_reference(fit.model)
    figures: Figures = {}
    reasons: list[str] = []
    if fit.evidence is not None:
        _check_stars(fit.evidence, exposure.box, settings, figures, reasons)
    _check_images(fit.model, exposure.box, settings, figures)
    figures["poorly_determined"] = int(bool(reasons))
    figures["poorly_determined_because"] = "; ".join(reasons)
    if reasons:
        log.warning("The PSF is poorly determined: %s.", "; ".join(reasons))
    return figures


def _check_like_reference(model: PsfModel) -> Figures:
    x, y = model.average_position
    kernel = model.kernel_image(x=x, y=y).array
    radius = float(determinant_radius(adaptive_moments(kernel))[0])
    figures: Figures = {"average_size": radius}
    if np.isnan(radius):
        raise PsfRefusedError("The size of the PSF is not a number.", figures, "psf_not_finite")
    return figures


# ------------------------------------------------------------------------------------------------ stars


def _check_stars(
    evidence: FitEvidence, box: Box, settings: Settings, figures: Figures, reasons: list[str]
) -> None:
    """Check that the used stars determine the model (K14, K15)."""
    _check_steps(evidence, settings, figures)
    _check_number(evidence, settings, figures, reasons)
    _check_grid_points(evidence, figures)
    _check_extrapolation(evidence, box, settings, figures, reasons)
    _check_predicted_error(evidence, box, settings, figures, reasons)


def _check_steps(evidence: FitEvidence, settings: Settings, figures: Figures) -> None:
    if settings.require_convergence and not evidence.converged:
        raise PsfRefusedError(
            "The PSF fit did not converge; more iterations (of Piff: psf_determiner.piff.piffMaxIter) or "
            "psf_acceptance.require_convergence: false would let it pass.",
            figures,
        )


def _check_number(evidence: FitEvidence, settings: Settings, figures: Figures, reasons: list[str]) -> None:
    stars, terms = evidence.design.shape
    ratio = stars / terms
    figures["stars_per_term"] = ratio
    if ratio < settings.min_stars_per_term:
        raise PsfRefusedError(
            f"The PSF fit used {stars} stars for {terms} terms; psf_acceptance.min_stars_per_term asks for "
            f"{settings.min_stars_per_term:g} per term.",
            figures,
        )
    if ratio < settings.poor_stars_per_term:
        reasons.append(f"{stars} stars for {terms} terms")


def _check_grid_points(evidence: FitEvidence, figures: Figures) -> None:
    if evidence.fewest_stars_on_grid_point is None:
        return
    figures["fewest_stars_on_grid_point"] = evidence.fewest_stars_on_grid_point
    if evidence.unconstrained_grid_points:
        raise PsfRefusedError(
            f"{evidence.unconstrained_grid_points} points of the model grid lie on good pixels of fewer "
            f"stars ({evidence.fewest_stars_on_grid_point} at the least) than the polynomial has terms "
            f"({evidence.design.shape[1]}): the stamps are too small or too much masked for this model.",
            figures,
        )


def _check_extrapolation(
    evidence: FitEvidence, box: Box, settings: Settings, figures: Figures, reasons: list[str]
) -> None:
    covered = convex_hull_area(x=evidence.x, y=evidence.y) / (box.width * box.height)
    fraction = max(0.0, 1.0 - covered)
    figures["extrapolated_fraction"] = fraction
    if evidence.design.shape[1] == 1:
        return
    sentence = f"{100 * fraction:.0f} per cent of the detector lie outside the used stars"
    if fraction > settings.max_extrapolated_fraction:
        raise PsfRefusedError(f"{sentence} (psf_acceptance.max_extrapolated_fraction).", figures)
    if fraction > settings.poor_extrapolated_fraction:
        reasons.append(sentence)


def _check_predicted_error(
    evidence: FitEvidence, box: Box, settings: Settings, figures: Figures, reasons: list[str]
) -> None:
    grid_x, grid_y = _grid(box, settings.grid_points)
    try:
        errors, e1, e2 = predicted_errors(evidence, x=grid_x, y=grid_y)
    except np.linalg.LinAlgError:
        stars, terms = evidence.design.shape
        raise PsfRefusedError(
            f"The positions (and colours) of the {stars} used stars do not determine the {terms} terms of "
            "the polynomial.",
            figures,
        ) from None
    if evidence.errors is not None:
        figures |= {"predicted_e1_error": float(e1.max()), "predicted_e2_error": float(e2.max())}
    worst = float(errors.max())
    figures["predicted_size_error"] = worst
    sentence = f"the predicted error of the PSF's size reaches {100 * worst:.1f} per cent"
    if settings.max_predicted_size_error is not None and not worst <= settings.max_predicted_size_error:
        raise PsfRefusedError(f"{sentence} (psf_acceptance.max_predicted_size_error).", figures)
    if not worst <= settings.poor_predicted_size_error:  # what is no number is no good number
        reasons.append(sentence)


def predicted_errors(
    evidence: FitEvidence, *, x: npt.ArrayLike, y: npt.ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predict the standard errors of the PSF's relative size, e1 and e2 at positions.

    Parameters
    ----------
    x, y : array_like, shape (m,)
        Parent pixels.

    Returns
    -------
    size, e1, e2 : ndarray, float64, shape (m,)
        From the normal equations of the fit; of a fit that gives none an approximation of the size's only,
        and NaN.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the stars do not determine the polynomial.
    """
    approximate = predicted_size_errors(evidence, x=x, y=y)
    if evidence.errors is None:
        unknown = np.full(len(approximate), np.nan)
        return approximate, unknown, unknown
    size, e1, e2 = evidence.errors.at(evidence.design_at(x=x, y=y)).T
    return size / evidence.errors.size, e1, e2


def predicted_size_errors(evidence: FitEvidence, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
    """Predict the relative error of the PSF's size at positions; the module's docstring says how.

    Parameters
    ----------
    x, y : array_like, shape (m,)
        Parent pixels.

    Returns
    -------
    ndarray, float64, shape (m,)

    Raises
    ------
    numpy.linalg.LinAlgError
        If the stars do not determine the polynomial.
    """
    scale = np.abs(evidence.design).max(axis=0)
    scale[scale == 0] = 1.0
    snr = np.maximum(evidence.signal_to_noise, 1e-3)
    root_weight = np.maximum(evidence.fitted_signal_to_noise, 1e-3)
    left, singular, right = np.linalg.svd(
        root_weight[:, np.newaxis] * evidence.design / scale, full_matrices=False
    )
    if len(singular) < evidence.design.shape[1] or singular[-1] <= SINGULAR * singular[0]:
        raise np.linalg.LinAlgError("the design matrix is singular")
    at_places = evidence.design_at(x=x, y=y) / scale
    star_weights = (at_places @ right.T / singular) @ left.T * root_weight
    return np.asarray(np.sqrt(np.sum((star_weights / snr) ** 2, axis=1)))


def convex_hull_area(*, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Area of the convex hull of points; 0 for fewer than three, or points on a line."""
    points = sorted(set(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True)))
    if len(points) < 3:
        return 0.0
    hull = np.array(_half_hull(points) + _half_hull(points[::-1]))
    first, second = hull, np.roll(hull, -1, axis=0)
    return 0.5 * abs(float(np.sum(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])))


def _half_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One chain of the hull of sorted points, without its last point."""
    chain: list[tuple[float, float]] = []
    for point in points:
        while len(chain) >= 2 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain[:-1]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


# ----------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class _Drawn:
    """What kernel images on a grid show: sums and sizes, shape (n,)."""

    sums: FloatArray
    sizes: FloatArray


def _check_images(model: PsfModel, box: Box, settings: Settings, figures: Figures) -> None:
    """Check finiteness, size and normalisation on a grid over the detector (K16)."""
    x, y = _grid(box, settings.grid_points)
    average_x, average_y = model.average_position
    x, y = np.append(x, average_x), np.append(y, average_y)
    drawn = _draw(model, x, y, figures)
    for good, what in (
        (np.isfinite(drawn.sums), "is not finite"),
        (np.abs(drawn.sums - 1.0) <= settings.unit_sum_tolerance, "does not have unit sum"),
        (np.isfinite(drawn.sizes) & (drawn.sizes > 0), "has no size"),
    ):
        if not good.all():
            k = int(np.argmin(good))
            raise PsfRefusedError(f"The PSF {what} at ({x[k]:.0f}, {y[k]:.0f}).", figures, "psf_not_finite")
    _check_sizes(drawn.sizes, settings, figures)


def _draw(model: PsfModel, x: FloatArray, y: FloatArray, figures: Figures) -> _Drawn:
    try:
        with np.errstate(all="ignore"):
            kernels = model.kernel_images(x=x, y=y)
    except Exception as error:
        raise PsfRefusedError(f"The PSF cannot be drawn: {error}", figures) from error
    sums = kernels.sum(axis=(1, 2))
    finite = np.isfinite(kernels).all(axis=(1, 2))
    sizes = np.full(len(kernels), np.nan)
    if finite.any():
        moments = adaptive_moments(kernels[finite])
        sizes[finite] = np.where(moments.failed, np.nan, determinant_radius(moments))
    return _Drawn(np.where(finite, sums, np.nan), sizes)


def _check_sizes(sizes: FloatArray, settings: Settings, figures: Figures) -> None:
    average = float(sizes[-1])
    smallest, largest = float(sizes.min()), float(sizes.max())
    figures |= {"average_size": average, "smallest_size": smallest, "largest_size": largest}
    ratio = max(largest / average, average / smallest)
    if ratio > settings.max_size_ratio:
        raise PsfRefusedError(
            f"The size of the PSF runs from {smallest:.2f} to {largest:.2f} pixels over the detector, "
            f"{average:.2f} at the average position (psf_acceptance.max_size_ratio).",
            figures,
        )


def _grid(box: Box, points: int) -> tuple[FloatArray, FloatArray]:
    """Positions over a box, its corner pixels included."""
    x, y = np.meshgrid(np.linspace(box.min_x, box.max_x, points), np.linspace(box.min_y, box.max_y, points))
    return x.ravel(), y.ravel()
