"""Whether the measurement of a star can be believed: checks of our own, beside the reference's columns.

The reference's columns keep the reference's values even where those are implausible (moments that ran off
to a neighbour, a star whose core is masked); this plugin says so in columns of its own.  It always runs last,
and not at all when the reference is reproduced.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field as SettingsField
from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.context import MeasurementContext, clip_box
from finalchar.measure.footprint_geometry import count_shared_pixels, has_many_peaks
from finalchar.measure.plugin import Field, MeasurementPlugin, PluginSettings, flag

NAME = "finalchar_Plausibility"
ORDER = 9.0
MOMENTS = "ext_shapeHSM_HsmSourceMoments"
BAD_PLANES = ("BAD", "SAT", "NO_DATA")


class Settings(PluginSettings):
    """Settings of finalchar_Plausibility."""

    maxCentroidOffset: float = SettingsField(
        0.5, gt=0, description="largest believable distance of moments and catalogue centroid, PSF sizes"
    )
    maxMaskedFraction: float = SettingsField(
        0.1, ge=0, le=1, description="largest part of the PSF's light on bad pixels"
    )


class Plugin(MeasurementPlugin[Settings]):
    """Distance of the moments' centroid, light of the PSF on bad pixels, ownership of pixels.

    Predicted errors of the PSF are filled in where it is accepted; here they only have their columns.
    """

    def fields(self) -> list[Field]:
        """Return the columns."""
        return [
            Field(f"{NAME}_centroidOffset", "float32", "pix", "Distance of HSM and catalogue centroid"),
            Field(
                f"{NAME}_maskedFraction", "float32", "", "Part of the PSF's light on bad or missing pixels"
            ),
            *(
                Field(f"{NAME}_{name}", "float32", "", f"Predicted error of the PSF's {what} at the star")
                for name, what in (
                    ("psfSizeError", "relative size"),
                    ("psfE1Error", "e1"),
                    ("psfE2Error", "e2"),
                )
            ),
            flag(f"{NAME}_flag", "Some check failed: leave the star out of statistics of residuals"),
            flag(f"{NAME}_flag_noMoments", "The moments of the star are not finite or failed"),
            flag(f"{NAME}_flag_displaced", "The moments ran away from the star, probably to a neighbour"),
            flag(f"{NAME}_flag_maskedCore", "Too much of the star's light or its peak is on bad pixels"),
            flag(f"{NAME}_flag_noFootprint", "The star has no footprint: it was not replaced by noise"),
            flag(f"{NAME}_flag_sharedFootprint", "The star's footprint holds pixels or peaks of others, too"),
        ]

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Check all stars."""
        self._check_moments(context, table)
        self._check_core(context, table)
        self._check_ownership(context, table)
        for check in ("noMoments", "displaced", "maskedCore", "noFootprint", "sharedFootprint"):
            self.column(table, "flag")[:] |= self.column(table, f"flag_{check}")

    def _check_moments(self, context: MeasurementContext, table: SourceTable) -> None:
        if f"{MOMENTS}_x" not in table.columns:
            return
        offset = np.hypot(
            table.columns[f"{MOMENTS}_x"] - context.x, table.columns[f"{MOMENTS}_y"] - context.y
        )
        self.column(table, "centroidOffset")[:] = offset
        sizes = np.sqrt(0.5 * (context.psf_shapes.xx + context.psf_shapes.yy))
        with np.errstate(invalid="ignore"):
            displaced = offset > self.settings.maxCentroidOffset * sizes
        self.column(table, "flag_displaced")[:] = displaced
        finite = np.isfinite(table.columns[f"{MOMENTS}_xx"])
        self.column(table, "flag_noMoments")[:] = table.columns[f"{MOMENTS}_flag"] | ~finite

    def _check_core(self, context: MeasurementContext, table: SourceTable) -> None:
        """Flag stars that have lost light, their peak, or the pixel that errors are made from."""
        fraction = self.column(table, "maskedFraction")
        centre_lost = np.zeros(len(table), dtype=bool)
        for star in range(len(table)):
            if context.psf_images.valid[star]:
                fraction[star], centre_lost[star] = _masked_light(context, star)
                centre_lost[star] |= not _has_error(context, star)
        with np.errstate(invalid="ignore"):
            good = (fraction <= self.settings.maxMaskedFraction) & ~centre_lost
        self.column(table, "flag_maskedCore")[:] = ~good

    def _check_ownership(self, context: MeasurementContext, table: SourceTable) -> None:
        index = context.footprint_index
        area = np.append(context.footprint_boxes.area, 0)[index]  # index -1, no footprint, takes the last
        self.column(table, "flag_noFootprint")[:] = area == 0
        shared = count_shared_pixels(context.footprints, index) > 0
        self.column(table, "flag_sharedFootprint")[:] = shared | has_many_peaks(context.footprints, index)


def _masked_light(context: MeasurementContext, star: int) -> tuple[float, bool]:
    """Return the part of the PSF's light on bad pixels or off the image, and whether its peak is there."""
    psf = np.abs(context.psf_images[star])
    x0, y0 = int(context.psf_images.x0[star]), int(context.psf_images.y0[star])
    good = np.zeros(psf.shape, dtype=bool)
    box = clip_box(Box(x0, y0, x0 + psf.shape[1] - 1, y0 + psf.shape[0] - 1), context.exposure.box)
    if box is not None:
        inside = (slice(box.min_y - y0, box.max_y - y0 + 1), slice(box.min_x - x0, box.max_x - x0 + 1))
        good[inside] = _good_pixels(context, star, box)
    total = psf.sum()
    lost = float(psf[~good].sum() / total) if total > 0 else np.nan
    return lost, not good.flat[psf.argmax()]


def _has_error(context: MeasurementContext, star: int) -> bool:
    """Whether the pixel whose variance is the error of Gaussian and GAaP fluxes has one [M-Q5]."""
    box, x, y = context.exposure.box, float(context.x[star]), float(context.y[star])
    if not np.isfinite([x, y]).all():
        return False
    column, row = box.min_x + int(x - box.min_x), box.min_y + int(y - box.min_y)  # truncated, not rounded
    pixel = clip_box(Box(column, row, column, row), box)
    if pixel is None:
        return False
    variance = float(context.variance(pixel)[0, 0])
    return bool(np.isfinite(variance) and variance > 0)


def _good_pixels(context: MeasurementContext, star: int, box: Box) -> npt.NDArray[np.bool_]:
    known = [plane for plane in BAD_PLANES if plane in context.exposure.mask_planes]
    variance = context.variance(box)
    good = (context.mask(box) & context.exposure.mask_bits(known)) == 0
    good &= np.isfinite(context.stamp(star, box)) & np.isfinite(variance)
    with np.errstate(invalid="ignore"):
        return np.asarray(good & (variance > 0))
