"""PSFEx models as they are stored, able to draw (file specification 7.2, selection specification 7.7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.psfs import PsfexPsf
from finalchar.psf.model import PsfImage

__all__ = ["PsfexModel"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

HALF_TAPS = 6


@dataclass(frozen=True)
class PsfexModel:
    """A polynomial of sampled components.

    Attributes
    ----------
    stored : PsfexPsf
        What is stored.
    compatibility : str
        ``lsst`` labels and places images at negative and half-integer positions as the reference (S-Q16).
    """

    stored: PsfexPsf
    compatibility: str = "fixed"

    @property
    def average_position(self) -> tuple[float, float]:
        """Mean (x, y) of the stars, parent pixels."""
        return self.stored.average_position

    @property
    def average_color(self) -> float:
        """NaN: these models know no colour."""
        return np.nan

    @property
    def size(self) -> int:
        """Side of the drawn square, pixels: odd."""
        side = int(np.float32(self.stored.components.shape[2]) * np.float32(self.stored.pixel_step))
        return side + 1 - side % 2

    def kernel_image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model of (x, y) centred on the central pixel."""
        half = self.size // 2
        return PsfImage(self.kernel_images(x=x, y=y)[0], -half, -half)

    def image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model at its true place (x, y), parent pixels."""
        arrays, x0, y0 = self.images(x=x, y=y)
        return PsfImage(arrays[0], int(x0[0]), int(y0[0]))

    def kernel_images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> FloatArray:
        """Draw many kernel images, shape (n, size, size), unit sum to 2e-6."""
        xs, ys = self._places(x, y)
        zero = np.zeros(len(xs))
        return self._draw(xs, ys, zero, zero)

    def images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> tuple[FloatArray, IntArray, IntArray]:
        """Draw many images: arrays (n, size, size) and the x0, y0 of their first pixels."""
        xs, ys = self._places(x, y)
        dx, pixel_x = self._split(xs)
        dy, pixel_y = self._split(ys)
        half = self.size // 2
        return self._draw(xs, ys, dx, dy), pixel_x - half, pixel_y - half

    def _places(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        xs, ys = (np.array(values, dtype=np.float64).ravel() for values in np.broadcast_arrays(x, y))
        average = np.isnan(xs) & np.isnan(ys)
        xs[average], ys[average] = self.average_position
        return xs, ys

    def _split(self, position: FloatArray) -> tuple[FloatArray, IntArray]:
        """Fraction and pixel of positions."""
        if self.compatibility == "lsst":
            fraction = position - np.trunc(position)
            fraction = np.where(fraction > 0.5, fraction - 1.0, fraction)
            return fraction, np.trunc(position - fraction + 0.5).astype(np.int64)
        pixel = np.floor(position + 0.5)
        return position - pixel, pixel.astype(np.int64)

    def _draw(self, x: FloatArray, y: FloatArray, dx: FloatArray, dy: FloatArray) -> FloatArray:
        stored = self.stored
        models = np.tensordot(self._terms(x, y).astype(np.float32), stored.components, axes=1)
        height, width = stored.components.shape[1:]
        along_x = np.swapaxes(_sampling(dx, width, self.size, stored.pixel_step), 1, 2)
        rows = (models.astype(np.float64) @ along_x).astype(np.float32)
        along_y = _sampling(dy, height, self.size, stored.pixel_step)
        arrays = (along_y @ rows.astype(np.float64)).astype(np.float32).astype(np.float64)
        sums = arrays.sum(axis=(1, 2), keepdims=True).astype(np.float32)
        return np.asarray(arrays / sums)

    def _terms(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """1, u, u^2 ..., v, u v, ..., v^2 ...: shape (n, terms)."""
        stored, degree = self.stored, int(self.stored.degree[0]) if len(self.stored.degree) else 0
        u = (x - stored.context_first[0]) / stored.context_second[0]
        v = (y - stored.context_first[1]) / stored.context_second[1]
        return np.column_stack([u**i * v**j for j in range(degree + 1) for i in range(degree + 1 - j)])


def _sampling(shift: FloatArray, model_size: int, size: int, step: float) -> FloatArray:
    """Matrices (n, size, model_size) that sample a row of model pixels (selection specification 7.6)."""
    centred = (np.arange(size) - size // 2) - shift[:, np.newaxis]
    place = model_size // 2 + centred / step
    first = place.astype(np.int64) - HALF_TAPS
    taps = first[..., np.newaxis] + np.arange(2 * HALF_TAPS)
    offset = taps - place[..., np.newaxis]
    weight = np.where(np.abs(offset) <= 5, np.sinc(offset) * np.sinc(offset / 5), 0.0)
    weight[np.abs(offset) < 1e-5] = 1.0
    weight[(taps < 0) | (taps >= model_size)] = 0.0
    total = weight.sum(axis=-1, keepdims=True)
    weight /= np.where(total > 0, total, 1.0)
    weight[(place < 0) | (place > model_size - 1)] = 0.0
    matrices = np.zeros((*place.shape, model_size))
    star, pixel, _ = np.indices(taps.shape)
    np.add.at(matrices, (star, pixel, np.clip(taps, 0, model_size - 1)), weight)
    return matrices
