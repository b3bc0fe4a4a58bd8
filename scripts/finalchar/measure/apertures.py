"""Aperture photometry with sinc interpolation, or by summing pixels (measurement specification 12).

Batches of elliptical apertures on windows around the stars.  The imperfect shift of the small coefficient
images is part of the definition [M-Q27].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.measure.context import clip_box
from finalchar.measure.quadrupoles import Quadrupoles, pixels_of_ellipse
from finalchar.measure.star_windows import PixelLimits, StarWindows, nearest_pixel

__all__ = [
    "ApertureFluxes",
    "Apertures",
    "aperture_reach",
    "coefficient_half_width",
    "measure_apertures",
    "prepare_apertures",
    "shift_coefficients",
    "sinc_coefficients",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ImageStack = npt.NDArray[np.float32]

LANCZOS_ORDER = 5
TAPS = 2 * LANCZOS_ORDER
SMALLEST_HALF_POWER = 3
CIRCLE_TOLERANCE = 1.19e-7
SMALL_ANGLE = 1e-5
LARGEST_WINDOW = 2048
"""Half width beyond which an aperture is taken as not fitting any detector."""


@dataclass(frozen=True)
class ApertureFluxes:
    """Fluxes in n apertures.

    Attributes
    ----------
    flux, error : ndarray, float64, shape (n,)
        Counts; NaN where the aperture does not fit on the image.
    aperture_truncated : ndarray, bool, shape (n,)
        The aperture does not fit on the image.
    sinc_truncated : ndarray, bool, shape (n,)
        The coefficient image does not fit; with an aperture that does, the flux lacks its outer parts.
    """

    flux: FloatArray
    error: FloatArray
    aperture_truncated: BoolArray
    sinc_truncated: BoolArray

    @classmethod
    def empty(cls, number: int) -> ApertureFluxes:
        """Return fluxes of apertures that do not fit."""
        yes = np.ones(number, dtype=bool)
        return cls(np.full(number, np.nan), np.full(number, np.nan), yes, np.zeros(number, dtype=bool))

    def put(self, rows: Any, part: ApertureFluxes) -> None:
        """Write the fluxes of some rows."""
        self.flux[rows], self.error[rows] = part.flux, part.error
        self.aperture_truncated[rows] = part.aperture_truncated
        self.sinc_truncated[rows] = part.sinc_truncated


def coefficient_half_width(semi_major: npt.ArrayLike) -> IntArray:
    """Return the half width of the coefficient image (12.1): a power of two, at least 8."""
    radius = np.maximum(np.asarray(semi_major, dtype=np.float64), np.finfo(float).tiny)
    power = np.maximum(np.ceil(np.log10(2.0 * radius) / np.log10(2.0)), SMALLEST_HALF_POWER)
    return np.asarray(2 ** power.astype(np.int64))


def aperture_reach(shape: Quadrupoles, max_sinc_radius: float) -> FloatArray:
    """Return the half width of the window that an aperture needs, pixels; 0 for what is no ellipse."""
    major, minor = shape.semi_axes
    known = shape.valid & np.isfinite(major) & (minor > 0) & (major < LARGEST_WINDOW)
    major = np.where(known, major, 1.0)
    with np.errstate(invalid="ignore"):
        reach = np.where(minor > max_sinc_radius, major + 2.0, coefficient_half_width(major) - 1.0)
    return np.where(known, reach, 0.0)


def sinc_coefficients(shape: Quadrupoles, half_width: int) -> ImageStack:
    """Return the coefficient images of centred elliptical apertures (12.1).

    Parameters
    ----------
    shape : Quadrupoles
        Ellipses of shape (n,), their boundary at (a, b).
    half_width : int
        Of `coefficient_half_width`.

    Returns
    -------
    ndarray, float32, shape (n, 2 half_width - 1, 2 half_width - 1)
    """
    from scipy.special import j1

    size = 2 * half_width - 1
    pixel = np.arange(size) - (half_width - 1)
    major, minor = (axis[:, np.newaxis, np.newaxis] for axis in shape.semi_axes)
    ratio = np.where(np.abs(major - minor) < CIRCLE_TOLERANCE, 1.0, minor / major)
    theta = 0.5 * np.arctan2(2.0 * shape.xy, shape.xx - shape.yy)[:, np.newaxis, np.newaxis]
    frequency = pixel / size
    kx, ky = frequency[np.newaxis, np.newaxis, :], frequency[np.newaxis, :, np.newaxis]
    along = kx * np.cos(theta) + ky * np.sin(theta)
    across = -kx * np.sin(theta) + ky * np.cos(theta)
    k = np.sqrt(along**2 + (ratio * across) ** 2)
    k[:, half_width - 1, half_width - 1] = 1.0
    transform = ratio * major * j1(2.0 * np.pi * major * k) / k
    transform[:, half_width - 1, half_width - 1] = (np.pi * ratio * major**2)[:, 0, 0]
    phase = 2.0 * np.pi * np.outer(pixel, frequency)
    cosine, sine = np.cos(phase), np.sin(phase)
    coefficients = cosine @ transform @ cosine.T - sine @ transform @ sine.T
    return np.asarray(coefficients / size**2, dtype=np.float32)


def _lanczos_weights(fraction: FloatArray) -> tuple[FloatArray, IntArray]:
    """Return the normalised taps for shifts of (n,) pixels and the offset of the first tap, -4 or -5."""
    first = np.where(fraction <= 0, 1 - LANCZOS_ORDER, -LANCZOS_ORDER)
    t = np.pi * (first[:, np.newaxis] + np.arange(TAPS) + fraction[:, np.newaxis])
    near = np.abs(t) <= SMALL_ANGLE
    safe = np.where(near, 1.0, t)
    weight = np.where(near, 1.0, np.sin(safe) * np.sin(safe / LANCZOS_ORDER) * LANCZOS_ORDER / safe**2)
    return weight / weight.sum(axis=1, keepdims=True), first


def _shift_matrices(fraction: FloatArray, size: int) -> tuple[FloatArray, BoolArray]:
    """Return matrices (n, size, size) that shift a line, and which elements the taps fit, (n, size)."""
    weight, first = _lanczos_weights(fraction)
    source = np.arange(size)[np.newaxis, :] - np.arange(size)[:, np.newaxis]  # [output, input]
    tap = source[np.newaxis] - first[:, np.newaxis, np.newaxis]
    matrices = np.take_along_axis(
        weight[:, np.newaxis, :].repeat(size, axis=1), np.clip(tap, 0, TAPS - 1), axis=2
    )
    matrices[(tap < 0) | (tap >= TAPS)] = 0.0
    element = np.arange(size)[np.newaxis, :]
    start = first[:, np.newaxis]
    return matrices, (element + start >= 0) & (element + start + TAPS - 1 < size)


def shift_coefficients(coefficients: ImageStack, *, dx: FloatArray, dy: FloatArray) -> ImageStack:
    """Return coefficient images shifted by fractions of a pixel; a border of 4 or 5 stays put (12.2).

    Parameters
    ----------
    coefficients : ndarray, float32, shape (n, size, size) or (1, size, size)
        Centred images; a single one is used for all shifts.
    dx, dy : ndarray, float64, shape (n,)
        Shifts, pixels.
    """
    size = coefficients.shape[1]
    along_x, fits_x = _shift_matrices(dx, size)
    along_y, fits_y = _shift_matrices(dy, size)
    first = (coefficients.astype(np.float64) @ along_x.transpose(0, 2, 1)).astype(np.float32)
    shifted = (along_y @ first.astype(np.float64)).astype(np.float32)
    inside = fits_y[:, :, np.newaxis] & fits_x[:, np.newaxis, :]
    return np.where(inside, shifted, coefficients)


@dataclass(frozen=True)
class Apertures:
    """Elliptical apertures of n stars, ready to be laid on any of their images.

    Attributes
    ----------
    shape : Quadrupoles
        Boundaries, at (a, b); a shape that is no ellipse gives NaN.
    x, y : ndarray, float64, shape (n,)
        Centres, parent pixels.
    naive : ndarray, bool, shape (n,)
        Plain sums of pixels.
    half_width : ndarray, int64, shape (n,)
        Of the coefficient images; 0 for plain sums and for what is no ellipse.
    weights : dict of int to (row of each star, ndarray)
        Shifted coefficient images by half width.
    """

    shape: Quadrupoles
    x: FloatArray
    y: FloatArray
    naive: BoolArray
    half_width: IntArray
    weights: dict[int, tuple[IntArray, FloatArray]]

    def __len__(self) -> int:
        return len(self.x)


def prepare_apertures(
    shape: Quadrupoles, *, x: FloatArray, y: FloatArray, max_sinc_radius: float
) -> Apertures:
    """Make the coefficient images of apertures, shifted to their centres (12.1, 12.2).

    Parameters
    ----------
    shape : Quadrupoles
        Boundaries of shape (n,).
    x, y : ndarray, float64, shape (n,)
        Centres, parent pixels.
    max_sinc_radius : float
        Apertures whose minor semi-axis is larger are plain sums of pixels.
    """
    major, minor = shape.semi_axes
    known = shape.valid & np.isfinite(major) & (minor > 0) & (major < LARGEST_WINDOW)
    with np.errstate(invalid="ignore"):
        naive = known & (minor > max_sinc_radius)
    half = np.where(known & ~naive, coefficient_half_width(np.where(known, major, 1.0)), 0)
    weights = {}
    for width in np.unique(half[half > 0]):
        rows = np.flatnonzero(half == width)
        place = np.full(len(half), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        weights[int(width)] = place, _shifted_images(shape[rows], x[rows], y[rows], int(width))
    return Apertures(shape, x, y, naive, half, weights)


def _shifted_images(shape: Quadrupoles, x: FloatArray, y: FloatArray, half_width: int) -> FloatArray:
    equal = len(shape) > 1 and all(np.ptp(one) == 0 for one in (shape.xx, shape.yy, shape.xy))
    column, line = nearest_pixel(x, y)
    return shift_coefficients(
        sinc_coefficients(shape[:1] if equal else shape, half_width),
        dx=x.astype(np.float32).astype(np.float64) - column,
        dy=y.astype(np.float32).astype(np.float64) - line,
    ).astype(np.float64)


def measure_apertures(
    windows: StarWindows, apertures: Apertures, rows: IntArray | None = None, *, region_only: bool = False
) -> ApertureFluxes:
    """Return the fluxes in elliptical apertures, one per window (12.4).

    Parameters
    ----------
    windows : StarWindows
        Windows centred on `nearest_pixel` of the centres, of at least `aperture_reach`.
    apertures : Apertures
        Of the same stars, or of more.
    rows : ndarray, int64, optional
        Which of the apertures belong to the windows; by default all.
    region_only : bool
        Plain sums need only their pixels on the image (Kron), not their expanded bounding box.
    """
    rows = np.arange(len(apertures)) if rows is None else rows
    result = ApertureFluxes.empty(len(windows))
    half = apertures.half_width[rows]
    for width in np.unique(half[half > 0]):
        chosen = np.flatnonzero(half == width)
        result.put(chosen, _measure_sinc(windows[chosen], apertures, rows[chosen], int(width)))
    for one in np.flatnonzero(apertures.naive[rows]):
        result.put(
            slice(one, one + 1), _sum_pixels(windows, int(one), apertures, int(rows[one]), region_only)
        )
    return result


def _measure_sinc(
    windows: StarWindows, apertures: Apertures, rows: IntArray, half_width: int
) -> ApertureFluxes:
    half = half_width - 1
    place, images = apertures.weights[half_width]
    weight = _within_limits(images[place[rows]], windows, half)
    image, variance = windows.core(half)
    flux = np.einsum("nij,nij->n", weight, image)
    squares = np.einsum("nij,nij->n", weight * weight, variance)
    full = PixelLimits(windows.x - half, windows.y - half, windows.x + half, windows.y + half)
    truncated = ~windows.limits.contain(full)
    overlap = PixelLimits(
        np.maximum(full.min_x, windows.limits.min_x),
        np.maximum(full.min_y, windows.limits.min_y),
        np.minimum(full.max_x, windows.limits.max_x),
        np.minimum(full.max_y, windows.limits.max_y),
    )
    needed = _bounding_boxes(apertures.shape[rows], apertures.x[rows], apertures.y[rows])
    lost = truncated & ~overlap.contain(needed)
    with np.errstate(invalid="ignore"):
        error = np.where(lost, np.nan, np.sqrt(squares))
    return ApertureFluxes(np.where(lost, np.nan, flux), error, lost, truncated)


def _within_limits(weight: FloatArray, windows: StarWindows, half: int) -> FloatArray:
    """Return the weights without those outside the measured image."""
    offset = np.arange(-half, half + 1)
    column = windows.x[:, np.newaxis] + offset
    row = windows.y[:, np.newaxis] + offset
    limits = windows.limits
    use_x = (column >= limits.min_x[:, np.newaxis]) & (column <= limits.max_x[:, np.newaxis])
    use_y = (row >= limits.min_y[:, np.newaxis]) & (row <= limits.max_y[:, np.newaxis])
    if use_x.all() and use_y.all():
        return weight
    return np.where(use_y[:, :, np.newaxis] & use_x[:, np.newaxis, :], weight, 0.0)


def _bounding_boxes(shape: Quadrupoles, x: FloatArray, y: FloatArray) -> PixelLimits:
    """Return the integer boxes of the ellipses' bounding boxes (expand rule)."""
    half_x, half_y = np.sqrt(shape.xx), np.sqrt(shape.yy)
    return PixelLimits(
        np.ceil(x - half_x - 0.5).astype(np.int64),
        np.ceil(y - half_y - 0.5).astype(np.int64),
        np.floor(x + half_x + 0.5).astype(np.int64),
        np.floor(y + half_y + 0.5).astype(np.int64),
    )


def _sum_pixels(
    windows: StarWindows, row: int, apertures: Apertures, aperture: int, region_only: bool
) -> ApertureFluxes:
    """Return the plain sum over the pixels of one ellipse."""
    one = slice(aperture, aperture + 1)
    shape, x, y = apertures.shape[one], apertures.x[one], apertures.y[one]
    expanded = _bounding_boxes(shape, x, y).box(0)
    column, line = pixels_of_ellipse(
        xx=float(shape.xx[0]),
        yy=float(shape.yy[0]),
        xy=float(shape.xy[0]),
        x=float(x[0]),
        y=float(y[0]),
        box=expanded,
    )
    limits = windows.limits.box(row)
    needed = _extent(column, line) if region_only else expanded
    available = clip_box(limits, windows.box(row))
    if needed is None or available is None or not available.contains(needed):
        return ApertureFluxes.empty(1)
    x0, y0 = int(windows.x[row]) - windows.half, int(windows.y[row]) - windows.half
    flux = windows.image[row, line - y0, column - x0].sum(dtype=np.float64)
    variance = windows.variance[row, line - y0, column - x0].sum(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        error = np.sqrt(variance)
    no = np.zeros(1, dtype=bool)
    return ApertureFluxes(np.array([flux]), np.array([error]), no, no)


def _extent(x: IntArray, y: IntArray) -> Box | None:
    if not len(x):
        return None
    return Box(int(x.min()), int(y.min()), int(x.max()), int(y.max()))
