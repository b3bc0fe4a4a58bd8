"""Polynomial pixel models of star stamps, by which missing pixels are filled (selection specification 7.5).

PSFEx takes a missing pixel as zero when it makes a model.  A pixel that is filled with what the model of the
other pixels says changes nothing there, so that a bad pixel costs one pixel (known failure K19).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.psf.psfex_resampling import nearest_pixels, resample

__all__ = ["fill_bad_pixels", "fit_pixels", "lowered_degree", "signal_to_noise"]

FloatArray = npt.NDArray[np.float64]

ACCURACY = 0.01
"""Relative accuracy of a star's pixels that PSFEx is told to expect."""
RIDGE = 1e-6
"""Part of the largest weight that is added to the diagonal: places that are all alike do not end the fit."""
ROUNDS = 5


def lowered_degree(degree: int, stars: int) -> int:
    """Return the degree that so many stars allow; PSFEx lowers it by the same rule (7.4)."""
    while degree > 0 and 1.1 * (degree + 1) * (degree + 2) / 2 + 0.499 > stars:
        degree -= 1
    return degree


def fit_pixels(
    images: npt.NDArray[np.float32],
    flux: FloatArray,
    terms: FloatArray,
    *,
    good: npt.NDArray[np.bool_],
    background_variance: float,
) -> FloatArray:
    """Fit every model pixel as a polynomial of the position.

    Parameters
    ----------
    images : ndarray of float32, shape (n, size, size)
        Stars on the raster of the model, all centred alike.
    flux : ndarray of float64, shape (n,)
    terms : ndarray of float64, shape (n, terms)
    good : ndarray of bool, shape (n, size, size)
        Pixels that take part.
    background_variance : float

    Returns
    -------
    ndarray of float64, shape (terms, size, size)
        Components of unit-flux models.
    """
    number, size = images.shape[:2]
    signal = images.reshape(number, -1).astype(np.float64)
    weight = flux[:, np.newaxis] ** 2 / (background_variance + (ACCURACY * signal) ** 2)
    weight *= good.reshape(number, -1)
    products = (terms[:, :, np.newaxis] * terms[:, np.newaxis, :]).reshape(number, -1)
    count = terms.shape[1]
    normal = (weight.T @ products).reshape(-1, count, count) + RIDGE * weight.max() * np.eye(count)
    right = (weight * signal / flux[:, np.newaxis]).T @ terms
    solved = np.linalg.solve(normal, right[..., np.newaxis])[..., 0]
    return np.asarray(solved.T.reshape(count, size, size))


def fill_bad_pixels(
    image: npt.NDArray[np.float32],
    bad: npt.NDArray[np.bool_],
    flux: FloatArray,
    terms: FloatArray,
    *,
    dx: FloatArray,
    dy: FloatArray,
    sampling: float,
    model_size: int,
    background_variance: float,
) -> npt.NDArray[np.float32]:
    """Return stamps whose bad pixels have the value that a model of all good pixels gives them.

    Parameters
    ----------
    image : ndarray of float32, shape (n, size, size)
    bad : ndarray of bool, shape (n, size, size)
    flux : ndarray of float64, shape (n,)
    terms : ndarray of float64, shape (n, terms)
        Of the polynomial at the stars.
    dx, dy : ndarray of float64, shape (n,)
        Centres of the stars on their stamps.
    sampling : float
        Size of a model pixel in stamp pixels.
    model_size : int
    background_variance : float
    """
    if not bad.any():
        return image
    opposite = np.where(bad[:, ::-1, ::-1], np.float32(0), image[:, ::-1, ::-1])
    filled = np.where(bad, opposite, image)
    stretch = max(1.0, sampling)
    column, row = (
        nearest_pixels(-shift / sampling, image.shape[1], model_size, 1.0 / sampling) for shift in (dx, dy)
    )
    star = np.arange(len(image))[:, np.newaxis, np.newaxis]
    good = ~bad[star, row[:, :, np.newaxis], column[:, np.newaxis, :]]
    for _ in range(ROUNDS):
        on_model = resample(
            filled, model_size, 1.0 / sampling, dx=-dx / sampling, dy=-dy / sampling, stretch=stretch
        )
        components = fit_pixels(on_model, flux, terms, good=good, background_variance=background_variance)
        models = np.tensordot(terms * flux[:, np.newaxis], components, axes=1).astype(np.float32)
        drawn = resample(models, image.shape[1], sampling, dx=dx, dy=dy)
        filled = np.where(bad, drawn, image)
    return filled


def signal_to_noise(
    components: npt.NDArray[np.float32], flux: FloatArray, *, sampling: float, background_variance: float
) -> FloatArray:
    """Signal-to-noise ratio that a star has in the fit, where its pixels are not believed beyond `ACCURACY`.

    Parameters
    ----------
    components : ndarray of float32, shape (terms, size, size)
        Of the model; the first is the mean star.
    flux : ndarray of float64, shape (n,)
    sampling : float
    background_variance : float
    """
    profile = components[0].astype(np.float64).ravel() * flux[:, np.newaxis]
    information = profile**2 / (background_variance + (ACCURACY * profile) ** 2)
    return np.asarray(np.sqrt(sampling**2 * information.sum(axis=1)))
