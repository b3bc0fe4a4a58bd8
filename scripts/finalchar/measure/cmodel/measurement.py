"""The galaxy-model fit of all stars of a detector, stage after stage (measurement specification 8)."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import ConfigError
from finalchar.formats.exposure import ARCSEC_PER_RADIAN, SkyProjection
from finalchar.formats.sources import SourceTable
from finalchar.measure.cmodel.model import FitFrame
from finalchar.measure.cmodel.prior import EmpiricalPrior
from finalchar.measure.cmodel.region import (
    FitPixels,
    FitRegion,
    collect_pixels,
    initial_region,
    revised_region,
)
from finalchar.measure.cmodel.stages import (
    Combination,
    FluxMeasure,
    Galaxies,
    StageResult,
    combine,
    fit_stage,
)
from finalchar.measure.context import MeasurementContext
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.shapelets import ShapeletComponents, shapelet_orders
from finalchar.measure.trust_region import FitState, sum_pixels

__all__ = ["GalaxyMeasurement", "local_jacobian", "read_shapelets"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STAGES = ("initial", "exp", "dev")
KRON_RADIUS = "ext_photometryKron_KronFlux_radius"
MOMENTS_RADIUS = 0.95473
"""Moments radius of the exponential profile in half-light radii."""
FALLBACK_VARIANCE = 0.01
"""Variance of the start where the prior is zero at the guess, arcsec^2."""
PIXELS_PER_GROUP = 1 << 18
"""Stars are fitted together as long as their footprints have no more pixels: some 30 MB."""


@dataclass(frozen=True)
class GalaxyMeasurement:
    """The fit of the stars of a table, whose columns ``<name>_...`` it fills.

    Attributes
    ----------
    name : str
        Name of the plugin.
    settings : CModelSettings
    context : MeasurementContext
    table : SourceTable
    """

    name: str
    settings: Any
    context: MeasurementContext
    table: SourceTable

    def run(self, stars: IntArray) -> None:
        """Fit the given rows; all flags of failure stand until a stage has succeeded (8.1)."""
        context, table = self.context, self.table
        for suffix in ("flag", *(f"{stage}_flag" for stage in STAGES)):
            self._column(suffix)[stars] = True
        stars = stars[np.isfinite(context.x[stars]) & np.isfinite(context.y[stars])]
        if context.compatibility == "lsst":
            self._store_unit_regions(stars)
        psf = read_shapelets(table, self.settings.psfName)
        psf_moments, psf_x, psf_y = psf.moments()
        with np.errstate(invalid="ignore"):
            usable = psf_moments.valid & (psf_moments.determinant > 0)
        self._column("flag_noShapeletPsf")[stars[~usable[stars]]] = True
        stars = stars[usable[stars]]
        moments = self._moments(stars, psf_moments)
        for group in _groups_of_similar_size(stars, _footprint_areas(self.context)[stars]):
            inputs = _Inputs(
                stars=group,
                psf=psf[group],
                psf_moments=psf_moments[group],
                psf_x=psf_x[group],
                psf_y=psf_y[group],
                moments=moments[group],
                frame=FitFrame(local_jacobian(context.exposure.wcs, context.x[group], context.y[group])),
            )
            self._fit(inputs)

    def _store_unit_regions(self, stars: IntArray) -> None:
        """Write the unit circles that the reference leaves where there is no region; otherwise NaN [K18]."""
        circles = Quadrupoles.circles(np.ones(len(stars)))
        for name in ("region_initial_ellipse", "region_final_ellipse"):
            self._store_ellipse(stars, name, circles)

    def _moments(self, stars: IntArray, psf: Quadrupoles) -> Quadrupoles:
        """Return the moments of the shape slot, or those of a wider PSF, flagged, where they failed."""
        slot = self.context.slots.shape
        fallback = psf.scaled(self.settings.fallbackInitialMomentsPsfFactor)
        if slot is None or f"{slot}_xx" not in self.table:
            self._column("flag_noShape")[stars] = True
            return fallback
        missing = np.array(self.table[f"{slot}_flag"], dtype=bool)
        self._column("flag_noShape")[stars] = missing[stars]
        measured = Quadrupoles(
            *(np.array(self.table[f"{slot}_{axes}"], dtype=np.float64) for axes in ("xx", "yy", "xy"))
        )
        return Quadrupoles.where(missing, fallback, measured)

    def _fit(self, inputs: _Inputs) -> None:
        """Run the four stages, each with the stars that are left."""
        region = initial_region(
            moments=inputs.moments,
            psf=inputs.psf_moments,
            kron_radius=_kron_radii(self.table)[inputs.stars],
            footprint_area=_footprint_areas(self.context)[inputs.stars],
            settings=self.settings.region,
        )
        pixels = collect_pixels(self.context, inputs.stars, region.ellipse, self.settings.region)
        self._store_region(inputs.stars, region, pixels, "region_initial_ellipse")
        flux_unit = _flux_units(self.context, self.table, inputs.stars, pixels)
        self._fail_without_flux(inputs.stars[pixels.enough & ~(flux_unit > 0)])
        good = pixels.enough & (flux_unit > 0)
        inputs, pixels, region = inputs[good], pixels[good], FitRegion(region.ellipse[good], {})
        if not len(inputs.stars):
            return
        start, galaxies = self._start(inputs, flux_unit[good])
        initial = self._fit_profile("initial", inputs.stars, galaxies, pixels, start)
        good = ~initial.failed
        self._fit_final(inputs[good], galaxies[good], region.ellipse[good], initial.parameters[good])

    def _fit_final(
        self, inputs: _Inputs, galaxies: Galaxies, initial: Quadrupoles, start: FloatArray
    ) -> None:
        """Fit both profiles in the revised region, and combine them where both succeeded."""
        region = revised_region(
            fitted=galaxies.frame.to_pixels(np.arange(len(start)), start),
            psf=inputs.psf_moments,
            initial=initial,
            settings=self.settings.region,
        )
        pixels = collect_pixels(self.context, inputs.stars, region.ellipse, self.settings.region)
        self._store_region(inputs.stars, region, pixels, "region_final_ellipse")
        good = pixels.enough
        if not good.any():
            return
        inputs, galaxies, pixels, start = inputs[good], galaxies[good], pixels[good], start[good]
        exponential = self._fit_profile("exp", inputs.stars, galaxies, pixels, start)
        de_vaucouleurs = self._fit_profile("dev", inputs.stars, galaxies, pixels, start)
        combined = combine(galaxies, pixels, exponential, de_vaucouleurs)
        both = ~exponential.failed & ~de_vaucouleurs.failed & combined.solved
        self._store_combination(inputs.stars, combined, both)

    def _fit_profile(
        self, stage: str, stars: IntArray, galaxies: Galaxies, pixels: FitPixels, start: FloatArray
    ) -> StageResult:
        """Fit one profile and store what is found; stars are fitted together and share the time alike."""
        settings = getattr(self.settings, stage)
        began = perf_counter()
        result = fit_stage(galaxies, pixels, start, settings, refit_amplitude=stage == "initial")
        if settings.doRecordTime and len(stars):
            self._column(f"{stage}_time")[stars] = (perf_counter() - began) / len(stars)
        self._store_stage(stars, stage, result, galaxies.fixed)
        return result

    def _fail_without_flux(self, stars: IntArray) -> None:
        """Flag stars that have no positive flux to start from."""
        for stage in STAGES:
            self._column(f"{stage}_flag_numericError")[stars] = True

    def _start(self, inputs: _Inputs, flux_unit: FloatArray) -> tuple[FloatArray, Galaxies]:
        """Return the guessed parameters, and the galaxies at the deconvolved places (8.3)."""
        guess, replaced = _deconvolved(inputs.moments, inputs.psf_moments, self.settings.minInitialRadius)
        self._column("flags_smallShape")[inputs.stars] = replaced
        shape = inputs.frame.to_parameters(guess.scaled(1.0 / MOMENTS_RADIUS))
        start = np.column_stack([shape, np.ones(len(shape))])
        prior = EmpiricalPrior(self.settings.initial.empiricalPriorConfig)
        with np.errstate(invalid="ignore"):
            impossible = ~(prior.density(start) > 0)
        start[impossible, :3] = [0.0, 0.0, 0.5 * np.log(FALLBACK_VARIANCE)]
        galaxies = Galaxies(
            psf=inputs.psf,
            center_x=self.context.x[inputs.stars] - inputs.psf_x,
            center_y=self.context.y[inputs.stars] - inputs.psf_y,
            fixed=inputs.frame.offset_to_fit(-inputs.psf_x, -inputs.psf_y),
            flux_unit=flux_unit,
            frame=inputs.frame,
        )
        return start, galaxies

    def _store_region(self, stars: IntArray, region: FitRegion, pixels: FitPixels, name: str) -> None:
        self._store_ellipse(stars, name, region.ellipse)
        for suffix, values in region.flags.items():
            self._column(suffix)[stars] = values
        self._column("flag_region_maxBadPixelFraction")[stars[~pixels.enough]] = True

    def _store_stage(self, stars: IntArray, stage: str, result: StageResult, fixed: FloatArray) -> None:
        """Write what a stage has found, also where it failed (8.6)."""
        self._store_fluxes(stars, f"{stage}_", result.measure)
        self._store_ellipse(stars, f"{stage}_ellipse", result.ellipse)
        values: dict[str, npt.NDArray[np.generic]] = {
            "objective": result.objective,
            "flag": result.failed,
            "flag_trSmall": result.state == FitState.CONVERGED_SMALL_RADIUS,
            "flag_maxIter": result.state == FitState.FAILED_ITERATIONS,
            "flag_numericError": result.state == FitState.FAILED_NUMERIC,
            "flag_noFlux": result.measure.inner == 0,
        }
        values |= {f"nonlinear_{index}": result.parameters[:, index] for index in range(3)}
        values |= {f"fixed_{index}": fixed[:, index] for index in range(2)}
        if getattr(self.settings, stage).doRecordHistory:
            values["nIter"] = result.iterations
        for suffix, value in values.items():
            self._column(f"{stage}_{suffix}")[stars] = value

    def _store_combination(self, stars: IntArray, combined: Combination, both: BoolArray) -> None:
        """Write the final result where both fits succeeded; a NaN flux is flagged."""
        good, stars = combined[both], stars[both]
        self._store_fluxes(stars, "", good.measure)
        self._store_ellipse(stars, "ellipse", good.ellipse)
        no_flux = good.measure.inner == 0
        self._column("fracDev")[stars] = good.de_vaucouleurs_fraction
        self._column("objective")[stars] = good.objective
        self._column("flag_noFlux")[stars] = no_flux
        self._column("flag")[stars] = no_flux | np.isnan(good.measure.flux)

    def _store_fluxes(self, stars: IntArray, prefix: str, measure: FluxMeasure) -> None:
        self._column(f"{prefix}instFlux")[stars] = measure.flux
        self._column(f"{prefix}instFluxErr")[stars] = measure.error
        self._column(f"{prefix}instFlux_inner")[stars] = measure.inner

    def _column(self, suffix: str) -> npt.NDArray[Any]:
        return self.table.columns[f"{self.name}_{suffix}"]

    def _store_ellipse(self, stars: IntArray, name: str, ellipse: Quadrupoles) -> None:
        for axes in ("xx", "yy", "xy"):
            self._column(f"{name}_{axes}")[stars] = getattr(ellipse, axes)


@dataclass(frozen=True)
class _Inputs:
    """What is known of the stars to be fitted; arrays of shape (n,)."""

    stars: IntArray
    psf: ShapeletComponents
    psf_moments: Quadrupoles
    psf_x: FloatArray
    psf_y: FloatArray
    moments: Quadrupoles
    frame: FitFrame

    def __getitem__(self, index: BoolArray) -> _Inputs:
        return _Inputs(
            self.stars[index],
            self.psf[index],
            self.psf_moments[index],
            self.psf_x[index],
            self.psf_y[index],
            self.moments[index],
            FitFrame(self.frame.jacobian[index]),
        )


def read_shapelets(table: SourceTable, name: str) -> ShapeletComponents:
    """Return the shapelet PSFs of all rows as the plugin `name` stored them.

    Raises
    ------
    ConfigError
        If that plugin has not been run.
    """
    if f"{name}_0_xx" not in table:
        raise ConfigError(
            f"measurement.plugins.modelfit_CModel needs the plugin {name!r} (its psfName);"
            " add it to measurement.plugins.names"
        )
    component = {
        suffix: np.stack([np.array(table[f"{name}_{k}_{suffix}"], dtype=np.float64) for k in (0, 1)], axis=1)
        for suffix in ("xx", "yy", "xy", "x", "y")
    }
    coefficients = np.zeros((len(table), 2, len(shapelet_orders(2))))
    for k in (0, 1):
        for index in range(coefficients.shape[2]):
            if f"{name}_{k}_{index}" in table:
                coefficients[:, k, index] = table[f"{name}_{k}_{index}"]
    ellipse = Quadrupoles(component["xx"], component["yy"], component["xy"])
    return ShapeletComponents(ellipse, component["x"], component["y"], coefficients)


def local_jacobian(wcs: SkyProjection, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return d(pixel) / d(fit frame), pixels per arcsec, at each star (8.3); shape (n, 2, 2).

    By central differences over one pixel of the direction on the sky, along west and north at the star.
    """

    def directions(step_x: float, step_y: float) -> FloatArray:
        ra, dec = wcs.pixel_to_sky(x=x + step_x, y=y + step_y)
        return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)

    ra, dec = wcs.pixel_to_sky(x=x, y=y)
    west = np.stack([np.sin(ra), -np.cos(ra), np.zeros_like(ra)], axis=1)
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=1)
    along_x = directions(0.5, 0.0) - directions(-0.5, 0.0)
    along_y = directions(0.0, 0.5) - directions(0.0, -0.5)
    forward = np.stack(
        [
            np.stack([(axis * along).sum(axis=1) for along in (along_x, along_y)], axis=1)
            for axis in (west, north)
        ],
        axis=1,
    )
    return np.asarray(np.linalg.inv(forward * ARCSEC_PER_RADIAN))


def _deconvolved(
    moments: Quadrupoles, psf: Quadrupoles, least_radius: float
) -> tuple[Quadrupoles, BoolArray]:
    """Return moments without the PSF's, at least a small circle, and where the cross term was dropped."""
    difference = moments - psf
    least = least_radius**2
    xx, yy = np.maximum(difference.xx, least), np.maximum(difference.yy, least)
    replaced = xx * yy < difference.xy**2
    return Quadrupoles(xx, yy, np.where(replaced, 0.0, difference.xy)), replaced


def _kron_radii(table: SourceTable) -> FloatArray:
    """Return the Kron radii; NaN where there are none."""
    if KRON_RADIUS not in table:
        return np.full(len(table), np.nan)
    return np.array(table[KRON_RADIUS], dtype=np.float64)


def _footprint_areas(context: MeasurementContext) -> IntArray:
    """Return the pixels of the stars' footprints; 0 without one."""
    areas = np.append(context.footprint_boxes.area, 0)
    return np.asarray(areas[context.footprint_index])  # index -1, no footprint, takes the last element


def _groups_of_similar_size(stars: IntArray, areas: IntArray) -> list[IntArray]:
    """Return the stars in groups of moderate size, largest footprints first, at least one star in each."""
    order = np.argsort(-areas, kind="stable")
    groups = []
    while len(order):
        number = max(1, PIXELS_PER_GROUP // max(int(areas[order[0]]), 1))
        groups.append(stars[order[:number]])
        order = order[number:]
    return groups


def _flux_units(
    context: MeasurementContext, table: SourceTable, stars: IntArray, pixels: FitPixels
) -> FloatArray:
    """Return the fluxes to start from: those of the PSF flux slot, else from the pixels (8.2)."""
    slot = context.slots.psfFlux
    known = np.full(len(stars), np.nan)
    if slot is not None and f"{slot}_instFlux" in table:
        known = np.where(table[f"{slot}_flag"][stars], -1.0, table[f"{slot}_instFlux"][stars])
    with np.errstate(all="ignore"):
        total = sum_pixels(pixels.data)
        root = np.sqrt(sum_pixels(pixels.data * pixels.data))
        summed = np.where(root > total, root, total).astype(np.float64)
        return np.where(known > 0, known, summed)
