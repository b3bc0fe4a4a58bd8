"""Measurements on the pixels of the simulated images, for all sources of a detector at once.

Each source is looked at in its own stamp, in which every other footprint has been emptied and its own
(deblended) pixels stand: the stack's noise replacement without the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import Footprints
from finalchar.simulate.render import Planes

__all__ = [
    "Moments",
    "Stamps",
    "aperture_flux",
    "cut_stamps",
    "gaussian_flux",
    "local_background",
    "measure_centroids",
    "measure_moments",
    "psf_flux",
]

FloatArray = npt.NDArray[np.float64]
HALF = 44
SIZE = 2 * HALF + 1


@dataclass(frozen=True)
class Stamps:
    """Square stamps stacked on top of each other: arrays (n * SIZE, SIZE), and their origins.

    `x0`, `y0` are the parent pixel coordinates of the first pixel of each stamp.
    """

    image: npt.NDArray[np.float32]
    variance: npt.NDArray[np.float32]
    x0: npt.NDArray[np.int64]
    y0: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x0)

    def rows_of(self, y: FloatArray) -> FloatArray:
        """Return the row in the stack of parent positions `y`, one per stamp."""
        return np.asarray(y - self.y0 + SIZE * np.arange(len(self)))

    def cube(self, plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return a plane as array (n, SIZE, SIZE)."""
        return plane.reshape(len(self), SIZE, SIZE)


@dataclass(frozen=True)
class Moments:
    """Adaptive moments: pixels squared, NaN where `flag`; `sigma` is the determinant radius."""

    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    x: FloatArray
    y: FloatArray
    flag: npt.NDArray[np.bool_]


def cut_stamps(planes: Planes, footprints: Footprints) -> Stamps:
    """Cut the stamps of all sources around their first peaks."""
    first = footprints.peak_offset[:-1]
    x0 = footprints.peak_x[first].astype(np.int64) - HALF
    y0 = footprints.peak_y[first].astype(np.int64) - HALF
    image = np.nan_to_num(planes.image, nan=0.0)
    empty = image.copy()
    for index in np.flatnonzero(footprints.parent == 0).tolist():
        empty[footprints.pixels(index)] = 0.0
    padded = np.pad(empty, HALF)
    variance = np.pad(np.nan_to_num(planes.variance, nan=1.0), HALF, constant_values=1.0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIZE, SIZE))[y0 + HALF, x0 + HALF]
    noise = np.lib.stride_tricks.sliding_window_view(variance, (SIZE, SIZE))[y0 + HALF, x0 + HALF]
    windows = np.ascontiguousarray(windows)
    for index in range(len(footprints)):
        _insert_source(windows[index], index, image, footprints, int(x0[index]), int(y0[index]))
    return Stamps(windows.reshape(-1, SIZE), np.ascontiguousarray(noise).reshape(-1, SIZE), x0, y0)


def _insert_source(
    stamp: npt.NDArray[np.float32],
    index: int,
    image: npt.NDArray[np.float32],
    footprints: Footprints,
    x0: int,
    y0: int,
) -> None:
    y, x = footprints.pixels(index)
    values = footprints.heavy_pixels(index) if footprints.heavy[index] else image[y, x]
    inside = (x >= x0) & (x < x0 + SIZE) & (y >= y0) & (y < y0 + SIZE)
    stamp[y[inside] - y0, x[inside] - x0] = values[inside]


def measure_centroids(
    stamps: Stamps, *, x: FloatArray, y: FloatArray, psf_sigma: float
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Return Gaussian-weighted centroids and a flag; a centroid that runs away is set back to its start."""
    import sep

    found_x, found_y, status = sep.winpos(stamps.image, x - stamps.x0, stamps.rows_of(y), psf_sigma)
    found_x = found_x + stamps.x0
    found_y = found_y - SIZE * np.arange(len(stamps)) + stamps.y0
    bad = ~(np.hypot(found_x - x, found_y - y) < 3.0) | (status != 0)
    return np.where(bad, x, found_x), np.where(bad, y, found_y), bad


def aperture_flux(
    stamps: Stamps, *, x: FloatArray, y: FloatArray, radius: float
) -> tuple[FloatArray, FloatArray]:
    """Return the flux in circular apertures (exact overlap with pixels) and its error."""
    import sep

    flux, error, _ = sep.sum_circle(
        stamps.image, x - stamps.x0, stamps.rows_of(y), radius, var=stamps.variance, subpix=0
    )
    return flux, error


def local_background(
    stamps: Stamps, *, x: FloatArray, y: FloatArray, inner: float, outer: float
) -> tuple[FloatArray, FloatArray]:
    """Return the mean level and the pixel scatter in an annulus."""
    import sep

    row = stamps.rows_of(y)
    total, error, _ = sep.sum_circann(
        stamps.image, x - stamps.x0, row, inner, outer, var=stamps.variance, subpix=5
    )
    area = np.pi * (outer**2 - inner**2)
    return total / area, error / np.sqrt(area)


def measure_moments(stamps: Stamps, *, x: FloatArray, y: FloatArray, psf_sigma: float) -> Moments:
    """Measure adaptive Gaussian-weighted moments with GalSim's HSM."""
    import galsim

    result = np.full((5, len(stamps)), np.nan)
    half = 22
    for index, stamp in enumerate(stamps.cube(stamps.image)):
        window = stamp[HALF - half : HALF + half + 1, HALF - half : HALF + half + 1]
        left, bottom = stamps.x0[index] + HALF - half, stamps.y0[index] + HALF - half
        image = galsim.ImageF(np.ascontiguousarray(window), xmin=int(left), ymin=int(bottom))
        shape = galsim.hsm.FindAdaptiveMom(
            image, guess_sig=psf_sigma, guess_centroid=galsim.PositionD(x[index], y[index]), strict=False
        )
        if shape.moments_status == 0:
            e1, e2 = shape.observed_shape.e1, shape.observed_shape.e2
            half_trace = shape.moments_sigma**2 / np.sqrt(1.0 - e1 * e1 - e2 * e2)
            centroid = shape.moments_centroid
            result[:, index] = (
                half_trace * (1.0 + e1),
                half_trace * (1.0 - e1),
                half_trace * e2,
                centroid.x,
                centroid.y,
            )
    flag = ~np.isfinite(result).all(axis=0)
    xx, yy, xy, centre_x, centre_y = result
    return Moments(xx, yy, xy, centre_x, centre_y, flag)


def gaussian_flux(
    stamps: Stamps, moments: Moments, *, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the flux of a Gaussian of the measured shape, 2 sum(w I), and its error."""
    flux, error = np.full((2, len(stamps)), np.nan)
    good = np.flatnonzero(~moments.flag)
    grid = np.arange(SIZE)
    image, variance = stamps.cube(stamps.image), stamps.cube(stamps.variance)
    for index in good:
        dx = (grid - (x[index] - stamps.x0[index]))[None, :]
        dy = (grid - (y[index] - stamps.y0[index]))[:, None]
        xx, yy, xy = moments.xx[index], moments.yy[index], moments.xy[index]
        weight = np.exp(-0.5 * (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / (xx * yy - xy * xy))
        flux[index] = 2.0 * (weight * image[index]).sum()
        error[index] = 2.0 * np.sqrt((weight * weight * variance[index]).sum())
    return flux, error


def psf_flux(
    stamps: Stamps, kernel: FloatArray, *, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the unweighted least-squares flux of a PSF kernel shifted to each centroid, and its error."""
    half = kernel.shape[0] // 2
    window = slice(HALF - half, HALF + half + 1)
    image = stamps.cube(stamps.image)[:, window, window].astype(np.float64)
    variance = stamps.cube(stamps.variance)[:, window, window].astype(np.float64)
    models = _shift(kernel, x - (stamps.x0 + HALF), y - (stamps.y0 + HALF))
    norm = (models * models).sum(axis=(1, 2))
    flux = (models * image).sum(axis=(1, 2)) / norm
    return flux, np.sqrt((models * models * variance).sum(axis=(1, 2))) / norm


def _shift(kernel: FloatArray, dx: FloatArray, dy: FloatArray) -> FloatArray:
    """Shift a kernel by Fourier phases; shape (n, size, size)."""
    size = kernel.shape[0]
    phase_y = np.exp(-2j * np.pi * np.outer(dy, np.fft.fftfreq(size)))
    phase_x = np.exp(-2j * np.pi * np.outer(dx, np.fft.rfftfreq(size)))
    transform = np.fft.rfft2(kernel)[None] * phase_y[:, :, None] * phase_x[:, None, :]
    return np.asarray(np.fft.irfft2(transform, s=kernel.shape))
