"""What Piff is asked to fit: settings as a configuration of Piff, and the number of stars that it needs.

Selection specification 6.5.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finalchar.errors import ConfigError, PsfError
from finalchar.psf.piff_frame import PiffFrame
from finalchar.psf.piff_model import COLOR_KEY

if TYPE_CHECKING:
    from finalchar.psf.determiners.piff import Settings

__all__ = ["FitPlan", "config_from_yaml", "count_terms", "plan_fit", "too_few_stars", "with_enough_stars"]

log = logging.getLogger(__name__)

COLOR_DECIMALS = 3
"""Colours that agree to so many decimals, magnitudes, are the same."""


@dataclass(frozen=True)
class FitPlan:
    """Configuration of one Piff fit and the number of stars it needs."""

    config: dict[str, Any]
    orders: tuple[int, ...] | None
    minimum_stars: int
    single_pass: bool = False
    """Whether one iteration is what is wanted."""

    def constant(self) -> FitPlan:
        """The same model without spatial or colour terms, in one iteration."""
        config = copy.deepcopy(self.config)
        order = config["interp"]["order"]
        config["interp"]["order"] = 0 if isinstance(order, int) else [0] * len(order)
        config["max_iter"] = 1
        return FitPlan(config, None if self.orders is None else (0,) * len(self.orders), 1, single_pass=True)


def plan_fit(
    settings: Settings, frame: PiffFrame, stars: list[Any], *, band: str | None, compatibility: str
) -> FitPlan:
    """Configure the fit (selection specification 6.5)."""
    if settings.piffPsfConfigYaml is not None:
        config = config_from_yaml(settings.piffPsfConfigYaml)
    else:
        scale = _model_scale(settings, frame, stars, compatibility)
        config = _config(settings, scale, frame, band, _color_order(settings, stars, compatibility))
    orders = _orders(config["interp"])
    if orders is None:
        return FitPlan(config, None, 0)
    minimum = _reference_minimum(orders) if compatibility == "lsst" else count_terms(config["interp"], orders)
    return FitPlan(config, orders, minimum)


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


def config_from_yaml(text: str) -> dict[str, Any]:
    """Return the configuration of Piff that `piffPsfConfigYaml` holds.

    Raises
    ------
    ConfigError
        If it is not YAML or lacks a section.
    """
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


def count_terms(interp: dict[str, Any], orders: tuple[int, ...]) -> int:
    """Number of terms of the polynomial: fewer stars cannot determine it."""
    highest = interp.get("max_order") or max(orders)
    powers = np.indices([order + 1 for order in orders]).sum(axis=0)
    return int(np.sum(powers <= highest)) if isinstance(highest, int) else powers.size


def too_few_stars(number: int, plan: FitPlan) -> PsfError:
    """Return the error of a fit for which there are too few stars."""
    order = plan.orders[0] if plan.orders else 0
    return PsfError(
        f"There are too few good stars to determine the PSF: {number} of at least {plan.minimum_stars} for "
        f"a polynomial of order {order}."
    )


def with_enough_stars(plan: FitPlan, number: int, settings: Settings) -> FitPlan:
    """Return the plan, or the constant one if there are too few stars and that is wanted."""
    if number >= max(plan.minimum_stars, 1):
        return plan
    if not settings.zerothOrderInterpNotEnoughStars or number == 0:
        raise too_few_stars(number, plan)
    log.warning("Only %d stars of %d for this order; fitting a constant PSF.", number, plan.minimum_stars)
    return plan.constant()
