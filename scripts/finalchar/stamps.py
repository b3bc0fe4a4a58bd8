"""Choose the stamps that a detector keeps for looking at later: its best and its worst stars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Exposure
from finalchar.formats.sources import SourceTable
from finalchar.formats.stamps import StampSet

if TYPE_CHECKING:
    from finalchar.psf.model import PsfModel
    from finalchar.stars.candidates import Candidates

__all__ = ["best_and_worst"]

KEPT = 10
"""Best and worst stars kept, of the used and of the reserved each."""

LARGEST = 21
"""Stamps are cut to at most this many pixels per side: they are for looking at."""

IGNORED_PLANES = ("BAD", "CR", "INTRP", "SAT", "SUSPECT", "NO_DATA")
"""Mask planes whose pixels get no weight."""

FloatArray = npt.NDArray[np.float64]


def best_and_worst(
    candidates: Candidates, table: SourceTable, model: PsfModel, exposure: Exposure
) -> StampSet:
    """Return the stamps of the ten best and ten worst stars, of the used and of the reserved each.

    Parameters
    ----------
    candidates : Candidates
        Stamps of all candidates.
    table : SourceTable
        The star table; ``calib_psf_used``, ``calib_psf_reserved`` and colours are read.
    model : PsfModel
        The PSF, drawn at its true place and scaled to each star by weighted least squares.
    exposure : Exposure
        Its mask planes are read.
    """
    ignored = exposure.mask_bits([name for name in IGNORED_PLANES if name in exposure.mask_planes])
    used = table["calib_psf_used"][candidates.index]
    reserved = table["calib_psf_reserved"][candidates.index]
    shown = np.flatnonzero(used | reserved)
    part = candidates.select(shown)
    data, weight, x0, y0 = _cut(part, ignored)
    drawn = _draw(model, part, table["psf_color_value"][part.index], x0, y0, data.shape[-1])
    flux, chi_squared = _scale(data, weight, drawn)
    rank = np.zeros(len(shown), dtype=np.int32)
    for group in (used[shown], reserved[shown]):
        _rank(rank, np.flatnonzero(group & np.isfinite(chi_squared)), chi_squared)
    kept = np.flatnonzero(rank)
    return StampSet(
        source_id=table["id"][part.index][kept],
        reserved=reserved[shown][kept],
        rank=rank[kept],
        reduced_chi_squared=chi_squared[kept].astype(np.float32),
        flux=flux[kept].astype(np.float32),
        x0=x0[kept].astype(np.int32),
        y0=y0[kept].astype(np.int32),
        data=data[kept].astype(np.float32),
        model=(drawn * flux[:, None, None])[kept].astype(np.float32),
        weight=weight[kept].astype(np.float32),
    )


def _cut(
    candidates: Candidates, ignored: np.int32
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the central part of the stamps, their inverse variance and their first pixels."""
    margin = max(0, (candidates.image.shape[-1] - LARGEST) // 2)
    size = candidates.image.shape[-1] - 2 * margin
    window = (slice(None), slice(margin, margin + size), slice(margin, margin + size))
    data = candidates.image[window].astype(np.float64)
    variance = candidates.variance[window].astype(np.float64)
    good = (
        np.isfinite(data)
        & np.isfinite(variance)
        & (variance > 0.0)
        & (candidates.mask[window] & ignored == 0)
    )
    weight = np.where(good, 1.0 / np.where(good, variance, 1.0), 0.0)
    return np.where(np.isfinite(data), data, 0.0), weight, candidates.x0 + margin, candidates.y0 + margin


def _draw(
    model: PsfModel,
    candidates: Candidates,
    color: npt.NDArray[np.float32],
    x0: npt.NDArray[np.int64],
    y0: npt.NDArray[np.int64],
    size: int,
) -> FloatArray:
    """Return the PSF of each star on the pixels of its stamp, zero beyond the drawn square."""
    images, image_x0, image_y0 = model.images(x=candidates.x, y=candidates.y, color=color)
    drawn = np.zeros((len(images), size, size))
    pixel = np.arange(size)
    for star, image in enumerate(images):
        column, row = x0[star] + pixel - image_x0[star], y0[star] + pixel - image_y0[star]
        inside_x, inside_y = (column >= 0) & (column < image.shape[1]), (row >= 0) & (row < image.shape[0])
        drawn[star][np.ix_(inside_y, inside_x)] = image[np.ix_(row[inside_y], column[inside_x])]
    return drawn


def _scale(data: FloatArray, weight: FloatArray, drawn: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return flux and reduced chi-square of each star; NaN where no pixel has weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = (weight * data * drawn).sum(axis=(1, 2)) / (weight * drawn**2).sum(axis=(1, 2))
        residual = data - flux[:, None, None] * drawn
        freedom = (weight > 0.0).sum(axis=(1, 2)) - 1
        return flux, (weight * residual**2).sum(axis=(1, 2)) / freedom


def _rank(rank: npt.NDArray[np.int32], stars: npt.NDArray[np.int64], chi_squared: FloatArray) -> None:
    """Number the best stars 1, 2, ... and the worst -1, -2, ...; no star is both."""
    order = stars[np.argsort(chi_squared[stars], kind="stable")]
    worst = order[::-1][: min(KEPT, len(order) // 2)]
    best = order[: min(KEPT, len(order) - len(worst))]
    rank[best] = np.arange(1, len(best) + 1)
    rank[worst] = -np.arange(1, len(worst) + 1)
