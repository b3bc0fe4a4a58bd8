"""Columns of fluxes in circular apertures, for all plugins that have them (specification 12.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import SourceTable
from finalchar.measure.apertures import ApertureFluxes, Apertures, aperture_reach, prepare_apertures
from finalchar.measure.plugin import Field, flag
from finalchar.measure.quadrupoles import Quadrupoles

__all__ = ["circle_fields", "circle_reach", "prepare_circles", "radius_name", "store_circles"]

FloatArray = npt.NDArray[np.float64]


def radius_name(radius: float) -> str:
    """Return a radius as it stands in column names: 4.5 is ``4_5``."""
    return f"{radius:.1f}".replace(".", "_")


def circle_fields(prefix: str, radius: float, max_sinc_radius: float) -> list[Field]:
    """Return the columns ``<prefix>_<radius>_...``; plain sums have no coefficients to be truncated."""
    name = f"{prefix}_{radius_name(radius)}"
    fields = [
        Field(f"{name}_instFlux", "float64", "ct", f"instFlux within {radius:f}-pixel aperture"),
        Field(f"{name}_instFluxErr", "float64", "ct", "1-sigma instFlux uncertainty"),
        flag(f"{name}_flag", "General Failure Flag"),
        flag(f"{name}_flag_apertureTruncated", "aperture did not fit within measurement image"),
    ]
    if radius <= max_sinc_radius:
        sentence = "full sinc coefficient image did not fit within measurement image"
        fields.append(flag(f"{name}_flag_sincCoeffsTruncated", sentence))
    return fields


def circle_reach(radius: float, max_sinc_radius: float) -> float:
    """Return the half width of the windows that an aperture needs, pixels."""
    circle = Quadrupoles.circles(np.array([float(radius) ** 2]))
    return float(aperture_reach(circle, max_sinc_radius)[0])


def prepare_circles(radius: float, *, x: FloatArray, y: FloatArray, max_sinc_radius: float) -> Apertures:
    """Return circles about the given centres."""
    shape = Quadrupoles.circles(np.full(len(x), float(radius) ** 2))
    return prepare_apertures(shape, x=x, y=y, max_sinc_radius=max_sinc_radius)


def store_circles(
    table: SourceTable, prefix: str, radius: float, rows: npt.NDArray[Any], fluxes: ApertureFluxes
) -> None:
    """Write the columns of `circle_fields` in some rows; flags set before stay."""
    name = f"{prefix}_{radius_name(radius)}"
    table.columns[f"{name}_instFlux"][rows] = fluxes.flux
    table.columns[f"{name}_instFluxErr"][rows] = fluxes.error
    table.columns[f"{name}_flag"][rows] |= fluxes.aperture_truncated
    table.columns[f"{name}_flag_apertureTruncated"][rows] = fluxes.aperture_truncated
    if f"{name}_flag_sincCoeffsTruncated" in table.columns:
        table.columns[f"{name}_flag_sincCoeffsTruncated"][rows] = fluxes.sinc_truncated
