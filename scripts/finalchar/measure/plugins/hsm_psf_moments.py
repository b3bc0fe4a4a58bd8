"""Adaptive moments of the PSF at the stars (measurement specification 6.4)."""

from __future__ import annotations

from typing import Literal

from finalchar.config_base import Field as SettingsField
from finalchar.formats.sources import SourceTable
from finalchar.measure import hsm
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import CentroidFlagPlugin, Field, PluginSettings

NAME = "ext_shapeHSM_HsmPsfMoments"
ORDER = 1.0


class Settings(PluginSettings):
    """Settings of ext_shapeHSM_HsmPsfMoments."""

    roundMoments: bool = SettingsField(False, description="use a circular weight")
    addFlux: Literal[False] = SettingsField(
        False, description="only false is supported: there is no column of the flux"
    )
    subtractCenter: Literal[True] = SettingsField(
        True, description="only true is supported: the centroid is relative to the central pixel"
    )
    useSourceCentroidOffset: Literal[False] = SettingsField(
        False, description="only false is supported: the kernel image, centred on its pixel"
    )


class Plugin(CentroidFlagPlugin[Settings]):
    """Adaptive moments of the centred kernel image, its centroid relative to the central pixel."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return hsm.moment_fields(NAME, "PSF")

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure the PSF at one star."""
        context.centroid(star)
        kernel = context.psf_kernels[star]
        x0, y0 = int(context.psf_images.x0[star]), int(context.psf_images.y0[star])
        centre_x, centre_y = float(x0 + kernel.shape[1] // 2), float(y0 + kernel.shape[0] // 2)
        moments = hsm.measure_moments(
            hsm.galsim_image(kernel, x0=x0, y0=y0),
            None,
            x=centre_x,
            y=centre_y,
            sigma=context.psf_trace_radius(star),
            round_moments=self.settings.roundMoments,
        )
        hsm.store_moments(table, NAME, star, moments, origin_x=centre_x, origin_y=centre_y)
