"""The galaxy model convolved with the PSF, evaluated in single precision (measurement specification 8.4).

The order of operations and their roundings are part of the definition: the rounding noise decides where the
fit stops [M-Q10].  Do not make it more accurate.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from finalchar.measure.cmodel.profiles import Profile
from finalchar.measure.quadrupoles import Quadrupoles
from finalchar.measure.shapelets import ROOT2, UNIT_FLUX, ShapeletComponents

__all__ = ["ConvolvedModel", "FitFrame"]

FloatArray = npt.NDArray[np.float64]
SingleArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ELEMENTS = 1 << 15
"""Elements of a working array: more would not stay in the cache, fewer cost more calls."""
H0 = np.float32(np.pi**-0.25)
ROOT2_SINGLE = np.float32(ROOT2)
H2_CONSTANT = np.float32(np.sqrt(0.5)) * H0
MINUS_HALF = np.float32(-0.5)
SERIES_LIMIT = 1e-8


@dataclass(frozen=True)
class FitFrame:
    """The tangent planes at n stars, in which galaxies are described: arcsec, x to the west, y to the north.

    Attributes
    ----------
    jacobian : ndarray, float64, shape (n, 2, 2)
        Pixels per arcsec: d(pixel) / d(fit frame).
    """

    jacobian: FloatArray

    def to_parameters(self, ellipse: Quadrupoles) -> FloatArray:
        """Return (eta1, eta2, ln R), shape (n, 3), of half-light ellipses in pixels; trace radius."""
        there = ellipse.transformed(_inverse(self.jacobian))
        trace = there.xx + there.yy
        e1, e2 = (there.xx - there.yy) / trace, 2.0 * there.xy / trace
        distortion = np.hypot(e1, e2)
        small = distortion < SERIES_LIMIT
        safe = np.where(small, 1.0, distortion)
        factor = np.where(small, 1.0 + distortion**2 / 3.0, np.arctanh(safe * ~small) / safe)
        return np.stack([e1 * factor, e2 * factor, 0.5 * np.log(0.5 * trace)], axis=1)

    def to_pixels(self, stars: IntArray, parameters: FloatArray) -> Quadrupoles:
        """Return half-light ellipses in pixels of parameters (eta1, eta2, ln R), shape (k, >= 3)."""
        eta = np.hypot(parameters[:, 0], parameters[:, 1])
        small = eta < SERIES_LIMIT
        ratio = np.where(small, 1.0 - eta**2 / 3.0, np.tanh(eta) / np.where(small, 1.0, eta))
        square = np.exp(2.0 * parameters[:, 2])
        e1, e2 = parameters[:, 0] * ratio, parameters[:, 1] * ratio
        there = Quadrupoles(square * (1.0 + e1), square * (1.0 - e1), square * e2)
        return there.transformed(self.jacobian[stars])

    def offset_to_fit(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return pixel offsets from the stars in the fit frame, shape (n, 2)."""
        inverse = _inverse(self.jacobian)
        return np.stack(
            [
                inverse[:, 0, 0] * x + inverse[:, 0, 1] * y,
                inverse[:, 1, 0] * x + inverse[:, 1, 1] * y,
            ],
            axis=1,
        )


def _inverse(matrices: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrices), dtype=np.float64)


@dataclass(frozen=True)
class ConvolvedModel:
    """Models of amplitude one at the pixels of n stars.

    Attributes
    ----------
    x, y : ndarray, float32, shape (n, pixels)
        Parent coordinates of the pixels.
    number : ndarray, int64, shape (n,)
        How many pixels of each star are wanted; the models are 0 at the others.
    psf : ShapeletComponents
        The PSFs.
    center_x, center_y : ndarray, float64, shape (n,)
        Centres of the galaxies, parent pixels.
    flux_unit : ndarray, float64, shape (n,)
        Counts of amplitude one.
    frame : FitFrame
    profile : Profile
    """

    x: SingleArray
    y: SingleArray
    number: IntArray
    psf: ShapeletComponents
    center_x: FloatArray
    center_y: FloatArray
    flux_unit: FloatArray
    frame: FitFrame
    profile: Profile

    def evaluate(self, stars: IntArray, parameters: FloatArray) -> tuple[SingleArray, BoolArray]:
        """Return counts per pixel for amplitude one, shape (k, pixels), and where that is impossible.

        Parameters
        ----------
        stars : ndarray, int64, shape (k,)
            Which star each row belongs to.
        parameters : ndarray, float64, shape (k, >= 3)
            eta1, eta2, ln R of each row.
        """
        gaussians = self._convolve(stars, parameters)
        number, profile, components = len(stars), len(self.profile.fraction), len(self._orders)
        result = np.zeros((number, self.x.shape[1]), dtype=np.float32)
        rows = min(max(1, ELEMENTS // (profile * self.x.shape[1])), number)
        work = np.empty((8 + components) * rows * profile * self.x.shape[1], dtype=np.float32)
        for first in range(0, number, rows):
            here = stars[first : first + rows]
            pixels = int(self.number[here].max())
            shape = (8 + components, len(here), profile, pixels)
            total = _add_up(
                [gaussians.part(first, first + rows, k, order) for k, order in enumerate(self._orders)],
                self.x[here, np.newaxis, :pixels],
                self.y[here, np.newaxis, :pixels],
                work[: int(np.prod(shape))].reshape(shape),
            )
            result[first : first + rows, :pixels] = (
                total.astype(np.float64) * self.flux_unit[here, np.newaxis]
            )
        return result, gaussians.impossible

    @cached_property
    def _orders(self) -> tuple[int, ...]:
        """Order of each PSF component above which all coefficients of all stars are zero."""
        used = (self.psf.coefficients != 0).any(axis=0)
        return tuple(2 if row[3:].any() else 1 if row[1:3].any() else 0 for row in used)

    @cached_property
    def _constants(self) -> FloatArray:
        """What the convolution needs of each PSF component, shape (14, n, 1, components).

        Moments and place; the Hermite coefficients of order 1 as a vector and those of order 2 as a symmetric
        matrix, both turned from the frame of the component into pixels.
        """
        psf, root = self.psf, self.psf.ellipse.root()
        a00, a01, a10, a02, a11, a20 = np.moveaxis(psf.coefficients, -1, 0)
        matrices = np.stack([root.xx, root.xy, root.xy, root.yy], axis=-1).reshape(*root.xx.shape, 2, 2)
        second = Quadrupoles(a20, a02, a11 / ROOT2).transformed(matrices)
        values = [
            *(psf.ellipse.xx, psf.ellipse.yy, psf.ellipse.xy),
            -(self.center_x[:, np.newaxis] + psf.x),
            -(self.center_y[:, np.newaxis] + psf.y),
            a00 + (a02 + a20) / ROOT2,
            *root.apply(a10, a01),
            *(second.xx, second.yy, second.xy),
        ]
        return np.stack(values)[:, :, np.newaxis, :]

    def _convolve(self, stars: IntArray, parameters: FloatArray) -> _Gaussians:
        """Convolve the Gaussians of the profile with the PSF, in double precision (steps 1, 5)."""
        galaxy = self.frame.to_pixels(stars, parameters)[:, np.newaxis, np.newaxis]
        variance = self.profile.variance[:, np.newaxis]
        xx, yy, xy, x, y, a00, ax, ay, sxx, syy, sxy = self._constants[:, stars]
        covariance = Quadrupoles(
            variance * galaxy.xx + xx, variance * galaxy.yy + yy, variance * galaxy.xy + xy
        )
        grid = covariance.inverse_root()
        w00, w01, w11 = grid.xx, grid.xy, grid.yy
        # order 2 in the frame of the convolved Gaussian: W S W
        p00, p01 = w00 * sxx + w01 * sxy, w00 * sxy + w01 * syy
        p10, p11 = w01 * sxx + w11 * sxy, w01 * sxy + w11 * syy
        b20, b02, b11 = p00 * w00 + p01 * w01, p10 * w01 + p11 * w11, ROOT2 * (p00 * w01 + p01 * w11)
        b00 = a00 - (b20 + b02) / ROOT2
        b10, b01 = grid.apply(ax, ay)
        coefficients = (UNIT_FLUX * np.stack([b00, b01, b10, b02, b11, b20])).astype(np.float32)
        coefficients *= (self.profile.fraction / UNIT_FLUX).astype(np.float32)[:, np.newaxis]
        transform = np.stack([w00, w01, w11, *grid.apply(x, y), grid.determinant]).astype(np.float32)
        good = np.all(covariance.determinant >= 0, axis=(1, 2))
        return _Gaussians(transform, coefficients, np.asarray(~good))


@dataclass(frozen=True)
class _Gaussians:
    """Gaussians of k models convolved with the components of the PSF.

    Attributes
    ----------
    transform : ndarray, float32, shape (6, k, Gaussians, components)
        W00, W01, W11 of the symmetric inverse square roots of the covariances, offset x, y of the transformed
        coordinates, determinant of W.
    coefficients : ndarray, float32, shape (6, k, Gaussians, components)
        Hermite coefficients, flux fraction included.
    impossible : ndarray, bool, shape (k,)
        A covariance is not one.
    """

    transform: SingleArray
    coefficients: SingleArray
    impossible: BoolArray

    def part(self, first: int, last: int, component: int, order: int) -> _Component:
        """Return some rows of one component, with the coefficients up to an order."""
        terms = (order + 1) * (order + 2) // 2
        return _Component(
            self.transform[:, first:last, :, component, np.newaxis],
            self.coefficients[:terms, first:last, :, component, np.newaxis],
        )


@dataclass(frozen=True)
class _Component:
    """One PSF component of `_Gaussians`; arrays of shape (..., k, Gaussians, 1)."""

    transform: SingleArray
    coefficients: SingleArray


def _add_up(components: list[_Component], x: SingleArray, y: SingleArray, work: SingleArray) -> SingleArray:
    """Return the sum over Gaussians (outer) and PSF components (inner), in that order (step 6)."""
    parts = work[: len(components)]
    for component, part in zip(components, parts, strict=True):
        _evaluate(component, x, y, part, work[len(components) :])
    total: SingleArray = parts[0][:, 0].copy()
    for index in range(parts.shape[2]):
        for part in parts[1:] if index == 0 else parts:
            total += part[:, index]
    return total


def _evaluate(
    component: _Component, x: SingleArray, y: SingleArray, total: SingleArray, work: SingleArray
) -> None:
    """Write the sum over Hermite functions of one PSF component, shape (k, Gaussians, pixels) (steps 1-4)."""
    u, v, base, base0, base1, u1, v1, term = work
    w00, w01, w11, offset_x, offset_y, determinant = component.transform
    coefficients = component.coefficients
    _transform(x, y, w00, w01, offset_x, u, term)
    _transform(x, y, w01, w11, offset_y, v, term)
    np.multiply(u, u, out=base)
    np.multiply(v, v, out=term)
    base += term
    base *= MINUS_HALF
    np.exp(base, out=base)
    base *= determinant
    np.multiply(base, H0, out=base0)
    np.multiply(base0, H0, out=total)
    total *= coefficients[0]
    if len(coefficients) == 1:
        return
    np.multiply(v, ROOT2_SINGLE, out=v1)
    v1 *= H0
    _add(total, base0, v1, coefficients[1], term)
    np.multiply(u, ROOT2_SINGLE, out=u1)
    u1 *= H0
    np.multiply(base, u1, out=base1)
    _add(total, base1, H0, coefficients[2], term)
    if len(coefficients) == 3:
        return
    v *= v1
    v -= H2_CONSTANT
    _add(total, base0, v, coefficients[3], term)
    _add(total, base1, v1, coefficients[4], term)
    u *= u1
    u -= H2_CONSTANT
    base *= u
    _add(total, base, H0, coefficients[5], term)


def _transform(
    x: SingleArray,
    y: SingleArray,
    along_x: SingleArray,
    along_y: SingleArray,
    offset: SingleArray,
    result: SingleArray,
    work: SingleArray,
) -> None:
    """Write a coordinate in which the Gaussians are unit circles: (x W0 + y W1) + offset."""
    np.multiply(x, along_x, out=result)
    np.multiply(y, along_y, out=work)
    result += work
    result += offset


def _add(
    total: SingleArray,
    first: SingleArray,
    second: SingleArray | np.float32,
    coefficient: SingleArray,
    work: SingleArray,
) -> None:
    """Add a Hermite function, the product of two factors, times its coefficient."""
    np.multiply(first, second, out=work)
    work *= coefficient
    total += work
