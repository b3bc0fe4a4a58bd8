"""Predicted standard errors of the drawn PSF's size and ellipticity, from the normal equations of the fit.

The coefficients are linear in the pixels, so the variance of a function of the PSF with gradient ``g`` is
``z^T (A^T W V W A) z`` with ``z = (A^T W A)^-1 g``: the sandwich form, because weights are capped by S/N and
are not inverse variances (V: the pixel variances).  The inverse is taken in the form that preconditions the
fit, ``I (x) Gy^-1 (x) Gx^-1`` in the weighted-orthonormal polynomial basis, and the gradient at the mean
PSF.  Then three drawn grids serve all positions.  The approximation neglects how stars differ in sub-pixel
position; a Monte Carlo test compares it with the scatter of repeated fits.

What flows in: the stamps of the used stars with their variances and the fit.  What flows out: standard
errors of size, e1, e2 at any place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.formats.psf_errors import PredictedErrors
from finalchar.psf.separable import (
    GridFit,
    GridSettings,
    Rendering,
    StarStamps,
    inverse_gram,
    orthonormal_basis,
    star_grids,
    unit_sum,
)

__all__ = ["PredictedErrors", "moment_gradients", "predict_errors"]

FloatArray = npt.NDArray[np.float64]


def predict_errors(
    stars: StarStamps, variance: FloatArray, settings: GridSettings, fit: GridFit
) -> PredictedErrors:
    """Predict the standard errors of size, e1 and e2 of the fitted PSF.

    Parameters
    ----------
    stars : StarStamps
        All stars of the fit (flagged ones are left out).
    variance : ndarray, float64, shape (n, t, t)
        Variance of the pixels, photon noise of the star included.
    settings : GridSettings
        The model.
    fit : GridFit
        The fit.
    """
    use = ~fit.flagged
    used = StarStamps(**{name: getattr(stars, name)[use] for name in StarStamps.__dataclass_fields__})
    rendering = Rendering(used, settings, fit.center[use])
    flux = fit.flux[use]
    star_weight = flux**2 * used.weight.mean(axis=(1, 2)) * rendering.area_ratio**2
    scaled, back = orthonormal_basis(used.basis, star_weight)
    inverse_rows, inverse_columns = (inverse_gram(gram) for gram in rendering.grams(star_weight))
    mean_grid = unit_sum(star_grids(fit.q, used.basis, settings.size)).mean(axis=0)
    gradients, size = moment_gradients(mean_grid, used, settings)
    # A negative variance takes part in the fit (selection specification 6.4) but is no noise.
    noise = used.weight**2 * np.where(used.weight > 0, np.maximum(variance[use], 0.0), 0.0)
    roots = []
    for gradient in gradients:
        solved = inverse_rows @ gradient @ inverse_columns
        drawn = rendering.draw(np.broadcast_to(solved, (len(used), *solved.shape)))
        per_star = flux**2 * (drawn**2 * noise).sum(axis=(1, 2))
        triangle = np.asarray(np.linalg.qr(np.sqrt(per_star)[:, None] * scaled, mode="r"))
        roots.append(back @ triangle.T)
    return PredictedErrors(np.array(roots), size)


def moment_gradients(grid: FloatArray, stars: StarStamps, settings: GridSettings) -> tuple[FloatArray, float]:
    """Gradients of size, e1, e2 of the drawn PSF by the grid values, shape (3, M, M), and its size.

    Size and ellipticity are those of the adaptive (Gaussian-matched) moments Q of the kernel image:
    ``sum w_Q P (x_i x_j - Q_ij / 2) = 0``; its derivative follows from the implicit function theorem.
    """
    kernel = _kernel_star(stars, settings)
    rendering = Rendering(kernel, settings, np.zeros((1, 2)))
    image = rendering.draw(grid[None])[0]
    y, x = np.meshgrid(kernel.dy[0], kernel.dx[0], indexing="ij")
    products = np.stack([x * x, y * y, x * y])
    moments = _adaptive_moments(image, products)
    jacobian = _moment_jacobian(image, products, moments)
    by_image = -np.linalg.solve(jacobian, _moment_terms(products, moments).reshape(3, -1))
    by_image = _shape_jacobian(moments) @ by_image
    gradients = np.concatenate([rendering.collect(g.reshape(1, *image.shape)) for g in by_image])
    return gradients, float((moments[0] * moments[1] - moments[2] ** 2) ** 0.25)


def _kernel_star(stars: StarStamps, settings: GridSettings) -> StarStamps:
    """An empty stamp on which the PSF is drawn centred, with the mean Jacobian."""
    jacobian = stars.jacobian.mean(axis=0, keepdims=True)
    side = stars.image.shape[1]
    offset = np.arange(side, dtype=float)[None] - side // 2
    empty = np.zeros((1, side, side))
    return StarStamps(
        empty, empty, offset, offset, jacobian, np.ones(1), np.ones((1, 1)), np.ones(1, dtype=np.bool_)
    )


def _weight(products: FloatArray, moments: FloatArray) -> FloatArray:
    """Gaussian weight with the moments (xx, yy, xy)."""
    xx, yy, xy = moments
    determinant = xx * yy - xy * xy
    exponent = (yy * products[0] + xx * products[1] - 2 * xy * products[2]) / determinant
    return np.asarray(np.exp(-0.5 * exponent))


def _moment_terms(products: FloatArray, moments: FloatArray) -> FloatArray:
    """Derivative of the three moment conditions by the image pixels."""
    return np.asarray(_weight(products, moments) * (products - 0.5 * moments[:, None, None]))


def _adaptive_moments(image: FloatArray, products: FloatArray, rounds: int = 200) -> FloatArray:
    """Fixed point of twice the weighted moments, (xx, yy, xy) in pixels squared."""
    moments = np.array([4.0, 4.0, 0.0])
    for _ in range(rounds):
        weighted = _weight(products, moments) * image
        after = 2.0 * (weighted * products).sum(axis=(1, 2)) / weighted.sum()
        done = np.abs(after - moments).max() < 1e-10 * after[:2].max()
        moments = after
        if done:
            break
    return moments


def _moment_jacobian(image: FloatArray, products: FloatArray, moments: FloatArray) -> FloatArray:
    """Derivative of the three conditions by the moments, shape (3, 3), central differences."""
    step = 1e-5 * moments[:2].mean()
    columns = []
    for k in range(3):
        change = np.zeros(3)
        change[k] = step
        up, down = (_moment_terms(products, moments + sign * change) for sign in (1, -1))
        columns.append(((up - down) * image).sum(axis=(1, 2)) / (2 * step))
    return np.stack(columns, axis=1)


def _shape_jacobian(moments: FloatArray) -> FloatArray:
    """Derivative of (determinant radius, e1, e2) by (xx, yy, xy)."""
    xx, yy, xy = moments
    determinant = xx * yy - xy * xy
    size = determinant**0.25
    trace = xx + yy
    return np.array(
        [
            [0.25 * size * yy / determinant, 0.25 * size * xx / determinant, -0.5 * size * xy / determinant],
            [2 * yy / trace**2, -2 * xx / trace**2, 0.0],
            [-2 * xy / trace**2, -2 * xy / trace**2, 2 / trace],
        ]
    )
