"""Aperture and Kron fluxes after convolution to a common, worse seeing (measurement specification 10)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from finalchar.config_base import EachPositive, Section, subsection
from finalchar.config_base import Field as SettingsField
from finalchar.errors import ConfigError
from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.apertures import Apertures, aperture_reach, measure_apertures, prepare_apertures
from finalchar.measure.circular_apertures import (
    circle_fields,
    circle_reach,
    prepare_circles,
    radius_name,
    store_circles,
)
from finalchar.measure.context import MeasurementContext, clip_box
from finalchar.measure.gaussian_smoothing import smooth_windows
from finalchar.measure.plugin import BatchPlugin, Field, PluginSettings, flag
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.star_windows import (
    StarWindows,
    cut_windows,
    equal_batches,
    nearest_pixel,
    required_half_width,
)

NAME = "ext_convolved_ConvolvedFlux"
ORDER = 2.1

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

FWHM_PER_SIGMA = 2.3548200450309493


class ApertureSettings(Section):
    """Settings of the circular apertures."""

    radii: Annotated[list[float], EachPositive()] = SettingsField(
        [3.3, 4.5, 6.0], description="radii of the apertures, pixels"
    )
    maxSincRadius: float = SettingsField(
        10.0, ge=0, description="larger apertures (pixels) are plain sums of pixels"
    )
    shiftKernel: Literal["lanczos5"] = SettingsField(
        "lanczos5", description="kernel that shifts the apertures; only this one"
    )


class Settings(PluginSettings):
    """Settings of ext_convolved_ConvolvedFlux."""

    seeing: Annotated[list[float], EachPositive()] = SettingsField(
        [3.5, 5.0, 6.5, 8.0], description="target seeing, FWHM in pixels; smaller ones are not convolved to"
    )
    kernelScale: float = SettingsField(4.0, gt=0, description="half width of the kernel in its sigma")
    aperture: ApertureSettings = subsection(ApertureSettings, "the circular apertures")
    kronRadiusName: str = SettingsField(
        "ext_photometryKron_KronFlux_radius", description="column with the Kron radius, pixels"
    )
    maxSincRadius: float = SettingsField(
        10.0,
        ge=0,
        description="Kron apertures with a larger minor semi-axis (pixels) are plain sums of pixels",
    )
    kronRadiusForFlux: float = SettingsField(
        2.5, gt=0, description="size of the Kron aperture, in Kron radii"
    )
    registerForApCorr: bool = SettingsField(True, description="ask for aperture corrections")


@dataclass(frozen=True)
class _Stars:
    """What is the same for all seeings; arrays of shape (n,) over the stars that have centroid and PSF."""

    rows: IntArray
    x: FloatArray
    y: FloatArray
    seeing: FloatArray
    circles: list[Apertures]
    kron: Apertures
    """Scaled for the flux; NaN where there is no Kron radius."""
    has_kron: BoolArray
    max_radius: IntArray


class Plugin(BatchPlugin[Settings]):
    """Measure fluxes on images whose seeing is made equal; masked pixels take part [M-Q30]."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        fields = [
            Field(f"{NAME}_seeing", "float32", "pix", "original seeing (Gaussian sigma) at position"),
        ]
        for number, seeing in enumerate(self.settings.seeing):
            fields += self._fields_of(f"{NAME}_{number}", seeing)
        return [*fields, flag(f"{NAME}_flag", "error in running ConvolvedFluxPlugin")]

    def _fields_of(self, name: str, seeing: float) -> list[Field]:
        error = "1-sigma instFlux uncertainty"
        fields = [
            flag(f"{name}_deconv", f"deconvolution required for seeing {seeing:f}; no measurement made")
        ]
        for radius in self.settings.aperture.radii:
            fields += circle_fields(name, radius, self.settings.aperture.maxSincRadius)
        return [
            *fields,
            Field(f"{name}_kron_instFlux", "float64", "ct", f"convolved Kron flux: seeing {seeing:f}"),
            Field(f"{name}_kron_instFluxErr", "float64", "ct", error),
            flag(f"{name}_kron_flag", f"convolved Kron flux failed: seeing {seeing:f}"),
        ]

    def fluxes(self) -> list[str]:
        """Return the fluxes to be aperture corrected."""
        if not self.settings.registerForApCorr:
            return []
        radii = [radius_name(radius) for radius in self.settings.aperture.radii]
        return [
            f"{NAME}_{number}_{name}"
            for number in range(len(self.settings.seeing))
            for name in (*radii, "kron")
        ]

    def aliases(self, *, centroid: str, shape: str) -> dict[str, str]:
        """Return the aliases of the centroid's flag, one per seeing and the general one."""
        names = [NAME, *(f"{NAME}_{number}" for number in range(len(self.settings.seeing)))]
        return {f"{name}_flag_badCentroid": f"{centroid}_flag" for name in names}

    def measure_batch(self, context: MeasurementContext, table: SourceTable, stars: IntArray) -> None:
        """Measure stars at one seeing after the other."""
        self.flag_bad_centroids(context, table)
        gathered = self._gather(context, table, stars)
        for number, seeing in enumerate(self.settings.seeing):
            self._measure_seeing(context, table, gathered, number, seeing / FWHM_PER_SIGMA)

    def _gather(self, context: MeasurementContext, table: SourceTable, stars: IntArray) -> _Stars:
        psf = Quadrupoles(context.psf_shapes.xx, context.psf_shapes.yy, context.psf_shapes.xy)
        valid_psf = context.psf_kernels.valid[stars]
        table["base_InvalidPsf_flag"][stars[~valid_psf]] = True
        known = valid_psf & np.isfinite(context.x[stars]) & np.isfinite(context.y[stars])
        self.column(table, "flag")[stars[~known]] = True
        rows = stars[known]
        seeing = psf.determinant_radius[rows]
        self.column(table, "seeing")[rows] = seeing
        x, y = context.x[rows], context.y[rows]
        kron, has_kron, radius = self._kron_apertures(context, table, rows)
        limit = self.settings.aperture.maxSincRadius
        largest = max(self.settings.aperture.radii, default=0.0)
        reach = np.maximum(largest, np.where(np.isfinite(radius), radius, 0.0))
        return _Stars(
            rows=rows,
            x=x,
            y=y,
            seeing=seeing,
            circles=[
                prepare_circles(radius, x=x, y=y, max_sinc_radius=limit)
                for radius in self.settings.aperture.radii
            ],
            kron=prepare_apertures(kron, x=x, y=y, max_sinc_radius=self.settings.maxSincRadius),
            has_kron=has_kron,
            max_radius=(reach + 0.5).astype(np.int64),
        )

    def _kron_apertures(
        self, context: MeasurementContext, table: SourceTable, rows: IntArray
    ) -> tuple[Quadrupoles, BoolArray, FloatArray]:
        """Return the shape slot scaled to the aperture's size, whether there is one, and its radius."""
        if self.settings.kronRadiusName not in table.columns:
            raise ConfigError(
                f"measurement.plugins.{NAME}.kronRadiusName is {self.settings.kronRadiusName!r}, a column"
                " that no measurement writes; add ext_photometryKron_KronFlux to measurement.plugins.names"
            )
        radius = table[self.settings.kronRadiusName][rows].astype(np.float64)
        has_kron = np.isfinite(radius)
        slot = context.slots.shape
        shape = Quadrupoles(*(table[f"{slot}_{axes}"][rows].astype(float) for axes in ("xx", "yy", "xy")))
        size = radius * self.settings.kronRadiusForFlux
        with np.errstate(invalid="ignore", divide="ignore"):
            return shape.scaled(size / shape.determinant_radius), has_kron, size

    def _measure_seeing(
        self, context: MeasurementContext, table: SourceTable, stars: _Stars, number: int, target: float
    ) -> None:
        """Measure one target seeing: without convolution where the star's own is worse."""
        with np.errstate(invalid="ignore"):
            sigma = np.sqrt(np.where(target >= stars.seeing, target**2 - stars.seeing**2, np.nan))
        halves = np.where(np.isfinite(sigma), self.settings.kernelScale * sigma + 0.5, 0.0).astype(np.int64)
        boxes = [self._sub_image(context, stars, place, int(half)) for place, half in enumerate(halves)]
        convolved = np.array([box is not None for box in boxes], dtype=bool) & np.isfinite(sigma)
        self.column(table, f"{number}_deconv")[stars.rows[~convolved]] = True
        for rows, half in self._batches(stars, convolved, halves):
            windows = self._windows(context, stars, rows, half)
            if convolved[rows[0]]:
                windows = smooth_windows(
                    windows,
                    sub_images=[box for place in rows if (box := boxes[place]) is not None],
                    sigma=sigma[rows],
                    halves=halves[rows],
                )
            self._measure_circles(table, stars, rows, windows, number)
            self._measure_kron(table, stars, rows, windows, number)

    def _sub_image(self, context: MeasurementContext, stars: _Stars, place: int, half: int) -> Box | None:
        """Return what is convolved: the grown footprint; None if that is narrower than the kernel."""
        footprint = context.footprint_box(int(stars.rows[place]))
        if footprint is None:
            return None
        grow = half + int(stars.max_radius[place])
        grown = Box(
            footprint.min_x - grow, footprint.min_y - grow, footprint.max_x + grow, footprint.max_y + grow
        )
        box = clip_box(grown, context.exposure.box)
        return box if box is not None and min(box.width, box.height) >= 2 * half + 1 else None

    def _batches(
        self, stars: _Stars, convolved: BoolArray, halves: IntArray
    ) -> Iterator[tuple[IntArray, int]]:
        """Yield places of stars with equal windows, and the half width of those."""
        reach = aperture_reach(stars.kron.shape, self.settings.maxSincRadius)
        for radius in self.settings.aperture.radii:
            reach = np.maximum(reach, circle_reach(radius, self.settings.aperture.maxSincRadius))
        sizes = required_half_width(reach)
        for is_convolved in (True, False):
            for rows in equal_batches(sizes, chosen=convolved == is_convolved):
                yield rows, int(sizes[rows[0]] + (halves[rows].max() if is_convolved else 0))

    def _windows(self, context: MeasurementContext, stars: _Stars, rows: IntArray, half: int) -> StarWindows:
        column, line = nearest_pixel(stars.x[rows], stars.y[rows])
        return cut_windows(context, stars.rows[rows], x=column, y=line, half=half)

    def _measure_circles(
        self, table: SourceTable, stars: _Stars, rows: IntArray, windows: StarWindows, number: int
    ) -> None:
        for radius, circles in zip(self.settings.aperture.radii, stars.circles, strict=True):
            fluxes = measure_apertures(windows, circles, rows)
            store_circles(table, f"{NAME}_{number}", radius, stars.rows[rows], fluxes)

    def _measure_kron(
        self, table: SourceTable, stars: _Stars, rows: IntArray, windows: StarWindows, number: int
    ) -> None:
        """Measure Kron fluxes; without a Kron radius there is neither a flux nor a flag [M-Q16]."""
        fluxes = measure_apertures(windows, stars.kron, rows, region_only=True)
        target = stars.rows[rows]
        failed = ~(np.isfinite(fluxes.flux) & np.isfinite(fluxes.error))
        self.column(table, f"{number}_kron_instFlux")[target] = fluxes.flux
        self.column(table, f"{number}_kron_instFluxErr")[target] = fluxes.error
        self.column(table, f"{number}_kron_flag")[target] = failed & stars.has_kron[rows]
