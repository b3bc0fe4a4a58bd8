"""What becomes of a Piff fit: the model, its stored form, the figures, the evidence for its acceptance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finalchar.errors import PsfError
from finalchar.psf.model import FitEvidence, PsfFit
from finalchar.psf.piff_fit import FitOutcome
from finalchar.psf.piff_model import COLOR_KEY, PiffModel, image_size, piff_model
from finalchar.psf.piff_plan import count_terms
from finalchar.psf.piff_stars import StarStamps, UsableStars

if TYPE_CHECKING:
    from finalchar.psf.determiners.piff import Settings

__all__ = ["PERSISTED_CLASS", "make_psf_fit"]

PERSISTED_CLASS = "PiffPsf"


def make_psf_fit(
    outcome: FitOutcome,
    stamps: StarStamps,
    usable: UsableStars,
    settings: Settings,
    *,
    compatibility: str,
) -> PsfFit:
    """Make the model, its stored form and the figures of the fit."""
    from finalchar.psf.piff_store import serialize_piff

    rows = usable.rows[outcome.used]
    if len(np.unique(stamps.ids[rows])) != len(rows):
        raise PsfError("Several stars of the PSF fit have the same id.")
    used = np.zeros(len(stamps), dtype=bool)
    used[rows] = True
    size = image_size(stamps.image.shape[-1], settings.samplingSize)
    model = piff_model(outcome.psf, size=size, compatibility=compatibility)
    return PsfFit(
        model=model,
        used=used,
        figures=_figures(outcome, stamps, usable),
        persisted_class=PERSISTED_CLASS,
        serialized=serialize_piff(outcome.psf, size=size, keep_stamps=settings.debugStarData),
        evidence=_evidence(outcome, model, stamps, usable, settings),
    )


def _figures(outcome: FitOutcome, stamps: StarStamps, usable: UsableStars) -> dict[str, float | int | str]:
    psf, orders = outcome.psf, outcome.plan.orders
    return {
        "chi_squared": float(psf.chisq),
        "degrees_of_freedom": int(psf.dof),
        "iterations": int(psf.niter),
        "converged": int(outcome.converged),
        "stars_available": len(usable),
        "stars_used": len(outcome.used),
        "stars_masked": usable.masked,
        "stars_without_weight": usable.unweighted,
        "stars_smaller_than_model": outcome.too_small,
        "minimum_stars": outcome.plan.minimum_stars,
        "terms": count_terms(outcome.plan.config["interp"], orders) if orders else 0,
        "spatial_order": orders[0] if orders else -1,
        "color_order": orders[2] if orders and COLOR_KEY in psf.interp_property_names else -1,
        "singular": int(outcome.singular),
        "solver": outcome.solver,
        "average_x": float(np.mean(stamps.x[usable.rows[outcome.used]])),
        "average_y": float(np.mean(stamps.y[usable.rows[outcome.used]])),
    }


def _evidence(
    outcome: FitOutcome,
    model: PiffModel,
    stamps: StarStamps,
    usable: UsableStars,
    settings: Settings,
) -> FitEvidence | None:
    """What the acceptance needs; None for models other than a polynomial pixel grid."""
    if not model.is_polynomial_grid:
        return None
    from finalchar.psf.grid_coverage import stars_on_grid_points

    rows = usable.rows[outcome.used]
    x, y = stamps.x[rows], stamps.y[rows]
    color = np.array([outcome.psf.stars[k]["colorValue"] for k in outcome.used])
    counts = stars_on_grid_points([outcome.psf.stars[k] for k in outcome.used], outcome.psf.model)
    design = model.terms(x=x, y=y, color=color)
    snr = usable.signal_to_noise[outcome.used]
    return FitEvidence(
        x=x,
        y=y,
        signal_to_noise=snr,
        fitted_signal_to_noise=np.minimum(snr, settings.maxSNR),
        design=design,
        design_at=model.terms,
        converged=outcome.converged or outcome.plan.single_pass,
        fewest_stars_on_grid_point=int(counts.min()),
        unconstrained_grid_points=int(np.sum(counts < design.shape[1])),
        errors=outcome.errors,
    )
