"""Which pixels are fitted (measurement specification 8.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.measure.context import MeasurementContext
from finalchar.measure.quadrupoles import Quadrupoles, pixels_of_ellipse
from finalchar.measure.trust_region import PIXEL_BLOCK

__all__ = ["FitPixels", "FitRegion", "collect_pixels", "initial_region", "revised_region"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FitRegion:
    """Ellipses of the regions of n stars, and flags by name that say what they were made of."""

    ellipse: Quadrupoles
    flags: dict[str, BoolArray]


@dataclass(frozen=True)
class FitPixels:
    """Pixels to be fitted, one row per star, filled up with unused ones to a common length.

    Attributes
    ----------
    x, y : ndarray, float32, shape (n, pixels)
        Parent coordinates.
    data, variance : ndarray, float32, shape (n, pixels)
        0 and 1 where not used.
    used : ndarray, float32, shape (n, pixels)
        1 for a pixel of the region, else 0.
    number : ndarray, int64, shape (n,)
        Pixels of the region.
    enough : ndarray, bool, shape (n,)
        Not too many pixels were lost to masks and edges.
    """

    x: SingleArray
    y: SingleArray
    data: SingleArray
    variance: SingleArray
    used: SingleArray
    number: IntArray
    enough: BoolArray

    def __getitem__(self, index: Any) -> FitPixels:
        return FitPixels(*(values[index] for values in vars(self).values()))


def initial_region(
    *,
    moments: Quadrupoles,
    psf: Quadrupoles,
    kron_radius: FloatArray,
    footprint_area: IntArray,
    settings: Any,
) -> FitRegion:
    """Return the region of the first fit: from the Kron radius, the footprint or the PSF."""
    with np.errstate(invalid="ignore", divide="ignore"):
        psf_area = psf.area * settings.nPsfSigmaMin**2
        kron = moments.scaled(settings.nKronRadii * kron_radius / moments.determinant_radius)
        use_kron = (kron_radius > 0) & moments.valid & (kron.area >= psf_area)
        small = psf_area > footprint_area
        grown = psf.scaled(np.where(small, settings.nPsfSigmaMin, np.sqrt(footprint_area / psf.area)))
        ellipse = Quadrupoles.where(use_kron, kron, grown)
        flags = {
            "flags_region_usedFootprintArea": ~use_kron & ~small,
            "flags_region_usedPsfArea": ~use_kron & small,
            "flag_region_maxArea": ellipse.area > settings.maxArea,  # nothing is aborted [M-Q8]
        }
    return FitRegion(ellipse, flags)


def revised_region(
    *, fitted: Quadrupoles, psf: Quadrupoles, initial: Quadrupoles, settings: Any
) -> FitRegion:
    """Return the region of the later fits: so many fitted radii, and the PSF, within the initial region.

    The root of an equation for the scale of the moments is taken for a scale of the radius [M-Q9].
    """
    grown = psf.scaled(settings.nPsfSigmaGrow)
    with np.errstate(invalid="ignore", divide="ignore"):
        a = fitted.determinant
        b = fitted.xx * grown.yy + fitted.yy * grown.xx - 2.0 * fitted.xy * grown.xy
        c = grown.determinant - initial.determinant
        scale = (np.sqrt(b * b - 4.0 * a * c) - b) / (2.0 * a)
        low, high = scale < settings.nFitRadiiMin, scale > settings.nFitRadiiMax
    scale = np.where(low, settings.nFitRadiiMin, np.where(high, settings.nFitRadiiMax, scale))
    flags = {"flags_region_usedInitialEllipseMin": low, "flags_region_usedInitialEllipseMax": high}
    return FitRegion(fitted.scaled(scale) + grown, flags)


def collect_pixels(
    context: MeasurementContext, stars: IntArray, ellipse: Quadrupoles, settings: Any
) -> FitPixels:
    """Return the pixels of the stars inside their ellipses, without bad ones.

    Parameters
    ----------
    context : MeasurementContext
    stars : ndarray, int64, shape (n,)
        Rows of the table.
    ellipse : Quadrupoles, shape (n,)
        The regions.
    settings : section
        ``badMaskPlanes``, ``maxBadPixelFraction``.
    """
    bad = context.exposure.mask_bits(settings.badMaskPlanes)
    rows = [_pixels_of_star(context, int(star), ellipse[row], bad) for row, star in enumerate(stars)]
    number = np.array([len(row[0]) for row in rows], dtype=np.int64)
    length = max(PIXEL_BLOCK, -(-int(number.max(initial=0)) // PIXEL_BLOCK) * PIXEL_BLOCK)
    planes = np.zeros((5, len(stars), length), dtype=np.float32)
    planes[3] = 1.0
    for row, values in enumerate(rows):
        if number[row]:
            planes[:2, row] = values[:2, :1]  # unused pixels have a harmless place
        planes[:, row, : number[row]] = values
    area = ellipse.area
    with np.errstate(invalid="ignore"):
        enough = (number > 0) & ~(area - number > settings.maxBadPixelFraction * area)
    x, y, data, variance, used = planes
    return FitPixels(x, y, data, variance, used, number, enough)


def _pixels_of_star(
    context: MeasurementContext, star: int, ellipse: Quadrupoles, bad: np.int32
) -> SingleArray:
    """Return x, y, image, variance and one of the good pixels, shape (5, pixels)."""
    x, y = pixels_of_ellipse(
        xx=float(ellipse.xx),
        yy=float(ellipse.yy),
        xy=float(ellipse.xy),
        x=float(context.x[star]),
        y=float(context.y[star]),
        box=context.exposure.box,
    )
    if not len(x):
        return np.zeros((5, 0), dtype=np.float32)
    box = Box(int(x.min()), int(y.min()), int(x.max()), int(y.max()))
    place = (y - box.min_y, x - box.min_x)
    good = (context.mask(box)[place] & bad) == 0
    data, variance = context.stamp(star, box)[place], context.variance(box)[place]
    return np.stack([x, y, data, variance, np.ones(len(x))])[:, good].astype(np.float32)
