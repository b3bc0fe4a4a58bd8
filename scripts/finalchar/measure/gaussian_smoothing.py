"""Convolve windows around stars with Gaussians, as to a worse seeing (measurement specification 10.2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.measure.context import clip_box
from finalchar.measure.star_windows import PixelLimits, StarWindows

__all__ = ["gaussian_kernel", "smooth_windows"]

FloatArray = npt.NDArray[np.float64]
ImageArray = npt.NDArray[np.float32]


def gaussian_kernel(sigma: float, half: int) -> FloatArray:
    """Return a Gaussian at the offsets -half ... half, of unit sum."""
    offset = np.arange(-half, half + 1, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a vanishing sigma gives NaN, as in the reference
        weight = np.exp(-0.5 * (offset / np.float64(sigma)) ** 2)
    return np.asarray(weight / weight.sum())


def smooth_windows(
    windows: StarWindows, *, sub_images: list[Box], sigma: FloatArray, halves: npt.NDArray[np.int64]
) -> StarWindows:
    """Return windows of the convolved sub-images: image by the kernel, variance by its square.

    Along the edges of a sub-image, as far as the kernel reaches, pixels stay as they are.  Pixels are right
    up to the kernel's half width from the border of the window.

    Parameters
    ----------
    windows : StarWindows
        Cut from the exposure.
    sub_images : list of Box
        The part of the exposure that is convolved, for each window.
    sigma : ndarray, float64, shape (n,)
        Of the Gaussians, pixels.
    halves : ndarray, int64, shape (n,)
        Half widths of the kernels.
    """
    image, variance = np.zeros_like(windows.image), np.zeros_like(windows.variance)
    for row, box in enumerate(sub_images):
        here = clip_box(box, windows.box(row))
        if here is None:
            continue
        half = int(halves[row])
        kernel = gaussian_kernel(float(sigma[row]), half)
        part = _slices(here, windows.box(row))
        inner = clip_box(Box(box.min_x + half, box.min_y + half, box.max_x - half, box.max_y - half), here)
        for result, plane, weights in (
            (image, windows.image, kernel),
            (variance, windows.variance, kernel * kernel),
        ):
            result[row][part] = plane[row][part]
            if inner is not None:
                smooth = _convolve(plane[row][part], weights)
                result[row][_slices(inner, windows.box(row))] = smooth[_slices(inner, here)]
    return StarWindows(image, variance, windows.x, windows.y, PixelLimits.of(sub_images))


def _convolve(plane: ImageArray, kernel: FloatArray) -> ImageArray:
    """Convolve along x, then y, with a float32 image in between."""
    from scipy.ndimage import correlate1d

    first = correlate1d(plane, kernel, axis=1, output=np.float32, mode="constant")
    return np.asarray(correlate1d(first, kernel, axis=0, output=np.float32, mode="constant"))


def _slices(box: Box, origin: Box) -> tuple[slice, slice]:
    return (
        slice(box.min_y - origin.min_y, box.max_y - origin.min_y + 1),
        slice(box.min_x - origin.min_x, box.max_x - origin.min_x + 1),
    )
