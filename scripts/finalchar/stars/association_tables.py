"""The tables of isolated stars of a tract and of their sources (selection specification 1.1, 1.2, 1.6)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.stars.sphere import chord_of, unit_vectors
from finalchar.stars.visit_sources import TractSources

__all__ = ["Stars", "TractTables", "id_factor", "make_tables"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

STAR_COLUMNS = {
    "isolated_star_id": ColumnInfo("", "Unique id of the isolated star"),
    "ra": ColumnInfo("deg", "Mean right ascension in the primary band"),
    "dec": ColumnInfo("deg", "Mean declination in the primary band"),
    "primary_band": ColumnInfo("", "Band in which the star was first found"),
    "source_cat_index": ColumnInfo("", "Row of the star's first source in the table of sources"),
    "nsource": ColumnInfo("", "Number of sources"),
}
SOURCE_COLUMNS = {
    "source_row": ColumnInfo("", "Row of the source in the visit's source table"),
    "obj_index": ColumnInfo("", "Row of the star in the table of isolated stars"),
}


@dataclass(frozen=True)
class Stars:
    """Positions of stars, in their order.

    Attributes
    ----------
    ra, dec : ndarray of float64, shape (n,)
        Degrees.
    band : ndarray of str, shape (n,)
        Band in which each was first found.
    """

    ra: FloatArray
    dec: FloatArray
    band: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.ra)

    def select(self, rows: npt.NDArray[Any]) -> Stars:
        """The stars of the given rows."""
        return Stars(self.ra[rows], self.dec[rows], self.band[rows])


@dataclass(frozen=True)
class TractTables:
    """Tables of a tract; `several_in_a_visit` stars have two sources or more in some visit [S-Q4]."""

    stars: SourceTable
    sources: SourceTable
    several_in_a_visit: int


def id_factor(number_of_tracts: int) -> int:
    """What the running number of a star is multiplied with in its id (1.6.8): a power of ten."""
    return int(10 ** len(str(number_of_tracts)))


def make_tables(
    sources: TractSources, stars: Stars, *, tract: int, settings: Any, band: npt.NDArray[Any]
) -> TractTables:
    """Attach the sources to the stars.

    Parameters
    ----------
    sources : TractSources
    stars : Stars
    tract : int
    settings : IsolatedStarAssociation
    band : ndarray of str, shape (n,)
        Band of each source.

    Returns
    -------
    TractTables
        Sources star by star, within a star band by band in `band_order`, within a band in their order.
    """
    rank = _ranks(band, settings.band_order)
    row, star = _near(sources, stars, settings)
    known = rank[row] >= 0
    row, star = row[known], star[known]
    order = np.lexsort((row, rank[row], star))
    row, star = row[order], star[order]
    columns = {**sources.take(row), "obj_index": star.astype(np.int32)}
    number = id_factor(settings.number_of_tracts)
    of_stars: dict[str, npt.NDArray[Any]] = {
        "isolated_star_id": np.arange(1, len(stars) + 1, dtype=np.int64) * number + tract,
        "ra": stars.ra,
        "dec": stars.dec,
        "primary_band": stars.band,
        **_slices(star, rank[row], len(stars), settings.band_order),
    }
    pairs = np.stack([star, columns["visit"].astype(np.int64)], axis=1)
    visits, times = np.unique(pairs, axis=0, return_counts=True)
    return TractTables(
        SourceTable(of_stars, dict(STAR_COLUMNS)),
        SourceTable(columns, dict(SOURCE_COLUMNS)),
        len(np.unique(visits[times > 1, 0])),
    )


def _ranks(band: npt.NDArray[Any], band_order: list[str]) -> IntArray:
    """Place of each source's band in the order of bands, -1 for none."""
    rank = np.full(len(band), -1, dtype=np.int64)
    for index, name in enumerate(band_order):
        rank[band == name] = index
    return rank


def _near(sources: TractSources, stars: Stars, settings: Any) -> tuple[IntArray, IntArray]:
    """Pairs of a source's row and a star within the match radius."""
    from scipy.spatial import cKDTree

    nothing = np.zeros(0, dtype=np.int64)
    if not len(stars) or not len(sources):
        return nothing, nothing
    ra, dec = (
        np.asarray(sources.columns[name], np.float64) for name in (settings.ra_column, settings.dec_column)
    )
    tree = cKDTree(unit_vectors(ra=ra, dec=dec))
    near = tree.query_ball_point(unit_vectors(ra=stars.ra, dec=stars.dec), chord_of(settings.match_radius))
    number = np.fromiter(map(len, near), dtype=np.int64, count=len(near))
    rows = np.fromiter(chain.from_iterable(near), dtype=np.int64, count=int(number.sum()))
    return rows, np.repeat(np.arange(len(stars)), number)


def _slices(
    star: IntArray, rank: IntArray, number: int, band_order: list[str]
) -> dict[str, npt.NDArray[Any]]:
    """Where the sources of each star stand: of all bands, then band by band."""
    counts = np.bincount(star * len(band_order) + rank, minlength=number * len(band_order))
    ends = np.cumsum(counts).reshape(number, len(band_order))
    counts = counts.reshape(number, len(band_order)).astype(np.int32)
    starts = (ends - counts).astype(np.int32)
    columns = {"source_cat_index": starts[:, 0].copy(), "nsource": counts.sum(axis=1).astype(np.int32)}
    for index, band in enumerate(band_order):
        columns[f"source_cat_index_{band}"] = starts[:, index].copy()
        columns[f"nsource_{band}"] = counts[:, index].copy()
    return columns
