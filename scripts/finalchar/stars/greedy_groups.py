"""Greedy grouping of positions on the sphere (selection specification 1.6.4).

Points match when they are at most a radius apart.  Points are visited by falling number of matches; one that
is in no group yet makes a group of all its matches, itself included, whether they are in a group already or
not.  Groups of points that no chain of matches joins do not know of each other: so the points are divided
into parts without matches between them, and a few parts are grouped at a time.  The result does not depend
on the division, and the memory is bounded by `NEIGHBOURS_AT_A_TIME`, or by the largest part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Groups", "greedy_groups"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NEIGHBOURS_AT_A_TIME = 4_000_000
"""Matches that are held in memory at a time, about 16 bytes each."""

SMALLEST_CELL = 2.0**-19
"""Three coordinates in cells of this size fit a 64-bit number."""


@dataclass(frozen=True)
class Groups:
    """Groups of points, in the order in which they were made.

    Attributes
    ----------
    member : ndarray of int64, shape (n,)
        Points, group by group, ascending within a group.
    start : ndarray of int64, shape (m,)
        Where the groups begin in `member`.
    """

    member: IntArray
    start: IntArray

    def __len__(self) -> int:
        return len(self.start)


def greedy_groups(points: FloatArray, chord: float, *, compatibility: str = "fixed") -> Groups:
    """Group points.

    Parameters
    ----------
    points : ndarray of float64, shape (n, 3)
        Unit vectors.
    chord : float
        Chord of the largest distance of a match, which is inclusive.
    compatibility : {'fixed', 'lsst'}
        Order among points of equally many matches: the last first, or what the reversed unstable sort of
        numpy happens to give, which depends on the processor [S-Q2].

    Returns
    -------
    Groups
    """
    from scipy.spatial import cKDTree

    if not len(points):
        return Groups(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    matches = cKDTree(points).query_ball_point(points, chord, return_length=True)
    if compatibility == "lsst":
        order = np.argsort(matches)[::-1]
    else:
        order = np.lexsort((-np.arange(len(points)), -matches))
    rank = np.empty(len(points), dtype=np.int64)
    rank[order] = np.arange(len(points))
    seeds: list[IntArray] = []
    members: list[IntArray] = []
    for rows in _batches(_parts(points, chord), matches):
        for seed, near in _groups_of(points[rows], chord, rank[rows]):
            seeds.append(rows[seed])
            members.append(rows[near])
    return _in_order(rank, np.array(seeds), members)


def _in_order(rank: IntArray, seeds: IntArray, members: list[IntArray]) -> Groups:
    """Groups in the order in which their seeds were visited."""
    order = np.argsort(rank[seeds])
    length = np.array([len(group) for group in members])[order]
    start = np.cumsum(length) - length
    return Groups(np.concatenate([members[k] for k in order]), start)


def _parts(points: FloatArray, chord: float) -> npt.NDArray[Any]:
    """Number of the part each point is in: parts are further apart than the chord.

    Space is divided into cubes of at least this size; occupied cubes that touch are in the same part.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = max(chord, SMALLEST_CELL)
    width = int(2.0 / size) + 4
    index = (np.floor((points + 1.0) / size)).astype(np.int64) + 1
    key = (index[:, 0] * width + index[:, 1]) * width + index[:, 2]
    cells, cell_of_point = np.unique(key, return_inverse=True)
    one, other = [], []
    for step in product((-1, 0, 1), repeat=3):
        offset = (step[0] * width + step[1]) * width + step[2]
        if offset > 0:
            place = np.minimum(np.searchsorted(cells, cells + offset), len(cells) - 1)
            there = np.flatnonzero(cells[place] == cells + offset)
            one.append(there)
            other.append(place[there])
    pairs = np.concatenate(one), np.concatenate(other)
    graph = coo_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(len(cells), len(cells)))
    part_of_cell = connected_components(graph, directed=False)[1]
    return np.asarray(part_of_cell[cell_of_point])


def _batches(part: npt.NDArray[Any], matches: npt.NDArray[Any]) -> Iterator[IntArray]:
    """Points of whole parts, ascending, with a bounded number of matches."""
    load = np.cumsum(np.bincount(part, weights=matches))
    batch = (load // NEIGHBOURS_AT_A_TIME).astype(np.int64)[part]
    order = np.argsort(batch, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(batch[order])) + 1)


def _groups_of(points: FloatArray, chord: float, rank: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Seed and members of each group."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(points).query_pairs(chord, output_type="ndarray")
    itself = np.arange(len(points))
    one = np.concatenate([pairs[:, 0], pairs[:, 1], itself])
    other = np.concatenate([pairs[:, 1], pairs[:, 0], itself])
    other = other[np.lexsort((other, one))]
    end = np.cumsum(np.bincount(one, minlength=len(points)))
    assigned = np.zeros(len(points), dtype=bool)
    for seed in np.argsort(rank).tolist():
        if not assigned[seed]:
            near = other[end[seed - 1] if seed else 0 : end[seed]]
            assigned[near] = True
            yield seed, near
