"""Which selected sources are candidates: sources of isolated stars, by id (selection specification 4.3).

Nothing rests on an order: sources and isolated sources may come in any.  A source id that stands twice in
the catalogue is an error.  A source listed for several stars is reserved if any of them is (``lsst``: if the
last is); all sources of a star with several sources in the visit are kept and share its fate.  Each case is
counted (known failure K11).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.sources import SourceTable
from finalchar.stars.exact_ids import exact_ids
from finalchar.stars.isolated_sources import IsolatedSources

__all__ = ["Matches", "candidate_table", "check_unique_ids", "exact_ids", "match_isolated_sources"]

IntArray = npt.NDArray[np.int64]

COLOR_TYPE_LENGTH = 10


@dataclass(frozen=True)
class Matches:
    """Sources that belong to isolated stars.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Rows of the table whose ids were given, ascending.
    reserved : ndarray of bool, shape (n,)
        Fate of their stars.
    counts : dict of str to int
        ``isolated_sources``; of them ``isolated_not_selected`` and ``isolated_not_in_catalogue``;
        ``repeated_isolated_sources``: ids listed more than once; ``contradicting_fates``: those of them
        whose stars have different fates; ``stars_with_several_sources``; ``candidates``; ``reserved``.
    """

    rows: IntArray
    reserved: npt.NDArray[np.bool_]
    counts: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)


def check_unique_ids(source_id: npt.NDArray[Any], what: str = "the source catalogue") -> None:
    """Refuse ids that are not 64-bit integers or are not unique.

    Raises
    ------
    InputError
        Naming the first repeated id.
    """
    ids = np.sort(exact_ids(source_id, what))
    repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(repeated):
        raise InputError(
            f"{what} has the id {int(repeated[0])} more than once ({len(repeated)} ids are repeated); ids "
            "must be unique to match isolated stars"
        )


def match_isolated_sources(
    *,
    source_id: npt.NDArray[Any],
    isolated: IsolatedSources,
    catalogue_id: npt.NDArray[Any] | None = None,
    compatibility: str = "fixed",
) -> Matches:
    """Find the sources of isolated stars among the selected sources.

    Parameters
    ----------
    source_id : ndarray of int64, shape (n,)
        Ids of the selected sources, in any order.
    isolated : IsolatedSources
        The detector's rows of the visit list.
    catalogue_id : ndarray of int64, optional
        Ids of the whole catalogue, to tell sources that are not there from those not selected.
    compatibility : {'fixed', 'lsst'}
        What decides where a source is listed for several stars; see the module.

    Returns
    -------
    Matches

    Raises
    ------
    InputError
        If an id stands twice in the catalogue.
    """
    check_unique_ids(source_id if catalogue_id is None else catalogue_id)
    source_id = exact_ids(source_id)
    catalogue_id = None if catalogue_id is None else exact_ids(catalogue_id)
    ids, fate, contradicting = _fates(isolated, compatibility)
    found, place = _look_up(source_id, ids)
    rows = np.flatnonzero(found)
    reserved = fate[place[rows]]
    in_catalogue, _ = _look_up(ids, np.unique(source_id if catalogue_id is None else catalogue_id))
    several = isolated.sources_of_star > 1
    stars = np.stack([isolated.tract[several], isolated.isolated_star_id[several]], axis=1)
    counts = {
        "isolated_sources": len(isolated),
        "isolated_not_in_catalogue": int((~in_catalogue).sum()) if catalogue_id is not None else 0,
        "isolated_not_selected": len(ids) - len(rows),
        "repeated_isolated_sources": len(isolated) - len(ids),
        "contradicting_fates": contradicting,
        "stars_with_several_sources": len(np.unique(stars, axis=0)),
        "candidates": len(rows),
        "reserved": int(reserved.sum()),
    }
    return Matches(rows, reserved, counts)


def _fates(isolated: IsolatedSources, compatibility: str) -> tuple[IntArray, npt.NDArray[np.bool_], int]:
    """Distinct ids, ascending, their fates, and how many have stars with different fates."""
    order = np.argsort(isolated.source_id, kind="stable")
    ids, fate = isolated.source_id[order], isolated.reserved[order]
    distinct, start = np.unique(ids, return_index=True)
    if not len(distinct):
        return distinct, fate, 0
    any_reserved = np.logical_or.reduceat(fate, start)
    all_reserved = np.logical_and.reduceat(fate, start)
    last = fate[np.append(start[1:], len(ids)) - 1]
    chosen = last if compatibility == "lsst" else any_reserved
    return distinct, chosen, int((any_reserved & ~all_reserved).sum())


def _look_up(wanted: npt.NDArray[Any], ids: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """Whether each wanted id is among the ascending `ids`, and where; compared as integers."""
    if not len(ids):
        return np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted), dtype=np.int64)
    place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return ids[place] == wanted, place


def candidate_table(selected: SourceTable, matches: Matches) -> SourceTable:
    """Return the rows of the candidates with their flags set (selection specification 4.2-4.4, 4.10).

    Parameters
    ----------
    selected : SourceTable
        The sources whose ids were matched.
    matches : Matches

    Returns
    -------
    SourceTable
        In the order of `selected`; ``calib_psf_candidate`` True, ``calib_psf_reserved`` as drawn,
        ``calib_psf_used`` False, ``psf_color_value`` and ``psf_max_value`` NaN, ``psf_color_type`` empty.
    """
    table = selected.select(matches.rows)
    number = len(matches)
    columns = {
        "id": exact_ids(table["id"]),
        "calib_psf_candidate": np.ones(number, dtype=bool),
        "calib_psf_used": np.zeros(number, dtype=bool),
        "calib_psf_reserved": matches.reserved.copy(),
        "psf_color_value": np.full(number, np.nan, dtype=np.float32),
        "psf_color_type": np.zeros(number, dtype=f"<U{COLOR_TYPE_LENGTH}"),
        "psf_max_value": np.full(number, np.nan, dtype=np.float32),
    }
    return table.with_columns(columns)
