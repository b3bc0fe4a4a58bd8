"""Apply aperture corrections to the measured fluxes (measurement specification 14)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.apcorr.measure import correctable_fluxes
from finalchar.errors import ConfigError
from finalchar.formats.exposure import BoundedField
from finalchar.formats.sources import SourceTable, demand_column

__all__ = ["AppliedCorrections", "apply_ap_corr", "positions"]

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class AppliedCorrections:
    """What was corrected: `corrected` and `uncorrected` flux names, and rows without a usable factor.

    A flux in `uncorrected` keeps its value and its own flag; only its ``_flag_apCorr`` is set [M-Q22].
    """

    corrected: tuple[str, ...]
    uncorrected: tuple[str, ...]
    rows_without_factor: Mapping[str, int]


def apply_ap_corr(
    table: SourceTable,
    ap_corr_map: Mapping[str, BoundedField],
    settings: Any,
    flux_names: Sequence[str],
    *,
    compatibility: str = "fixed",
) -> tuple[SourceTable, AppliedCorrections]:
    """Multiply fluxes and their errors by the correction at the place of each star.

    Parameters
    ----------
    table : SourceTable
        Measured stars.
    ap_corr_map : mapping of str to BoundedField
        ``<name>_instFlux`` and ``<name>_instFluxErr`` for every flux that can be corrected.
    settings : section ``apply_ap_corr``
        Names to ignore, proxies, position columns, whether a failure flags the flux.
    flux_names : sequence of str
        Fluxes that ask for a correction (names without columns are skipped).
    compatibility : {'fixed', 'lsst'}
        `fixed` fills ``_apCorr`` and ``_apCorrErr``; the reference leaves them NaN [M-Q23].

    Returns
    -------
    table : SourceTable
        With corrected columns (a new table; arrays that do not change are shared).
    applied : AppliedCorrections
        Which fluxes were corrected.
    """
    names = correctable_fluxes(table, flux_names)
    _refuse_unknown_proxies(settings.proxies, names)
    x, y = positions(table, settings)
    columns: Columns = {}
    corrected, uncorrected, without = [], [], {}
    for name in names:
        if name in settings.ignoreList:
            continue
        source = settings.proxies.get(name, name)
        factor, error = ap_corr_map.get(f"{source}_instFlux"), ap_corr_map.get(f"{source}_instFluxErr")
        if factor is None or error is None:
            uncorrected.append(name)
            columns[f"{name}_flag_apCorr"] = np.ones(len(table), dtype=bool)
            continue
        with np.errstate(invalid="ignore"):  # stars without centroid
            values, errors = factor.evaluate(x=x, y=y), error.evaluate(x=x, y=y)
        columns |= _corrected_columns(table, name, values, settings.doFlagApCorrFailures)
        if compatibility != "lsst":
            columns |= {f"{name}_apCorr": values, f"{name}_apCorrErr": errors}
        corrected.append(name)
        without[name] = int(columns[f"{name}_flag_apCorr"].sum())
    bad_rows = {name: count for name, count in without.items() if count}
    return table.with_columns(columns), AppliedCorrections(tuple(corrected), tuple(uncorrected), bad_rows)


def positions(table: SourceTable, settings: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the positions at which corrections are evaluated.

    Raises
    ------
    InputError
        If a column is missing.
    """
    x, y = (
        demand_column(table, getattr(settings, name), asked_by=f"apply_ap_corr.{name}")
        for name in ("xColumn", "yColumn")
    )
    return x.astype(np.float64), y.astype(np.float64)


def _refuse_unknown_proxies(proxies: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse proxies for fluxes that are not corrected at all."""
    unknown = sorted(set(proxies) - set(names))
    if unknown:
        raise ConfigError(
            f"apply_ap_corr.proxies names {', '.join(unknown)}, which no measurement hands in for aperture"
            f" correction (there are: {', '.join(names)})"
        )


def _corrected_columns(
    table: SourceTable, name: str, factor: npt.NDArray[np.float64], flag_failures: bool
) -> Columns:
    """Return flux, error and flags of one flux; rows without a positive factor stay uncorrected."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(factor) & (factor > 0.0)
    scale = np.where(good, factor, 1.0)
    flag = table[f"{name}_flag"]
    return {
        table.resolve(f"{name}_instFlux"): table[f"{name}_instFlux"] * scale,
        table.resolve(f"{name}_instFluxErr"): table[f"{name}_instFluxErr"] * scale,
        table.resolve(f"{name}_flag"): (flag | ~good) if flag_failures else flag.copy(),
        f"{name}_flag_apCorr": ~good,
    }
