"""Measure aperture corrections: reference flux over flux as a smooth field (measurement specification 13).

The reference is the calibration flux of the input catalogue; every other flux that asks for a correction gets
the Chebyshev field that brings it to the reference, fitted to bright stars with iterative clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.apcorr import acceptance
from finalchar.apcorr.chebyshev import count_terms, fit_chebyshev
from finalchar.errors import ApCorrError, InputError, NoWorkError
from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import BoundedField, Box
from finalchar.formats.sources import SourceTable, demand_column

__all__ = [
    "ApCorrFit",
    "ApCorrMeasurement",
    "correctable_fluxes",
    "demand_reference_flux",
    "measure_ap_corr",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Select = Callable[[SourceTable], BoolArray]

MAD_TO_SIGMA = 1.482602218505602
ERROR_FLOOR = 1e-7
"""Added to the robust scatter, so that a perfect fit does not reject every star."""


@dataclass(frozen=True)
class ApCorrFit:
    """The correction of one flux.

    Attributes
    ----------
    name : str
        Name of the flux, without ``_instFlux``.
    field : ChebyshevField
        Factor that brings the flux to the reference.
    error : float
        Robust scatter of the stars about the last but one fit; the map's ``_instFluxErr`` entry.
    used : ndarray, bool, shape (rows,)
        Stars that survived the clipping.
    available : int
        Stars with a good flux before the clipping.
    minimum, maximum : float
        Limits of the field over the detector.
    centre : float
        The field at the centre of the detector.
    """

    name: str
    field: ChebyshevField
    error: float
    used: BoolArray
    available: int
    minimum: float
    maximum: float
    centre: float


@dataclass(frozen=True)
class ApCorrMeasurement:
    """All corrections of a detector.

    `fields` is the aperture-correction map; `missing` gives, for every flux without a correction that was
    allowed to fail, the number of its usable stars; `suspect` names corrections that are not believable;
    `reference_stars` counts the stars with a good reference flux.
    """

    fields: Mapping[str, BoundedField]
    fits: tuple[ApCorrFit, ...]
    missing: Mapping[str, int]
    suspect: tuple[str, ...]
    reference_stars: int

    @property
    def figures(self) -> dict[str, int | float | str]:
        """Plain numbers for status and summary."""
        figures: dict[str, int | float | str] = {
            "ap_corr_reference_stars": self.reference_stars,
            "ap_corr_uncorrected": ",".join(sorted(self.missing)),
            "ap_corr_suspect": ",".join(self.suspect),
        }
        for fit in self.fits:
            figures[f"ap_corr_{fit.name}_stars"] = int(fit.used.sum())
            figures[f"ap_corr_{fit.name}_rejected"] = fit.available - int(fit.used.sum())
            figures[f"ap_corr_{fit.name}_centre"] = fit.centre
            figures[f"ap_corr_{fit.name}_range"] = fit.maximum - fit.minimum
            figures[f"ap_corr_{fit.name}_scatter"] = fit.error
        return figures


def correctable_fluxes(table: SourceTable, registered: Sequence[str]) -> list[str]:
    """Return, sorted, the registered flux names that the table has columns for."""
    return sorted(name for name in set(registered) if f"{name}_instFlux" in table)


def measure_ap_corr(
    table: SourceTable,
    box: Box,
    settings: Any,
    flux_names: Sequence[str],
    *,
    select: Select,
    compatibility: str = "fixed",
    limits: acceptance.Settings | None = None,
) -> tuple[SourceTable, ApCorrMeasurement]:
    """Fit the aperture correction of every flux.

    Parameters
    ----------
    table : SourceTable
        Measured stars, with the reference flux and slot centroid; reserved stars take part [S-Q19].
    box : Box
        Pixel box of the exposure.
    settings : section ``measure_ap_corr``
        Reference flux, clipping, orders, names that may fail.
    flux_names : sequence of str
        Fluxes to correct (names without columns are skipped).
    select : callable
        The chosen source selector: table -> boolean mask.
    compatibility : {'fixed', 'lsst'}
        `lsst` asks for ascending ids, as the reference does [M-Q20], and judges no correction.
    limits : Settings, optional
        What is believable (`fixed` only).

    Returns
    -------
    table : SourceTable
        With the columns ``apcorr_<name>_used`` set.
    measurement : ApCorrMeasurement
        The map, the fits, what is missing or suspect.

    Raises
    ------
    ApCorrError
        If a flux that may not fail has too few stars; every such flux is named with its count.
    """
    if compatibility == "lsst":
        _demand_ascending_ids(table)
    reference = _reference_stars(table, settings.refFluxName, select)
    if compatibility != "lsst":  # there a negative reference flux is left to the clipping (K12)
        with np.errstate(invalid="ignore"):
            reference &= table[f"{settings.refFluxName}_instFlux"] > 0.0
    fits: list[ApCorrFit] = []
    missing: dict[str, int] = {}
    for name in correctable_fluxes(table, flux_names):
        good = reference & _good_flux(table, name)
        fit = _fit_flux(table, name, good, box, settings)
        if fit is None:
            missing[name] = int(good.sum())
        else:
            fits.append(fit)
    _refuse_missing(missing, settings, int(reference.sum()))
    suspect = _suspect_names(fits, limits) if compatibility != "lsst" else ()
    if limits is not None and limits.on_suspect == "fail":
        _refuse_suspect(suspect, settings, fits)
    used = {f"apcorr_{fit.name}_used": fit.used for fit in fits}
    measurement = ApCorrMeasurement(_fields(fits, box), tuple(fits), missing, suspect, int(reference.sum()))
    return table.with_columns(used), measurement


def _demand_ascending_ids(table: SourceTable) -> None:
    """Refuse a table that the reference's binary search would misread [M-Q20]."""
    if np.any(np.diff(table["id"]) <= 0):
        raise InputError("the source ids do not ascend; 'compatibility: lsst' needs a catalogue sorted by id")


def demand_reference_flux(table: SourceTable, reference: str) -> None:
    """Demand the columns of the reference flux, which no detector has if one has not.

    Raises
    ------
    InputError
        If flux or flag are missing.
    """
    for column in (f"{reference}_instFlux", f"{reference}_flag"):
        demand_column(
            table,
            column,
            asked_by="measure_ap_corr.refFluxName",
            remedy="name a flux of the source catalogue or of a plugin that is run",
        )


def _reference_stars(table: SourceTable, reference: str, select: Select) -> BoolArray:
    """Return the selected stars whose reference flux is unflagged and finite."""
    demand_reference_flux(table, reference)
    try:
        selected = select(table)
    except NoWorkError as error:  # of selectors that cannot do with an empty sample
        raise ApCorrError(f"no star is selected for the aperture corrections: {error}") from None
    return np.asarray(selected & np.isfinite(table[f"{reference}_instFlux"]) & ~table[f"{reference}_flag"])


def _good_flux(table: SourceTable, name: str) -> BoolArray:
    """Return where a flux is unflagged, finite and positive."""
    flux = table[f"{name}_instFlux"]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.isfinite(flux) & (flux > 0.0) & ~table[f"{name}_flag"])


def _fit_flux(table: SourceTable, name: str, good: BoolArray, box: Box, settings: Any) -> ApCorrFit | None:
    """Fit one flux, or return None when its stars do not suffice."""
    rows = np.flatnonzero(good)
    if rows.size - 1 < settings.minDegreesOfFreedom:
        return None
    x = np.asarray(table["slot_Centroid_x"][rows], dtype=np.float64)
    y = np.asarray(table["slot_Centroid_y"][rows], dtype=np.float64)
    z = table[f"{settings.refFluxName}_instFlux"][rows] / table[f"{name}_instFlux"][rows]
    fitted = _clipped_fit(x, y, z, box, settings)
    if fitted is None:
        return None
    coefficients, error, kept = fitted
    used = np.zeros(len(table), dtype=bool)
    used[rows[kept]] = True
    field = ChebyshevField(box=box, coefficients=coefficients)
    minimum, maximum = acceptance.field_limits(field, box)
    centre_x, centre_y = box.centre
    centre = float(field.evaluate(x=[centre_x], y=[centre_y])[0])
    return ApCorrFit(name, field, error, used, int(rows.size), minimum, maximum, centre)


def _clipped_fit(
    x: FloatArray, y: FloatArray, z: FloatArray, box: Box, settings: Any
) -> tuple[FloatArray, float, npt.NDArray[np.int64]] | None:
    """Fit with clipping about zero residual; coefficients, scatter and kept stars, or None."""
    triangular = settings.fitConfig.triangular
    order_x, order_y = settings.fitConfig.orderX, settings.fitConfig.orderY
    kept = np.arange(z.size)
    model = np.full(z.size, np.median(z))
    coefficients, error = np.zeros((1, 1)), np.nan
    for _ in range(settings.numIter):
        residual = z[kept] - model
        error = _robust_scatter(residual)
        kept = kept[np.abs(residual) <= settings.numSigmaClip * error]
        orders = _affordable_orders(kept.size, order_x, order_y, triangular, settings.minDegreesOfFreedom)
        if orders is None:
            return None
        order_x, order_y = orders
        coefficients = fit_chebyshev(
            x=x[kept],
            y=y[kept],
            z=z[kept],
            box=box,
            order_x=order_x,
            order_y=order_y,
            triangular=triangular,
        )
        model = ChebyshevField(box=box, coefficients=coefficients).evaluate(x=x[kept], y=y[kept])
    if settings.doFinalMedianShift:
        coefficients[0, 0] -= np.median(model - z[kept])
    return coefficients, error, kept


def _robust_scatter(residual: FloatArray) -> float:
    """Return the scaled median absolute deviation plus the floor."""
    return float(MAD_TO_SIGMA * np.median(np.abs(residual - np.median(residual))) + ERROR_FLOOR)


def _affordable_orders(
    stars: int, order_x: int, order_y: int, triangular: bool, minimum_freedom: int
) -> tuple[int, int] | None:
    """Lower the orders, x then y, until the stars suffice; None if even a constant is too much."""
    while stars - count_terms(order_x, order_y, triangular=triangular) < minimum_freedom:
        if order_x == 0:
            return None
        order_x -= 1
        if order_y == 0:
            return None
        order_y -= 1
    return order_x, order_y


def _fields(fits: Sequence[ApCorrFit], box: Box) -> dict[str, BoundedField]:
    """Return the map: per flux its field, and its scatter as a constant field."""
    fields: dict[str, BoundedField] = {}
    for fit in fits:
        fields[f"{fit.name}_instFlux"] = fit.field
        fields[f"{fit.name}_instFluxErr"] = ChebyshevField(box=box, coefficients=np.array([[fit.error]]))
    return fields


def _refuse_missing(missing: Mapping[str, int], settings: Any, reference_stars: int) -> None:
    """Raise if a flux that may not fail has no correction (known failure K22)."""
    required = {name: count for name, count in missing.items() if name not in settings.allowFailure}
    if required:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(required.items()))
        raise ApCorrError(
            f"too few stars for the aperture correction of {counts}; {reference_stars} stars have a good "
            f"reference flux {settings.refFluxName}"
        )


def _suspect_names(fits: Sequence[ApCorrFit], limits: acceptance.Settings | None) -> tuple[str, ...]:
    """Return the names of the corrections that are not believable (known failure K21)."""
    limits = limits if limits is not None else acceptance.Settings()
    return tuple(
        fit.name
        for fit in fits
        if acceptance.is_suspect(minimum=fit.minimum, maximum=fit.maximum, scatter=fit.error, settings=limits)
    )


def _refuse_suspect(suspect: Sequence[str], settings: Any, fits: Sequence[ApCorrFit]) -> None:
    """Raise if a required correction is suspect and the configuration wants that to fail."""
    required = [name for name in suspect if name not in settings.allowFailure]
    if required:
        ranges = {fit.name: f"range {fit.maximum - fit.minimum:.3f}, scatter {fit.error:.3f}" for fit in fits}
        named = "; ".join(f"{name} ({ranges[name]})" for name in required)
        raise ApCorrError(f"the aperture correction is not believable: {named}")
