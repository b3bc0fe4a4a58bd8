"""Which selected sources may enter a fit (known failure K12).

The selectors agree with the reference row by row, and there an infinite signal-to-noise can pass.  A fit
takes the selected sources for which every number it rests on is one: `usable_for_fit` says which, and counts
the reasons of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.sources import demand_column

__all__ = ["LARGEST_FLUX", "FitUsability", "selection_flux_fields", "usable_for_fit"]

LARGEST_FLUX = 1e12
"""Counts; a larger one is a placeholder, and its square no number in single precision."""


@dataclass(frozen=True)
class FitUsability:
    """Which rows of a table may enter a fit.

    Attributes
    ----------
    usable : ndarray of bool, shape (n,)
    counts : dict of str to int
        Rows that may not, by the first reason that applies: ``centroid_not_finite``, ``flux_not_finite``,
        ``flux_error_not_finite``, ``flux_error_not_positive``.
    """

    usable: npt.NDArray[np.bool_]
    counts: dict[str, int]


def usable_for_fit(
    table: Any, *, flux_field: str, error_field: str, centroid: str = "slot_Centroid"
) -> FitUsability:
    """Judge the numbers that stand behind each source.

    Parameters
    ----------
    table : SourceTable
    flux_field, error_field : str
        Columns that the selection tested.
    centroid : str, optional
        Name of the centroid.

    Raises
    ------
    InputError
        If a column is missing.
    """
    names = (f"{centroid}_x", f"{centroid}_y", flux_field, error_field)
    x, y, flux, error = (
        demand_column(table, name, asked_by="the PSF fit").astype(np.float64) for name in names
    )
    reasons = {
        "centroid_not_finite": ~(np.isfinite(x) & np.isfinite(y)),
        "flux_not_finite": ~np.isfinite(flux),
        "flux_error_not_finite": ~np.isfinite(error),
        "flux_error_not_positive": ~(error > 0),
    }
    usable = np.ones(len(x), dtype=bool)
    counts = {}
    for reason, applies in reasons.items():
        counts[reason] = int((applies & usable).sum())
        usable &= ~applies
    return FitUsability(usable, counts)


def selection_flux_fields(source_selector: Any, *, compatibility: str = "fixed") -> tuple[str, str]:
    """Names of the flux and error columns that the selection rests on (selection specification 3.7).

    They become ``calib_psf_selection_flux`` and ``calib_psf_selection_flux_err``.  A selector without a
    signal-to-noise section lends those of ``science`` [S-Q8].

    Parameters
    ----------
    source_selector : object
        The section ``source_selector``: `name`, and a section for each selector.
    compatibility : {'fixed', 'lsst'}

    Raises
    ------
    InputError
        With ``lsst``, if the active selector has no signal-to-noise section.
    """
    active = getattr(source_selector, source_selector.name)
    if not hasattr(active, "signalToNoise"):
        if compatibility == "lsst":
            raise InputError(
                f"source_selector.name {source_selector.name!r} has no signalToNoise section, which the "
                "reference needs; take 'science', or compatibility: fixed"
            )
        active = source_selector.science
    return str(active.signalToNoise.fluxField), str(active.signalToNoise.errField)
