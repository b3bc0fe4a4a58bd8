"""Sources of isolated stars on a visit or detector, the standard stars near them, and digests of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.stars.colors import CUT_RADIUS_ARCSEC, FgcmStars, match_on_sky

__all__ = ["IsolatedSources", "Neighbours", "find_neighbours", "row_digests"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class IsolatedSources:
    """Sources of isolated stars on one visit or detector, with the fate of their stars.

    Attributes
    ----------
    detector : ndarray of int32, shape (n,)
    source_id, tract, isolated_star_id : ndarray of int64, shape (n,)
    reserved : ndarray of bool, shape (n,)
    sources_of_star : ndarray of int32, shape (n,)
        Number of sources of the same star in the visit; normally 1.
    fgcm : FgcmStars or None
        Standard stars near these sources, each once; None if they were not asked for.
    """

    detector: npt.NDArray[np.int32]
    source_id: IntArray
    tract: IntArray
    isolated_star_id: IntArray
    reserved: npt.NDArray[np.bool_]
    sources_of_star: npt.NDArray[np.int32]
    fgcm: FgcmStars | None = None

    def __len__(self) -> int:
        return len(self.source_id)

    def select(self, rows: npt.NDArray[Any]) -> IsolatedSources:
        """Return the given rows (boolean mask or indices), with the same standard stars."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _PER_SOURCE})


_PER_SOURCE = ("detector", "source_id", "tract", "isolated_star_id", "reserved", "sources_of_star")


@dataclass(frozen=True)
class Neighbours:
    """Standard stars near each source.

    Attributes
    ----------
    offset : ndarray of int64, shape (n_source + 1,)
        ``star[offset[k]:offset[k + 1]]`` are those of source k.
    star : ndarray of int64
        Rows of `stars`, ascending for each source.
    stars : FgcmStars
    """

    offset: IntArray
    star: IntArray
    stars: FgcmStars


def find_neighbours(
    ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64], stars: FgcmStars
) -> Neighbours:
    """Find the standard stars within `CUT_RADIUS_ARCSEC` of positions, degrees."""
    source, star, _ = match_on_sky(
        ra=ra, dec=dec, other_ra=stars.ra, other_dec=stars.dec, radius_arcsec=CUT_RADIUS_ARCSEC
    )
    offset = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=len(ra)))]).astype(np.int64)
    return Neighbours(offset, star, stars)


def row_digests(rows: IsolatedSources, neighbours: Neighbours | None = None) -> dict[int, str]:
    """Digest of the rows of each detector: source, fate and multiplicity, and the standard stars nearby.

    Rows are taken in the order of their source id; where an id is repeated, its rows keep their order, which
    decides its fate with ``compatibility: lsst``.

    Parameters
    ----------
    rows : IsolatedSources

    Returns
    -------
    dict of int to str
        sha256 by detector.
    """
    order = np.lexsort((rows.source_id, rows.detector))
    detectors, start = np.unique(rows.detector[order], return_index=True)
    digests = {}
    for detector, mine in zip(detectors.tolist(), np.split(order, start[1:]), strict=False):
        digest = hashlib.sha256(rows.source_id[mine].astype("<i8").tobytes())
        digest.update(rows.reserved[mine].astype("u1").tobytes())
        digest.update(rows.sources_of_star[mine].astype("<i4").tobytes())
        if neighbours is not None:
            _add_standard_stars(digest, neighbours, mine)
        digests[detector] = digest.hexdigest()
    return digests


def _add_standard_stars(digest: Any, neighbours: Neighbours, mine: IntArray) -> None:
    number = neighbours.offset[mine + 1] - neighbours.offset[mine]
    star = neighbours.star[_ragged(neighbours.offset[mine], number)]
    stars = neighbours.stars
    digest.update(number.astype("<i4").tobytes())
    digest.update(stars.ra[star].astype("<f8").tobytes() + stars.dec[star].astype("<f8").tobytes())
    for band in sorted(stars.magnitudes):
        digest.update(f"{band}{stars.has_band[band]:d}".encode())
        digest.update(stars.magnitudes[band][star].astype("<f4").tobytes())


def _ragged(start: IntArray, number: IntArray) -> IntArray:
    """Indices start[k], start[k] + 1, ... (number[k] of them) for all k."""
    before = np.concatenate([[0], np.cumsum(number)[:-1]]) if len(number) else number
    return np.repeat(start - before, number) + np.arange(number.sum(), dtype=np.int64)
