"""The polynomials of a PCA PSF by minimising chi-square (selection specification 8.5).

The reference walks to the minimum of the summed reduced chi-square of the centred stars with a general
minimiser from a fixed start.  Chi-square is quadratic in every star's image, and the flux of a star follows
from the others by itself; so here Gauss-Newton steps go there from the solution of the linear fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from finalchar.psf.pca_spatial import SpatialModel
from finalchar.psf.pca_stamps import PcaStars

__all__ = ["fit_nonlinear"]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

MOST_STEPS = 100
MOST_HALVINGS = 30


@dataclass(frozen=True)
class _Sums:
    """What chi-square needs of each star: products of its pixels and the components over the variance.

    ``products`` (n, m, m), ``with_data`` (n, m), ``of_data`` (n,), each divided by the degrees of freedom.
    """

    products: FloatArray
    with_data: FloatArray
    of_data: FloatArray


def fit_nonlinear(
    model: SpatialModel, stars: PcaStars, *, bad_bits: np.int32, lam: float, tolerance: float
) -> SpatialModel:
    """Minimise the summed reduced chi-square of stars over all coefficients but the first.

    Parameters
    ----------
    model : SpatialModel
        Where to start.
    stars : PcaStars
        Those that enter; the ones without a centred stamp are left out.
    bad_bits : int32
        Pixels with them are left out.
    lam : float
        The variance is raised by this part of the signal.
    tolerance : float
        The minimisation ends when the next step promises to lower the sum by less.

    Returns
    -------
    SpatialModel
        Never of a larger sum than `model`; not `converged` after too many steps.
    """
    stars = stars.select(stars.has_centred)
    if not len(stars):
        return model
    sums = _sums(model.components, stars, bad_bits, lam)
    terms = model.terms(x=stars.catalogue_x, y=stars.catalogue_y)
    coefficients = model.coefficients
    lowest = _chi2(coefficients, terms, sums)
    for _ in range(MOST_STEPS):
        step, promised = _step(coefficients, terms, sums)
        if promised < tolerance:
            break
        for _ in range(MOST_HALVINGS):
            chi2 = _chi2(coefficients + step, terms, sums)
            if chi2 < lowest:
                break
            step = 0.5 * step
        else:
            break
        coefficients, lowest = coefficients + step, chi2
    else:
        log.warning("The non-linear fit of the PSF has not converged after %d steps.", MOST_STEPS)
        return replace(model, coefficients=coefficients, converged=False)
    return replace(model, coefficients=coefficients)


def _sums(components: FloatArray, stars: PcaStars, bad_bits: np.int32, lam: float) -> _Sums:
    number = len(stars)
    data = stars.centred.reshape(number, -1).astype(np.float64)
    variance = stars.variance.reshape(number, -1) + lam * data
    good = ((stars.mask.reshape(number, -1) & bad_bits) == 0) & (variance > 0) & np.isfinite(data)
    freedom = np.maximum(good.sum(axis=1) - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(good, 1.0 / variance, 0.0) / freedom[:, np.newaxis]
    data = np.where(good, data, 0.0)
    flat = components.reshape(len(components), -1)
    return _Sums(
        products=np.einsum("np,ip,jp->nij", weight, flat, flat, optimize=True),
        with_data=(weight * data) @ flat.T,
        of_data=np.sum(weight * data**2, axis=1),
    )


def _chi2(coefficients: FloatArray, terms: FloatArray, sums: _Sums) -> float:
    """Summed chi-square, every star with its best flux; infinite where there is none."""
    shape = terms @ coefficients.T
    size = np.einsum("ni,nij,nj->n", shape, sums.products, shape)
    along = np.einsum("ni,ni->n", shape, sums.with_data)
    used = sums.of_data > 0
    if not (size[used] > 0).all():
        return np.inf
    return float(np.sum(sums.of_data[used] - along[used] ** 2 / size[used]))


def _step(coefficients: FloatArray, terms: FloatArray, sums: _Sums) -> tuple[FloatArray, float]:
    """Gauss-Newton step of the coefficients, and by how much it promises to lower chi-square."""
    shape = terms @ coefficients.T
    image = np.einsum("nij,nj->ni", sums.products, shape)
    size = np.maximum(np.einsum("ni,ni->n", shape, image), np.finfo(np.float64).tiny)
    flux = np.einsum("ni,ni->n", shape, sums.with_data) / size
    gradient = -2 * flux[:, np.newaxis] * (sums.with_data - flux[:, np.newaxis] * image)
    across = sums.products - image[:, :, np.newaxis] * image[:, np.newaxis] / size[:, np.newaxis, np.newaxis]
    curvature = 2 * flux[:, np.newaxis, np.newaxis] ** 2 * across
    slope = (gradient.T @ terms).ravel()[1:]
    hessian = np.einsum("nij,ns,nt->isjt", curvature, terms, terms, optimize=True)
    hessian = hessian.reshape(coefficients.size, coefficients.size)[1:, 1:]
    step = np.linalg.lstsq(hessian, -slope, rcond=1e-10)[0]
    return np.append(0.0, step).reshape(coefficients.shape), float(-0.5 * slope @ step)
