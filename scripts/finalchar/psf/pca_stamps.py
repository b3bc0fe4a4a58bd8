"""The stars of a PCA fit: in which cell they are, and their stamps (selection specification 8.2, 8.3).

The order of the stars is that of the fit everywhere: cell by cell, in a cell the brightest first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.sources import SourceTable, demand_column
from finalchar.psf.resampling import combine_masks, shift_stamps
from finalchar.stars.candidates import index_of_position
from finalchar.stars.usable import LARGEST_FLUX

if TYPE_CHECKING:
    from finalchar.stars.candidates import Candidates

__all__ = ["BRIM", "PcaStars", "pca_stars"]

FLUX = "slot_PsfFlux_instFlux"
FLUX_ERROR = "slot_PsfFlux_instFluxErr"
FLUX_FLAG = "slot_PsfFlux_flag"
BRIM = 1
"""Pixels on each side of a stamp that are cut off after it was shifted."""
HOLE = ("BAD",)
"""Planes that are set for pixels that are no numbers: they are replaced, and left out of chi-squares."""
LEAST_GOOD_PART = 0.5
"""Stars with a smaller part of good pixels are left out."""
CORE = 2
"""Pixels from the middle of a stamp; a star with a hole so near is left out."""

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PcaStars:
    """Stars in the order of the fit, their stamps of k x k pixels.

    Attributes
    ----------
    row : ndarray of int64, shape (n,)
        Which of the candidates handed in each star is.
    cell : ndarray of int64, shape (n,)
        Number of its cell, ascending.
    x, y : ndarray of float64, shape (n,)
        Centroids, parent pixels, with the values of float32: the reference keeps no more of them.
    catalogue_x, catalogue_y : ndarray of float64, shape (n,)
        Centroids as the catalogue has them.
    flux : ndarray of float64, shape (n,)
        PSF flux of the input catalogue, counts.
    signal_to_noise : ndarray of float64, shape (n,)
        Of that flux; NaN where its error is not known.
    stamp : ndarray of float32, shape (n, k, k)
        As the image has it; zeros where it does not fit, and in holes.
    has_stamp : ndarray of bool, shape (n,)
    hole : ndarray of bool, shape (n, k, k)
        Pixels of `stamp` that are no numbers; none with ``lsst``.
    centred, variance : ndarray of float32, shape (n, k, k)
        Shifted so that the centroid is on the central pixel.
    mask : ndarray of int32, shape (n, k, k)
        Of `centred`: a pixel has the bits of all pixels it was made of.
    has_centred : ndarray of bool, shape (n,)
    """

    row: IntArray
    cell: IntArray
    x: FloatArray
    y: FloatArray
    catalogue_x: FloatArray
    catalogue_y: FloatArray
    flux: FloatArray
    signal_to_noise: FloatArray
    stamp: npt.NDArray[np.float32]
    has_stamp: BoolArray
    hole: BoolArray
    centred: npt.NDArray[np.float32]
    variance: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    has_centred: BoolArray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def size(self) -> int:
        """Side of the stamps, pixels."""
        return int(self.stamp.shape[1])

    def select(self, rows: npt.NDArray[Any]) -> PcaStars:
        """Return the given stars (boolean mask or indices)."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def first_of_cells(self, number: int, eligible: BoolArray) -> IntArray:
        """Return the first `number` eligible stars of each cell, all of them if it is not positive."""
        rows = np.flatnonzero(eligible)
        if number <= 0 or not len(rows):
            return rows
        cell = self.cell[rows]
        place = np.arange(len(rows)) - np.searchsorted(cell, cell)
        return rows[place < number]


def pca_stars(
    candidates: Candidates, exposure: Exposure, settings: Any, *, size: int, compatibility: str
) -> tuple[PcaStars, Mapping[str, int]]:
    """Put candidates into cells and cut their stamps.

    Parameters
    ----------
    candidates : Candidates
        With their rows of the catalogue.
    exposure : Exposure
    settings : object
        Section `psf_determiner.pca`.
    size : int
        Side of the stamps, pixels.
    compatibility : str
        ``fixed`` leaves out stars whose flux is not a positive number (K12), or that have no stamp of this
        size [S-Q20].  Pixels that are no numbers are holes there, which cost themselves only (K19); stars
        with a hole in their core, or mostly of holes, are left out.

    Returns
    -------
    PcaStars
    dict
        How many candidates were left out, by reason.

    Raises
    ------
    MissingColumnError
        If the catalogue has no PSF flux.
    """
    flux, error, flagged = _fluxes(candidates)
    rows, cell = _cells(candidates, exposure.box, settings, flux, flagged)
    chosen = candidates.select(rows)
    x, y = (position.astype(np.float32).astype(np.float64) for position in (chosen.x, chosen.y))
    left_out = {"stars_flagged": int(flagged.sum())}
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = flux / error
    stars = PcaStars(
        row=rows,
        cell=cell,
        x=x,
        y=y,
        catalogue_x=chosen.x,
        catalogue_y=chosen.y,
        flux=flux[rows],
        signal_to_noise=snr[rows],
        **_plain_stamps(chosen, exposure, settings, size, find_holes=compatibility != "lsst"),
        **_centred_stamps(
            replace(chosen, x=x, y=y), exposure, settings, size, find_holes=compatibility != "lsst"
        ),
    )
    if settings.doRejectBlends:
        single = _number_of_peaks(chosen) <= 1
        left_out["stars_blended"] = int((~single).sum())
        stars = stars.select(single)
    if compatibility == "lsst":
        return stars, left_out
    sound, reasons = _sound(stars)
    return stars.select(sound), left_out | reasons


def _fluxes(candidates: Candidates) -> tuple[FloatArray, FloatArray, BoolArray]:
    """PSF flux, its error and flag of the input catalogue."""
    table = SourceTable({}) if candidates.catalogue is None else candidates.catalogue
    flux = demand_column(
        table,
        FLUX,
        asked_by="psf_determiner.name pca",
        remedy="take another determiner, or a catalogue with a PSF flux",
    ).astype(np.float64)
    error = np.asarray(table[FLUX_ERROR], dtype=np.float64) if FLUX_ERROR in table else flux * np.nan
    flag = np.asarray(table[FLUX_FLAG], dtype=bool) if FLUX_FLAG in table else np.zeros(len(flux), dtype=bool)
    return flux, error, flag


def _cells(
    candidates: Candidates, box: Box, settings: Any, flux: FloatArray, flagged: BoolArray
) -> tuple[IntArray, IntArray]:
    """Rows of the candidates in the order of the fit, and the numbers of their cells (8.2)."""
    x, y = (index_of_position(position) for position in (candidates.x, candidates.y))
    inside = (x >= box.min_x) & (x <= box.max_x) & (y >= box.min_y) & (y <= box.max_y) & ~flagged
    rows = np.flatnonzero(inside)
    per_row = -(-box.width // settings.sizeCellX)
    column = (x[rows] - box.min_x) // settings.sizeCellX
    cell = ((y[rows] - box.min_y) // settings.sizeCellY * per_row + column).astype(np.int64)
    # of equally bright stars the later one goes first
    order = np.lexsort((-rows, -flux[rows], cell))
    return rows[order], cell[order]


def _number_of_peaks(candidates: Candidates) -> IntArray:
    """Peaks of each candidate's footprint, 0 where it has none."""
    place = candidates.footprint_index
    peaks = np.append(np.diff(candidates.footprints.peak_offset), 0)
    return np.asarray(np.where(place >= 0, peaks[place], 0), dtype=np.int64)


def _plain_stamps(
    candidates: Candidates, exposure: Exposure, settings: Any, size: int, *, find_holes: bool
) -> dict[str, Any]:
    stamps = candidates.stamps(
        exposure, size, mask_blends=settings.doMaskBlends, pixel_threshold=settings.pixelThreshold
    )
    image = np.zeros((len(candidates), size, size), dtype=np.float32)
    image[stamps.rows] = stamps.image
    hole = ~np.isfinite(image) & find_holes
    image[hole] = 0.0
    return {"stamp": image, "has_stamp": _present(len(candidates), stamps.rows), "hole": hole}


def _centred_stamps(
    candidates: Candidates, exposure: Exposure, settings: Any, size: int, *, find_holes: bool
) -> dict[str, Any]:
    """Stamps shifted by the fraction of their centroids (8.3); what holes were shifted into has their bit."""
    stamps = candidates.stamps(
        exposure, size + 2 * BRIM, mask_blends=settings.doMaskBlends, pixel_threshold=settings.pixelThreshold
    )
    number, rows = len(candidates), stamps.rows
    dx, dy = (_minus_fraction(position[rows]) for position in (candidates.x, candidates.y))
    hole = ~(np.isfinite(stamps.image) & np.isfinite(stamps.variance)) & find_holes
    image, variance = (np.where(hole, np.float32(0), plane) for plane in (stamps.image, stamps.variance))
    image, variance = shift_stamps(image, variance, dx=dx, dy=dy)
    mask = stamps.mask | np.where(hole, exposure.mask_bits(HOLE), np.int32(0))
    shifted = {"centred": image, "variance": variance, "mask": combine_masks(mask, dx=dx, dy=dy)}
    kept = np.s_[:, BRIM:-BRIM, BRIM:-BRIM]
    planes: dict[str, Any] = {}
    for name, values in shifted.items():
        planes[name] = np.zeros((number, size, size), dtype=values.dtype)
        planes[name][rows] = values[kept]
    return planes | {"has_centred": _present(number, rows)}


def _minus_fraction(position: FloatArray) -> FloatArray:
    return np.asarray(index_of_position(position) - position)


def _present(number: int, rows: IntArray) -> BoolArray:
    present = np.zeros(number, dtype=bool)
    present[rows] = True
    return present


def _sound(stars: PcaStars) -> tuple[BoolArray, dict[str, int]]:
    """Which stars have a positive flux, a stamp and enough pixels in it; the others by their first reason."""
    middle = stars.size // 2
    core = np.s_[:, middle - CORE : middle + CORE + 1, middle - CORE : middle + CORE + 1]
    reasons = {
        "stars_without_flux": ~((stars.flux > 0) & (stars.flux < LARGEST_FLUX)),
        "stars_without_stamp": ~(stars.has_stamp & stars.has_centred),
        "stars_masked": stars.hole[core].any(axis=(1, 2)) | (stars.hole.mean(axis=(1, 2)) > LEAST_GOOD_PART),
    }
    sound = np.ones(len(stars), dtype=bool)
    counts = {}
    for reason, applies in reasons.items():
        counts[reason] = int((applies & sound).sum())
        sound &= ~applies
    return sound, counts
