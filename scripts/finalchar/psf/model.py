"""The one protocol behind which every PSF model stands, and what a determiner returns.

Conventions (selection specification 0.5): a *kernel image* is drawn with the star exactly on the central
pixel of an odd square; an *image* is drawn at the true sub-pixel place in the detector frame.  Both are
float64; Piff and PSFEx models sum to one.  NaN position means the average position, NaN colour the average
colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["PsfFit", "PsfImage", "PsfModel"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PsfImage:
    """A drawn PSF: ``array[y, x]``, its first pixel at (x0, y0) of the frame it was drawn in."""

    array: FloatArray
    x0: int
    y0: int


class PsfModel(Protocol):
    """A PSF that can be drawn anywhere on its detector."""

    @property
    def size(self) -> int:
        """Side of the drawn square, pixels."""

    @property
    def average_position(self) -> tuple[float, float]:
        """Mean (x, y) of the used stars, parent pixels."""

    @property
    def average_color(self) -> float:
        """Mean colour of the used stars; NaN if colour is not a variable of the model."""

    def kernel_image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model of (x, y) centred on the central pixel of the square."""

    def image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model at its true place (x, y), parent pixels."""

    def kernel_images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> FloatArray:
        """Draw many kernel images, shape (n, size, size); equal to `kernel_image` one by one."""

    def images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Draw many images: arrays (n, size, size) and the x0, y0 of their first pixels."""


@dataclass(frozen=True)
class PsfFit:
    """What a determiner gives: the model, the used stars and the figures of the fit.

    `used` is a boolean array over the candidates that were handed in; `figures` are plain numbers for
    status and summary (``chi_squared``, ``degrees_of_freedom``, ``iterations``, ``stars_available``,
    ``stars_used``, ``terms``, ...); `serialized` holds the bytes of the persisted form (for Piff the pickle
    of (width, height, psf)) and `persisted_class` its LSST class name.
    """

    model: PsfModel
    used: npt.NDArray[np.bool_]
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    persisted_class: str = ""
    serialized: object = b""
