"""The fit of Piff stars: without dense matrices where that is wanted and applies, else by Piff itself.

Selection specification 6.6.
"""

from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import PsfError
from finalchar.psf.piff_frame import PiffFrame
from finalchar.psf.piff_log import FitLogger, Listener, piff_logger
from finalchar.psf.piff_plan import FitPlan, too_few_stars
from finalchar.psf.piff_separable import applies_to, fit_in_place
from finalchar.psf.separable import NotDeterminedError

if TYPE_CHECKING:
    from finalchar.psf.determiners.piff import Settings
    from finalchar.psf.uncertainty import PredictedErrors

__all__ = ["FitOutcome", "fit_constant", "run_fit"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FitOutcome:
    """A fitted Piff object and what is to be said of the fit."""

    psf: Any
    plan: FitPlan
    used: IntArray
    converged: bool
    singular: bool
    too_small: int
    solver: str = "piff"
    errors: PredictedErrors | None = None

    @property
    def stars(self) -> list[Any]:
        """The stars of the fit, rejected ones included."""
        return list(self.psf.stars)


def run_fit(
    plan: FitPlan, stars: list[Any], frame: PiffFrame, settings: Settings, variance: FloatArray
) -> FitOutcome:
    """Fit without dense matrices where that is wanted and applies, else let Piff do it."""
    import piff

    listener = Listener()
    logger = piff_logger(settings, listener)
    try:
        psf = piff.PSF.process(copy.deepcopy(plan.config), logger=logger)
    except Exception as error:
        raise PsfError(f"Piff cannot be configured like this: {error}") from error
    psf.set_context({0: frame.wcs}, frame.pointing)
    if settings.solver == "separable" and applies_to(psf) and _more_pixels_than_unknowns(psf, stars):
        try:
            return _run_separable(psf, plan, stars, variance, logger)
        except (NotDeterminedError, np.linalg.LinAlgError) as error:
            log.warning("%s; Piff's own solver is asked", error)
    return _run_piff(psf, plan, stars, logger, listener)


def _more_pixels_than_unknowns(psf: Any, stars: list[Any]) -> bool:
    """Whether the fit has one answer; if not, the reference's is that of Piff's own solver."""
    pixels = 0
    for star in stars:
        _, weight, u, v = star.data.getDataVector()
        pixels += int(np.sum((weight != 0) & (np.maximum(np.abs(u), np.abs(v)) <= psf.model.maxuv)))
    return pixels >= int(psf.model.size) ** 2 * int(np.count_nonzero(psf.interp._mask))


def _run_separable(
    psf: Any, plan: FitPlan, stars: list[Any], variance: FloatArray, logger: FitLogger
) -> FitOutcome:
    fit = fit_in_place(psf, stars, variance, logger=logger)
    return FitOutcome(
        psf=psf,
        plan=plan,
        used=_used(psf),
        converged=fit.converged,
        singular=False,
        too_small=fit.too_small,
        solver="separable",
        errors=fit.errors,
    )


def _used(psf: Any) -> IntArray:
    """Rows of the stars that were neither rejected nor reserved."""
    kept = [k for k, star in enumerate(psf.stars) if not star.is_flagged and not star.is_reserve]
    return np.array(kept, dtype=np.int64)


def _run_piff(psf: Any, plan: FitPlan, stars: list[Any], logger: FitLogger, listener: Listener) -> FitOutcome:
    """Let Piff fit (selection specification 6.6)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            psf.fit(stars, logger=logger)
    except Exception as error:
        raise PsfError(f"Piff could not fit {len(stars)} stars: {error}{_hint(listener)}") from error
    return FitOutcome(
        psf=psf,
        plan=plan,
        used=_used(psf),
        converged=not listener.count("did not converge"),
        singular=bool(listener.count("Switching to svd") or listener.count("Switching to QRP")),
        too_small=listener.count("too small to constrain"),
    )


def _hint(listener: Listener) -> str:
    number = listener.count("too small to constrain")
    return f" (the stamps of {number} stars are smaller than the model)" if number else ""


def fit_constant(
    plan: FitPlan,
    stars: list[Any],
    frame: PiffFrame,
    settings: Settings,
    variance: FloatArray,
    outcome: FitOutcome,
    *,
    compatibility: str,
) -> FitOutcome:
    """Too few stars survived: a constant model if that is wanted, else an error (S-Q12)."""
    number = len(outcome.used)
    if not settings.zerothOrderInterpNotEnoughStars:
        raise too_few_stars(number, plan)
    log.warning("Only %d stars of %d after rejection; fitting a constant PSF.", number, plan.minimum_stars)
    if compatibility == "lsst":
        raise PsfError(
            f"Only {number} stars survived the rejection of outliers, and the reference's second fit does "
            "not change the order (S-Q12)."
        )
    return run_fit(plan.constant(), stars, frame, settings, variance)
