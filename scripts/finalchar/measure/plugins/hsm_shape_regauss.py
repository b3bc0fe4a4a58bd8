"""PSF-corrected ellipticity by re-Gaussianisation (measurement specification 6.5)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import NameSet
from finalchar.formats.sources import SourceTable
from finalchar.measure import hsm
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import CentroidFlagPlugin, Field, PluginSettings, StarError

NAME = "ext_shapeHSM_HsmShapeRegauss"
ORDER = 1.0

SIGMA_FACTOR = 2.0
"""The stored uncertainty in units of GalSim's error of the corrected shape."""


class Settings(PluginSettings):
    """Settings of ext_shapeHSM_HsmShapeRegauss."""

    deblendNChild: Literal[""] = SettingsField(
        "", description="only the empty name is supported: sources with children are measured too"
    )
    badMaskPlanes: NameSet = SettingsField(
        list(hsm.BAD_PLANES), description="planes whose pixels get weight zero"
    )


class Plugin(CentroidFlagPlugin[Settings]):
    """Correct the ellipticity of each star for the PSF at its place; most stars fail, as they must."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        method = "PSF-corrected shear using Hirata & Seljak (2003) 'regaussianization' method"
        return [
            *hsm.flag_fields(NAME, last="flag_galsim"),
            Field(f"{NAME}_e1", "float64", "", f"{method} (+ component of ellipticity)"),
            Field(f"{NAME}_e2", "float64", "", f"{method} (x component of ellipticity)"),
            Field(f"{NAME}_sigma", "float64", "", f"{method} (shape measurement uncertainty per component)"),
            Field(f"{NAME}_resolution", "float64", "", "Resolution factor (0=unresolved, 1=resolved)"),
        ]

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Measure one star."""
        import galsim

        x, y = context.centroid(star)
        stamp = hsm.source_stamp(context, star, self.settings.badMaskPlanes)
        psf_size = context.psf_trace_radius(star)
        x0, y0 = stamp.box.min_x, stamp.box.min_y
        shape = galsim.hsm.EstimateShear(
            hsm.galsim_image(stamp.image, x0=x0, y0=y0),
            hsm.galsim_image(context.psf_images[star], x0=0, y0=0),
            weight=hsm.galsim_image((~stamp.bad).astype(np.int32), x0=x0, y0=y0),
            sky_var=_sky_variance(context, stamp),
            shear_est="REGAUSS",
            recompute_flux="FIT",
            guess_sig_gal=hsm.SOURCE_GUESS_FACTOR * psf_size,
            guess_sig_PSF=psf_size,
            precision=hsm.PRECISION,
            guess_centroid=galsim.PositionD(x, y),
            strict=True,
            check=False,
        )
        self.column(table, "e1")[star] = shape.corrected_e1
        self.column(table, "e2")[star] = shape.corrected_e2
        self.column(table, "sigma")[star] = SIGMA_FACTOR * shape.corrected_shape_err
        self.column(table, "resolution")[star] = shape.resolution_factor
        self.column(table, "flag")[star] |= shape.correction_status != 0


def _sky_variance(context: MeasurementContext, stamp: hsm.SourceStamp) -> float:
    """Return the median variance of the good pixels."""
    values = context.variance(stamp.box)[~stamp.bad].astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        raise StarError("no pixel of the footprint's box has a finite variance")
    return float(np.median(values))
