"""Whether the files of a row of the sheet belong to it, and to each other.

A swapped or misspelt path gives sound files of another detector; the fit would then be made on pixels without
stars, and the outcome would blame the stars.  What the files themselves state is therefore compared: band and
detector number of the exposure with the sheet, sky positions of the catalogue with the exposure's astrometry,
ids of the isolated stars with the catalogue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.exposure import Exposure
from finalchar.formats.sources import SourceTable
from finalchar.stars.isolated_sources import IsolatedSources
from finalchar.stars.matching import exact_ids

__all__ = ["check_catalogue", "check_exposure", "check_isolated_ids"]

LARGEST_OFFSET_ARCSEC = 5.0
"""Median offset beyond which catalogue and astrometry are of different images.

A later calibration of the astrometry moves sources by less than an arcsecond, a dither by more.
"""
LARGEST_FRACTION_OUTSIDE = 0.1
"""Fraction of the sources that may lie outside the image: none do, except for failed centroids."""
MOST_SOURCES = 1000
"""Sources that are compared; a median needs no more."""


def check_exposure(exposure: Exposure, *, path: Path, detector: int, band: str) -> None:
    """Compare what the exposure states of itself with its row of the sheet.

    Raises
    ------
    InputError
        If it states another band or another detector; what it does not state is not compared.
    """
    if exposure.band is not None and exposure.band != band:
        raise InputError(
            f"{path} is an exposure in the band '{exposure.band}', detectors.csv says '{band}': "
            "correct the band or the path there"
        )
    if exposure.detector is not None and exposure.detector != detector:
        raise InputError(
            f"{path} is an exposure of the detector {exposure.detector}, detectors.csv says {detector}: "
            "correct the path there"
        )


def check_catalogue(sources: SourceTable, exposure: Exposure, *, exposure_path: Path, src_path: Path) -> None:
    """Compare the positions of a catalogue with the image it should have been made from.

    Raises
    ------
    InputError
        If many sources lie outside the image, or the sky positions are not those of its astrometry.
    """
    if any(name not in sources for name in ("slot_Centroid_x", "slot_Centroid_y", "coord_ra", "coord_dec")):
        return  # whoever needs the column names it
    x, y = sources["slot_Centroid_x"], sources["slot_Centroid_y"]
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return
    box = exposure.box
    outside = known & ((x < box.min_x - 1) | (x > box.max_x + 1) | (y < box.min_y - 1) | (y > box.max_y + 1))
    remedy = "are both of the same visit and detector? Correct the paths in detectors.csv"
    if outside.sum() > LARGEST_FRACTION_OUTSIDE * known.sum():
        raise InputError(
            f"{int(outside.sum())} of {int(known.sum())} sources of {src_path} lie outside the image "
            f"{exposure_path} of {box.width} x {box.height} pixels: {remedy}"
        )
    offset = _median_offset_arcsec(sources, exposure, np.flatnonzero(known)[:MOST_SOURCES])
    if offset > LARGEST_OFFSET_ARCSEC:
        raise InputError(
            f"the sources of {src_path} lie {offset:.0f} arcsec (median) from where the astrometry of "
            f"{exposure_path} puts them: {remedy}"
        )


def _median_offset_arcsec(sources: SourceTable, exposure: Exposure, rows: npt.NDArray[np.intp]) -> float:
    """Median angle between catalogued and computed sky positions; 0 where none is known."""
    ra, dec = (np.asarray(sources[name][rows], np.float64) for name in ("coord_ra", "coord_dec"))
    expected_ra, expected_dec = exposure.wcs.pixel_to_sky(
        x=sources["slot_Centroid_x"][rows], y=sources["slot_Centroid_y"][rows]
    )
    haversine = (
        np.sin((dec - expected_dec) / 2) ** 2
        + np.cos(dec) * np.cos(expected_dec) * np.sin((ra - expected_ra) / 2) ** 2
    )
    angle = 2.0 * np.arcsin(np.sqrt(np.clip(haversine, 0.0, 1.0)))
    angle = angle[np.isfinite(angle)]
    return float(np.degrees(np.median(angle)) * 3600.0) if len(angle) else 0.0


def check_isolated_ids(source_id: npt.NDArray[Any], isolated: IsolatedSources, *, src_path: Path) -> None:
    """Refuse a catalogue that has not one of the sources which the tract tables list for its detector.

    Raises
    ------
    InputError
        If no id is found.
    """
    listed = np.unique(isolated.source_id)
    if len(listed) and not np.isin(listed, exact_ids(source_id, str(src_path))).any():
        raise InputError(
            f"{src_path} has none of the {len(listed)} sources that the tables of isolated stars list for "
            "this visit and detector: correct the path in detectors.csv, or make the tables from these "
            "catalogues"
        )
