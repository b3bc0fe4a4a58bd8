"""The true PSF of the simulated surveys: a sheared Moffat profile that varies over the focal plane.

Its size depends on the colour of the star (red stars are smaller, as through the atmosphere), its ellipticity
on the place in the focal plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finalchar.simulate.streams import stream
from finalchar.simulate.surveys import CameraPlan, VisitPlan

if TYPE_CHECKING:
    import galsim

__all__ = ["MEAN_COLOR", "TruePsf", "make_psf"]

FloatArray = npt.NDArray[np.float64]

MOFFAT_BETA = 3.5
MEAN_COLOR = 1.5
SIZE_PER_COLOR = -0.02
"""Relative change of the size per magnitude of g - i."""


@dataclass(frozen=True)
class TruePsf:
    """Size (FWHM, pixels) and shear of the PSF as quadratic functions of the place in the focal plane.

    `coefficients` has shape (3, 6): rows are ln(size / fwhm), g1, g2; columns the terms 1, u, v, u**2, u v,
    v**2 of the place (u, v) in units of half the focal plane.
    """

    fwhm: float
    coefficients: FloatArray
    origin_x: float
    origin_y: float
    half_width: float

    def parameters(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = MEAN_COLOR
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return FWHM in pixels and shear g1, g2 at pixel positions for stars of given g - i."""
        u = (np.asarray(x, dtype=np.float64) - self.origin_x) / self.half_width
        v = (np.asarray(y, dtype=np.float64) - self.origin_y) / self.half_width
        terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v])
        size, g1, g2 = np.tensordot(self.coefficients, terms, axes=1)
        reddening = SIZE_PER_COLOR * (np.asarray(color, dtype=np.float64) - MEAN_COLOR)
        return self.fwhm * np.exp(size + reddening), g1, g2

    def profile(self, *, x: float, y: float, color: float = MEAN_COLOR) -> galsim.GSObject:
        """Return the GalSim profile, in pixels, of a star of unit flux."""
        fwhm, g1, g2 = self.parameters(x=x, y=y, color=color)
        return _moffat().dilate(float(fwhm)).shear(g1=float(g1), g2=float(g2))


def _moffat() -> galsim.GSObject:
    import galsim

    return galsim.Moffat(beta=MOFFAT_BETA, fwhm=1.0)


def make_psf(camera: CameraPlan, visit: VisitPlan, seed: int, *, origin_x: float, origin_y: float) -> TruePsf:
    """Draw the PSF of a visit; the origin is the boresight's place in the detector's pixels."""
    draw = stream(seed, "psf", visit.visit)
    amplitude = np.array([[0.0, 0.02, 0.02, 0.02, 0.01, 0.02], [0.02, 0.02, 0.02, 0.015, 0.015, 0.015]])
    coefficients = draw.normal(size=(3, 6)) * amplitude[[0, 1, 1]]
    half_width = 0.5 * max(camera.columns * camera.width, camera.rows * camera.height)
    return TruePsf(visit.fwhm, coefficients.clip(-0.03, 0.03), origin_x, origin_y, half_width)
