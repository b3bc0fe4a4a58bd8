"""Gaussian-aperture-and-PSF fluxes (measurement specification 11).

The PSF at each star is made a round Gaussian somewhat larger than itself; then the flux in a Gaussian
aperture *before* the seeing is a Gaussian-weighted sum after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from finalchar.config_base import EachPositive
from finalchar.config_base import Field as SettingsField
from finalchar.errors import MeasurementError
from finalchar.formats.exposure import ARCSEC_PER_RADIAN, Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.context import MeasurementContext, clip_box
from finalchar.measure.fixed_moment_batch import CentredImages, fixed_moment_fluxes, is_usable_weight
from finalchar.measure.gaussianization import (
    KernelSettings,
    autocorrelations,
    convolve_with_kernel,
    fit_kernels,
    kernel_sigmas,
    kernel_sizes,
)
from finalchar.measure.plugin import BatchPlugin, Field, PluginSettings, flag
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.star_windows import equal_batches, required_half_width

NAME = "ext_gaap_GaapFlux"
ORDER = 2.0

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

KERNEL = KernelSettings()
PSF_FLUX, OPTIMAL = "PsfFlux", "Optimal"


class Settings(PluginSettings):
    """Settings of ext_gaap_GaapFlux."""

    sigmas: Annotated[list[float], EachPositive()] = SettingsField(
        [0.5, 0.7, 1.0, 1.5, 2.5, 3.0], description="sigma of the round apertures before the seeing, arcsec"
    )
    scalingFactors: Annotated[list[float], EachPositive()] = SettingsField(
        [1.15], description="sizes of the Gaussian PSFs aimed at, in sizes of the PSF"
    )
    doPsfPhotometry: bool = SettingsField(True, description="measure with the Gaussian PSF itself, too")
    doOptimalPhotometry: bool = SettingsField(True, description="measure with the star's own shape, too")
    registerForApCorr: bool = SettingsField(True, description="ask for aperture corrections")


@dataclass
class _Stars:
    """The stars that can be measured; arrays of shape (n,)."""

    rows: IntArray
    x: FloatArray
    y: FloatArray
    boxes: list[Box]
    """Grown footprints, clipped to the exposure."""
    psf_sigma: FloatArray
    variance: FloatArray
    """Of the pixel that holds the centroid, found by truncation [M-Q5]."""
    sky_metric: FloatArray
    """Squared length of pixel vectors on the sky, arcsec squared, shape (n, 2, 2)."""
    optimal: Quadrupoles

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Gaussianized:
    """Images with Gaussian PSFs of width `sigma` (pixels), and the autocorrelations of their kernels."""

    places: IntArray
    sigma: FloatArray
    images: CentredImages
    correlations: CentredImages


@dataclass(frozen=True)
class _Weights:
    """Weights of one variant: `after` the seeing, the factor on the flux, and who cannot have one."""

    after: Quadrupoles
    factor: FloatArray
    too_small: BoolArray


class Plugin(BatchPlugin[Settings]):
    """Measure all variants for all stars; masked pixels take part [M-Q30]."""

    def fields(self) -> list[Field]:
        """Return the columns."""
        factors = self.settings.scalingFactors
        fields: list[Field] = []
        flags: list[Field] = []
        for factor in factors:
            for sigma in self.settings.sigmas:
                name = f"{_factor_name(factor)}_{_sigma_name(sigma)}"
                fields += _flux_fields(name, f"{sigma} aperture", factor)
                flags += _flag_fields(name, big_psf=True)
            if self.settings.doPsfPhotometry:
                fields += _flux_fields(f"{_factor_name(factor)}_{PSF_FLUX}", "PSF aperture", factor)
                flags += _flag_fields(f"{_factor_name(factor)}_{PSF_FLUX}", big_psf=False)
        if self.settings.doOptimalPhotometry:
            sentence = "Pre-seeing aperture used for optimal GAaP photometry"
            fields += [
                Field(f"{NAME}_OptimalShape_{axes}", "float64", "pix2", sentence)
                for axes in ("xx", "yy", "xy")
            ]
            for factor in factors:
                fields += _flux_fields(f"{_factor_name(factor)}_{OPTIMAL}", "optimal aperture", factor)
                flags += _flag_fields(f"{_factor_name(factor)}_{OPTIMAL}", big_psf=True)
        sentence = "PSF Gaussianization failed when trying to scale by this factor."
        flags += [flag(f"{NAME}_{_factor_name(one)}_flag_gaussianization", sentence) for one in factors]
        return [
            *fields,
            *flags,
            flag(f"{NAME}_flag_edge", "Source is too close to the edge"),
            flag(f"{NAME}_flag_no_pixel", "No pixels in the footprint"),
            flag(f"{NAME}_flag", "Set for any fatal failure"),
        ]

    def fluxes(self) -> list[str]:
        """Return the fluxes to be aperture corrected."""
        if not self.settings.registerForApCorr:
            return []
        return [
            f"{NAME}_{name}" for factor in self.settings.scalingFactors for name in self._variants(factor)
        ]

    def _variants(self, factor: float) -> list[str]:
        """Return the variants in the order of measurement."""
        own = _factor_name(factor)
        names = [f"{own}_{PSF_FLUX}"] if self.settings.doPsfPhotometry else []
        names += [f"{own}_{OPTIMAL}"] if self.settings.doOptimalPhotometry else []
        return names + [f"{own}_{_sigma_name(sigma)}" for sigma in self.settings.sigmas]

    def measure_batch(self, context: MeasurementContext, table: SourceTable, stars: IntArray) -> None:
        """Measure all variants of stars."""
        optimal = self._optimal_shapes(context, table)
        gathered = self._gather(context, table, stars, optimal)
        for factor in self.settings.scalingFactors:
            for gaussianized in self._gaussianize(context, table, gathered, factor):
                self._measure_variants(table, gathered, gaussianized, factor)

    def _optimal_shapes(self, context: MeasurementContext, table: SourceTable) -> Quadrupoles:
        """Store and return shape plus PSF shape."""
        axes = ("xx", "yy", "xy")
        slots = (context.slots.shape, context.slots.psfShape)
        sums = [table[f"{slots[0]}_{axis}"] + table[f"{slots[1]}_{axis}"] for axis in axes]
        shape = Quadrupoles(*(np.asarray(values, dtype=np.float64) for values in sums))
        failed = np.isnan(shape.xx) | np.isnan(shape.yy) | np.isnan(shape.xy)
        shape = Quadrupoles.where(failed, shape.scaled(np.nan), shape)
        if self.settings.doOptimalPhotometry:
            for axis, values in zip(axes, (shape.xx, shape.yy, shape.xy), strict=True):
                self.column(table, f"OptimalShape_{axis}")[:] = values
        return shape

    def _gather(
        self, context: MeasurementContext, table: SourceTable, stars: IntArray, optimal: Quadrupoles
    ) -> _Stars:
        """Sort out who can be measured (step 2), and gather what all variants need of them."""
        boxes = {star: box for star in stars.tolist() if (box := context.footprint_box(star)) is not None}
        rows = []
        for star in stars.tolist():
            if star not in boxes:
                self._flag_variants(table, star)
                self.column(table, "flag_no_pixel")[star] = self.column(table, "flag")[star] = True
            elif not context.psf_kernels.valid[star]:
                table["base_InvalidPsf_flag"][star] = self.column(table, "flag")[star] = True
            elif not np.isfinite([context.x[star], context.y[star]]).all():
                self.column(table, "flag")[star] = True
            else:
                rows.append(star)
        grown = {star: self._grown_box(context, table, star, boxes[star]) for star in rows}
        on_box = [
            star
            for star in rows
            if (box := grown[star]) is not None
            and box.contains(_central_pixel(box, float(context.x[star]), float(context.y[star])))
        ]
        self.column(table, "flag")[[star for star in rows if star not in on_box]] = True
        place = np.array(on_box, dtype=np.int64)
        kept = [box for star in on_box if (box := grown[star]) is not None]
        x, y = context.x[place], context.y[place]
        return _Stars(
            rows=place,
            x=x,
            y=y,
            boxes=kept,
            psf_sigma=np.sqrt(0.5 * (context.psf_shapes.xx[place] + context.psf_shapes.yy[place])),
            variance=_central_variance(context, kept, x, y),
            sky_metric=_sky_metric(context, x, y),
            optimal=optimal[place],
        )

    def _flag_variants(self, table: SourceTable, star: int) -> None:
        for factor in self.settings.scalingFactors:
            for name in self._variants(factor):
                self.column(table, f"{name}_flag")[star] = True

    def _grown_box(
        self, context: MeasurementContext, table: SourceTable, star: int, footprint: Box
    ) -> Box | None:
        grow = KERNEL.size // 2
        grown = Box(
            footprint.min_x - grow, footprint.min_y - grow, footprint.max_x + grow, footprint.max_y + grow
        )
        box = clip_box(grown, context.exposure.box)
        if box != grown:
            self.column(table, "flag_edge")[star] = True
        return box

    def _gaussianize(
        self, context: MeasurementContext, table: SourceTable, stars: _Stars, factor: float
    ) -> Iterator[_Gaussianized]:
        """Yield Gaussianised images of stars with kernels and windows of one size (steps 3 and 4)."""
        with np.errstate(invalid="ignore"):
            has_size = stars.psf_sigma > 0
        self._fail_gaussianization(table, stars.rows[~has_size], factor)
        target = factor * stars.psf_sigma
        sigma = kernel_sigmas(target=target, psf=stars.psf_sigma, settings=KERNEL)
        sizes = np.where(has_size, kernel_sizes(np.where(has_size, sigma, 1.0), KERNEL), 0)
        windows = required_half_width(_reach(stars.boxes, stars.x, stars.y))
        for places in equal_batches(sizes, windows, chosen=has_size):
            try:
                kernels = fit_kernels(
                    context.psf_kernels.arrays[stars.rows[places]],
                    target_sigma=target[places],
                    kernel_sigma=sigma[places],
                    size=int(sizes[places[0]]),
                    settings=KERNEL,
                )
            except (ValueError, np.linalg.LinAlgError):
                self._fail_gaussianization(table, stars.rows[places], factor)
                continue
            yield _Gaussianized(
                places=places,
                sigma=target[places],
                images=self._images(context, stars, places, kernels),
                correlations=_correlation_images(kernels),
            )

    def _fail_gaussianization(self, table: SourceTable, stars: IntArray, factor: float) -> None:
        self.column(table, f"{_factor_name(factor)}_flag_gaussianization")[stars] = True
        for name in self._variants(factor):
            self.column(table, f"{name}_flag")[stars] = True

    def _images(
        self, context: MeasurementContext, stars: _Stars, places: IntArray, kernels: FloatArray
    ) -> CentredImages:
        """Return the convolved sub-images in windows around the stars.

        The reference fits the kernel as a correlation and applies it as a convolution [M-Q19].
        """
        applied = kernels if context.compatibility == "lsst" else kernels[:, ::-1, ::-1]
        convolved = [
            convolve_with_kernel(context.stamp(int(stars.rows[place]), stars.boxes[place]), kernel)
            for place, kernel in zip(places, applied, strict=True)
        ]
        boxes = [stars.boxes[place] for place in places]
        return _centred(convolved, boxes, stars.x[places], stars.y[places])

    def _measure_variants(
        self, table: SourceTable, stars: _Stars, gaussianized: _Gaussianized, factor: float
    ) -> None:
        """Measure variant after variant; a barely positive weight ends the row [M-Q18]."""
        places = gaussianized.places
        going_on = np.ones(len(places), dtype=bool)
        for name in self._variants(factor):
            weights = self._weights(stars, gaussianized, name)
            too_small = going_on & weights.too_small
            for suffix in ("flag", "flag_bigPsf") if too_small.any() else ():
                self.column(table, f"{name}_{suffix}")[stars.rows[places[too_small]]] = True
            wanted = going_on & ~weights.too_small
            broken = wanted & ~(is_usable_weight(weights.after) & is_usable_weight(_doubled(weights.after)))
            self.column(table, "flag")[stars.rows[places[broken]]] = True
            going_on &= ~broken
            self._store(table, stars, gaussianized, weights, np.flatnonzero(wanted & ~broken), name)

    def _store(
        self,
        table: SourceTable,
        stars: _Stars,
        gaussianized: _Gaussianized,
        weights: _Weights,
        chosen: IntArray,
        name: str,
    ) -> None:
        """Measure and store one variant of the chosen stars."""
        after, factor = weights.after[chosen], weights.factor[chosen]
        places = gaussianized.places[chosen]
        flux = fixed_moment_fluxes(gaussianized.images.take(chosen), after)
        correlated = fixed_moment_fluxes(gaussianized.correlations.take(chosen), _doubled(after))
        with np.errstate(invalid="ignore"):
            error = 2.0 * np.sqrt(stars.variance[places] * np.pi * np.sqrt(after.determinant))
            error *= np.sqrt(0.5 * correlated)
        self.column(table, f"{name}_instFlux")[stars.rows[places]] = factor * flux
        self.column(table, f"{name}_instFluxErr")[stars.rows[places]] = factor * error

    def _weights(self, stars: _Stars, gaussianized: _Gaussianized, name: str) -> _Weights:
        """Return the weight of a variant: the aperture before the seeing less the Gaussian PSF."""
        places = gaussianized.places
        seeing = Quadrupoles.circles(gaussianized.sigma**2)
        variant = name.split("_", 2)[2] if name.count("_") >= 2 else name
        if variant == PSF_FLUX:
            none = np.zeros(len(places), dtype=bool)
            return _Weights(seeing, np.ones(len(places)), none)
        hidden = np.zeros(len(places), dtype=bool)
        if variant == OPTIMAL:
            before = stars.optimal[places]
        else:
            sigma = float(variant.replace("_", "."))
            before, hidden = _round_apertures(stars.sky_metric[places], gaussianized.sigma, sigma)
        after = before - seeing
        with np.errstate(invalid="ignore", divide="ignore"):
            too_small = hidden | ~after.valid | ~(after.area > 0)
            factor = 0.5 * (after + seeing).area / after.area
        return _Weights(after, factor, too_small)


def _factor_name(factor: float) -> str:
    return f"{factor}x".replace(".", "_")


def _sigma_name(sigma: float) -> str:
    return str(sigma).replace(".", "_")


def _flux_fields(name: str, aperture: str, factor: float) -> list[Field]:
    sentence = f"GAaP Flux with {aperture} after multiplying the seeing by {factor}"
    return [
        Field(f"{NAME}_{name}_instFlux", "float64", "ct", sentence),
        Field(f"{NAME}_{name}_instFluxErr", "float64", "ct", "1-sigma instFlux uncertainty"),
    ]


def _flag_fields(name: str, *, big_psf: bool) -> list[Field]:
    big = flag(f"{NAME}_{name}_flag_bigPsf", "The Gaussianized PSF is bigger than the aperture")
    own = flag(f"{NAME}_{name}_flag", "Generic failure flag for this set of config parameters. ")
    return [big, own] if big_psf else [own]


def _doubled(shape: Quadrupoles) -> Quadrupoles:
    return Quadrupoles(2.0 * shape.xx, 2.0 * shape.yy, 2.0 * shape.xy)


def _round_apertures(
    sky_metric: FloatArray, target: FloatArray, sigma: float
) -> tuple[Quadrupoles, BoolArray]:
    """Return apertures that are round on the sky, in pixels, and which are not larger than the PSF."""
    determinant = sky_metric[:, 0, 0] * sky_metric[:, 1, 1] - sky_metric[:, 0, 1] ** 2
    scale = determinant**0.25
    factor = sigma**2 / determinant
    shape = Quadrupoles(
        factor * sky_metric[:, 1, 1], factor * sky_metric[:, 0, 0], -factor * sky_metric[:, 0, 1]
    )
    return shape, np.asarray(sigma <= target * scale)


def _sky_metric(context: MeasurementContext, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the metric of the tangent plane at the stars from one-pixel steps of the astrometry."""
    if context.exposure.wcs is None:  # an input without astrometry
        raise MeasurementError(
            f"{NAME} needs the astrometry of the exposure, which has none;"
            " take the plugin out of measurement.plugins.names or give the exposure a WCS"
        )
    points_x, points_y = np.concatenate([x, x + 1.0, x]), np.concatenate([y, y, y + 1.0])
    ra, dec = context.exposure.wcs.pixel_to_sky(x=points_x, y=points_y)
    unit = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    centre, right, up = unit.reshape(3, len(x), 3)
    steps = np.stack([right, up], axis=1)
    steps = steps / np.einsum("nki,ni->nk", steps, centre)[:, :, np.newaxis] - centre[:, np.newaxis, :]
    return np.asarray(np.einsum("nki,nli->nkl", steps, steps) * ARCSEC_PER_RADIAN**2)


def _central_pixel(box: Box, x: float, y: float) -> Box:
    """Return the pixel of a centroid, found by truncation relative to the box [M-Q5]."""
    column, row = box.min_x + int(x - box.min_x), box.min_y + int(y - box.min_y)
    return Box(column, row, column, row)


def _central_variance(
    context: MeasurementContext, boxes: list[Box], x: FloatArray, y: FloatArray
) -> FloatArray:
    pixels = [_central_pixel(*one) for one in zip(boxes, x.tolist(), y.tolist(), strict=True)]
    return np.array([context.variance(pixel)[0, 0] for pixel in pixels], dtype=np.float64)


def _centred(
    images: list[npt.NDArray[np.float32]], boxes: list[Box], x: FloatArray, y: FloatArray
) -> CentredImages:
    """Put images of different boxes into equal windows around the stars."""
    column, row = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    half = int(_reach(boxes, x, y).max(initial=0))
    offset = np.arange(-half, half + 1)
    pixels = np.zeros((len(boxes), 2 * half + 1, 2 * half + 1), dtype=np.float32)
    for place, (image, box) in enumerate(zip(images, boxes, strict=True)):
        first_x, first_y = box.min_x - column[place] + half, box.min_y - row[place] + half
        pixels[place, first_y : first_y + box.height, first_x : first_x + box.width] = image
    min_x, min_y = np.array([box.min_x for box in boxes]), np.array([box.min_y for box in boxes])
    return CentredImages(
        pixels=pixels,
        dx=_offsets(column[:, np.newaxis] + offset - min_x[:, np.newaxis], x - min_x),
        dy=_offsets(row[:, np.newaxis] + offset - min_y[:, np.newaxis], y - min_y),
    )


def _reach(boxes: list[Box], x: FloatArray, y: FloatArray) -> IntArray:
    """Return how far the boxes reach from the pixels of their stars."""
    reach = [
        max(box.max_x - column, column - box.min_x, box.max_y - row, row - box.min_y)
        for box, column, row in zip(boxes, np.floor(x + 0.5), np.floor(y + 0.5), strict=True)
    ]
    return np.array(reach, dtype=np.float64).astype(np.int64)


def _offsets(index: IntArray, centre: FloatArray) -> npt.NDArray[np.float32]:
    """Return pixel numbers less the centre, both relative to the sub-image and rounded to float32."""
    return index.astype(np.float32) - centre.astype(np.float32)[:, np.newaxis]


def _correlation_images(kernels: FloatArray) -> CentredImages:
    images = autocorrelations(kernels).astype(np.float32)
    half = images.shape[1] // 2
    offset = np.tile(np.arange(-half, half + 1, dtype=np.float32), (len(images), 1))
    return CentredImages(images, offset, offset)
