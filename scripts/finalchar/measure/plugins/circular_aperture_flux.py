"""Fluxes in circular apertures (measurement specification 12); not run by default.

For catalogues that do not bring the aperture fluxes along which the slots need.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np

from finalchar.config_base import EachPositive
from finalchar.config_base import Field as SettingsField
from finalchar.formats.sources import SourceTable
from finalchar.measure.apertures import measure_apertures
from finalchar.measure.circular_apertures import (
    circle_fields,
    circle_reach,
    prepare_circles,
    radius_name,
    store_circles,
)
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import Field, MeasurementPlugin, PluginSettings
from finalchar.measure.star_windows import cut_windows, nearest_pixel

NAME = "base_CircularApertureFlux"
ORDER = 2.0


class Settings(PluginSettings):
    """Settings of base_CircularApertureFlux."""

    radii: Annotated[list[float], EachPositive()] = SettingsField(
        [3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0], description="radii, pixels"
    )
    maxSincRadius: float = SettingsField(
        10.0, ge=0, description="larger apertures (pixels) are plain sums of pixels; production uses 12"
    )
    shiftKernel: Literal["lanczos5"] = SettingsField(
        "lanczos5", description="kernel that shifts the apertures; only this one"
    )


class Plugin(MeasurementPlugin[Settings]):
    """Sum the light in circles; masked pixels take part [M-Q30]."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        maximum = self.settings.maxSincRadius
        return [field for radius in self.settings.radii for field in circle_fields(NAME, radius, maximum)]

    def aliases(self, *, centroid: str, shape: str) -> dict[str, str]:
        """Return the alias of the centroid's flag."""
        return {f"{NAME}_flag_badCentroid": f"{centroid}_flag"}

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Measure all stars."""
        known = np.isfinite(context.x) & np.isfinite(context.y)
        for radius in self.settings.radii:
            self.column(table, f"{radius_name(radius)}_flag")[~known | context.centroid_flag] = True
        rows = np.flatnonzero(known)
        if not len(rows) or not self.settings.radii:
            return
        x, y = context.x[rows], context.y[rows]
        maximum = self.settings.maxSincRadius
        half = int(np.ceil(max(circle_reach(radius, maximum) for radius in self.settings.radii)))
        column, line = nearest_pixel(x, y)
        windows = cut_windows(context, rows, x=column, y=line, half=half)
        for radius in self.settings.radii:
            circles = prepare_circles(radius, x=x, y=y, max_sinc_radius=maximum)
            store_circles(table, NAME, radius, rows, measure_apertures(windows, circles))
