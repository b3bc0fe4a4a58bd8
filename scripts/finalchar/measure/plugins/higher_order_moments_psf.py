"""Standardised moments of order 3 and 4 of the PSF (measurement specification 6.6)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from finalchar.config_base import Field as SettingsField
from finalchar.formats.sources import SourceTable
from finalchar.measure import hsm
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import CentroidFlagPlugin, Field, PluginSettings, StarError

NAME = "ext_shapeHSM_HigherOrderMomentsPSF"
ORDER = 2.0
MOMENTS = "ext_shapeHSM_HsmPsfMoments"


class Settings(PluginSettings):
    """Settings of ext_shapeHSM_HigherOrderMomentsPSF."""

    min_order: int = SettingsField(hsm.HIGHER_ORDERS[0], ge=3, description="lowest order of the moments")
    useSourceCentroidOffset: Literal[False] = SettingsField(
        False, description="only false is supported: the kernel image, centred on its pixel"
    )
    max_order: int = SettingsField(hsm.HIGHER_ORDERS[1], ge=3, description="highest order of the moments")


class Plugin(CentroidFlagPlugin[Settings]):
    """Moments of the kernel image about its central pixel, under the weight of its adaptive moments."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return hsm.higher_order_fields(NAME, "PSF", self._orders())

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure the PSF at one star."""
        context.centroid(star)
        if table[f"{MOMENTS}_flag"][star]:
            raise StarError("the moments of the PSF failed")
        kernel = context.psf_kernels[star]
        xx, yy, xy = (float(table[f"{MOMENTS}_{axes}"][star]) for axes in ("xx", "yy", "xy"))
        values = hsm.higher_order_moments(
            kernel,
            x=np.arange(kernel.shape[1], dtype=np.float64) - kernel.shape[1] // 2,
            y=np.arange(kernel.shape[0], dtype=np.float64) - kernel.shape[0] // 2,
            moments=(xx, yy, xy),
            orders=self._orders(),
        )
        for (p, q), value in zip(self._orders(), values, strict=True):
            self.column(table, f"{p}{q}")[star] = value

    def _orders(self) -> list[tuple[int, int]]:
        return hsm.moment_orders(self.settings.min_order, self.settings.max_order)
