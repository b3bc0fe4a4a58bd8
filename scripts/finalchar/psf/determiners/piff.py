"""The determiner `piff`: a grid of pixels with polynomial interpolation (selection specification 6).

What flows in: candidate stars and their exposure.  What flows out: a `PsfFit` with a genuine Piff PSF.  The
fit itself is made by `finalchar.psf.piff_separable` where that applies, else by Piff; what stands here is the
data that go in, the configuration of the fit, and what becomes of the result.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from finalchar.config_base import Field, Section
from finalchar.errors import ConfigError, PsfError
from finalchar.formats.exposure import Exposure
from finalchar.psf.down_sampling import down_sample
from finalchar.psf.model import FitEvidence, PsfFit
from finalchar.psf.piff_frame import PiffFrame, piff_frame
from finalchar.psf.piff_model import COLOR_KEY, PiffModel, image_size, piff_model
from finalchar.psf.piff_separable import applies_to, fit_in_place
from finalchar.psf.piff_stars import StarStamps, UsableStars, piff_stars, usable_stars
from finalchar.psf.separable import NotDeterminedError

if TYPE_CHECKING:
    from finalchar.psf.uncertainty import PredictedErrors
    from finalchar.stars.candidates import Candidates

__all__ = ["NAME", "Settings", "check_settings", "determine", "down_sample", "fit_stars"]

NAME = "piff"
PERSISTED_CLASS = "PiffPsf"

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

INTERPOLANT = re.compile(
    r"(galsim\.)?Lanczos\(\d+\)|galsim\.(Cubic|Delta|Linear|Nearest|Quintic|SincInterpolant)(\(\))?"
)
COLOR_DECIMALS = 3
"""Colours that agree to so many decimals, magnitudes, are the same."""
PIFF_LEVELS = (logging.CRITICAL, logging.WARNING, logging.INFO, logging.DEBUG)


class Settings(Section):
    """Settings of the determiner `piff` (selection specification 6.1, 6.2)."""

    stampSize: int | None = Field(
        25,
        gt=0,
        description="size of the stamps in the fit and of the drawn PSF, odd; null: that of the candidates",
    )
    maxCandidates: int = Field(300, gt=0, description="more stars than that are down-sampled")
    downsampleRandomSeed: int = Field(98765, ge=0, description="seed of the down-sampling")
    spatialOrderPerBand: dict[str, int] = Field(
        default_factory=dict, description="order of the spatial polynomial by band; others: spatialOrder"
    )
    spatialOrder: int = Field(2, ge=0, description="order of the spatial polynomial")
    piffBasisPolynomialSolver: Literal["scipy", "cpp", "jax", "qr"] = Field(
        "scipy", description="Piff's linear solver, where Piff itself makes the fit"
    )
    solver: Literal["separable", "scipy", "cpp", "qr", "jax"] | None = Field(
        "separable",
        description="separable: the fit without dense matrices, or Piff where that does not "
        "apply; a solver of Piff: Piff with it; null: Piff with piffBasisPolynomialSolver",
    )
    piffPixelGridFitCenter: bool = Field(True, description="fit the centres of the stars again")
    samplingSize: float = Field(1.0, gt=0, description="size of a model pixel in detector pixels")
    modelSize: int = Field(25, gt=0, description="side of the model grid, in model pixels")
    outlierNSigma: float = Field(4.0, gt=0, description="chi-square level of outliers, in sigma")
    outlierMaxRemove: float = Field(
        0.05, gt=0, lt=1, description="fraction of the stars that one iteration removes at most"
    )
    maxSNR: float = Field(200.0, gt=0, description="stars of higher signal-to-noise are weighted down to it")
    zeroWeightMaskBits: list[str] = Field(
        default_factory=lambda: ["BAD", "CR", "INTRP", "SAT", "SUSPECT", "NO_DATA"],
        description="mask planes whose pixels get zero weight",
    )
    minimumUnmaskedFraction: float = Field(
        0.5, ge=0, le=1, description="stars with a smaller fraction of good pixels are left out"
    )
    useColor: bool = Field(False, description="colour as a variable of the polynomial")
    color: dict[str, str] = Field(
        default_factory=dict, description="colour of each band, such as 'g-i' for band g"
    )
    colorOrder: int = Field(1, ge=0, description="order of the polynomial in colour")
    interpolant: str = Field("Lanczos(11)", description="interpolant between model pixels")
    zerothOrderInterpNotEnoughStars: bool = Field(
        False, description="too few stars for the order: a constant model instead of a failure"
    )
    debugStarData: bool = Field(False, description="keep the stamps of the stars in the stored model")
    useCoordinates: Literal["pixel", "field", "sky"] = Field(
        "pixel", description="coordinates of model and polynomial"
    )
    piffMaxIter: int = Field(15, gt=0, description="iterations of the fit at most")
    piffLoggingLevel: int = Field(
        0, ge=0, le=3, description="what Piff logs: 0 nothing, 1 warnings, 2 information, 3 everything"
    )
    piffPsfConfigYaml: str | None = Field(
        None,
        description="complete configuration of the Piff fit; replaces order, size, outlier, solver settings",
    )

    @field_validator("stampSize")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and value % 2 == 0:
            raise ValueError(f"the stamp size must be odd, not {value}")
        return value

    @field_validator("piffPsfConfigYaml")
    @classmethod
    def _complete_configuration(cls, value: str | None) -> str | None:
        if value is not None:
            _config_from_yaml(value)
        return value

    @field_validator("interpolant")
    @classmethod
    def _known_interpolant(cls, value: str) -> str:
        if not INTERPOLANT.fullmatch(value):
            raise ValueError(
                f"{value!r} is no interpolant; write Lanczos(N), galsim.Cubic, galsim.Delta, galsim.Linear, "
                "galsim.Nearest, galsim.Quintic, galsim.SincInterpolant"
            )
        return value


def determine(
    candidates: Candidates,
    exposure: Exposure,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str = "fixed",
) -> PsfFit:
    """Fit a Piff model to candidate stars (selection specification 6).

    Parameters
    ----------
    candidates : Candidates
        Stars for the fit, reserved ones not among them.
    exposure : Exposure
        The detector image they are on.
    settings : Settings
        Section `psf_determiner.piff`.
    band : str or None
        Band label of the exposure; decides order and colour.
    compatibility : str
        ``lsst`` keeps S-Q9, S-Q12, S-Q14, S-Q16 and S-Q27.

    Returns
    -------
    PsfFit
        With ``used`` over all candidates handed in.

    Raises
    ------
    PsfError
        If there are too few stars, or Piff cannot fit them.
    ConfigError
        If the stamps are too small for the model.
    """
    check_settings(settings, compatibility=compatibility)
    if not len(candidates):
        raise PsfError("There is no candidate star for the PSF.")
    chosen = down_sample(len(candidates), settings)
    size = _stamp_size(candidates, settings)
    stamps = _stamps(candidates, exposure, chosen, size)
    fit = fit_stars(stamps, exposure, settings, band=band, compatibility=compatibility)
    used = np.zeros(len(candidates), dtype=bool)
    used[chosen[fit.used]] = True
    return PsfFit(
        fit.model,
        used,
        {**fit.figures, "stars_down_sampled": len(candidates) - len(chosen)},
        fit.persisted_class,
        fit.serialized,
        fit.evidence,
    )


def check_settings(settings: Settings, *, compatibility: str = "fixed") -> None:
    """Check that the stamps can hold the model (selection specification 6.2, S-Q12).

    Raises
    ------
    ConfigError
        If `stampSize` is too small.
    """
    if settings.stampSize is None or settings.piffPsfConfigYaml is not None:
        return
    side = settings.modelSize * (np.sqrt(2) if settings.useCoordinates == "sky" else 1.0)
    if compatibility == "lsst":
        needed = int(side / settings.samplingSize)
    else:
        needed = int(np.ceil(round(side * settings.samplingSize, 9)))
    if settings.stampSize < needed:
        raise ConfigError(
            f"psf_determiner.piff.stampSize is {settings.stampSize}, but a model of modelSize "
            f"{settings.modelSize} and samplingSize {settings.samplingSize:g} needs at least {needed}."
        )


def _stamp_size(candidates: Candidates, settings: Settings) -> int:
    available = int(candidates.size)
    if settings.stampSize is None:
        return available
    if settings.stampSize > available:
        log.warning(
            "stampSize %d is larger than the candidates' %d; using that", settings.stampSize, available
        )
    return min(settings.stampSize, available)


def _stamps(candidates: Candidates, exposure: Exposure, rows: IntArray, size: int) -> StarStamps:
    """Cut the stars out again at the size of the fit: masks depend on it (selection specification 5.3)."""
    chosen = candidates.select(rows)
    stamps = chosen.stamps(exposure, size)
    if len(stamps) != len(chosen):
        raise PsfError(f"{len(chosen) - len(stamps)} candidates have no stamp of size {size} in the image.")
    return StarStamps(
        ids=chosen.source_id,
        x=chosen.x,
        y=chosen.y,
        image=stamps.image,
        mask=stamps.mask,
        variance=stamps.variance,
        x0=stamps.x0,
        y0=stamps.y0,
        color=chosen.color_value.astype(np.float64),
        color_type=[str(kind) for kind in chosen.color_type],
    )


def fit_stars(
    stamps: StarStamps,
    exposure: Exposure,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str = "fixed",
) -> PsfFit:
    """Fit a Piff model to star stamps; ``used`` is over the stamps.  See `determine`."""
    usable = usable_stars(
        stamps,
        bad_bits=exposure.mask_bits(settings.zeroWeightMaskBits),
        minimum_unmasked_fraction=settings.minimumUnmaskedFraction,
        max_snr=settings.maxSNR,
        compatibility=compatibility,
    )
    frame = piff_frame(exposure, settings.useCoordinates)
    color, color_type = _colors(stamps, usable, settings, band=band, compatibility=compatibility)
    stars = piff_stars(stamps, usable, frame, color=color, color_type=color_type, compatibility=compatibility)
    plan = _plan(settings, frame, stars, band=band, compatibility=compatibility)
    plan = _with_enough_stars(plan, len(stars), settings)
    variance = stamps.variance[usable.rows].astype(np.float64)
    outcome = _run(plan, stars, frame, settings, variance)
    if len(outcome.used) < plan.minimum_stars:
        outcome = _fit_again(plan, stars, frame, settings, variance, outcome, compatibility=compatibility)
    return _result(outcome, stamps, usable, settings, compatibility=compatibility)


def _colors(
    stamps: StarStamps,
    usable: UsableStars,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str,
) -> tuple[FloatArray, Sequence[str]]:
    """Colours of the usable stars; missing ones are the mean if colour is fitted (specification 6.5)."""
    color = np.asarray(stamps.color, dtype=np.float64)[usable.rows]
    kind = [str(stamps.color_type[row]) for row in usable.rows]
    if not settings.useColor:
        return color, kind
    known = np.isfinite(color)
    kinds = sorted({kind[k] for k in np.flatnonzero(known)})
    if len(kinds) > 1:
        raise PsfError(f"The stars have colours of several kinds ({', '.join(kinds)}); one is needed.")
    if not kinds:
        log.warning("No star has a colour; the mean colour is set to 0.")
        if compatibility == "lsst":
            raise PsfError("No star has a colour, and so there is no kind of colour (S-Q9).")
        kinds = [settings.color.get(band or "", "")]
    mean = float(np.mean(color[known])) if known.any() else 0.0
    return np.where(known, color, mean), kinds * len(kind)


@dataclass(frozen=True)
class _Plan:
    """Configuration of one Piff fit and the number of stars it needs."""

    config: dict[str, Any]
    orders: tuple[int, ...] | None
    minimum_stars: int
    single_pass: bool = False
    """Whether one iteration is what is wanted."""

    def constant(self) -> _Plan:
        """The same model without spatial or colour terms, in one iteration."""
        config = copy.deepcopy(self.config)
        order = config["interp"]["order"]
        config["interp"]["order"] = 0 if isinstance(order, int) else [0] * len(order)
        config["max_iter"] = 1
        return _Plan(config, None if self.orders is None else (0,) * len(self.orders), 1, single_pass=True)


def _plan(
    settings: Settings, frame: PiffFrame, stars: list[Any], *, band: str | None, compatibility: str
) -> _Plan:
    """Configure the fit (selection specification 6.5)."""
    if settings.piffPsfConfigYaml is not None:
        config = _config_from_yaml(settings.piffPsfConfigYaml)
    else:
        scale = _model_scale(settings, frame, stars, compatibility)
        config = _config(settings, scale, frame, band, _color_order(settings, stars, compatibility))
    orders = _orders(config["interp"])
    if orders is None:
        return _Plan(config, None, 0)
    minimum = (
        _reference_minimum(orders) if compatibility == "lsst" else _count_terms(config["interp"], orders)
    )
    return _Plan(config, orders, minimum)


def _color_order(settings: Settings, stars: list[Any], compatibility: str) -> int:
    """Order in colour that the stars' colours can determine; lower than asked for with a warning only.

    Without it a detector whose stars have no colour, or all the same, would have no PSF (S-Q9, K14).
    """
    if compatibility == "lsst" or not settings.useColor:
        return settings.colorOrder
    different = len(np.unique(np.round([star["colorValue"] for star in stars], COLOR_DECIMALS)))
    order = min(settings.colorOrder, max(different - 1, 0))
    if order < settings.colorOrder:
        log.warning(
            "The stars have %d different colours; the PSF is of order %d in colour, not %d.",
            different,
            order,
            settings.colorOrder,
        )
    return order


def _config(
    settings: Settings, scale: float, frame: PiffFrame, band: str | None, color_order: int
) -> dict[str, Any]:
    order = settings.spatialOrderPerBand.get(band or "", settings.spatialOrder)
    keys, orders = list(frame.keys), [order, order]
    if settings.useColor:
        keys.append(COLOR_KEY)
        orders.append(color_order)
    return {
        "type": "Simple",
        "model": {
            "type": "PixelGrid",
            "scale": scale,
            "size": settings.modelSize,
            "interp": settings.interpolant,
            "centered": settings.piffPixelGridFitCenter,
        },
        "interp": {
            "type": "BasisPolynomial",
            "order": orders,
            "keys": keys,
            "solver": _piff_solver(settings),
        },
        "outliers": {
            "type": "Chisq",
            "nsigma": settings.outlierNSigma,
            "max_remove": settings.outlierMaxRemove,
        },
        "max_iter": settings.piffMaxIter,
    }


def _piff_solver(settings: Settings) -> str:
    """Piff's own solver, used where Piff makes the fit."""
    if settings.solver in (None, "separable"):
        return settings.piffBasisPolynomialSolver
    return str(settings.solver)


def _config_from_yaml(text: str) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"psf_determiner.piff.piffPsfConfigYaml is not YAML: {problem}.") from error
    if not isinstance(config, dict) or not {"model", "interp"} <= config.keys():
        raise ConfigError("psf_determiner.piff.piffPsfConfigYaml needs the sections 'model' and 'interp'.")
    return config


def _model_scale(settings: Settings, frame: PiffFrame, stars: list[Any], compatibility: str) -> float:
    """Size of a model pixel in arcsec.

    Piff leaves out stars whose stamp is smaller than the model, and decides so in floating point: 25 model
    pixels can be more than 25 detector pixels by one rounding (S-Q27), or where the local scale is a trifle
    smaller than the central one.  `fixed` makes the model pixel that trifle smaller.
    """
    scale = frame.scale * settings.samplingSize
    if compatibility == "lsst" or not stars:
        return scale
    side = max(stars[0].image.array.shape)
    if settings.modelSize * settings.samplingSize > side:
        return scale
    for star in stars:
        local = star.image.wcs.maxLinearScale(star.image.center)
        if settings.modelSize * scale / local > side and settings.modelSize * scale / local < 1.01 * side:
            scale = min(scale, side * local / settings.modelSize)
            while settings.modelSize * scale / local > side:
                scale = float(np.nextafter(scale, 0.0))
    return scale


def _orders(interp: dict[str, Any]) -> tuple[int, ...] | None:
    """Orders of the polynomial's variables; None for other interpolations."""
    if interp.get("type") not in ("BasisPolynomial", "Polynomial"):
        return None
    order = interp.get("order", 0)
    if isinstance(order, int):
        return (order,) * len(interp.get("keys", ("u", "v")))
    return tuple(int(value) for value in order)


def _reference_minimum(orders: tuple[int, ...]) -> int:
    """Number of stars the reference asks for; too low with colour (S-Q12)."""
    order = orders[0]
    return (order + 1) * (order + 2) // 2 + (orders[2] if len(orders) == 3 else 0)


def _count_terms(interp: dict[str, Any], orders: tuple[int, ...]) -> int:
    """Number of terms of the polynomial: fewer stars cannot determine it."""
    highest = interp.get("max_order") or max(orders)
    powers = np.indices([order + 1 for order in orders]).sum(axis=0)
    return int(np.sum(powers <= highest)) if isinstance(highest, int) else powers.size


def _too_few(number: int, plan: _Plan) -> PsfError:
    order = plan.orders[0] if plan.orders else 0
    return PsfError(
        f"There are too few good stars to determine the PSF: {number} of at least {plan.minimum_stars} for "
        f"a polynomial of order {order}."
    )


def _with_enough_stars(plan: _Plan, number: int, settings: Settings) -> _Plan:
    """Return the plan, or the constant one if there are too few stars and that is wanted."""
    if number >= max(plan.minimum_stars, 1):
        return plan
    if not settings.zerothOrderInterpNotEnoughStars or number == 0:
        raise _too_few(number, plan)
    log.warning("Only %d stars of %d for this order; fitting a constant PSF.", number, plan.minimum_stars)
    return plan.constant()


@dataclass(frozen=True)
class _Outcome:
    """A fitted Piff object and what is to be said of the fit."""

    psf: Any
    plan: _Plan
    used: IntArray
    converged: bool
    singular: bool
    too_small: int
    solver: str = "piff"
    errors: PredictedErrors | None = None

    @property
    def stars(self) -> list[Any]:
        return list(self.psf.stars)


class _Listener(logging.Handler):
    """Keeps the texts of Piff's messages that say how the fit went."""

    def __init__(self) -> None:
        super().__init__(level=VERBOSE)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def count(self, text: str) -> int:
        return sum(text in message for message in self.messages)


VERBOSE = 15
"""Piff's own level between DEBUG and INFO."""


def _run(
    plan: _Plan, stars: list[Any], frame: PiffFrame, settings: Settings, variance: FloatArray
) -> _Outcome:
    """Fit without dense matrices where that is wanted and applies, else let Piff do it."""
    import piff

    listener = _Listener()
    logger = _piff_logger(settings, listener)
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
    psf: Any, plan: _Plan, stars: list[Any], variance: FloatArray, logger: _FitLogger
) -> _Outcome:
    fit = fit_in_place(psf, stars, variance, logger=logger)
    return _Outcome(
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


def _run_piff(psf: Any, plan: _Plan, stars: list[Any], logger: _FitLogger, listener: _Listener) -> _Outcome:
    """Let Piff fit (selection specification 6.6)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            psf.fit(stars, logger=logger)
    except Exception as error:
        raise PsfError(f"Piff could not fit {len(stars)} stars: {error}{_hint(listener)}") from error
    return _Outcome(
        psf=psf,
        plan=plan,
        used=_used(psf),
        converged=not listener.count("did not converge"),
        singular=bool(listener.count("Switching to svd") or listener.count("Switching to QRP")),
        too_small=listener.count("too small to constrain"),
    )


def _piff_logger(settings: Settings, listener: _Listener) -> _FitLogger:
    """Logger of one fit: everything of interest to the listener, the wanted level to the job's log."""
    logger = _FitLogger("finalchar.piff", level=min(VERBOSE, PIFF_LEVELS[settings.piffLoggingLevel]))
    logger.addHandler(listener)
    forward = _Forward(PIFF_LEVELS[settings.piffLoggingLevel])
    logger.addHandler(forward)
    return logger


class _FitLogger(logging.Logger):
    """Logger of one fit, with Piff's additional level."""

    def verbose(self, message: str, *args: object) -> None:
        """Log below information, above debugging."""
        self.log(VERBOSE, message, *args)


class _Forward(logging.Handler):
    """Passes messages on to the library's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, "Piff: %s", record.getMessage())


def _hint(listener: _Listener) -> str:
    number = listener.count("too small to constrain")
    return f" (the stamps of {number} stars are smaller than the model)" if number else ""


def _fit_again(
    plan: _Plan,
    stars: list[Any],
    frame: PiffFrame,
    settings: Settings,
    variance: FloatArray,
    outcome: _Outcome,
    *,
    compatibility: str,
) -> _Outcome:
    """Too few stars survived: a constant model if that is wanted, else an error (S-Q12)."""
    number = len(outcome.used)
    if not settings.zerothOrderInterpNotEnoughStars:
        raise _too_few(number, plan)
    log.warning("Only %d stars of %d after rejection; fitting a constant PSF.", number, plan.minimum_stars)
    if compatibility == "lsst":
        raise PsfError(
            f"Only {number} stars survived the rejection of outliers, and the reference's second fit does "
            "not change the order (S-Q12)."
        )
    return _run(plan.constant(), stars, frame, settings, variance)


def _result(
    outcome: _Outcome,
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


def _figures(outcome: _Outcome, stamps: StarStamps, usable: UsableStars) -> dict[str, float | int | str]:
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
        "terms": _count_terms(outcome.plan.config["interp"], orders) if orders else 0,
        "spatial_order": orders[0] if orders else -1,
        "color_order": orders[2] if orders and COLOR_KEY in psf.interp_property_names else -1,
        "singular": int(outcome.singular),
        "solver": outcome.solver,
        "average_x": float(np.mean(stamps.x[usable.rows[outcome.used]])),
        "average_y": float(np.mean(stamps.y[usable.rows[outcome.used]])),
    }


def _evidence(
    outcome: _Outcome,
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
