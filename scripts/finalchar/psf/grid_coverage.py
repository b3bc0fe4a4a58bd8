"""Which points of a model grid the good pixels of the stars reach (known failure K14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["stars_on_grid_points"]


def stars_on_grid_points(stars: Sequence[Any], model: Any) -> npt.NDArray[np.int64]:
    """Count, for every point of a pixel grid, the stars with a good pixel on it.

    A good pixel is on all grid points that lie within the pixel's own extent in the model's coordinates, or
    within half a model pixel if that is larger.

    Parameters
    ----------
    stars : sequence of piff.Star
        With images, weights and fitted centres.
    model : piff.PixelGrid
        The grid.

    Returns
    -------
    ndarray, int64, shape (model.size, model.size)
        Index [v, u], as the parameters of the model.
    """
    counts = np.zeros((model.size, model.size), dtype=np.int64)
    for star in stars:
        counts += _reached(star, model)
    return counts


def _reached(star: Any, model: Any) -> npt.NDArray[np.bool_]:
    _, weight, u, v = star.data.getDataVector()
    good = weight != 0
    grid_u = (u[good] - star.fit.center[0]) / model.scale + model._origin
    grid_v = (v[good] - star.fit.center[1]) / model.scale + model._origin
    matrix = np.abs(star.data.local_wcs.jacobian().getMatrix())
    extent_u, extent_v = np.maximum(0.5, 0.5 * matrix.sum(axis=1) / model.scale)
    reached = np.zeros((model.size, model.size), dtype=bool)
    reach = int(np.ceil(max(extent_u, extent_v)))
    for step_v in range(-reach, reach + 1):
        for step_u in range(-reach, reach + 1):
            column = np.rint(grid_u).astype(np.int64) + step_u
            row = np.rint(grid_v).astype(np.int64) + step_v
            near = (np.abs(column - grid_u) <= extent_u) & (np.abs(row - grid_v) <= extent_v)
            near &= (column >= 0) & (column < model.size) & (row >= 0) & (row < model.size)
            reached[row[near], column[near]] = True
    return reached
