"""Position on the focal plane (measurement specification 3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import SourceTable
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import BatchPlugin, Field, PluginSettings, flag

NAME = "base_FPPosition"
ORDER = 1.0


class Settings(PluginSettings):
    """Settings of base_FPPosition."""


class Plugin(BatchPlugin[Settings]):
    """Transform the centroids of the catalogue to focal-plane millimetres."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return [
            Field(f"{NAME}_x", "float64", "mm", "Position on the focal plane"),
            Field(f"{NAME}_y", "float64", "mm", "Position on the focal plane"),
            flag(f"{NAME}_flag", "Set to True for any fatal failure"),
            flag(f"{NAME}_missingDetector_flag", "Set to True if detector object is missing"),
        ]

    def measure_batch(
        self, context: MeasurementContext, table: SourceTable, stars: npt.NDArray[np.int64]
    ) -> None:
        """Transform stars; without a detector only the flag is set."""
        if context.exposure.focal_plane is None:
            self.column(table, "missingDetector_flag")[stars] = True
            return
        x = np.asarray(table["slot_Centroid_x"], dtype=np.float64)[stars]
        y = np.asarray(table["slot_Centroid_y"], dtype=np.float64)[stars]
        fp_x, fp_y = context.exposure.focal_plane.apply(x=x, y=y)
        self.column(table, "x")[stars] = fp_x
        self.column(table, "y")[stars] = fp_y
