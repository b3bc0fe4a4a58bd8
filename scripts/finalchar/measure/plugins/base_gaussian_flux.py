"""Flux under the Gaussian of the star's own shape (measurement specification 5)."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import only
from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.context import MeasurementContext, clip_box
from finalchar.measure.fixed_moments import Quadrupole, fixed_moment_flux, weight_region
from finalchar.measure.plugin import Field, PerStarPlugin, PluginSettings, StarError, flag

NAME = "base_GaussianFlux"
ORDER = 2.0


class Settings(PluginSettings):
    """Settings of base_GaussianFlux."""

    background: Annotated[float, only(0.0)] = SettingsField(
        0.0, description="must be 0: the reference has it and does not use it"
    )


class Plugin(PerStarPlugin[Settings]):
    """Weight the image with the Gaussian of the shape slot at the centroid."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return [
            Field(f"{NAME}_instFlux", "float64", "ct", "instFlux from Gaussian Flux algorithm"),
            Field(f"{NAME}_instFluxErr", "float64", "ct", "1-sigma instFlux uncertainty"),
            flag(f"{NAME}_flag", "General Failure Flag"),
        ]

    def fluxes(self) -> list[str]:
        """Return the flux to be aperture corrected."""
        return [NAME]

    def aliases(self, *, centroid: str, shape: str) -> dict[str, str]:
        """Return the aliases of the flags of the centroid and of the shape."""
        return {
            f"{NAME}_flag_badCentroid": f"{centroid}_flag",
            f"{NAME}_flag_badShape": f"{shape}_flag",
        }

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure one star; success clears a flag raised by a bad centroid or shape [M-Q4]."""
        x, y = context.centroid(star)
        shape = _safe_shape(context.slots.shape, table, star)
        origin = context.exposure.box
        flux = self._flux(context, star, shape)
        error = _error(context, shape, x=x - origin.min_x, y=y - origin.min_y)
        self.column(table, "instFlux")[star] = flux
        self.column(table, "instFluxErr")[star] = error
        self.column(table, "flag")[star] = False

    def _flux(self, context: MeasurementContext, star: int, shape: Quadrupole) -> float:
        x, y = context.centroid(star)
        origin = context.exposure.box
        box = clip_box(weight_region(shape=shape, x=x, y=y), origin)
        if box is None:
            raise StarError("the star is not on the image")
        relative = Box(
            box.min_x - origin.min_x,
            box.min_y - origin.min_y,
            box.max_x - origin.min_x,
            box.max_y - origin.min_y,
        )
        pixels = context.stamp(star, box)
        return fixed_moment_flux(pixels, box=relative, shape=shape, x=x - origin.min_x, y=y - origin.min_y)


def _safe_shape(slot: str, table: SourceTable, star: int) -> Quadrupole:
    """Return the moments of the shape slot if they are a shape (1.2)."""
    xx, yy, xy = (float(table[f"{slot}_{axes}"][star]) for axes in ("xx", "yy", "xy"))
    if np.isnan(xx) or np.isnan(yy) or np.isnan(xy) or xx * yy < (1.0 + 1e-6) * xy * xy:
        raise StarError("the star has no shape")
    return Quadrupole(xx, yy, xy)


def _error(context: MeasurementContext, shape: Quadrupole, *, x: float, y: float) -> float:
    """Return the error from the variance of one pixel, found by truncation [M-Q5]."""
    column, row = int(x), int(y)
    variance = context.exposure.variance
    if not (0 <= row < variance.shape[0] and 0 <= column < variance.shape[1]):
        raise StarError("the centroid is not on the image")
    pixel = float(variance[row, column])
    with np.errstate(invalid="ignore"):  # of a negative variance the error is NaN
        return float(2.0 * np.sqrt(pixel * np.pi * np.sqrt(shape.determinant)))
