"""Standardised moments of order 3 and 4 of the stars (measurement specification 6.6)."""

from __future__ import annotations

import numpy as np

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import NameSet
from finalchar.formats.sources import SourceTable
from finalchar.measure import hsm
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import Field, PerStarPlugin, PluginSettings, StarError

NAME = "ext_shapeHSM_HigherOrderMomentsSource"
ORDER = 2.0
MOMENTS = "ext_shapeHSM_HsmSourceMoments"


class Settings(PluginSettings):
    """Settings of ext_shapeHSM_HigherOrderMomentsSource."""

    min_order: int = SettingsField(hsm.HIGHER_ORDERS[0], ge=3, description="lowest order of the moments")
    max_order: int = SettingsField(hsm.HIGHER_ORDERS[1], ge=3, description="highest order of the moments")
    badMaskPlanes: NameSet = SettingsField(list(hsm.BAD_PLANES), description="planes whose pixels are bad")
    setMaskedPixelsToZero: bool = SettingsField(
        False, description="set bad pixels to zero instead of replacing them [M-Q7]"
    )


class Plugin(PerStarPlugin[Settings]):
    """Moments under the weight of the star's own adaptive moments."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return hsm.higher_order_fields(NAME, "source", self._orders())

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure one star."""
        if table[f"{MOMENTS}_flag"][star]:
            raise StarError("the moments of the star failed")
        stamp = hsm.source_stamp(context, star, self.settings.badMaskPlanes)
        box = stamp.box
        x, y = (float(table[f"{MOMENTS}_{axis}"][star]) for axis in ("x", "y"))
        xx, yy, xy = (float(table[f"{MOMENTS}_{axes}"][star]) for axes in ("xx", "yy", "xy"))
        values = hsm.higher_order_moments(
            stamp.image,
            x=np.arange(box.min_x, box.max_x + 1, dtype=np.float64) - x,
            y=np.arange(box.min_y, box.max_y + 1, dtype=np.float64) - y,
            moments=(xx, yy, xy),
            orders=self._orders(),
            bad=stamp.bad,
            bad_to_zero=self.settings.setMaskedPixelsToZero,
        )
        for (p, q), value in zip(self._orders(), values, strict=True):
            self.column(table, f"{p}{q}")[star] = value

    def _orders(self) -> list[tuple[int, int]]:
        return hsm.moment_orders(self.settings.min_order, self.settings.max_order)
