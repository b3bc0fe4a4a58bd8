"""Compensated top-hat fluxes: a circle less its local background (measurement specification 12.5).

Not run by default: for catalogues that do not bring the reference flux of the aperture corrections along.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt

from finalchar.config_base import EachPositive
from finalchar.config_base import Field as SettingsField
from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.apertures import measure_apertures
from finalchar.measure.circular_apertures import circle_reach, prepare_circles
from finalchar.measure.context import MeasurementContext, round_position
from finalchar.measure.plugin import Field, MeasurementPlugin, PluginSettings, flag
from finalchar.measure.star_windows import StarWindows, cut_windows, nearest_pixel

NAME = "base_CompensatedTophatFlux"
ORDER = 2.0

FloatArray = npt.NDArray[np.float64]

MAX_SINC_RADIUS = 10.0


class Settings(PluginSettings):
    """Settings of base_CompensatedTophatFlux."""

    apertures: Annotated[list[int], EachPositive()] = SettingsField(
        [12], description="radii of the circles, pixels"
    )
    inner_scale: float = SettingsField(1.0, gt=0, description="inner radius of the background, in radii")
    outer_scale: float = SettingsField(1.7, gt=0, description="outer radius of the background, in radii")


class Plugin(MeasurementPlugin[Settings]):
    """Sum the light in circles and take off the light of the ring around them."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        fields = []
        for radius in self.settings.apertures:
            name = f"{NAME}_{radius}"
            fields += [
                Field(f"{name}_instFlux", "float64", "ct", "Compensated Tophat flux measurement."),
                Field(f"{name}_instFluxErr", "float64", "ct", "Compensated Tophat flux error."),
                Field(f"{name}_mask_bits", "int32", "", "Mask bits set within aperture."),
                flag(f"{name}_flag", "Compensated Tophat measurement failed"),
                flag(f"{name}_flag_bounds", "Compensated Tophat out-of-bounds"),
            ]
        return fields

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Measure all stars; those too close to the edge are flagged."""
        known = np.isfinite(context.x) & np.isfinite(context.y)
        for radius in self.settings.apertures:
            self.column(table, f"{radius}_flag")[~known] = True
            half = int(np.ceil(self.settings.outer_scale * radius))
            rows = np.flatnonzero(known)
            fits = np.array([_fits(context, int(star), half) for star in rows], dtype=np.bool_)
            for suffix in ("flag", "flag_bounds"):
                self.column(table, f"{radius}_{suffix}")[rows[~fits]] = True
            if fits.any():
                self._measure_radius(context, table, rows[fits], radius, half)

    def _measure_radius(
        self,
        context: MeasurementContext,
        table: SourceTable,
        rows: npt.NDArray[np.int64],
        radius: int,
        half: int,
    ) -> None:
        x, y = context.x[rows], context.y[rows]
        column, line = nearest_pixel(x, y)
        scales = (1.0, self.settings.inner_scale, self.settings.outer_scale)
        reach = max(circle_reach(scale * radius, MAX_SINC_RADIUS) for scale in scales)
        windows = cut_windows(context, rows, x=column, y=line, half=int(np.ceil(reach)))
        flux, error = self._compensated(windows, x, y, radius)
        self.column(table, f"{radius}_instFlux")[rows] = flux
        self.column(table, f"{radius}_instFluxErr")[rows] = error
        if context.compatibility != "lsst":  # a flux that is NaN has no flag there
            self.column(table, f"{radius}_flag")[rows] = ~np.isfinite(flux)
        for star in rows:
            mask = context.mask(_square(context, int(star), half))
            self.column(table, f"{radius}_mask_bits")[star] = np.bitwise_or.reduce(mask, axis=None)

    def _compensated(
        self, windows: StarWindows, x: FloatArray, y: FloatArray, radius: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return flux and error of a circle less the background of its ring."""
        inner, outer = self.settings.inner_scale, self.settings.outer_scale
        circle, hole, disc = (
            measure_apertures(
                windows, prepare_circles(scale * radius, x=x, y=y, max_sinc_radius=MAX_SINC_RADIUS)
            )
            for scale in (1.0, inner, outer)
        )
        ratio = 1.0 / (outer**2 - inner**2)
        with np.errstate(invalid="ignore"):
            variance = circle.error**2 + ratio**2 * (disc.error**2 - hole.error**2)
            return circle.flux - ratio * (disc.flux - hole.flux), np.sqrt(variance)


def _square(context: MeasurementContext, star: int, half: int) -> Box:
    column, row = round_position(float(context.x[star])), round_position(float(context.y[star]))
    return Box(column - half, row - half, column + half, row + half)


def _fits(context: MeasurementContext, star: int, half: int) -> bool:
    return context.exposure.box.contains(_square(context, star, half))
