"""Flux of the best-fitting PSF image (measurement specification 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import NameSet
from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.context import MeasurementContext, clip_box
from finalchar.measure.plugin import CentroidFlagPlugin, Field, PluginSettings, StarError, flag

NAME = "base_PsfFlux"
ORDER = 2.0

Array = npt.NDArray[np.float64]


class Settings(PluginSettings):
    """Settings of base_PsfFlux."""

    badMaskPlanes: NameSet = SettingsField([], description="planes whose pixels are left out of the fit")


@dataclass(frozen=True)
class PsfFluxResult:
    """Flux (counts) of one star and the figures of its fit."""

    flux: float
    error: float
    area: float
    chi2: float

    @classmethod
    def fit(cls, *, psf: Array, image: Array, variance: Array) -> PsfFluxResult:
        """Fit the amplitude of the PSF to pixels, unweighted, without background."""
        alpha = float((psf * psf).sum())
        flux = float((psf * image).sum()) / alpha
        with np.errstate(all="ignore"):
            error = float(np.sqrt((psf * psf * variance).sum())) / alpha
            chi2 = float(np.sum((image - flux * psf) ** 2 / variance))
        return cls(flux, error, float(psf.sum()) ** 2 / alpha, chi2)


class Plugin(CentroidFlagPlugin[Settings]):
    """Fit the PSF's amplitude at the centroid; masked pixels take part unless configured [M-Q30]."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return [
            Field(
                f"{NAME}_instFlux",
                "float64",
                "ct",
                "instFlux derived from linear least-squares fit of PSF model",
            ),
            Field(f"{NAME}_instFluxErr", "float64", "ct", "1-sigma instFlux uncertainty"),
            Field(f"{NAME}_area", "float32", "pix", "effective area of PSF"),
            Field(f"{NAME}_chi2", "float32", "", "chi2 of the fitted PSF"),
            Field(f"{NAME}_npixels", "int32", "pix", "number of pixels that were included in the PSF fit"),
            flag(f"{NAME}_flag", "General Failure Flag"),
            flag(f"{NAME}_flag_noGoodPixels", "not enough non-rejected pixels in data to attempt the fit"),
            flag(
                f"{NAME}_flag_edge",
                "object was too close to the edge of the image to use the full PSF model",
            ),
        ]

    def fluxes(self) -> list[str]:
        """Return the flux to be aperture corrected."""
        return [NAME]

    def measure_star(self, context: MeasurementContext, table: SourceTable, star: int) -> None:
        """Fit one star."""
        context.centroid(star)
        psf = context.psf_images[star]
        x0, y0 = int(context.psf_images.x0[star]), int(context.psf_images.y0[star])
        full = Box(x0, y0, x0 + psf.shape[1] - 1, y0 + psf.shape[0] - 1)
        box = clip_box(full, context.exposure.box)
        if box != full:
            self.column(table, "flag")[star] = True
            self.column(table, "flag_edge")[star] = True
        if box is None:
            raise StarError("no pixel of the PSF lies on the image", "flag_noGoodPixels")
        good = self._good_pixels(context, box)
        if not good.any():
            raise StarError("no pixel is left for the fit", "flag_noGoodPixels")
        psf = psf[box.min_y - y0 : box.max_y - y0 + 1, box.min_x - x0 : box.max_x - x0 + 1]
        result = PsfFluxResult.fit(
            psf=psf[good],
            image=context.stamp(star, box)[good].astype(np.float64),
            variance=context.variance(box)[good].astype(np.float64),
        )
        self._store(table, star, result, int(good.sum()))

    def _good_pixels(self, context: MeasurementContext, box: Box) -> npt.NDArray[np.bool_]:
        bits = context.exposure.mask_bits(self.settings.badMaskPlanes)
        return np.asarray((context.mask(box) & bits) == 0)

    def _store(self, table: SourceTable, star: int, result: PsfFluxResult, pixels: int) -> None:
        self.column(table, "area")[star] = result.area
        self.column(table, "npixels")[star] = pixels
        if not (np.isfinite(result.flux) and np.isfinite(result.error)):
            raise StarError("flux or error is not finite")
        self.column(table, "instFlux")[star] = result.flux
        self.column(table, "instFluxErr")[star] = result.error
        self.column(table, "chi2")[star] = result.chi2
