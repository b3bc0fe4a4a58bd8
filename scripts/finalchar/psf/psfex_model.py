"""PSFEx models as they are stored, able to draw (file specification 7.2, selection specification 7.7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.psfs import PsfexPsf
from finalchar.psf.model import PsfImage
from finalchar.psf.psfex_resampling import resample

__all__ = ["PsfexModel", "polynomial_terms"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PsfexModel:
    """A polynomial of sampled components.

    Attributes
    ----------
    stored : PsfexPsf
        What is stored.
    compatibility : str
        ``lsst`` labels and places images at negative and half-integer positions as the reference (S-Q16), and
        divides by a sum in single precision, so that unit sums are so to 2e-6.
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
        """Draw many kernel images, shape (n, size, size), of unit sum."""
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
        models = _weighted_sum(self.terms(x=x, y=y), self.stored.components)
        arrays = resample(models, self.size, self.stored.pixel_step, dx=dx, dy=dy)
        with np.errstate(invalid="ignore", divide="ignore"):  # a model without light is not a number
            return np.asarray(arrays.astype(np.float64) / self._sums(arrays)[:, np.newaxis, np.newaxis])

    def _sums(self, arrays: npt.NDArray[np.float32]) -> FloatArray:
        """Sums of images; those of the reference are added up pixel by pixel in single precision."""
        if self.compatibility == "lsst":
            flat = arrays.reshape(len(arrays), -1)
            return np.cumsum(flat, axis=1, dtype=np.float32)[:, -1].astype(np.float64)
        return np.asarray(arrays.sum(axis=(1, 2), dtype=np.float64))

    def terms(self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan) -> FloatArray:
        """Terms 1, u, u^2 ..., v, u v, ..., v^2 ... at positions, parent pixels: shape (n, terms)."""
        stored, degree = self.stored, int(self.stored.degree[0]) if len(self.stored.degree) else 0
        u, v = (
            (np.asarray(place, dtype=np.float64) - first) / second
            for place, first, second in zip((x, y), stored.context_first, stored.context_second, strict=True)
        )
        return polynomial_terms(u=u, v=v, degree=degree)


def polynomial_terms(*, u: npt.ArrayLike, v: npt.ArrayLike, degree: int) -> FloatArray:
    """Terms of PSFEx at normalised positions, those of u first (selection specification 7.4)."""
    first, second = np.asarray(u, dtype=np.float64).ravel(), np.asarray(v, dtype=np.float64).ravel()
    return np.column_stack([first**i * second**j for j in range(degree + 1) for i in range(degree + 1 - j)])


def _weighted_sum(terms: FloatArray, components: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sum of the components, one after the other in single precision: the same bits on every machine."""
    weights = terms.astype(np.float32)
    total = np.zeros((len(terms), *components.shape[1:]), dtype=np.float32)
    for weight, component in zip(weights.T, components, strict=True):
        total += weight[:, np.newaxis, np.newaxis] * component
    return total
