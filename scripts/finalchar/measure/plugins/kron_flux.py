"""Flux in the elliptical aperture of 2.5 Kron radii (measurement specification 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field as SettingsField
from finalchar.config_base import only
from finalchar.formats.sources import SourceTable
from finalchar.measure.apertures import aperture_reach, measure_apertures, prepare_apertures
from finalchar.measure.context import MeasurementContext
from finalchar.measure.kron_radius import kron_radii, region_boxes
from finalchar.measure.plugin import BatchPlugin, Field, PluginSettings, flag
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.star_windows import cut_windows, equal_batches, nearest_pixel, required_half_width

NAME = "ext_photometryKron_KronFlux"
ORDER = 2.0

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

PSF_RADIUS_FACTOR = float(np.sqrt(np.pi / 2.0))
"""Kron radius of a Gaussian in units of its sigma."""
MAX_RADIUS = 200.0
SMALLEST_RADIUS = float(np.finfo(float).eps)

_FLAGS = {
    "flag": "general failure flag, set if anything went wrong",
    "flag_edge": "bad measurement due to image edge",
    "flag_bad_shape_no_psf": "bad shape and no PSF",
    "flag_no_minimum_radius": "minimum radius could not enforced: no minimum value or PSF",
    "flag_no_fallback_radius": "no minimum radius and no PSF provided",
    "flag_bad_radius": "bad Kron radius",
    "flag_used_minimum_radius": "used the minimum radius for the Kron aperture",
    "flag_used_psf_radius": "used the PSF Kron radius for the Kron aperture",
    "flag_small_radius": "measured Kron radius was smaller than that of the PSF",
    "flag_bad_shape": "shape for measuring Kron radius is bad; used PSF shape",
}


class Settings(PluginSettings):
    """Settings of ext_photometryKron_KronFlux."""

    fixed: Literal[False] = SettingsField(False, description="forced measurement; not supported")
    nSigmaForRadius: float = SettingsField(
        6.0, gt=0, description="size of the region of the Kron radius, in radii of the shape"
    )
    nIterForRadius: Literal[1] = SettingsField(1, description="iterations of the Kron radius; only 1")
    nRadiusForFlux: float = SettingsField(2.5, gt=0, description="size of the aperture, in Kron radii")
    maxSincRadius: float = SettingsField(
        10.0, ge=0, description="apertures with a larger minor semi-axis (pixels) are plain sums of pixels"
    )
    minimumRadius: float = SettingsField(
        0.0, ge=0, description="smallest Kron radius, pixels; 0: that of the PSF"
    )
    enforceMinimumRadius: bool = SettingsField(True, description="replace smaller radii by the smallest")
    useFootprintRadius: Literal[False] = SettingsField(
        False, description="start from the footprint's size; not supported"
    )
    smoothingSigma: Annotated[float, only(-1.0)] = SettingsField(
        -1.0, description="smoothing before the sums; only -1, none at all, is supported"
    )
    refRadiusName: Annotated[str, only(f"{NAME}_radius")] = SettingsField(
        f"{NAME}_radius", description="of forced measurement only, which is not supported"
    )


@dataclass
class _State:
    """What is known of the stars' apertures on the way to their fluxes; arrays of shape (n,)."""

    x: FloatArray
    y: FloatArray
    shape: Quadrupoles
    bad_shape: BoolArray
    start: Quadrupoles
    """Shape that the region of the radius is made from: the star's, or the PSF's average one."""
    smallest: FloatArray
    aperture: Quadrupoles
    region_radius: FloatArray
    measured: BoolArray
    """Still on the way."""


class Plugin(BatchPlugin[Settings]):
    """Measure Kron radius and flux of all stars, with the PSF's radius as the least."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        return [
            Field(f"{NAME}_instFlux", "float64", "ct", "flux from Kron Flux algorithm"),
            Field(f"{NAME}_instFluxErr", "float64", "ct", "1-sigma instFlux uncertainty"),
            Field(f"{NAME}_radius", "float32", "", "Kron radius (sqrt(a*b))"),
            Field(f"{NAME}_radius_for_radius", "float32", "", "radius used to estimate <radius> (sqrt(a*b))"),
            Field(f"{NAME}_psf_radius", "float32", "", "Radius of PSF"),
            *(flag(f"{NAME}_{suffix}", sentence) for suffix, sentence in _FLAGS.items()),
        ]

    def fluxes(self) -> list[str]:
        """Return the flux to be aperture corrected."""
        return [NAME]

    def aliases(self, *, centroid: str, shape: str) -> dict[str, str]:
        """Return the alias of the centroid's flag."""
        return {f"{NAME}_flag_badInitialCentroid": f"{centroid}_flag"}

    def measure_batch(self, context: MeasurementContext, table: SourceTable, stars: IntArray) -> None:
        """Measure stars; being a centroider to the reference, a flagged centroid sets no flag."""
        state = self._start(context, table, stars)
        self._measure_radii(context, table, state)
        self._enforce_minimum(table, state)
        self._measure_fluxes(context, table, state)

    def _mark(self, table: SourceTable, suffixes: str, stars: BoolArray) -> None:
        for suffix in suffixes.split():
            self.column(table, suffix)[stars] = True

    def _start(self, context: MeasurementContext, table: SourceTable, stars: IntArray) -> _State:
        """Gather centroids, shapes and the PSF's radius (steps 1 and 2)."""
        x, y = _centroids(context)
        wanted = np.zeros(len(x), dtype=bool)
        wanted[stars] = True
        valid_psf = context.psf_kernels.valid
        table["base_InvalidPsf_flag"][wanted & ~valid_psf] = True
        measured = wanted & valid_psf & np.isfinite(x) & np.isfinite(y)
        self._mark(table, "flag", wanted & ~measured)
        psf = Quadrupoles(context.psf_shapes.xx, context.psf_shapes.yy, context.psf_shapes.xy)
        psf_radius = PSF_RADIUS_FACTOR * psf.determinant_radius
        slot = context.slots.shape
        shape = Quadrupoles(*(table[f"{slot}_{axes}"].astype(np.float64) for axes in ("xx", "yy", "xy")))
        bad = table[f"{slot}_flag"].copy()
        self._mark(table, "flag_bad_shape flag", bad & measured)
        start = Quadrupoles.where(bad, _average_psf_shape(context), shape) if bad.any() else shape
        self.column(table, "psf_radius")[measured] = psf_radius[measured]
        smallest = np.full(len(x), self.settings.minimumRadius)
        smallest = smallest if self.settings.minimumRadius > 0 else psf_radius
        return _State(
            x=x,
            y=y,
            shape=shape,
            bad_shape=bad,
            start=start,
            smallest=smallest,
            aperture=start.scaled(np.nan),
            region_radius=np.full(len(x), np.nan),
            measured=measured,
        )

    def _measure_radii(self, context: MeasurementContext, table: SourceTable, state: _State) -> None:
        """Find the apertures of one Kron radius (steps 3 to 6)."""
        region = state.start.scaled(self.settings.nSigmaForRadius)
        regular = state.measured & state.start.valid & (state.start.determinant > 0)
        broken = state.measured & ~regular
        at_edge = regular & ~_inside(context, region, state)
        self._fail_at_edge(table, state, at_edge)
        rows = np.flatnonzero(regular & ~at_edge)
        radius, usable = _radii(context, region, state, rows)
        start_radius = state.start[rows].determinant_radius
        with np.errstate(invalid="ignore"):
            small = usable & (radius <= start_radius)
            usable &= ~(radius > MAX_RADIUS)
        # a radius not above the shape's leaves the aperture as large as the region [M-Q14]
        factor = np.where(small, self.settings.nSigmaForRadius, radius / start_radius)
        good = rows[usable]
        _assign(state.aperture, good, state.start[good].scaled(factor[usable]))
        state.region_radius[good] = self.settings.nSigmaForRadius * start_radius[usable]
        fallback = broken.copy()
        fallback[rows[~usable]] = True
        self._fall_back(table, state, fallback)
        self._mark(table, "flag", broken)

    def _fail_at_edge(self, table: SourceTable, state: _State, stars: BoolArray) -> None:
        self._mark(table, "flag flag_edge", stars)
        self.column(table, "psf_radius")[stars] = np.nan
        state.measured &= ~stars

    def _fall_back(self, table: SourceTable, state: _State, stars: BoolArray) -> None:
        """Give stars without a Kron radius the shape slot scaled to the least radius (step 6)."""
        self._mark(table, "flag_bad_radius", stars)
        self._mark(table, self._minimum_flag, stars)
        with np.errstate(invalid="ignore", divide="ignore"):
            aperture = state.shape.scaled(state.smallest / state.shape.determinant_radius)
        _assign(state.aperture, np.flatnonzero(stars), aperture[stars])

    @property
    def _minimum_flag(self) -> str:
        return "flag_used_minimum_radius" if self.settings.minimumRadius > 0 else "flag_used_psf_radius"

    def _enforce_minimum(self, table: SourceTable, state: _State) -> None:
        """Enlarge apertures smaller than the least one (step 7); NaN radii are flagged as small."""
        if not self.settings.enforceMinimumRadius:
            return
        old = state.aperture.determinant_radius
        with np.errstate(invalid="ignore"):
            small = state.measured & (old < state.smallest)
        rows = np.flatnonzero(small)
        enlarged = state.aperture[rows].scaled(state.smallest[rows] / old[rows])
        _assign(state.aperture, rows, enlarged)
        self._mark(table, self._minimum_flag, small)
        self._mark(table, "flag_small_radius", state.measured & (state.aperture.determinant_radius != old))

    def _measure_fluxes(self, context: MeasurementContext, table: SourceTable, state: _State) -> None:
        """Sum the light in the scaled apertures and store everything (steps 8 and 9)."""
        radius = state.aperture.determinant_radius
        with np.errstate(invalid="ignore"):
            vanishing = state.measured & (radius < SMALLEST_RADIUS)
        self._mark(table, "flag flag_bad_radius", vanishing)
        state.measured &= ~vanishing
        aperture = state.aperture.scaled(self.settings.nRadiusForFlux)
        reach = aperture_reach(aperture, self.settings.maxSincRadius)
        half = required_half_width(reach)
        for rows in equal_batches(half, chosen=state.measured.copy()):
            self._sum_light(context, table, state, aperture, rows, int(half[rows[0]]))
        rest = np.flatnonzero(state.measured)
        self.column(table, "radius")[rest] = radius[rest]
        self.column(table, "radius_for_radius")[rest] = state.region_radius[rest]

    def _sum_light(
        self,
        context: MeasurementContext,
        table: SourceTable,
        state: _State,
        aperture: Quadrupoles,
        rows: IntArray,
        half: int,
    ) -> None:
        x, y = state.x[rows], state.y[rows]
        column, line = nearest_pixel(x, y)
        windows = cut_windows(context, rows, x=column, y=line, half=half)
        maximum = self.settings.maxSincRadius
        apertures = prepare_apertures(aperture[rows], x=x, y=y, max_sinc_radius=maximum)
        fluxes = measure_apertures(windows, apertures, region_only=True)
        self.column(table, "instFlux")[rows] = fluxes.flux
        self.column(table, "instFluxErr")[rows] = fluxes.error
        lost = np.zeros(len(state.x), dtype=bool)
        lost[rows] = fluxes.aperture_truncated & apertures.naive
        self._fail_at_edge(table, state, lost)
        if context.compatibility != "lsst":  # a sinc aperture over the edge has no flag there [M-Q15]
            lost[rows] = fluxes.aperture_truncated
            self._mark(table, "flag flag_edge", lost)


def _centroids(context: MeasurementContext) -> tuple[FloatArray, FloatArray]:
    """Return centroids, or first peaks where those are NaN, flagged or not (1.2)."""
    x, y = context.x.copy(), context.y.copy()
    footprints = context.footprints
    for star in np.flatnonzero((np.isnan(x) | np.isnan(y)) & (context.footprint_index >= 0)):
        first = footprints.peak_offset[context.footprint_index[star]]
        if first < footprints.peak_offset[context.footprint_index[star] + 1]:
            x[star], y[star] = footprints.peak_f_x[first], footprints.peak_f_y[first]
    return x, y


def _average_psf_shape(context: MeasurementContext) -> Quadrupoles:
    """Return the shape of the PSF at its average position and colour; NaN if it cannot be drawn."""
    from finalchar.psf.shape import adaptive_moments

    x, y = context.psf.average_position
    one = np.ones(len(context))
    try:
        moments = adaptive_moments(context.psf.kernel_image(x=x, y=y).array)
    except MemoryError:
        raise
    except Exception:
        return Quadrupoles(np.nan * one, np.nan * one, np.nan * one)
    return Quadrupoles(moments.xx[0] * one, moments.yy[0] * one, moments.xy[0] * one)


def _inside(context: MeasurementContext, region: Quadrupoles, state: _State) -> BoolArray:
    """Return whether all pixels of the regions lie on the image."""
    box = context.exposure.box
    with np.errstate(invalid="ignore"):
        min_x, min_y, max_x, max_y = region_boxes(region, x=state.x, y=state.y)
        return np.asarray(
            (min_x >= box.min_x) & (min_y >= box.min_y) & (max_x <= box.max_x) & (max_y <= box.max_y)
        )


def _radii(
    context: MeasurementContext, region: Quadrupoles, state: _State, rows: IntArray
) -> tuple[FloatArray, BoolArray]:
    """Return Kron radii of the given rows and whether they could be measured."""
    radius = np.full(len(rows), np.nan)
    usable = np.zeros(len(rows), dtype=bool)
    column, line = nearest_pixel(state.x[rows], state.y[rows])
    reach = np.sqrt(np.maximum(region.xx, region.yy))[rows] + 1.0
    half = required_half_width(reach)
    for part in equal_batches(half, chosen=np.ones(len(rows), dtype=bool)):
        stars, size = rows[part], int(half[part[0]])
        windows = cut_windows(context, stars, x=column[part], y=line[part], half=size)
        offset = np.arange(-size, size + 1)
        measured = kron_radii(
            windows.image,
            region=region[stars],
            dx=windows.x[:, np.newaxis] + offset - state.x[stars, np.newaxis],
            dy=windows.y[:, np.newaxis] + offset - state.y[stars, np.newaxis],
        )
        radius[part], usable[part] = measured.radius, measured.usable
    return radius, usable


def _assign(target: Quadrupoles, rows: IntArray, values: Quadrupoles) -> None:
    target.xx[rows], target.yy[rows], target.xy[rows] = values.xx, values.yy, values.xy
