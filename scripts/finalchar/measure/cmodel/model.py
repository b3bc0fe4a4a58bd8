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
"""Elements of a working array: all of them together fit into the second-level cache."""
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
        components = self._convolve(stars, parameters)
        impossible = np.any([component.impossible for component in components], axis=0)
        number, profile = len(stars), len(self.profile.fraction)
        result = np.zeros((number, self.x.shape[1]), dtype=np.float32)
        rows = min(max(1, ELEMENTS // (profile * self.x.shape[1])), number)
        work = np.empty((8 + len(components)) * rows * profile * self.x.shape[1], dtype=np.float32)
        for first in range(0, number, rows):
            here = stars[first : first + rows]
            pixels = int(self.number[here].max())
            shape = (8 + len(components), len(here), profile, pixels)
            total = _add_up(
                [component[first : first + rows] for component in components],
                self.x[here, np.newaxis, :pixels],
                self.y[here, np.newaxis, :pixels],
                work[: int(np.prod(shape))].reshape(shape),
            )
            result[first : first + rows, :pixels] = (
                total.astype(np.float64) * self.flux_unit[here, np.newaxis]
            )
        return result, np.asarray(impossible)

    @cached_property
    def _orders(self) -> tuple[int, ...]:
        """Order of each PSF component above which all coefficients of all stars are zero."""
        used = (self.psf.coefficients != 0).any(axis=0)
        return tuple(2 if row[3:].any() else 1 if row[1:3].any() else 0 for row in used)

    @cached_property
    def _constants(self) -> FloatArray:
        """What the convolution needs of each PSF: moments, their root, place, coefficients; (14, n, 2)."""
        psf, root = self.psf, self.psf.ellipse.root()
        return np.stack(
            [
                *(psf.ellipse.xx, psf.ellipse.yy, psf.ellipse.xy, root.xx, root.yy, root.xy),
                self.center_x[:, np.newaxis] + psf.x,
                self.center_y[:, np.newaxis] + psf.y,
                *np.moveaxis(psf.coefficients, -1, 0),
            ]
        )

    def _convolve(self, stars: IntArray, parameters: FloatArray) -> list[_Gaussians]:
        """Convolve the Gaussians of the profile with each PSF component, in double precision (steps 1, 5)."""
        galaxy = self.frame.to_pixels(stars, parameters)[:, np.newaxis]
        grown = Quadrupoles(*(self.profile.variance * moment for moment in (galaxy.xx, galaxy.yy, galaxy.xy)))
        fraction = (self.profile.fraction / UNIT_FLUX).astype(np.float32)
        constants = self._constants[:, stars, np.newaxis]
        return [
            _Gaussians.of(grown, constants[..., component], order, fraction)
            for component, order in enumerate(self._orders)
        ]


@dataclass(frozen=True)
class _Gaussians:
    """Gaussians of k models convolved with one component of the PSF; arrays of shape (k, Gaussians, 1).

    Attributes
    ----------
    w00, w01, w11 : ndarray, float32
        Symmetric inverse square root of the covariance.
    o0, o1 : ndarray, float32
        Offset of the transformed coordinates.
    determinant : ndarray, float32
        Determinant of the inverse square root.
    coefficients : ndarray, float32, shape (1, 3 or 6, k, Gaussians, 1)
        Hermite coefficients up to the order of the component, flux fraction included.
    impossible : ndarray, bool, shape (k,)
        The covariance is not one.
    """

    w00: SingleArray
    w01: SingleArray
    w11: SingleArray
    o0: SingleArray
    o1: SingleArray
    determinant: SingleArray
    coefficients: SingleArray
    impossible: BoolArray

    def __getitem__(self, rows: slice) -> _Gaussians:
        return _Gaussians(
            self.w00[rows],
            self.w01[rows],
            self.w11[rows],
            self.o0[rows],
            self.o1[rows],
            self.determinant[rows],
            self.coefficients[:, rows],
            self.impossible[rows],
        )

    @classmethod
    def of(cls, grown: Quadrupoles, constants: FloatArray, order: int, fraction: SingleArray) -> _Gaussians:
        """Convolve Gaussians (k, Gaussians) with a PSF component of constants (14, k, 1)."""
        covariance = grown + Quadrupoles(*constants[:3])
        grid = covariance.inverse_root()
        offset_x, offset_y = grid.apply(-constants[6], -constants[7])
        coefficients = _convolved_coefficients(grid, Quadrupoles(*constants[3:6]), constants[8:], order)
        single = np.stack(
            [grid.xx, grid.xy, grid.yy, offset_x, offset_y, grid.determinant, *coefficients]
        ).astype(np.float32)[..., np.newaxis]
        single[6:] *= fraction[:, np.newaxis]
        good = np.all(covariance.determinant >= 0, axis=1)
        w00, w01, w11, o0, o1, determinant = single[:6]
        return cls(w00, w01, w11, o0, o1, determinant, single[6:], np.asarray(~good))


def _convolved_coefficients(
    grid: Quadrupoles, root: Quadrupoles, coefficients: FloatArray, order: int
) -> list[FloatArray]:
    """Return the Hermite coefficients times K in the frames of the convolved Gaussians (step 5).

    Parameters
    ----------
    grid : Quadrupoles, shape (k, Gaussians)
        Inverse square roots of the convolved covariances.
    root : Quadrupoles, shape (k, 1)
        Square roots of the PSF component's.
    coefficients : ndarray, float64, shape (6, k, 1)
        Those of the PSF component.
    order : int
        Highest order to be returned.
    """
    a00, a01, a10, a02, a11, a20 = coefficients
    if order == 0:
        return [UNIT_FLUX * a00 + np.zeros_like(grid.xx)]
    u1x, u1y = grid.apply(root.xx, root.xy)
    u2x, u2y = grid.apply(root.xy, root.yy)
    b01, b10 = a10 * u1y + a01 * u2y, a10 * u1x + a01 * u2x
    if order == 1:
        return [UNIT_FLUX * a00 + np.zeros_like(b01), UNIT_FLUX * b01, UNIT_FLUX * b10]
    b00 = (
        a00
        + (a20 * (1.0 - (u1x * u1x + u1y * u1y)) + a02 * (1.0 - (u2x * u2x + u2y * u2y))) / ROOT2
        - a11 * (u1x * u2x + u1y * u2y)
    )
    b02 = a20 * u1y * u1y + ROOT2 * a11 * u1y * u2y + a02 * u2y * u2y
    b20 = a20 * u1x * u1x + ROOT2 * a11 * u1x * u2x + a02 * u2x * u2x
    b11 = ROOT2 * a20 * u1x * u1y + a11 * (u1x * u2y + u1y * u2x) + ROOT2 * a02 * u2x * u2y
    return [UNIT_FLUX * b for b in (b00, b01, b10, b02, b11, b20)]


def _add_up(components: list[_Gaussians], x: SingleArray, y: SingleArray, work: SingleArray) -> SingleArray:
    """Return the sum over Gaussians (outer) and PSF components (inner), in that order (step 6)."""
    parts = work[: len(components)]
    for gaussians, part in zip(components, parts, strict=True):
        _evaluate(gaussians, x, y, part, work[len(components) :])
    total: SingleArray = parts[0][:, 0].copy()
    for index in range(parts.shape[2]):
        for part in parts[1:] if index == 0 else parts:
            total += part[:, index]
    return total


def _evaluate(
    gaussians: _Gaussians, x: SingleArray, y: SingleArray, total: SingleArray, work: SingleArray
) -> None:
    """Write the sum over Hermite functions of one PSF component, shape (k, Gaussians, pixels) (steps 1-4)."""
    u, v, base, base0, base1, u1, v1, term = work
    coefficients = gaussians.coefficients
    _transform(gaussians, x, y, (u, v), term)
    np.multiply(u, u, out=base)
    np.multiply(v, v, out=term)
    base += term
    base *= MINUS_HALF
    np.exp(base, out=base)
    base *= gaussians.determinant
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
    gaussians: _Gaussians,
    x: SingleArray,
    y: SingleArray,
    result: tuple[SingleArray, SingleArray],
    work: SingleArray,
) -> None:
    """Write the coordinates in which the Gaussians are unit circles: (x W0 + y W1) + offset."""
    rows = (gaussians.w00, gaussians.w01, gaussians.o0), (gaussians.w01, gaussians.w11, gaussians.o1)
    for coordinate, (along_x, along_y, offset) in zip(result, rows, strict=True):
        np.multiply(x, along_x, out=coordinate)
        np.multiply(y, along_y, out=work)
        coordinate += work
        coordinate += offset


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
