"""Kernels that make PSFs Gaussian, and the batched fixed-moment flux behind the GAaP fluxes."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from finalchar.formats.exposure import Box
from finalchar.measure.fixed_moment_batch import CentredImages, fixed_moment_fluxes, is_usable_weight
from finalchar.measure.fixed_moments import Quadrupole, fixed_moment_flux
from finalchar.measure.gaussianization import (
    KernelSettings,
    autocorrelations,
    convolve_with_kernel,
    fit_kernels,
    kernel_sigmas,
    kernel_sizes,
)
from finalchar.measure.quadrupoles import Quadrupoles

SETTINGS = KernelSettings()


def moffat(fwhm=3.5, g1=0.05, g2=-0.03, size=25):
    profile = galsim.Moffat(beta=3.5, fwhm=fwhm).shear(g1=g1, g2=g2)
    image = profile.drawImage(nx=size, ny=size, scale=1.0, method="no_pixel").array.astype(float)
    return image / image.sum()


def kernel_of(image, *, target, sigma, size=21):
    return fit_kernels(
        image[np.newaxis],
        target_sigma=np.array([target]),
        kernel_sigma=np.array([sigma]),
        size=size,
        settings=SETTINGS,
    )[0]


def direct_kernel(psf, *, target, sigma, size=21):
    """The kernel of 11.3 written out pixel by pixel."""
    half, stamp = size // 2, np.pad(psf.astype(np.float32), 3).astype(float)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(float)
    first = np.exp(-0.5 * (x**2 + y**2) / sigma**2)
    first /= first.sum()
    basis = [first]
    for degree in range(1, 5):
        for power in range(degree + 1):
            term = first * (x / half) ** (degree - power) * (y / half) ** power
            if abs(term.sum()) > 1.19e-7:
                term = term / term.sum() - first
            basis.append(term / np.sqrt((term**2).sum()))
    fit = stamp.shape[0] - size + 1
    design = np.array(
        [
            [(stamp[j : j + size, i : i + size] * one).sum() for j in range(fit) for i in range(fit)]
            for one in basis
        ]
    )
    grid = np.arange(31) - 15.0
    wanted = np.exp(-0.5 * (grid[:, np.newaxis] ** 2 + grid**2) / target**2)
    wanted = (wanted / wanted.sum()).astype(np.float32)[half:-half, half:-half].ravel()
    amplitude = np.linalg.lstsq(design.T, wanted, rcond=None)[0]
    amplitude[0] = 1.0
    return np.tensordot(amplitude, np.array(basis), axes=1)


def test_the_kernel_is_that_of_the_definition():
    psf = moffat()
    # normal equations and products of lines: condition number 1e3
    np.testing.assert_allclose(
        kernel_of(psf, target=2.0, sigma=1.1), direct_kernel(psf, target=2.0, sigma=1.1), atol=1e-9
    )


def test_a_round_gaussian_becomes_the_wider_one():
    psf = galsim.Gaussian(sigma=1.8).drawImage(nx=25, ny=25, scale=1.0, method="no_pixel").array
    target, sigma = 1.8 * 1.15, 1.8 * np.sqrt(1.15**2 - 1)
    kernel = kernel_of(psf.astype(float), target=target, sigma=sigma)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-9)
    wide = convolve_with_kernel(np.pad(psf, 12).astype(np.float32), kernel)
    grid = np.arange(49) - 24.0
    wanted = np.exp(-0.5 * (grid[:, np.newaxis] ** 2 + grid**2) / target**2) / (2 * np.pi * target**2)
    np.testing.assert_allclose(wide, wanted, atol=2e-3 * wanted.max())  # the last step fixes the sum


def test_kernels_do_not_depend_on_the_batch():
    stamps = np.stack([moffat(), moffat(fwhm=4.4, g1=-0.1), moffat(fwhm=3.0)])
    target, sigma = np.array([2.0, 2.5, 1.7]), np.array([1.1, 1.3, 0.9])
    many = fit_kernels(stamps, target_sigma=target, kernel_sigma=sigma, size=21, settings=SETTINGS)
    for k in range(3):
        # matrix products of other shapes sum in another order
        np.testing.assert_allclose(
            many[k], kernel_of(stamps[k], target=target[k], sigma=sigma[k]), atol=1e-10
        )


def test_a_stamp_smaller_than_the_kernel_is_an_error():
    assert kernel_of(moffat(), target=6.0, sigma=4.9, size=31).shape == (31, 31)
    with pytest.raises(ValueError, match="larger than the stamp"):
        kernel_of(moffat(), target=6.0, sigma=5.5, size=33)


def test_sizes_of_kernels():
    sigma = kernel_sigmas(target=np.array([1.15, 4.6, 9.2]), psf=np.array([1.0, 4.0, 8.0]), settings=SETTINGS)
    np.testing.assert_allclose(sigma, [0.7, 4 * np.sqrt(0.3225), 8 * np.sqrt(0.3225)])
    sizes = kernel_sizes(np.array([0.7, 3.4, 3.7, 4.0, 9.0]), SETTINGS)
    assert sizes.tolist() == [21, 21, 23, 25, 35]


def test_convolution_is_the_library_call_of_the_reference():
    from scipy.signal import convolve

    rng = np.random.default_rng(2)
    image, kernel = rng.normal(size=(41, 46)).astype(np.float32) * 1000, rng.normal(size=(21, 21))
    wanted = convolve(image, kernel, mode="same", method="fft")
    np.testing.assert_array_equal(convolve_with_kernel(image, kernel), wanted.astype(np.float32))


def test_autocorrelation():
    from scipy.signal import correlate

    kernels = np.random.default_rng(3).normal(size=(3, 21, 21))
    for kernel, found in zip(kernels, autocorrelations(kernels), strict=True):
        np.testing.assert_allclose(found, correlate(kernel, kernel, mode="full"), atol=1e-11)


def centred(image, x, y):
    """Windows about the pixel nearest to (x, y), which is the middle of the image."""
    rows, columns = image.shape
    return CentredImages(
        image[np.newaxis].astype(np.float32),
        (np.arange(columns).astype(np.float32) - np.float32(x))[np.newaxis],
        (np.arange(rows).astype(np.float32) - np.float32(y))[np.newaxis],
    )


@pytest.mark.parametrize(
    "shape",
    [
        (4.0, 3.0, 0.5),
        (0.2, 3.0, 0.1),
        (0.1, 0.1, 0.0),
        (0.26, 0.24, 0.01),
        (1.0, 1.0, -0.99),
        (90.0, 80.0, 5.0),
    ],
)
def test_batched_flux_is_the_single_one(shape):
    image = np.random.default_rng(4).normal(size=(51, 51)).astype(np.float32) * 100
    x, y = 25.3, 24.8
    single = Quadrupole(*shape)
    wanted = fixed_moment_flux(image, box=Box(0, 0, 50, 50), shape=single, x=x, y=y)
    found = fixed_moment_fluxes(centred(image, x, y), Quadrupoles(*(np.array([one]) for one in shape)))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)  # another order of a sum in double


def test_flux_of_a_gaussian_under_its_own_weight_is_its_flux():
    sigma = 2.2
    stamp = galsim.Gaussian(sigma=sigma, flux=1e4).drawImage(nx=51, ny=51, scale=1.0, method="no_pixel")
    found = fixed_moment_fluxes(centred(stamp.array, 25.0, 25.0), Quadrupoles.circles(np.array([sigma**2])))
    assert found[0] == pytest.approx(1e4, rel=1e-3)  # cut at an exponent of 14: exp(-14)


def test_unusable_weights_give_nan():
    bad = Quadrupoles(
        np.array([1e-4, np.nan, -1.0, 1.0, 1e-7]),
        np.array([1e-4, 1.0, -1.0, 1.0, 10.0]),
        np.array([0, 0, 0, 1.0, 0]),
    )
    assert not is_usable_weight(bad).any()
    images = centred(np.ones((21, 21)), 10.0, 10.0)
    many = CentredImages(images.pixels.repeat(5, 0), images.dx.repeat(5, 0), images.dy.repeat(5, 0))
    assert np.isnan(fixed_moment_fluxes(many, bad)).all()
