"""The one protocol behind which every PSF model stands, and what a determiner returns.

Conventions (selection specification 0.5): a *kernel image* is drawn with the star exactly on the central
pixel of an odd square; an *image* is drawn at the true sub-pixel place in the detector frame.  Both are
float64; Piff and PSFEx models sum to one.  NaN position means the average position, NaN colour the average
colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finalchar.formats.psf_errors import PredictedErrors

__all__ = ["FitEvidence", "PsfFit", "PsfImage", "PsfModel"]

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
class FitEvidence:
    """How the used stars determine the model: what the acceptance of a PSF looks at.

    Attributes
    ----------
    x, y : ndarray, float64, shape (n,)
        Positions of the used stars, parent pixels.
    signal_to_noise : ndarray, float64, shape (n,)
        Of the used stars.
    fitted_signal_to_noise : ndarray, float64, shape (n,)
        After a cap: its square is the weight of the star in the fit.
    design : ndarray, float64, shape (n, terms)
        Spatial (and colour) terms of the model at the used stars.
    design_at : callable
        ``design_at(x=, y=)`` gives the terms at other positions, average colour, shape (m, terms).
    converged : bool
        Whether the iteration ended by its criterion.
    fewest_stars_on_grid_point : int or None
        Over the model's own grid points: the smallest number of used stars that have a good pixel there.
    unconstrained_grid_points : int
        Grid points with fewer such stars than the model has terms.
    errors : PredictedErrors or None
        Predicted errors of size, e1 and e2 from the normal equations; None if the fit gives none.
    """

    x: FloatArray
    y: FloatArray
    signal_to_noise: FloatArray
    fitted_signal_to_noise: FloatArray
    design: FloatArray
    design_at: Callable[..., FloatArray]
    converged: bool = True
    fewest_stars_on_grid_point: int | None = None
    unconstrained_grid_points: int = 0
    errors: PredictedErrors | None = None


@dataclass(frozen=True)
class PsfFit:
    """What a determiner gives: the model, the used stars and the figures of the fit.

    `used` is a boolean array over the candidates that were handed in; `figures` are plain numbers for
    status and summary (``chi_squared``, ``degrees_of_freedom``, ``iterations``, ``stars_available``,
    ``stars_used``, ``terms``, ...); `serialized` holds the bytes of the persisted form (for Piff the pickle
    of (width, height, psf)) and `persisted_class` its LSST class name.  `evidence` is what `check_psf` needs
    (None: the model has nothing of the kind, only its images are looked at).
    """

    model: PsfModel
    used: npt.NDArray[np.bool_]
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    persisted_class: str = ""
    serialized: object = b""
    evidence: FitEvidence | None = None
