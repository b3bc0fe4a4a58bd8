"""PSFs that are stored as kernels or analytic functions (file specification 7.3), able to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.psfs import (
    AnalyticKernel,
    DeltaFunctionKernel,
    FixedKernel,
    GaussianPsf,
    Kernel,
    KernelPsf,
    LinearCombinationKernel,
)
from finalchar.psf.model import PsfImage
from finalchar.psf.resampling import shift_images

__all__ = ["KernelModel", "kernel_model"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class KernelModel:
    """A PSF whose image at sub-pixel places is its kernel image, shifted (selection specification 0.6).

    Attributes
    ----------
    kernel : Kernel
        As stored.
    average_position : (float, float)
        Mean (x, y) of the stars it was made of, parent pixels; NaN if unknown.
    """

    kernel: Kernel
    average_position: tuple[float, float] = (np.nan, np.nan)

    @property
    def average_color(self) -> float:
        """NaN: these models know no colour."""
        return np.nan

    @property
    def size(self) -> int:
        """Side of the drawn square, pixels."""
        return _dimensions(self.kernel)[0]

    def kernel_image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model of (x, y) with its origin on the kernel's origin pixel."""
        centre_x, centre_y = self.kernel.centre
        return PsfImage(self.kernel_images(x=x, y=y)[0], -centre_x, -centre_y)

    def image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model at its true place (x, y), parent pixels."""
        arrays, x0, y0 = self.images(x=x, y=y)
        return PsfImage(arrays[0], int(x0[0]), int(y0[0]))

    def kernel_images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> FloatArray:
        """Draw many kernel images, shape (n, height, width), unit sum."""
        xs, ys = self._places(x, y)
        arrays = _kernel_arrays(self.kernel, xs, ys)
        return np.asarray(arrays / arrays.sum(axis=(1, 2), keepdims=True))

    def images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> tuple[FloatArray, IntArray, IntArray]:
        """Draw many images: arrays and the x0, y0 of their first pixels; sums are 1 only to about 1e-3."""
        xs, ys = self._places(x, y)
        arrays = self.kernel_images(x=xs, y=ys)
        pixel_x, pixel_y = np.floor(xs + 0.5), np.floor(ys + 0.5)
        dx, dy = xs - pixel_x, ys - pixel_y
        moved = (dx != 0) | (dy != 0)
        arrays[moved] = shift_images(arrays[moved], dx=dx[moved], dy=dy[moved])
        centre_x, centre_y = self.kernel.centre
        return arrays, pixel_x.astype(np.int64) - centre_x, pixel_y.astype(np.int64) - centre_y

    def _places(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        xs, ys = (np.array(values, dtype=np.float64).ravel() for values in np.broadcast_arrays(x, y))
        average = np.isnan(xs) & np.isnan(ys)
        xs[average], ys[average] = self.average_position
        return xs, ys


def kernel_model(stored: KernelPsf | GaussianPsf) -> KernelModel:
    """Return a stored kernel-type PSF as a model."""
    if isinstance(stored, GaussianPsf):
        width, height = stored.dimensions
        kernel = AnalyticKernel(stored.function, stored.dimensions, (width // 2, height // 2))
        return KernelModel(kernel, (0.0, 0.0))
    return KernelModel(stored.kernel, stored.average_position)


def _dimensions(kernel: Kernel) -> tuple[int, int]:
    """Width and height."""
    if isinstance(kernel, FixedKernel):
        return kernel.image.shape[1], kernel.image.shape[0]
    return kernel.dimensions


def _kernel_arrays(kernel: Kernel, x: FloatArray, y: FloatArray) -> FloatArray:
    """Arrays of a kernel at positions, shape (n, height, width), not normalised."""
    if isinstance(kernel, FixedKernel):
        return np.repeat(kernel.image[np.newaxis], len(x), axis=0)
    if isinstance(kernel, LinearCombinationKernel):
        components = np.stack([_kernel_arrays(part, x[:1], y[:1])[0] for part in kernel.components])
        return np.asarray(np.tensordot(_amplitudes(kernel, x, y), components, axes=1))
    if isinstance(kernel, AnalyticKernel):
        width, height = kernel.dimensions
        offset_y, offset_x = np.mgrid[:height, :width]
        image = kernel.function.evaluate(x=offset_x - kernel.centre[0], y=offset_y - kernel.centre[1])
        return np.repeat(np.asarray(image)[np.newaxis], len(x), axis=0)
    return _delta_arrays(kernel, len(x))


def _delta_arrays(kernel: DeltaFunctionKernel, number: int) -> FloatArray:
    width, height = kernel.dimensions
    arrays = np.zeros((number, height, width))
    arrays[:, kernel.pixel[1], kernel.pixel[0]] = 1.0
    return arrays


def _amplitudes(kernel: LinearCombinationKernel, x: FloatArray, y: FloatArray) -> FloatArray:
    """Amplitudes of the components at positions, shape (n, components)."""
    if kernel.functions is not None:
        return np.column_stack([function.evaluate(x=x, y=y) for function in kernel.functions])
    if kernel.amplitudes is None:
        raise InputError("a stored linear combination of kernels has neither functions nor amplitudes")
    return np.repeat(kernel.amplitudes[np.newaxis], len(x), axis=0)
