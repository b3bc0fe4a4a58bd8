"""How the components of a PCA PSF vary over the detector (selection specification 8.3 item 3, 8.4, 8.6).

The PSF at a place is a sum of components, each times a Chebyshev polynomial of the place; that of the first
component is 1.  The polynomials of the others follow from stars as they are in the image, to whose places the
components are shifted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.formats.psfs import ChebyshevFunction, FixedKernel, KernelPsf, LinearCombinationKernel
from finalchar.psf.pca_stamps import PcaStars
from finalchar.psf.resampling import separable_shifts, unshifted_rim
from finalchar.stars.candidates import index_of_position

__all__ = [
    "EDGE_BUFFER",
    "Chi2",
    "SpatialModel",
    "chebyshev_terms",
    "chi2_of_stars",
    "component_residuals",
    "fit_linear",
    "number_of_terms",
    "shifted_components",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

EDGE_BUFFER = 1
"""Zeros around the components when shifted; what the kernel does not reach completely stays [S-Q17]."""


def number_of_terms(order: int) -> int:
    """Number of terms of a polynomial in two variables."""
    return (order + 1) * (order + 2) // 2


def chebyshev_terms(*, x: npt.ArrayLike, y: npt.ArrayLike, box: Box, order: int) -> FloatArray:
    """Return the Chebyshev terms at positions, shape (n, terms), by total degree, powers of x falling.

    The range [-1, 1] is that from the first pixel of the box to one beyond its last.
    """
    u = 2.0 * (np.asarray(x, dtype=np.float64) - (box.min_x + 0.5 * box.width)) / box.width
    v = 2.0 * (np.asarray(y, dtype=np.float64) - (box.min_y + 0.5 * box.height)) / box.height
    in_u, in_v = (np.polynomial.chebyshev.chebvander(np.atleast_1d(w), order) for w in (u, v))
    return np.stack([in_u[:, n - k] * in_v[:, k] for n in range(order + 1) for k in range(n + 1)], axis=1)


@dataclass(frozen=True)
class SpatialModel:
    """Components and their polynomials.

    Attributes
    ----------
    components : ndarray of float64, shape (m, k, k)
    coefficients : ndarray of float64, shape (m, terms)
    box : Box
        Of the exposure.
    order : int
        Of the polynomials.
    converged : bool
        Whether a minimiser, if there was one, ended by its own criterion.
    """

    components: FloatArray
    coefficients: FloatArray
    box: Box
    order: int
    converged: bool = True

    def terms(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Return the terms of the polynomials at positions, shape (n, terms)."""
        return chebyshev_terms(x=x, y=y, box=self.box, order=self.order)

    def amplitudes(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Return the values of the polynomials at positions, shape (n, m)."""
        return np.asarray(self.terms(x=x, y=y) @ self.coefficients.T)

    def kernel_images(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Return the centred PSF at positions, unit sum, shape (n, k, k)."""
        arrays = np.tensordot(self.amplitudes(x=x, y=y), self.components, axes=1)
        return np.asarray(arrays / arrays.sum(axis=(1, 2), keepdims=True))

    def stored(self, average_position: tuple[float, float]) -> KernelPsf:
        """Return the PSF as the LSST stack stores it (file specification 7.3)."""
        size = self.components.shape[1]
        centre = (size // 2, size // 2)
        box = self.box
        limits = tuple(
            float(limit) for limit in (box.min_x, box.min_y, box.min_x + box.width, box.min_y + box.height)
        )
        kernel = LinearCombinationKernel(
            components=tuple(FixedKernel(image, centre) for image in self.components),
            centre=centre,
            dimensions=(size, size),
            functions=tuple(ChebyshevFunction(row, *limits) for row in self.coefficients),
        )
        return KernelPsf(kernel, average_position, "PcaPsf")


def shifted_components(components: FloatArray, *, x: FloatArray, y: FloatArray) -> FloatArray:
    """Shift components to the sub-pixel places of stars, shape (n, m, k, k)."""
    size = components.shape[-1]
    dx, dy = (position - index_of_position(position) for position in (x, y))
    along_x, along_y = separable_shifts(dx, size), separable_shifts(dy, size)
    moved = along_y[:, np.newaxis] @ components @ np.swapaxes(along_x, 1, 2)[:, np.newaxis]
    rim_x, rim_y = (unshifted_rim(shift, size, edge_buffer=EDGE_BUFFER) for shift in (dx, dy))
    rim = rim_y[:, :, np.newaxis] | rim_x[:, np.newaxis, :]
    return np.asarray(np.where(rim[:, np.newaxis], components, moved))


@dataclass(frozen=True)
class _FittedComponents:
    """Least-squares coefficients of shifted components on stamps, with what they were fitted with.

    ``stamp`` (n, k, k) has the fitted image in its holes.
    """

    coefficients: FloatArray
    amplitude: FloatArray
    shifted: FloatArray
    stamp: npt.NDArray[np.floating]


def _fit_components(components: FloatArray, stars: PcaStars) -> _FittedComponents:
    """Unweighted least squares of each star's stamp; the amplitude is the sum of the fitted image."""
    number, parts = len(stars), len(components)
    shifted = shifted_components(components, x=stars.x, y=stars.y)
    flat = shifted.reshape(number, parts, -1)
    seen = np.where(stars.hole.reshape(number, 1, -1), 0.0, flat) if stars.hole.any() else flat
    data = stars.stamp.reshape(number, -1, 1).astype(np.float64)
    normal = np.linalg.pinv(seen @ np.swapaxes(seen, 1, 2), hermitian=True)
    coefficients = (normal @ (seen @ data))[..., 0]
    amplitude = np.einsum("ni,ni->n", coefficients, flat.sum(axis=2))
    stamp = stars.stamp
    if stars.hole.any():
        stamp = np.where(stars.hole, np.einsum("ni,niyx->nyx", coefficients, shifted), stamp)
    return _FittedComponents(coefficients, amplitude, shifted, stamp)


def fit_linear(components: FloatArray, stars: PcaStars, *, box: Box, order: int, border: int) -> SpatialModel:
    """Fit the polynomials of all components but the first by linear algebra (8.4).

    Parameters
    ----------
    components : ndarray of float64, shape (m, k, k)
    stars : PcaStars
        Those that enter, each with a stamp; all have the same weight.
    box : Box
        Of the exposure.
    order : int
        Of the polynomials.
    border : int
        Rim of the stamps left out of the sums, pixels.
    """
    parts, terms = len(components), number_of_terms(order)
    coefficients = np.zeros((parts, terms))
    coefficients[0, 0] = 1.0
    if parts > 1 and len(stars):
        fitted = _fit_components(components, stars)
        data = fitted.stamp / fitted.amplitude[:, np.newaxis, np.newaxis] - fitted.shifted[:, 0]
        functions = chebyshev_terms(x=stars.x, y=stars.y, box=box, order=order)
        inner = np.s_[..., border : stars.size - border, border : stars.size - border]
        products = np.einsum("iyx,jyx->ij", components[1:][inner], components[1:][inner])
        matrix = np.kron(products, functions.T @ functions)
        with_data = np.einsum("niyx,nyx->ni", fitted.shifted[:, 1:][inner], data[inner])
        solution = _solve(matrix, (with_data.T @ functions).ravel())
        coefficients[1:] = solution.reshape(parts - 1, terms)
    return SpatialModel(components, coefficients, box, order)


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solution of least norm, by singular values; LinAlgError if the numbers are none."""
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        raise np.linalg.LinAlgError("stamps have pixels that are no numbers")
    if len(matrix) == 1:
        return np.asarray(right / matrix[0, 0])
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


@dataclass(frozen=True)
class Chi2:
    """How the model fits stars: reduced ``chi2`` (NaN: not usable) and the flux that fits best."""

    chi2: FloatArray
    amplitude: FloatArray


def chi2_of_stars(kernels: FloatArray, stars: PcaStars, *, bad_bits: np.int32, lam: float) -> Chi2:
    """Compare centred stamps with the PSF (8.4).

    Parameters
    ----------
    kernels : ndarray of float64, shape (n, k, k)
        The PSF at each star.
    stars : PcaStars
        With centred stamps.
    bad_bits : int32
        Pixels with them are left out.
    lam : float
        The variance is raised by this part of the signal.
    """
    data = stars.centred.astype(np.float64)
    variance = stars.variance.astype(np.float64) + lam * data
    good = ((stars.mask & bad_bits) == 0) & (variance != 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(good, 1.0 / variance, 0.0)
        sums = [
            np.where(good, first * second * weight, 0.0).sum(axis=(1, 2))
            for first, second in ((kernels, data), (kernels, kernels), (data, data))
        ]
        with_data, with_itself, of_data = sums
        amplitude = with_data / with_itself
        chi2 = (of_data - 2 * amplitude * with_data + amplitude**2 * with_itself) / (
            good.sum(axis=(1, 2)) - 1
        )
    return Chi2(np.where(good.any(axis=(1, 2)), chi2, np.nan), amplitude)


def component_residuals(model: SpatialModel, stars: PcaStars) -> FloatArray:
    """Components of each star on its own minus those of the model, shape (n, m) (8.6 item 3)."""
    fitted = _fit_components(model.components, stars)
    own = fitted.coefficients / fitted.amplitude[:, np.newaxis]
    return np.asarray(own - model.amplitudes(x=stars.x, y=stars.y))
