"""Adaptive moments of PSF images: what "the shape of the PSF" means everywhere in the library.

Fixed-centre adaptive Gaussian-weighted moments (measurement specification 5.3), for a batch of images at
once.  The mixture of single and double precision is part of the definition: it decides in which pass an
image converges, and the reference results are reproduced to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "MAX_EXPONENT",
    "MAX_EXPONENT_SUB_PIXEL",
    "MAX_INVERSE",
    "SINGULAR_DETERMINANT",
    "AdaptiveMoments",
    "adaptive_moments",
    "determinant_radius",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

START_VARIANCE = 1.5
MAX_PASSES = 100
ELLIPTICITY_TOLERANCE = np.float32(1e-5)
SIZE_TOLERANCE = np.float32(1e-4)
MAX_SHIFT = 2.0
SINGULAR_DETERMINANT = 1.1920929e-7
MAX_INVERSE = 1e6
MAX_EXPONENT = np.float32(14.0)
MAX_EXPONENT_SUB_PIXEL = np.float32(9.0)
SUB_PIXEL = np.array([-0.375, -0.125, 0.125, 0.375], dtype=np.float32)
PIXEL_VARIANCE = 1.0 / 12.0
"""Second moment of one pixel: the placeholder of an image whose moments cannot be had at all."""


@dataclass(frozen=True)
class AdaptiveMoments:
    """Second moments of n images about their fixed centres, pixels squared; all arrays of shape (n,).

    Attributes
    ----------
    xx, yy, xy : ndarray, float64
        Moments.  Where `failed`, unweighted moments, 1/12, 0, 1/12 or NaN: never a measurement.
    failed : ndarray, bool
        The iteration failed.
    shifted : ndarray, bool
        The weighted centroid of the last pass lies more than 2 pixels off the centre.
    passes : ndarray, int
        Passes over the image.
    """

    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    failed: BoolArray
    shifted: BoolArray
    passes: npt.NDArray[np.int64]


def determinant_radius(moments: AdaptiveMoments) -> FloatArray:
    """Return (Ixx Iyy - Ixy^2)^(1/4), pixels; NaN where that is not a positive number."""
    determinant = moments.xx * moments.yy - moments.xy**2
    return np.where(determinant > 0, np.abs(determinant), np.nan) ** 0.25


def adaptive_moments(
    images: npt.ArrayLike, *, center_x: int | None = None, center_y: int | None = None
) -> AdaptiveMoments:
    """Measure fixed-centre adaptive moments of images (measurement specification 5.3).

    Parameters
    ----------
    images : array_like, float64, shape (n, ny, nx) or (ny, nx)
        Images without background.
    center_x, center_y : int, optional
        Pixel index of the centre; by default the middle pixel (size // 2).

    Returns
    -------
    AdaptiveMoments
        Arrays of shape (n,); n = 1 for a single image.
    """
    stack = np.asarray(images, dtype=np.float64)
    if stack.ndim == 2:
        stack = stack[np.newaxis]
    grid = _PixelGrid.of_shape(stack.shape[1:], center_x, center_y)
    state = _Iteration.start(len(stack))
    pixels = stack.reshape(len(stack), -1).astype(np.float32)
    active = np.arange(len(stack))
    for _ in range(MAX_PASSES):
        if not len(active):
            break
        active = state.one_pass(active, pixels, grid)
    state.fail(active)
    return state.result(pixels, grid)


@dataclass(frozen=True)
class _PixelGrid:
    """Offsets of all pixels from the centre, float32, row after row."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]

    @classmethod
    def of_shape(cls, shape: tuple[int, ...], center_x: int | None, center_y: int | None) -> _PixelGrid:
        ny, nx = shape
        y, x = np.mgrid[:ny, :nx].astype(np.float32)
        x -= np.float32(nx // 2 if center_x is None else center_x)
        y -= np.float32(ny // 2 if center_y is None else center_y)
        return cls(x.ravel(), y.ravel())


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of pixels and their moments about the centre, one element per image."""

    total: FloatArray
    x: FloatArray
    y: FloatArray
    xx: FloatArray
    xy: FloatArray
    yy: FloatArray

    @property
    def usable(self) -> BoolArray:
        return (self.total > 0) & (self.xx > 0) & (self.yy > 0)


@dataclass
class _Iteration:
    """State of the iteration; matrices are rows (xx, xy, yy)."""

    weight: FloatArray
    inverse: FloatArray
    old_inverse: FloatArray
    old_shape: npt.NDArray[np.float32]
    """e1, e2 and xx of the previous pass."""
    sub_pixel: BoolArray
    failed: BoolArray
    shifted: BoolArray
    passes: npt.NDArray[np.int64]

    @classmethod
    def start(cls, number: int) -> _Iteration:
        weight = np.tile([START_VARIANCE, 0.0, START_VARIANCE], (number, 1))
        no = np.zeros(number, dtype=bool)
        return cls(
            weight=weight,
            inverse=_inverse(weight),
            old_inverse=_inverse(weight),
            old_shape=np.zeros((number, 3), dtype=np.float32),
            sub_pixel=no.copy(),
            failed=no.copy(),
            shifted=no.copy(),
            passes=np.zeros(number, dtype=np.int64),
        )

    def fail(self, which: npt.NDArray[np.int64]) -> None:
        self.failed[which] = True

    def one_pass(
        self, active: npt.NDArray[np.int64], pixels: npt.NDArray[np.float32], grid: _PixelGrid
    ) -> npt.NDArray[np.int64]:
        """Do steps 1-4 for the active images and return those that go on."""
        active = self._drop(active, _good_weight(self.weight[active], self.inverse[active]))
        self._switch_to_sub_pixel(active)
        sums = _weighted_sums(pixels[active], self.inverse[active], self.sub_pixel[active], grid)
        first = self.passes[active] == 0
        self.passes[active] += 1
        keep = sums.usable
        active, first = self._drop(active, keep), first[keep]
        sums = _Sums(*(values[keep] for values in vars(sums).values()))
        self.shifted[active] = (np.abs(sums.x / sums.total) > MAX_SHIFT) | (
            np.abs(sums.y / sums.total) > MAX_SHIFT
        )
        observed = (np.column_stack([sums.xx, sums.xy, sums.yy]) / sums.total[:, np.newaxis]).astype(
            np.float32
        )
        going_on = ~self._converged(active, observed, first)
        return self._update(active[going_on], observed[going_on])

    def _drop(self, active: npt.NDArray[np.int64], good: BoolArray) -> npt.NDArray[np.int64]:
        self.fail(active[~good])
        return active[good]

    def _switch_to_sub_pixel(self, active: npt.NDArray[np.int64]) -> None:
        """Switch it on for small weights; after the first pass, with the inverse weights of that pass."""
        xx, xy, yy = self.weight[active].T
        small = (xx < 0.25) | (yy < 0.25) | (xx * yy - xy**2 < 0.0625)
        new = active[small & ~self.sub_pixel[active]]
        self.sub_pixel[new] = True
        again = new[self.passes[new] > 0]
        self.inverse[again] = self.old_inverse[again]

    def _converged(
        self, active: npt.NDArray[np.int64], observed: npt.NDArray[np.float32], first: BoolArray
    ) -> BoolArray:
        xx, xy, yy = observed.T
        trace = xx + yy
        shape = np.column_stack([(xx - yy) / trace, np.float32(2) * xy / trace, xx])
        old = self.old_shape[active]
        with np.errstate(divide="ignore", invalid="ignore"):
            size_change = np.abs(xx / old[:, 2] - np.float32(1))
        self.old_shape[active] = shape
        converged: BoolArray = (
            ~first
            & (np.abs(shape[:, 0] - old[:, 0]) < ELLIPTICITY_TOLERANCE)
            & (np.abs(shape[:, 1] - old[:, 1]) < ELLIPTICITY_TOLERANCE)
            & (size_change < SIZE_TOLERANCE)
        )
        return converged

    def _update(
        self, active: npt.NDArray[np.int64], observed: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int64]:
        """Take the weight out of the observed moments and make the rest the new weight (step 4)."""
        wide = observed.astype(np.float64)
        good = wide[:, 0] * wide[:, 2] - wide[:, 1] ** 2 > 0
        active, wide = self._drop(active, good), wide[good]
        difference = (_inverse(wide).astype(np.float32) - self.inverse[active]).astype(np.float32)
        new = difference.astype(np.float64)
        good = (new[:, 0] > 0) & (new[:, 2] > 0) & (new[:, 0] * new[:, 2] - new[:, 1] ** 2 > 0)
        active, new = self._drop(active, good), new[good]
        self.old_inverse[active] = self.inverse[active]
        self.weight[active] = _inverse(new)
        self.inverse[active] = _inverse(self.weight[active])
        return active

    def result(self, pixels: npt.NDArray[np.float32], grid: _PixelGrid) -> AdaptiveMoments:
        moments = self.weight.copy()
        failed = np.flatnonzero(self.failed)
        for index in failed:
            moments[index] = _unweighted(pixels[index], self.weight[index], grid)
        return AdaptiveMoments(
            xx=moments[:, 0].copy(),
            yy=moments[:, 2].copy(),
            xy=moments[:, 1].copy(),
            failed=self.failed,
            shifted=self.shifted,
            passes=self.passes,
        )


def _inverse(matrices: FloatArray) -> FloatArray:
    """Invert symmetric 2 x 2 matrices given as rows (xx, xy, yy)."""
    xx, xy, yy = matrices.T
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = xx * yy - xy * xy
        return np.column_stack([yy / determinant, -xy / determinant, xx / determinant])


def _good_weight(weight: FloatArray, inverse: FloatArray) -> BoolArray:
    xx, xy, yy = weight.T
    with np.errstate(invalid="ignore"):
        good: BoolArray = (
            (xx * yy - xy * xy >= SINGULAR_DETERMINANT)
            & (inverse[:, 0] >= 0)
            & (inverse[:, 0] <= MAX_INVERSE)
            & (inverse[:, 2] >= 0)
            & (inverse[:, 2] <= MAX_INVERSE)
            & (np.abs(inverse[:, 1]) <= MAX_INVERSE)
        )
    return good


def _weighted_sums(
    pixels: npt.NDArray[np.float32], inverse: FloatArray, sub_pixel: BoolArray, grid: _PixelGrid
) -> _Sums:
    """Sum pixels and moments under the Gaussian weight; small weights are sampled at 16 points a pixel."""
    sums = np.zeros((6, len(pixels)))
    whole = np.flatnonzero(~sub_pixel)
    if len(whole):
        sums[:, whole] = _sums_at(pixels[whole], inverse[whole], grid.x, grid.y, None)
    fine = np.flatnonzero(sub_pixel)
    if len(fine):
        largest = _largest_corner_exponent(inverse[fine], grid)
        inside = largest <= MAX_EXPONENT_SUB_PIXEL
        y_offset, x_offset = (axis.ravel() for axis in np.meshgrid(SUB_PIXEL, SUB_PIXEL, indexing="ij"))
        x = (grid.x[:, np.newaxis] + x_offset).ravel()
        y = (grid.y[:, np.newaxis] + y_offset).ravel()
        repeated = np.repeat(pixels[fine], 16, axis=1)
        sums[:, fine] = _sums_at(repeated, inverse[fine], x, y, np.repeat(inside, 16, axis=1))
    return _Sums(*sums)


def _exponent(
    inverse: FloatArray, x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return x^2 w11 + 2 x y w12 + y^2 w22: products of offsets in single, the sum in double precision."""
    w11, w12, w22 = (column[:, np.newaxis] for column in inverse.T)
    exponent = (x * x).astype(np.float64) * w11 + 2.0 * (x * y).astype(np.float64) * w12
    rounded: npt.NDArray[np.float32] = (exponent + (y * y).astype(np.float64) * w22).astype(np.float32)
    return rounded


def _largest_corner_exponent(inverse: FloatArray, grid: _PixelGrid) -> npt.NDArray[np.float32]:
    step = SUB_PIXEL[-1]
    corners = [_exponent(inverse, grid.x + dx, grid.y + dy) for dx in (-step, step) for dy in (-step, step)]
    largest: npt.NDArray[np.float32] = np.max(corners, axis=0)
    return largest


def _sums_at(
    pixels: npt.NDArray[np.float32],
    inverse: FloatArray,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    inside: BoolArray | None,
) -> FloatArray:
    exponent = _exponent(inverse, x, y)
    if inside is None:
        inside = exponent <= MAX_EXPONENT
    weight = np.exp(-0.5 * np.where(inside, exponent, 0).astype(np.float64)).astype(np.float32)
    term = np.where(inside, pixels * weight, np.float32(0))
    return np.stack([_running_sum(factor * term) for factor in (np.float32(1), x, y, x * x, x * y, y * y)])


def _running_sum(terms: npt.NDArray[np.float32]) -> FloatArray:
    """Add pixel after pixel in double precision (a pairwise sum would round differently)."""
    total: FloatArray = np.add.accumulate(terms, axis=1, dtype=np.float64)[:, -1]
    return total


def _unweighted(pixels: npt.NDArray[np.float32], weight: FloatArray, grid: _PixelGrid) -> FloatArray:
    """Moments without weight inside the box of the last weight: what a failed iteration reports."""
    radius = 4.0 * np.sqrt(max(weight[0], weight[2]))
    if not np.isfinite(radius):
        return np.full(3, np.nan)
    half = np.floor(min(radius, 1000.0) + 0.5)
    inside = (np.abs(grid.x) <= half) & (np.abs(grid.y) <= half)
    terms = np.where(inside, pixels, np.float32(0))[np.newaxis]
    x, y = grid.x, grid.y
    total, xx, xy, yy = (float(_running_sum(factor * terms)[0]) for factor in (1, x * x, x * y, y * y))
    if total > 0 and xx > 0 and yy > 0:
        return np.array([xx, xy, yy]) / total
    if total > 0:
        return np.array([PIXEL_VARIANCE, 0.0, PIXEL_VARIANCE])
    return np.full(3, np.nan)
