"""Eigen-images of stars: principal components of their centred stamps (selection specification 8.3).

Stamps and eigen-images are float32 in the reference, and noise in them is amplified where one is taken off
another.  The order of operations here is the reference's, so that its roundings are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.psf.pca_stamps import PcaStars

__all__ = ["EigenImages", "eigen_images", "kernel_components"]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

ROUNDS = 10
"""Bad pixels are replaced and the images analysed so many times at most."""
SMALLEST_CHANGE = 10.0
"""Counts: if no replaced pixel changes by more, the replacing has converged."""
ROUNDING = 1e-12
"""Eigenvalues below this part of the first are the rounding of the float32 stamps."""
FRAME_OF_ANALYSIS = 3
FRAME_OF_KERNELS = 2
"""Widths of the frames whose median, mean is taken as the level of an eigen-image, pixels."""


@dataclass(frozen=True)
class EigenImages:
    """``images`` (m, k, k) float32, strongest first; ``values`` are the eigenvalues, those of others too."""

    images: Float32Array
    values: FloatArray

    def significant(self) -> Float32Array:
        """Return the images but those that are rounding: stars that are all alike have one component."""
        values = self.values[: len(self.images)]
        return np.asarray(self.images[values > ROUNDING * values[0]])


def eigen_images(
    stars: PcaStars,
    *,
    bad_bits: np.int32,
    number: int,
    constant_weight: bool,
    border: int = 0,
) -> EigenImages:
    """Find the principal components of the centred stamps of stars.

    Pixels with `bad_bits` are replaced by what the other stars say, and that is repeated with what the
    components say.

    Parameters
    ----------
    stars : PcaStars
        At least `number` of them.
    number : int
        Components wanted.
    constant_weight : bool
        Give every star the same weight, whatever its flux.
    border : int, optional
        Rim of the stamps that the analysis leaves out, pixels.

    Returns
    -------
    EigenImages
    """
    bad = (stars.mask & bad_bits) != 0
    images = np.where(bad, _like_mean(stars, bad), stars.centred)
    eigen = _analyse(images, stars.flux, number, constant_weight, border)
    for _ in range(ROUNDS - 1):
        replaced = np.where(bad, _like_components(images, eigen.images, bad), images)
        if np.abs(replaced - images, where=bad, out=np.zeros_like(images)).max() < SMALLEST_CHANGE:
            break
        images = replaced
        eigen = _analyse(images, stars.flux, number, constant_weight, border)
    return eigen


def _like_mean(stars: PcaStars, bad: BoolArray) -> Float32Array:
    """Every star's flux times the mean star."""
    flux = stars.flux[:, np.newaxis, np.newaxis]
    good = ~bad & (stars.variance > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(good, flux**2 / stars.variance, 0.0)
        total = weight.sum(axis=0)
        mean = np.where(
            total > 0, np.where(good, weight * stars.centred / flux, 0.0).sum(axis=0) / total, 0.0
        )
    return np.asarray(flux * mean, dtype=np.float32)


def _like_components(images: Float32Array, components: Float32Array, bad: BoolArray) -> Float32Array:
    """The unweighted least-squares combination of the components, fitted to each whole stamp."""
    replaced = images.copy()
    basis = components.reshape(len(components), -1).astype(np.float64)
    incomplete = np.flatnonzero(bad.any(axis=(1, 2)))
    if not len(incomplete):
        return replaced
    data = images[incomplete].reshape(len(incomplete), -1).astype(np.float64)
    coefficients = np.linalg.pinv(basis @ basis.T, hermitian=True) @ (basis @ data.T)
    replaced[incomplete] = (coefficients.T @ basis).reshape(-1, *images.shape[1:])
    return replaced


def _analyse(
    images: Float32Array, flux: FloatArray, components: int, constant_weight: bool, border: int
) -> EigenImages:
    """Eigen-images of the images as they are (item 2)."""
    number = len(images)
    if number == 1:
        return EigenImages(_scaled(images.copy()), np.ones(1))
    products = _inner_products(images, border) / number
    if constant_weight:
        products /= flux[:, np.newaxis] * flux
    values, vectors = np.linalg.eigh(products)
    weights = vectors[:, ::-1].T[:components]
    if constant_weight:
        weights = weights * (flux.mean() / flux)
    return EigenImages(_scaled(_combined(weights, images)), np.asarray(values[::-1]))


def _inner_products(images: Float32Array, border: int) -> FloatArray:
    """Sums of products of pixels, which are rounded to float32; those that are no numbers are skipped."""
    inner = images[:, border : images.shape[1] - border, border : images.shape[2] - border]
    pixels = np.nan_to_num(inner.reshape(len(images), -1), nan=0.0, posinf=0.0, neginf=0.0)
    return np.stack([(pixels * one).sum(axis=1, dtype=np.float64) for one in pixels])


def _combined(weights: FloatArray, images: Float32Array) -> Float32Array:
    """Weighted sums of images, the last image first."""
    combined = np.zeros((len(weights), *images.shape[1:]), dtype=np.float32)
    for weight, image in zip(weights.T[::-1].astype(np.float32), images[::-1], strict=True):
        combined += weight[:, np.newaxis, np.newaxis] * image
    return combined


def _scaled(images: Float32Array) -> Float32Array:
    """Eigen-images divided by their extremes, all but the first with the level of their frame taken off."""
    highest, lowest = images.max(axis=(1, 2)), images.min(axis=(1, 2))
    extreme = np.where(np.abs(lowest) > highest, lowest, highest)[:, np.newaxis, np.newaxis]
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = images * (np.float32(1.0) / extreme)
    frames = scaled[1:, _frame(images.shape[1], FRAME_OF_ANALYSIS)]
    level = np.median(frames.astype(np.float64), axis=1).astype(np.float32)
    scaled[1:] -= level[:, np.newaxis, np.newaxis]
    return np.asarray(scaled)


def _frame(size: int, width: int) -> BoolArray:
    frame = np.ones((size, size), dtype=bool)
    frame[width : size - width, width : size - width] = False
    return frame


def kernel_components(images: Float32Array) -> FloatArray:
    """Turn eigen-images into the components of a PSF (item 3).

    Parameters
    ----------
    images : ndarray of float32, shape (m, k, k)

    Returns
    -------
    ndarray of float64, shape (m, k, k)
        Their values are those of float32.  The first has unit sum, the others sum zero.
    """
    frame = images[:, _frame(images.shape[1], FRAME_OF_KERNELS)].astype(np.float64)
    level = frame.mean(axis=1).astype(np.float32)
    kernels = images - level[:, np.newaxis, np.newaxis]
    total = kernels.sum(axis=(1, 2), dtype=np.float64).astype(np.float32)[:, np.newaxis, np.newaxis]
    with np.errstate(invalid="ignore", divide="ignore"):
        kernels = kernels * (np.float32(1.0) / total)
    kernels[1:] -= kernels[0]
    return np.asarray(kernels.astype(np.float64))
