"""Fluxes of galaxy models convolved with the PSF (measurement specification 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.errors import ConfigError, MeasurementError
from finalchar.formats.exposure import SkyProjection
from finalchar.formats.sources import SourceTable
from finalchar.measure.cmodel.model import FitFrame
from finalchar.measure.cmodel.prior import EmpiricalPrior
from finalchar.measure.cmodel.profiles import profile_of
from finalchar.measure.cmodel.region import (
    FitPixels,
    FitRegion,
    collect_pixels,
    initial_region,
    revised_region,
)
from finalchar.measure.cmodel.settings import CModelSettings
from finalchar.measure.cmodel.stages import (
    Combination,
    FluxMeasure,
    Galaxies,
    StageResult,
    combine,
    fit_stage,
)
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import Field, MeasurementPlugin, flag
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.shapelets import ShapeletComponents, shapelet_orders
from finalchar.measure.trust_region import FitState, sum_pixels

NAME = "modelfit_CModel"
ORDER = 3.0
Settings = CModelSettings

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

STAGES = {"initial": "initial", "exp": "exponential", "dev": "de Vaucouleur"}
KRON_RADIUS = "ext_photometryKron_KronFlux_radius"
MOMENTS_RADIUS = 0.95473
"""Moments radius of the exponential profile in half-light radii."""
FALLBACK_VARIANCE = 0.01
"""Variance of the start where the prior is zero at the guess, arcsec^2."""
PIXELS_PER_GROUP = 1 << 18
"""Stars are fitted together as long as their footprints have no more pixels: some 30 MB."""
ARCSEC_PER_RADIAN = 180.0 * 3600.0 / np.pi
_INNER = "flux within the fit region, with no extrapolation"
_NO_FLUX = "no flux was measured on the image; this means the error will be non-finite."


class Plugin(MeasurementPlugin[CModelSettings]):
    """Fit an exponential and a de Vaucouleurs profile to all stars together, then their best combination."""

    def __init__(self, name: str, settings: CModelSettings) -> None:
        super().__init__(name, settings)
        for stage in STAGES:
            own = getattr(settings, stage)
            profile_of(own.profileName, own.nComponents)  # an error now rather than after the other plugins

    def fields(self) -> list[Field]:
        """Return the columns."""
        stages = [field for stage, adjective in STAGES.items() for field in _stage_fields(stage, adjective)]
        return [*stages, *_final_fields(self.settings.minInitialRadius)]

    def fluxes(self) -> list[str]:
        """Return the fluxes to be aperture corrected."""
        return [NAME, *(f"{NAME}_{stage}" for stage in STAGES)]

    def measure(self, context: MeasurementContext, table: SourceTable) -> None:
        """Fit all stars; all flags of failure stand until a stage has succeeded (8.1)."""
        _check_exposure(context)
        for suffix in ("flag", *(f"{stage}_flag" for stage in STAGES)):
            self.column(table, suffix)[:] = True
        stars = np.flatnonzero(np.isfinite(context.x) & np.isfinite(context.y))
        if context.compatibility == "lsst":
            self._store_unit_regions(table, stars)
        psf = read_shapelets(table, self.settings.psfName)
        psf_moments, psf_x, psf_y = psf.moments()
        with np.errstate(invalid="ignore"):
            usable = psf_moments.valid & (psf_moments.determinant > 0)
        self.column(table, "flag_noShapeletPsf")[stars[~usable[stars]]] = True
        stars = stars[usable[stars]]
        moments = self._moments(context, table, stars, psf_moments)
        for group in _groups_of_similar_size(stars, _footprint_areas(context)[stars]):
            inputs = _Inputs(
                stars=group,
                psf=psf[group],
                psf_moments=psf_moments[group],
                psf_x=psf_x[group],
                psf_y=psf_y[group],
                moments=moments[group],
                frame=FitFrame(local_jacobian(context.exposure.wcs, context.x[group], context.y[group])),
            )
            self._fit(context, table, inputs)

    def _store_unit_regions(self, table: SourceTable, stars: IntArray) -> None:
        """Write the unit circles that the reference leaves where there is no region; otherwise NaN [K18]."""
        circles = Quadrupoles.circles(np.ones(len(stars)))
        for name in ("region_initial_ellipse", "region_final_ellipse"):
            _store_ellipse(self, table, stars, name, circles)

    def _moments(
        self, context: MeasurementContext, table: SourceTable, stars: IntArray, psf: Quadrupoles
    ) -> Quadrupoles:
        """Return the moments of the shape slot, or those of a wider PSF, flagged, where they failed."""
        slot = context.slots.shape
        fallback = psf.scaled(self.settings.fallbackInitialMomentsPsfFactor)
        if slot is None or f"{slot}_xx" not in table:
            self.column(table, "flag_noShape")[stars] = True
            return fallback
        missing = np.array(table[f"{slot}_flag"], dtype=bool)
        self.column(table, "flag_noShape")[stars] = missing[stars]
        measured = Quadrupoles(
            *(np.array(table[f"{slot}_{axes}"], dtype=np.float64) for axes in ("xx", "yy", "xy"))
        )
        return Quadrupoles.where(missing, fallback, measured)

    def _fit(self, context: MeasurementContext, table: SourceTable, inputs: _Inputs) -> None:
        """Run the four stages, each with the stars that are left."""
        region = initial_region(
            moments=inputs.moments,
            psf=inputs.psf_moments,
            kron_radius=_kron_radii(table)[inputs.stars],
            footprint_area=_footprint_areas(context)[inputs.stars],
            settings=self.settings.region,
        )
        pixels = collect_pixels(context, inputs.stars, region.ellipse, self.settings.region)
        self._store_region(table, inputs.stars, region, pixels, "region_initial_ellipse")
        flux_unit = _flux_units(context, table, inputs.stars, pixels)
        self._fail_without_flux(table, inputs.stars[pixels.enough & ~(flux_unit > 0)])
        good = pixels.enough & (flux_unit > 0)
        inputs, pixels, region = inputs[good], pixels[good], FitRegion(region.ellipse[good], {})
        if not len(inputs.stars):
            return
        start, galaxies = self._start(context, table, inputs, flux_unit[good])
        initial = fit_stage(galaxies, pixels, start, self.settings.initial, refit_amplitude=True)
        self._store_stage(table, inputs.stars, "initial", initial, galaxies)
        good = ~initial.failed
        self._fit_final(
            context, table, inputs[good], galaxies[good], region.ellipse[good], initial.parameters[good]
        )

    def _fit_final(
        self,
        context: MeasurementContext,
        table: SourceTable,
        inputs: _Inputs,
        galaxies: Galaxies,
        initial: Quadrupoles,
        start: FloatArray,
    ) -> None:
        """Fit both profiles in the revised region, and combine them where both succeeded."""
        region = revised_region(
            fitted=galaxies.frame.to_pixels(np.arange(len(start)), start),
            psf=inputs.psf_moments,
            initial=initial,
            settings=self.settings.region,
        )
        pixels = collect_pixels(context, inputs.stars, region.ellipse, self.settings.region)
        self._store_region(table, inputs.stars, region, pixels, "region_final_ellipse")
        good = pixels.enough
        if not good.any():
            return
        inputs, galaxies, pixels, start = inputs[good], galaxies[good], pixels[good], start[good]
        exponential = fit_stage(galaxies, pixels, start, self.settings.exp, refit_amplitude=False)
        self._store_stage(table, inputs.stars, "exp", exponential, galaxies)
        de_vaucouleurs = fit_stage(galaxies, pixels, start, self.settings.dev, refit_amplitude=False)
        self._store_stage(table, inputs.stars, "dev", de_vaucouleurs, galaxies)
        combined = combine(galaxies, pixels, exponential, de_vaucouleurs)
        both = ~exponential.failed & ~de_vaucouleurs.failed & combined.solved
        self._store_combination(table, inputs.stars, combined, both)

    def _fail_without_flux(self, table: SourceTable, stars: IntArray) -> None:
        """Flag stars that have no positive flux to start from."""
        for stage in STAGES:
            self.column(table, f"{stage}_flag_numericError")[stars] = True

    def _start(
        self, context: MeasurementContext, table: SourceTable, inputs: _Inputs, flux_unit: FloatArray
    ) -> tuple[FloatArray, Galaxies]:
        """Return the guessed parameters, and the galaxies at the deconvolved places (8.3)."""
        guess, replaced = _deconvolved(inputs.moments, inputs.psf_moments, self.settings.minInitialRadius)
        self.column(table, "flags_smallShape")[inputs.stars] = replaced
        shape = inputs.frame.to_parameters(guess.scaled(1.0 / MOMENTS_RADIUS))
        start = np.column_stack([shape, np.ones(len(shape))])
        prior = EmpiricalPrior(self.settings.initial.empiricalPriorConfig)
        with np.errstate(invalid="ignore"):
            impossible = ~(prior.density(start) > 0)
        start[impossible, :3] = [0.0, 0.0, 0.5 * np.log(FALLBACK_VARIANCE)]
        fixed = inputs.frame.offset_to_fit(-inputs.psf_x, -inputs.psf_y)
        for stage in STAGES:
            for axis in (0, 1):
                self.column(table, f"{stage}_fixed_{axis}")[inputs.stars] = fixed[:, axis]
        galaxies = Galaxies(
            psf=inputs.psf,
            center_x=context.x[inputs.stars] - inputs.psf_x,
            center_y=context.y[inputs.stars] - inputs.psf_y,
            flux_unit=flux_unit,
            frame=inputs.frame,
        )
        return start, galaxies

    def _store_region(
        self, table: SourceTable, stars: IntArray, region: FitRegion, pixels: FitPixels, name: str
    ) -> None:
        _store_ellipse(self, table, stars, name, region.ellipse)
        for suffix, values in region.flags.items():
            self.column(table, suffix)[stars] = values
        self.column(table, "flag_region_maxBadPixelFraction")[stars[~pixels.enough]] = True

    def _store_stage(
        self, table: SourceTable, stars: IntArray, stage: str, result: StageResult, galaxies: Galaxies
    ) -> None:
        """Write what a stage has found, also where it failed (8.6)."""
        self._store_fluxes(table, stars, f"{stage}_", result.measure)
        _store_ellipse(self, table, stars, f"{stage}_ellipse", result.ellipse)
        values: dict[str, npt.NDArray[np.generic]] = {
            "objective": result.objective,
            "flag": result.failed,
            "flag_trSmall": result.state == FitState.CONVERGED_SMALL_RADIUS,
            "flag_maxIter": result.state == FitState.FAILED_ITERATIONS,
            "flag_numericError": result.state == FitState.FAILED_NUMERIC,
            "flag_noFlux": result.measure.inner == 0,
        }
        values |= {f"nonlinear_{index}": result.parameters[:, index] for index in range(3)}
        if getattr(self.settings, stage).doRecordHistory:
            values["nIter"] = result.iterations
        for suffix, value in values.items():
            self.column(table, f"{stage}_{suffix}")[stars] = value

    def _store_combination(
        self, table: SourceTable, stars: IntArray, combined: Combination, both: BoolArray
    ) -> None:
        """Write the final result where both fits succeeded; a NaN flux is flagged."""
        good, stars = combined[both], stars[both]
        self._store_fluxes(table, stars, "", good.measure)
        _store_ellipse(self, table, stars, "ellipse", good.ellipse)
        no_flux = good.measure.inner == 0
        self.column(table, "fracDev")[stars] = good.de_vaucouleurs_fraction
        self.column(table, "objective")[stars] = good.objective
        self.column(table, "flag_noFlux")[stars] = no_flux
        self.column(table, "flag")[stars] = no_flux | np.isnan(good.measure.flux)

    def _store_fluxes(self, table: SourceTable, stars: IntArray, prefix: str, measure: FluxMeasure) -> None:
        self.column(table, f"{prefix}instFlux")[stars] = measure.flux
        self.column(table, f"{prefix}instFluxErr")[stars] = measure.error
        self.column(table, f"{prefix}instFlux_inner")[stars] = measure.inner


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


def _check_exposure(context: MeasurementContext) -> None:
    """Refuse exposures that the fit cannot be made on."""
    if context.exposure.wcs is None:
        raise MeasurementError(f"{NAME} needs the astrometry of the exposure, which it does not have")
    if context.compatibility == "lsst" and context.exposure.calibration is None:
        raise MeasurementError(
            f"{NAME} needs the photometric calibration of the exposure, which it does not have;"
            " 'compatibility: fixed' does without"
        )


def _store_ellipse(
    plugin: Plugin, table: SourceTable, stars: IntArray, name: str, ellipse: Quadrupoles
) -> None:
    for axes in ("xx", "yy", "xy"):
        plugin.column(table, f"{name}_{axes}")[stars] = getattr(ellipse, axes)


def _ellipse_fields(name: str, sentence: str) -> list[Field]:
    return [Field(f"{name}_{axes}", "float64", "pix2", sentence) for axes in ("xx", "yy", "xy")]


def _stage_fields(stage: str, adjective: str) -> list[Field]:
    """Return the columns of one nonlinear fit."""
    name = f"{NAME}_{stage}"
    fit = f"the {adjective} fit"
    return [
        Field(f"{name}_instFlux", "float64", "ct", f"flux from {fit}"),
        Field(f"{name}_instFluxErr", "float64", "ct", f"flux uncertainty from {fit}"),
        flag(f"{name}_flag", f"flag set when the flux for the {adjective} flux failed"),
        Field(f"{name}_instFlux_inner", "float64", "ct", _INNER),
        *_ellipse_fields(f"{name}_ellipse", f"half-light ellipse of {fit}"),
        Field(f"{name}_objective", "float64", "", f"-ln(likelihood*prior) at best-fit point for {fit}"),
        *(
            Field(f"{name}_{kind}_{index}", "float64", "", f"{kind} parameters for {fit}")
            for kind, number in (("nonlinear", 3), ("fixed", 2))
            for index in range(number)
        ),
        flag(
            f"{name}_flag_trSmall",
            "the optimizer converged because the trust radius became too small; this is a less-secure result"
            " than when the gradient is below the threshold, but usually not a problem",
        ),
        flag(
            f"{name}_flag_maxIter",
            "the optimizer hit the maximum number of iterations and did not converge",
        ),
        Field(f"{name}_nIter", "int32", "", "Number of total iterations in stage"),
        Field(f"{name}_time", "float64", "s", "Time spent in stage"),
        flag(
            f"{name}_flag_numericError",
            "numerical underflow or overflow in model evaluation; usually this means the prior was"
            " insufficient to regularize the fit, or all pixel values were zero.",
        ),
        flag(f"{name}_flag_noFlux", _NO_FLUX),
    ]


def _final_fields(least_radius: float) -> list[Field]:
    """Return the columns of the combination, and those of all stages together."""
    region = "ellipse used to set the pixel region for the {0} fit (before applying bad pixel mask)"
    used = "the pixel region for the {0} fit was {1}"
    return [
        Field(f"{NAME}_instFlux", "float64", "ct", "flux from the final cmodel fit"),
        Field(f"{NAME}_instFluxErr", "float64", "ct", "flux uncertainty from the final cmodel fit"),
        flag(f"{NAME}_flag", "flag set if the final cmodel fit (or any previous fit) failed"),
        Field(f"{NAME}_instFlux_inner", "float64", "ct", _INNER),
        Field(f"{NAME}_fracDev", "float64", "", "fraction of flux in de Vaucouleur component"),
        Field(f"{NAME}_objective", "float64", "", "-ln(likelihood) (chi^2) in cmodel fit"),
        flag(
            f"{NAME}_flag_region_maxArea",
            "number of pixels in fit region exceeded the region.maxArea value",
        ),
        flag(
            f"{NAME}_flag_region_maxBadPixelFraction",
            "the fraction of bad/clipped pixels in the fit region exceeded region.maxBadPixelFraction",
        ),
        *(
            flag(f"{NAME}_flags_region_used{name}", used.format(fit, what))
            for name, fit, what in (
                ("FootprintArea", "initial", "defined by the area of the Footprint"),
                ("PsfArea", "initial", "set to a fixed factor of the PSF area"),
                ("InitialEllipseMin", "final", "set to the lower bound defined by the initial fit"),
                ("InitialEllipseMax", "final", "set to the upper bound defined by the initial fit"),
            )
        ),
        flag(
            f"{NAME}_flag_noShape",
            "the shape slot needed to initialize the parameters failed or was not defined",
        ),
        flag(
            f"{NAME}_flags_smallShape",
            "initial parameter guess resulted in negative radius; used minimum of"
            f" {least_radius:f} pixels instead.",
        ),
        *_ellipse_fields(f"{NAME}_ellipse", "fracDev-weighted average of exp.ellipse and dev.ellipse"),
        *_ellipse_fields(f"{NAME}_region_initial_ellipse", region.format("initial")),
        *_ellipse_fields(f"{NAME}_region_final_ellipse", region.format("final")),
        flag(f"{NAME}_flag_noShapeletPsf", "the multishapelet fit to the PSF model did not succeed"),
        flag(
            f"{NAME}_flag_badCentroid",
            "input centroid was not within the fit region (probably because it's not within the Footprint)",
        ),
        flag(f"{NAME}_flag_noFlux", _NO_FLUX),
    ]
