"""A determiner that needs no fit: a constant circular Gaussian, for tests of everything around it."""

from __future__ import annotations

import numpy as np

from finalchar.config import Config
from finalchar.psf.model import PsfFit, PsfImage


class GaussianModel:
    """A constant circular Gaussian: quick, and its truth is known."""

    size = 25
    average_position = (480.0, 470.0)
    average_color = np.nan

    def __init__(self, sigma=2.3):
        self.sigma = sigma

    def _draw(self, dx, dy):
        axis = np.arange(25) - 12
        r2 = (axis[None, :] - dx) ** 2 + (axis[:, None] - dy) ** 2
        image = np.exp(-0.5 * r2 / self.sigma**2)
        return image / image.sum()

    def kernel_image(self, *, x, y, color=np.nan):
        return PsfImage(self._draw(0.0, 0.0), -12, -12)

    def image(self, *, x, y, color=np.nan):
        ix, iy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        return PsfImage(self._draw(x - ix, y - iy), ix - 12, iy - 12)

    def kernel_images(self, *, x, y, color=np.nan):
        return np.stack([self._draw(0.0, 0.0) for _ in np.atleast_1d(x)])

    def images(self, *, x, y, color=np.nan):
        drawn = [self.image(x=a, y=b) for a, b in zip(np.atleast_1d(x), np.atleast_1d(y), strict=True)]
        corners = np.array([(each.x0, each.y0) for each in drawn], dtype=np.int64).reshape(-1, 2)
        return np.stack([each.array for each in drawn]), corners[:, 0], corners[:, 1]


def gaussian_determiner(candidates, exposure, settings, *, band, compatibility):
    from finalchar.formats.psfs import FixedKernel, KernelPsf

    model = GaussianModel()
    used = np.ones(len(candidates), dtype=bool)
    used[0] = False  # as if one had been rejected
    kernel = KernelPsf(FixedKernel(model._draw(0.0, 0.0), (12, 12)), (480.0, 470.0))
    return PsfFit(model, used, {"chi_squared": 1.0}, "KernelPsf", kernel)


def quick_config(**changes):
    """Return a configuration with the two fluxes and the moments they need: the rest costs time here."""
    config = Config(**changes)
    config.measurement.plugins.names = [
        "base_GaussianFlux",
        "base_PsfFlux",
        "ext_shapeHSM_HsmPsfMoments",
        "ext_shapeHSM_HsmSourceMoments",
    ]
    return config
