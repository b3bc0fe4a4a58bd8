"""Kernels that turn the PSF of each star into a Gaussian (measurement specification 11.3).

An Alard-Lupton kernel (a Gaussian times polynomials) is fitted to the kernel image of the PSF and a round
Gaussian somewhat larger than it; all stars with kernels of one size are fitted as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "DEGREE",
    "KernelSettings",
    "autocorrelations",
    "convolve_with_kernel",
    "fit_kernels",
    "kernel_sigmas",
    "kernel_sizes",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DEGREE = 4
SMALL_SUM = 1.1920929e-7
MONOMIALS = tuple((total - y, y) for total in range(DEGREE + 1) for y in range(total + 1))
"""(power of x, power of y), total degree ascending, x first."""


@dataclass(frozen=True)
class KernelSettings:
    """Sizes of the kernels, pixels (the reference's private defaults)."""

    size: int = 21
    size_max: int = 35
    size_in_sigma: float = 6.0
    sigma_min: float = 0.7
    padding: float = 1.4


def kernel_sigmas(*, target: FloatArray, psf: FloatArray, settings: KernelSettings) -> FloatArray:
    """Return the widths of the kernels' Gaussian, pixels, from those of target and PSF."""
    return np.maximum(np.sqrt(np.maximum(target**2 - psf**2, 0.0)), settings.sigma_min)


def kernel_sizes(sigma: FloatArray, settings: KernelSettings) -> IntArray:
    """Return the odd sides of the kernel images, pixels."""
    size = (settings.size_in_sigma * sigma).astype(np.int64)
    return np.asarray(np.clip(size + (size % 2 == 0), settings.size, settings.size_max))


def padded_size(stamp: int, settings: KernelSettings) -> int:
    """Return the side to which PSF stamps are padded: the least odd number of 1.4 kernel sizes, or more."""
    least = int(np.ceil(settings.size * settings.padding))
    least += least % 2 == 0
    return stamp + max(0, least - stamp)


def fit_kernels(
    psf: FloatArray,
    *,
    target_sigma: FloatArray,
    kernel_sigma: FloatArray,
    size: int,
    settings: KernelSettings,
) -> FloatArray:
    """Fit the kernels of n stars, all of one size.

    Parameters
    ----------
    psf : ndarray, float64, shape (n, p, p)
        Kernel images of the PSF.
    target_sigma, kernel_sigma : ndarray, float64, shape (n,)
        Widths of the Gaussian wanted and of the kernels' own, pixels.
    size : int
        Odd side of the kernels.

    Returns
    -------
    ndarray, float64, shape (n, size, size)
        Kernels of unit sum, to be *correlated* with an image.

    Raises
    ------
    ValueError
        If the stamps are too small for the kernel.
    """
    padded = _pad(psf.astype(np.float32).astype(np.float64), padded_size(psf.shape[1], settings))
    if size > padded.shape[1]:
        raise ValueError("the kernel is larger than the stamp of the PSF")
    target = _target_images(target_sigma, padded.shape[1])
    lines = _basis_lines(kernel_sigma, size)
    models = _combine(_correlate(padded, lines), lines)
    edge = size // 2
    wanted = target[:, edge : padded.shape[1] - edge, edge : padded.shape[1] - edge]
    design = models.reshape(len(psf), len(MONOMIALS), -1)
    amplitudes = _solve(design @ design.transpose(0, 2, 1), design @ wanted.reshape(len(psf), -1, 1))
    amplitudes[:, 0] = 1.0  # unit sum of the kernel
    products = np.einsum("niy,njx->nijyx", lines, lines)
    images = _combine(np.stack([products[:, y, x] for x, y in MONOMIALS], axis=1), lines)
    return np.asarray(np.einsum("nk,nkyx->nyx", amplitudes, images))


def _pad(stamps: FloatArray, size: int) -> FloatArray:
    before = (size - stamps.shape[1]) // 2
    border = (before, size - stamps.shape[1] - before)
    return np.pad(stamps, ((0, 0), border, border))


def _target_images(sigma: FloatArray, size: int) -> FloatArray:
    """Return round Gaussians of unit sum, rounded to float32."""
    offset = np.arange(size) - size // 2
    line = np.exp(-0.5 * (offset / sigma[:, np.newaxis]) ** 2)
    image = line[:, :, np.newaxis] * line[:, np.newaxis, :]
    image /= image.sum(axis=(1, 2), keepdims=True)
    return image.astype(np.float32).astype(np.float64)


def _basis_lines(sigma: FloatArray, size: int) -> FloatArray:
    """Return Gaussian times (u / h)^k, k = 0 ... 4, shape (n, 5, size); products of two are the basis."""
    half = size // 2
    offset = np.arange(-half, half + 1, dtype=np.float64)
    gaussian = np.exp(-0.5 * (offset / sigma[:, np.newaxis]) ** 2)
    gaussian /= gaussian.sum(axis=1, keepdims=True)
    powers = (offset / half) ** np.arange(DEGREE + 1)[:, np.newaxis]
    return np.asarray(gaussian[:, np.newaxis, :] * powers)


def _correlate(stamps: FloatArray, lines: FloatArray) -> FloatArray:
    """Return correlations of the stamps with all products of two lines, where the kernel fits.

    Shape (n, terms, m, m) in the order of `MONOMIALS`.
    """
    number, size = stamps.shape[0], lines.shape[2]
    fit = stamps.shape[1] - size + 1
    shifts = np.zeros((number, DEGREE + 1, fit, stamps.shape[1]))
    for row in range(fit):
        shifts[:, :, row, row : row + size] = lines
    flat = shifts.reshape(number, (DEGREE + 1) * fit, stamps.shape[1])
    products = flat @ stamps @ flat.transpose(0, 2, 1)
    grid = products.reshape(number, DEGREE + 1, fit, DEGREE + 1, fit)
    return np.stack([grid[:, y, :, x, :] for x, y in MONOMIALS], axis=1)


def _combine(products: FloatArray, lines: FloatArray) -> FloatArray:
    """Return the basis from plain products: all but the first without sum, with unit sum of squares.

    Linear in the products, so that it serves for kernels and for images correlated with them.
    """
    sums, squares = _sums_and_squares(lines)
    result = np.empty_like(products)
    result[:, 0] = products[:, 0]
    for term in range(1, len(MONOMIALS)):
        total = sums[:, term]
        with_sum = np.abs(total) > SMALL_SUM
        scale = np.where(with_sum, 1.0 / np.where(with_sum, total, 1.0), 1.0)
        norm = np.sqrt(squares[:, term])
        shape = (slice(None), np.newaxis, np.newaxis)
        result[:, term] = products[:, term] * (scale / norm)[shape]
        result[:, term] -= products[:, 0] * np.where(with_sum, 1.0 / norm, 0.0)[shape]
    return result


def _sums_and_squares(lines: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the sums of the plain products and the sums of squares after their sum is removed."""
    sums = lines.sum(axis=2)
    gram = np.einsum("niu,nju->nij", lines, lines)
    total = np.stack([sums[:, x] * sums[:, y] for x, y in MONOMIALS], axis=1)
    own = np.stack([gram[:, x, x] * gram[:, y, y] for x, y in MONOMIALS], axis=1)
    mixed = np.stack([gram[:, x, 0] * gram[:, y, 0] for x, y in MONOMIALS], axis=1)
    with_sum = np.abs(total) > SMALL_SUM
    safe = np.where(with_sum, total, 1.0)
    removed = own / safe**2 - 2.0 * mixed / safe + own[:, :1]
    return total, np.where(with_sum, removed, own)


def _solve(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    """Solve normal equations, shape (n, k, k) and (n, k, 1); singular ones without their zero eigenvalues."""
    try:
        return np.asarray(np.linalg.solve(matrices, vectors)[..., 0])
    except np.linalg.LinAlgError:
        inverse = np.linalg.pinv(matrices, hermitian=True)
        return np.asarray((inverse @ vectors)[..., 0])


def autocorrelations(kernels: FloatArray) -> FloatArray:
    """Return the full autocorrelations of images (n, size, size): shape (n, 2 size - 1, 2 size - 1)."""
    full = 2 * kernels.shape[1] - 1
    spectrum = np.fft.rfft2(kernels, s=(full, full))
    lagged = np.fft.irfft2(np.abs(spectrum) ** 2, s=(full, full))
    return np.fft.fftshift(lagged, axes=(1, 2))


def convolve_with_kernel(image: npt.NDArray[np.float32], kernel: FloatArray) -> npt.NDArray[np.float32]:
    """Return the convolution of an image with a kernel, zeros outside, on the image's own pixels.

    The image is transformed in single precision, the kernel in double: what the reference's library call
    does, which moves fluxes by 1e-7 (11.3 step 7).

    Parameters
    ----------
    image : ndarray, float32, shape (ny, nx)
    kernel : ndarray, float64, shape (size, size)
        Odd size.
    """
    from scipy import fft

    full = [length + kernel.shape[0] - 1 for length in image.shape]
    fast = [fft.next_fast_len(length, True) for length in full]
    product = fft.rfft2(image, fast) * fft.rfft2(kernel, fast)
    result = fft.irfft2(product, fast)
    edge = kernel.shape[0] // 2
    return np.asarray(result[edge : edge + image.shape[0], edge : edge + image.shape[1]], dtype=np.float32)
