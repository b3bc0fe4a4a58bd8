"""The determiner `psfex`: the program PSFEx (selection specification 7).

What flows in: candidate stars, their rows of the catalogue and their exposure.  What flows out: a `PsfFit`
with a polynomial of oversampled images that needs no program to be drawn.

The program is run twice: on the stamps as they are, where it decides which stars are kept, and on those stars
brought to the raster of the model.  The second model is the result, because the program's own kernel has
three lobes, and that of the library which the reference uses, with which stars are resampled here, has five.
A refined model (`psfexBasis`) needs the pixels as they are and is that of the first run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from finalchar.config_base import Field, NameSet, only
from finalchar.errors import ConfigError, PsfError
from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.psfs import PsfexPsf
from finalchar.psf.down_sampling import down_sample
from finalchar.psf.model import FitEvidence, PsfFit
from finalchar.psf.psfex_model import PsfexModel, polynomial_terms
from finalchar.psf.psfex_pixels import fill_bad_pixels, lowered_degree, signal_to_noise
from finalchar.psf.psfex_program import PSFEX, ProgramInput, ProgramOutput, run_program
from finalchar.psf.psfex_resampling import nearest_pixels, resample
from finalchar.psf.psfex_stars import SampleImage, Samples, psfex_samples, sample_image
from finalchar.psf.shared_settings import DeterminerSettings

if TYPE_CHECKING:
    from finalchar.stars.candidates import Candidates

__all__ = ["NAME", "Settings", "check_settings", "determine"]

NAME = "psfex"
PERSISTED_CLASS = "PsfexPsf"
SMALLEST_MODEL, LARGEST_MODEL = 5, 1023
"""Side of the model, pixels."""
REFINED_FWHM = 3.0
"""Pixels; PIXEL_AUTO refines models of sharper stars."""
UNUSED = "not used, by the reference neither"

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]


class Settings(DeterminerSettings):
    """Settings of the determiner `psfex` (selection specification 6.1, 7.1)."""

    spatialOrder: int = Field(2, ge=1, description="order of the polynomial; lowered for too few stars")
    samplingSize: float = Field(0.5, gt=0, description="size of a model pixel in detector pixels")
    badMaskBits: NameSet = Field(
        default_factory=lambda: ["INTRP", "SAT"], description="mask planes whose pixels count as missing"
    )
    psfexBasis: Literal["PIXEL", "PIXEL_AUTO"] = Field(
        "PIXEL_AUTO",
        description="PIXEL: refine the model beyond the pixels; PIXEL_AUTO: only if stars are sharper than "
        "3 pixels (FWHM)",
    )
    recentroid: bool = Field(False, description="find the centres of the stars again before the fit")
    photometricFluxField: str = Field(
        "base_CircularApertureFlux_9_0_instFlux",
        description="flux by which stars are normalised; its error and flag are columns beside it",
    )
    rejectFlaggedCentroids: bool = Field(
        True, description="leave out stars whose centroid or flux is flagged"
    )
    sizeCellX: Annotated[int, only(256)] = Field(256, ge=10, description=UNUSED)
    sizeCellY: Annotated[int, only(256)] = Field(256, ge=10, description=UNUSED)
    tolerance: Annotated[float, only(0.01)] = Field(0.01, description=UNUSED)
    lam: Annotated[float, only(0.05)] = Field(0.05, description=UNUSED)
    reducedChi2ForPsfCandidates: Annotated[float, only(2.0)] = Field(2.0, description=UNUSED)
    spatialReject: Annotated[float, only(3.0)] = Field(3.0, description=UNUSED)

    @field_validator("photometricFluxField")
    @classmethod
    def _names_a_flux(cls, value: str) -> str:
        last = value.rpartition("_")[2]
        if "_" not in value or not (last == "flux" or last.endswith("Flux")):
            raise ValueError(f"{value!r} is no flux; its last part must be 'flux' or end in 'Flux'")
        return value


def check_settings(settings: Settings, *, compatibility: str = "fixed") -> None:
    """Check that stamps and sampling make a model of a possible size (selection specification 7.2).

    Raises
    ------
    ConfigError
        If it would be too small or too large.
    """
    if settings.stampSize is not None:
        _model_size(settings.stampSize, settings.samplingSize)


def _model_size(stamp_size: int, sampling: float) -> int:
    size = 2 * int(0.5 * stamp_size / sampling) + 1
    if not SMALLEST_MODEL <= size <= LARGEST_MODEL:
        raise ConfigError(
            f"psf_determiner.psfex: stamps of {stamp_size} pixels (stampSize) in steps of {sampling:g} "
            f"(samplingSize) make a model of {size} pixels a side; {SMALLEST_MODEL} to {LARGEST_MODEL} are "
            "possible."
        )
    return size


def determine(
    candidates: Candidates,
    exposure: Exposure,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str = "fixed",
) -> PsfFit:
    """Fit a PSFEx model to candidate stars (selection specification 7).

    Parameters
    ----------
    candidates : Candidates
        Stars for the fit, reserved ones not among them, with their rows of the catalogue.
    exposure : Exposure
        The detector image they are on.
    settings : Settings
        Section `psf_determiner.psfex`.
    band : str or None
        Not used: the order does not depend on it.
    compatibility : str
        ``lsst`` takes bad pixels as zeros, keeps stars with hardly a good pixel, takes an unknown gain as 1,
        and keeps S-Q16.

    Returns
    -------
    PsfFit
        With ``used`` over all candidates handed in.

    Raises
    ------
    MissingProgramError, ConfigError
        If the program is missing, or the model has an impossible size.
    PsfError
        If there are too few stars, or the program does not leave a model.
    """
    PSFEX.find()
    chosen = down_sample(len(candidates), settings)
    offered = candidates.select(chosen)
    samples, left_out = psfex_samples(offered, exposure, settings, compatibility=compatibility)
    if not len(samples):
        raise PsfError(f"None of {len(offered)} candidate stars can be used for the PSF{_named(left_out)}.")
    shared = sample_image(offered, exposure, compatibility=compatibility)
    plan = _plan(samples, shared, settings)
    if compatibility != "lsst":
        samples = _filled(samples, shared, plan)
    fit = _fit(samples, shared, plan, exposure.box, mark_bad=compatibility == "lsst")
    counts = {**left_out, "stars_down_sampled": len(candidates) - len(chosen), "candidates": len(offered)}
    return _result(fit, plan, shared, chosen, len(candidates), counts, compatibility=compatibility)


def _named(left_out: dict[str, int]) -> str:
    named = [f"{number} {name.replace('_', ' ')}" for name, number in left_out.items() if number]
    return f": {', '.join(named)}" if named else ""


# ---------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class _Plan:
    """What model is fitted."""

    model_size: int
    sampling: float
    degree: int
    refined: bool


def _plan(samples: Samples, shared: SampleImage, settings: Settings) -> _Plan:
    """Size (7.2), degree (7.4) and basis (7.5) of the model."""
    size = _model_size(samples.size, settings.samplingSize)
    degree = lowered_degree(settings.spatialOrder, len(samples))
    if degree == 0:
        raise PsfError(
            f"There are too few good stars to determine the PSF: {len(samples)} of at least "
            f"{_needed(1)}; the order {settings.spatialOrder} becomes 0."
        )
    if np.ptp(samples.x) == 0 or np.ptp(samples.y) == 0:
        raise PsfError(
            f"The {len(samples)} stars stand in one row or column, which does not tell how the PSF varies."
        )
    if degree < settings.spatialOrder:
        log.warning(
            "%d stars: the order of the PSF is lowered from %d to %d.",
            len(samples),
            settings.spatialOrder,
            degree,
        )
    refined = settings.psfexBasis == "PIXEL" or bool(shared.fwhm < REFINED_FWHM)
    return _Plan(size, settings.samplingSize, degree, refined)


def _needed(degree: int) -> int:
    """Number of stars that a degree needs."""
    stars = 1
    while lowered_degree(degree, stars) < degree:
        stars += 1
    return stars


def _filled(samples: Samples, shared: SampleImage, plan: _Plan) -> Samples:
    """Give bad pixels the value that the good pixels of all stars predict (known failure K19)."""
    image = fill_bad_pixels(
        samples.image,
        samples.bad,
        samples.flux,
        _normalised_terms(samples, plan.degree),
        dx=samples.dx,
        dy=samples.dy,
        sampling=plan.sampling,
        model_size=plan.model_size,
        background_variance=shared.background_variance,
    )
    return replace(samples, image=image)


def _normalised_terms(samples: Samples, degree: int) -> FloatArray:
    u, v = (
        (place - 0.5 * (place.min() + place.max())) / max(float(np.ptp(place)), 1e-9)
        for place in (samples.x, samples.y)
    )
    return polynomial_terms(u=u, v=v, degree=degree)


# --------------------------------------------------------------------------------------------------- fit


@dataclass(frozen=True)
class _Fit:
    """Samples, which of them were kept, and the model of these; `kept_again` by the run that made it."""

    samples: Samples
    kept: npt.NDArray[np.bool_]
    kept_again: int
    output: ProgramOutput


def _fit(samples: Samples, shared: SampleImage, plan: _Plan, box: Box, *, mark_bad: bool) -> _Fit:
    """Let the program choose stars on their stamps, and make the model on its raster.

    Bad pixels are marked as missing (`mark_bad`), or have been filled.
    """
    first = run_program(_on_stamps(samples, shared, plan, box, mark_bad=mark_bad))
    if plan.refined or not first.accepted.any():
        return _Fit(samples, first.accepted, int(first.accepted.sum()), first)
    second = run_program(_on_model(samples.select(first.accepted), shared, plan, box))
    return _Fit(samples, first.accepted, int(second.accepted.sum()), second)


def _on_stamps(
    samples: Samples, shared: SampleImage, plan: _Plan, box: Box, *, mark_bad: bool
) -> ProgramInput:
    """The stars as they are."""
    pixel_x, pixel_y = _central_pixels(samples, box)
    return ProgramInput(
        image=samples.image,
        bad=samples.bad if mark_bad else np.zeros_like(samples.bad),
        centre_x=pixel_x + _on_pixel(samples.dx),
        centre_y=pixel_y + _on_pixel(samples.dy),
        x=samples.x,
        y=samples.y,
        flux=samples.flux,
        shape=(box.width, box.height),
        background_variance=shared.background_variance,
        gain=shared.gain,
        fwhm=shared.fwhm,
        model_size=plan.model_size,
        sampling=plan.sampling,
        degree=plan.degree,
        basis="PIXEL" if plan.refined else "NONE",
    )


def _on_model(samples: Samples, shared: SampleImage, plan: _Plan, box: Box) -> ProgramInput:
    """The stars on the raster of the model, centred; its pixels are the program's."""
    image = resample(
        samples.image,
        plan.model_size,
        1.0 / plan.sampling,
        dx=-samples.dx / plan.sampling,
        dy=-samples.dy / plan.sampling,
        stretch=max(1.0, plan.sampling),
    )
    pixel_x, pixel_y = _central_pixels(samples, box)
    given = _on_stamps(samples, shared, plan, box, mark_bad=False)
    return replace(
        given,
        image=image,
        bad=np.zeros(image.shape, dtype=bool),
        centre_x=pixel_x,
        centre_y=pixel_y,
        fwhm=shared.fwhm / plan.sampling,
        sampling=1.0,
    )


def _central_pixels(samples: Samples, box: Box) -> tuple[FloatArray, FloatArray]:
    """Pixels in the middle of the stamps, counted from 1 on the image."""
    return (
        np.floor(samples.x + 0.5) - box.min_x + 1.0,
        np.floor(samples.y + 0.5) - box.min_y + 1.0,
    )


def _on_pixel(shift: FloatArray) -> FloatArray:
    """Shift that leaves a star on its central pixel, by which the program places stamps."""
    return np.clip(shift, -0.499, 0.499)


# -------------------------------------------------------------------------------------------------- result


def _result(
    fit: _Fit,
    plan: _Plan,
    shared: SampleImage,
    chosen: npt.NDArray[np.int64],
    number: int,
    counts: dict[str, int],
    *,
    compatibility: str,
) -> PsfFit:
    """Make the model, its stored form and the figures of the fit; `chosen` are rows of the candidates."""
    samples, output = fit.samples, fit.output
    if output.degree == 0 or not fit.kept.any():
        raise PsfError(
            f"PSFEx kept {int(fit.kept.sum())} of {len(samples)} stars, too few for a model that varies over "
            f"the detector (order {plan.degree})."
        )
    used = np.zeros(number, dtype=bool)
    used[chosen[samples.rows[fit.kept]]] = True
    average = (float(samples.x.mean()), float(samples.y.mean()))  # of rejected stars, too (S-Q18)
    stored = PsfexPsf(
        components=output.components,
        degree=np.array([output.degree], dtype=np.int32),
        group=np.zeros(2, dtype=np.int32),
        context_first=output.first,
        context_second=output.second,
        pixel_step=plan.sampling,
        average_position=average,
    )
    model = PsfexModel(stored, compatibility)
    return PsfFit(
        model=model,
        used=used,
        figures={**_figures(fit, shared, plan), "average_x": average[0], "average_y": average[1], **counts},
        persisted_class=PERSISTED_CLASS,
        serialized=stored,
        evidence=_evidence(fit, shared, plan, model),
    )


def _figures(fit: _Fit, shared: SampleImage, plan: _Plan) -> dict[str, float | int | str]:
    return {
        "reduced_chi_squared": fit.output.chi_squared,
        "stars_available": len(fit.samples),
        "stars_used": int(fit.kept.sum()),
        "stars_rejected_on_model": int(fit.kept.sum()) - fit.kept_again,
        "terms": len(fit.output.components),
        "spatial_order": fit.output.degree,
        "refined": int(plan.refined),
        "stellar_fwhm": shared.fwhm,
        "background_variance": shared.background_variance,
        "bad_pixels": int(fit.samples.bad.sum()),
        "solver": f"psfex {PSFEX.version()}",
    }


def _evidence(fit: _Fit, shared: SampleImage, plan: _Plan, model: PsfexModel) -> FitEvidence:
    """What the acceptance needs."""
    used = fit.samples.select(fit.kept)
    design = model.terms(x=used.x, y=used.y)
    counts = _stars_on_grid_points(used, plan)
    error = np.where(used.flux_error > 0, used.flux_error, np.inf)
    return FitEvidence(
        x=used.x,
        y=used.y,
        signal_to_noise=used.flux / error,
        fitted_signal_to_noise=signal_to_noise(
            fit.output.components,
            used.flux,
            sampling=plan.sampling,
            background_variance=shared.background_variance,
        ),
        design=design,
        design_at=model.terms,
        fewest_stars_on_grid_point=int(counts.min()),
        unconstrained_grid_points=int(np.sum(counts < design.shape[1])),
    )


def _stars_on_grid_points(samples: Samples, plan: _Plan) -> npt.NDArray[np.int64]:
    """Number of stars with a good pixel on each point of the model, shape (model_size, model_size)."""
    row, column = (
        nearest_pixels(-shift / plan.sampling, samples.size, plan.model_size, 1.0 / plan.sampling)
        for shift in (samples.dy, samples.dx)
    )
    star = np.arange(len(samples))[:, np.newaxis, np.newaxis]
    good = ~samples.bad[star, row[:, :, np.newaxis], column[:, np.newaxis, :]]
    return np.asarray(good.sum(axis=0))
