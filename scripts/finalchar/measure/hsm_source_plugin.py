"""The adaptive moments of the stars; two plugins differ only in the roundness of the weight (6.2, 6.3)."""

from __future__ import annotations

from typing import Literal, TypeVar

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import NameSet
from finalchar.formats.sources import SourceTable
from finalchar.measure import hsm
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import CentroidFlagPlugin, Field, PluginSettings

__all__ = ["SourceMomentsPlugin", "SourceMomentsSettings"]


class SourceMomentsSettings(PluginSettings):
    """Settings of the moments of sources."""

    roundMoments: bool = SettingsField(False, description="use a circular weight")
    addFlux: Literal[False] = SettingsField(
        False, description="only false is supported: there is no column of the flux"
    )
    subtractCenter: Literal[False] = SettingsField(
        False, description="only false is supported: the centroid is in parent pixels"
    )
    badMaskPlanes: NameSet = SettingsField(
        list(hsm.BAD_PLANES), description="planes whose pixels get weight zero"
    )


S = TypeVar("S", bound=SourceMomentsSettings)


class SourceMomentsPlugin(CentroidFlagPlugin[S]):
    """Adaptive moments on the footprint's box, started at the centroid with 2.5 PSF sizes."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return hsm.moment_fields(self.name, "source")

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure one star."""
        x, y = context.centroid(star)
        stamp = hsm.source_stamp(context, star, self.settings.badMaskPlanes)
        moments = hsm.measure_moments(
            hsm.galsim_image(stamp.image, x0=stamp.box.min_x, y0=stamp.box.min_y),
            ~stamp.bad,
            x=x,
            y=y,
            sigma=hsm.SOURCE_GUESS_FACTOR * context.psf_trace_radius(star),
            round_moments=self.settings.roundMoments,
        )
        hsm.store_moments(table, self.name, star, moments)
