"""The galaxy model convolved with the PSF, evaluated in single precision (measurement specification 8.4).

The order of operations and their roundings are part of the definition: the rounding noise decides where the
fit stops [M-Q10].  Do not make it more accurate.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        gaussians = _Gaussians.of(self, stars, parameters)
        number, pixels = len(stars), self.x.shape[1]
        profile = len(self.profile.fraction)
        result = np.empty((number, pixels), dtype=np.float32)
        rows = min(max(1, ELEMENTS // (profile * pixels)), number)
        work = np.empty((8 + len(gaussians.orders), rows, profile, pixels), dtype=np.float32)
        for first in range(0, number, rows):
            part = slice(first, min(first + rows, number))
            here = stars[part, np.newaxis]
            total = _add_up(gaussians, part, self.x[here], self.y[here], work[:, : len(here)])
            result[part] = total.astype(np.float64) * self.flux_unit[here]
        return result, gaussians.impossible


@dataclass(frozen=True)
class _Gaussians:
    """Convolved Gaussians of k models; arrays of shape (k, Gaussians of the profile, components of the PSF).

    Attributes
    ----------
    w00, w01, w11 : ndarray, float32
        Symmetric inverse square root of the covariance.
    o0, o1 : ndarray, float32
        Offset of the transformed coordinates.
    determinant : ndarray, float32
        Determinant of the inverse square root.
    coefficients : ndarray, float32, shape (6, k, Gaussians, components)
        Hermite coefficients, flux fraction included.
    orders : tuple of int
        Highest order of each component.
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
    orders: tuple[int, ...]
    impossible: BoolArray

    @classmethod
    def of(cls, model: ConvolvedModel, stars: IntArray, parameters: FloatArray) -> _Gaussians:
        """Convolve the Gaussians of the profile with the PSF, in double precision (step 1, 5)."""
        galaxy = model.frame.to_pixels(stars, parameters)[:, np.newaxis, np.newaxis]
        psf = model.psf[stars]
        variance = model.profile.variance[:, np.newaxis]
        covariance = (
            Quadrupoles(variance * galaxy.xx, variance * galaxy.yy, variance * galaxy.xy)
            + psf.ellipse[:, np.newaxis, :]
        )
        grid = covariance.inverse_root()
        x = model.center_x[stars, np.newaxis, np.newaxis] + psf.x[:, np.newaxis, :]
        y = model.center_y[stars, np.newaxis, np.newaxis] + psf.y[:, np.newaxis, :]
        offset_x, offset_y = grid.apply(-x, -y)
        coefficients = (UNIT_FLUX * _convolved_coefficients(psf, grid)).astype(np.float32)
        coefficients *= (model.profile.fraction / UNIT_FLUX).astype(np.float32)[:, np.newaxis]
        good = (covariance.determinant >= 0).all(axis=(1, 2))
        return cls(
            w00=grid.xx.astype(np.float32),
            w01=grid.xy.astype(np.float32),
            w11=grid.yy.astype(np.float32),
            o0=offset_x.astype(np.float32),
            o1=offset_y.astype(np.float32),
            determinant=grid.determinant.astype(np.float32),
            coefficients=coefficients,
            orders=_highest_orders(model.psf),
            impossible=np.asarray(~good),
        )


def _convolved_coefficients(psf: ShapeletComponents, grid: Quadrupoles) -> FloatArray:
    """Return the Hermite coefficients in the frames of the convolved Gaussians, shape (6, k, i, j)."""
    root = psf.ellipse.root()[:, np.newaxis, :]
    u1x, u1y = grid.apply(root.xx, root.xy)
    u2x, u2y = grid.apply(root.xy, root.yy)
    a00, a01, a10, a02, a11, a20 = np.moveaxis(psf.coefficients[:, np.newaxis], -1, 0)
    b00 = (
        a00
        + (a20 * (1.0 - (u1x * u1x + u1y * u1y)) + a02 * (1.0 - (u2x * u2x + u2y * u2y))) / ROOT2
        - a11 * (u1x * u2x + u1y * u2y)
    )
    b01 = a10 * u1y + a01 * u2y
    b10 = a10 * u1x + a01 * u2x
    b02 = a20 * u1y * u1y + ROOT2 * a11 * u1y * u2y + a02 * u2y * u2y
    b20 = a20 * u1x * u1x + ROOT2 * a11 * u1x * u2x + a02 * u2x * u2x
    b11 = ROOT2 * a20 * u1x * u1y + a11 * (u1x * u2y + u1y * u2x) + ROOT2 * a02 * u2x * u2y
    return np.stack([b00, b01, b10, b02, b11, b20])


def _highest_orders(psf: ShapeletComponents) -> tuple[int, ...]:
    """Return the order of each component above which all coefficients of all stars are zero."""
    used = (psf.coefficients != 0).any(axis=0)
    return tuple(2 if row[3:].any() else 1 if row[1:3].any() else 0 for row in used)


def _add_up(
    gaussians: _Gaussians, part: slice, x: SingleArray, y: SingleArray, work: SingleArray
) -> SingleArray:
    """Return the sum over Gaussians (outer) and PSF components (inner), in that order (step 6)."""
    components = len(gaussians.orders)
    for component, order in enumerate(gaussians.orders):
        _evaluate_component(gaussians, (part, component), order, x, y, work[component], work[components:])
    terms = np.stack([work[component] for component in range(components)], axis=2)
    return np.asarray(np.add.reduce(terms.reshape(len(x), -1, x.shape[-1]), axis=1))


def _evaluate_component(
    gaussians: _Gaussians,
    where: tuple[slice, int],
    order: int,
    x: SingleArray,
    y: SingleArray,
    total: SingleArray,
    work: SingleArray,
) -> None:
    """Write the sum over Hermite functions of one PSF component, shape (k, Gaussians, pixels) (steps 1-4)."""
    part, component = where
    u, v, base, base0, base1, u1, v1, term = work
    c00, c01, c10, c02, c11, c20 = gaussians.coefficients[:, part, :, component, np.newaxis]
    _transform(gaussians, where, x, y, (u, v), term)
    np.multiply(u, u, out=base)
    np.multiply(v, v, out=term)
    base += term
    base *= MINUS_HALF
    np.exp(base, out=base)
    base *= gaussians.determinant[part, :, component, np.newaxis]
    np.multiply(base, H0, out=base0)
    np.multiply(base0, H0, out=total)
    total *= c00
    if order == 0:
        return
    np.multiply(v, ROOT2_SINGLE, out=v1)
    v1 *= H0
    _add(total, base0, v1, c01, term)
    np.multiply(u, ROOT2_SINGLE, out=u1)
    u1 *= H0
    np.multiply(base, u1, out=base1)
    _add(total, base1, H0, c10, term)
    if order == 1:
        return
    v *= v1
    v -= H2_CONSTANT
    _add(total, base0, v, c02, term)
    _add(total, base1, v1, c11, term)
    u *= u1
    u -= H2_CONSTANT
    base *= u
    _add(total, base, H0, c20, term)


def _transform(
    gaussians: _Gaussians,
    where: tuple[slice, int],
    x: SingleArray,
    y: SingleArray,
    result: tuple[SingleArray, SingleArray],
    work: SingleArray,
) -> None:
    """Write the coordinates in which the Gaussians are unit circles: (x W0 + y W1) + offset."""
    part, component = where
    w00, w01, w11, o0, o1 = (
        values[part, :, component, np.newaxis]
        for values in (gaussians.w00, gaussians.w01, gaussians.w11, gaussians.o0, gaussians.o1)
    )
    for coordinate, along_x, along_y, offset in ((result[0], w00, w01, o0), (result[1], w01, w11, o1)):
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
