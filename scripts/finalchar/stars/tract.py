"""The tract stage: draw the reserved stars once, and sort the tract's sources by visit and detector.

Upstream tables have one row group in star order, so that nothing can be picked from them.  They are read
once here, by column subset, and written again sorted by (visit, detector) in small row groups with the fate
of each source's star in every band; a visit then reads only its own rows (`finalchar.stars.visit_list`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.stars.isolated_tables import (
    ColumnTypes,
    IsolatedStars,
    check_star_counts,
    check_star_rows,
    column_names,
    read_columns,
    read_isolated_stars,
)
from finalchar.stars.reserve import BandDraw, ReserveSettings, draw_tract

__all__ = ["METADATA_KEY", "ROW_GROUP_ROWS", "reserve_stars"]

ROW_GROUP_ROWS = 16_384
"""Rows in a row group of the sorted sources: what a visit reads too much at most, twice per tract."""

METADATA_KEY = b"finalchar_tract"
"""Key of the parquet metadata under which the figures of the tract stand, as JSON."""


def reserve_stars(
    *,
    tract: int,
    star_table: Path,
    source_table: Path,
    bands: Sequence[str],
    settings: ReserveSettings,
    id_column: str,
    output: Path,
) -> dict[str, Any]:
    """Draw the reserved stars of a tract and write its sources sorted by visit and detector.

    The product has a row per source of an isolated star, sorted by (visit, detector), rows of a detector in
    the order of the source table: ``visit``, ``detector``, ``sourceId``, ``isolated_star_id``, ``ra`` and
    ``dec`` of the star (degrees), and ``reserved_{band}``, null where the star has no source in that band.

    Parameters
    ----------
    tract : int
        Tract number.
    star_table, source_table : Path
        Parquet files ``isolated_star_presource_associations`` and ``isolated_star_presources`` (selection
        specification 1.1, 1.2).
    bands : sequence of str
        Bands of the survey.
    settings : ReserveSettings
        The section ``reserve_selection``.
    id_column : str
        Name of the source's identity in `source_table`.
    output : Path
        Parquet file to write (under a temporary name, then renamed).

    Returns
    -------
    dict
        ``stars``, ``sources``, ``bands`` {band: {``stars``, ``reserved``, ``digest``}}, ``sentence``,
        ``bands_missing`` (those the association does not know: only their visits cannot be made) and
        ``visits`` (those that have sources, ascending).

    Raises
    ------
    InputError
        If a table is broken, lacks a column, has null identities, or the two do not belong together.
    """
    there = set(column_names(Path(star_table)))
    missing = [band for band in bands if f"nsource_{band}" not in there]
    bands = [band for band in bands if band not in missing] or bands
    stars = read_isolated_stars(Path(star_table), bands=bands)
    types: ColumnTypes = {id_column: np.int64, "visit": np.int64, "detector": np.int32, "obj_index": np.int32}
    sources = read_columns(Path(source_table), types, asked_by={id_column: "id_column"})
    check_star_rows(sources["obj_index"], len(stars), stars=str(star_table), sources=str(source_table))
    if "nsource" in there:
        nsource = read_columns(Path(star_table), {"nsource": np.int64})["nsource"]
        check_star_counts(sources["obj_index"], nsource, stars=str(star_table), sources=str(source_table))
    draws = draw_tract(
        tract=tract,
        nsource=stars.nsource,
        ra=stars.ra,
        dec=stars.dec,
        star_id=stars.star_id,
        bands=bands,
        settings=settings,
    )
    figures = {**_figures(tract, stars, len(sources["visit"]), draws), "bands_missing": missing}
    order = np.lexsort((sources["detector"], sources["visit"]))
    _write_sorted(Path(output), order, sources, stars, draws, id_column, figures)
    return {**figures, "visits": np.unique(sources["visit"]).tolist()}


def _figures(tract: int, stars: IsolatedStars, sources: int, draws: dict[str, BandDraw]) -> dict[str, Any]:
    if not len(stars):
        sentence = f"tract {tract} has no isolated stars"
    elif not sources:
        sentence = f"tract {tract} has isolated stars but no sources"
    else:
        kept = ", ".join(
            f"{band} {int(draw.reserved.sum())} of {int(draw.in_band.sum())}" for band, draw in draws.items()
        )
        sentence = f"tract {tract}: {len(stars)} isolated stars, {sources} sources; reserved: {kept}"
    return {
        "stars": len(stars),
        "sources": sources,
        "bands": {
            band: {
                "stars": int(draw.in_band.sum()),
                "reserved": int(draw.reserved.sum()),
                "digest": draw.digest,
            }
            for band, draw in draws.items()
        },
        "sentence": sentence,
    }


def _write_sorted(
    output: Path,
    order: npt.NDArray[np.int64],
    sources: dict[str, npt.NDArray[Any]],
    stars: IsolatedStars,
    draws: dict[str, BandDraw],
    id_column: str,
    figures: dict[str, Any],
) -> None:
    import pyarrow
    import pyarrow.parquet

    fields = [
        ("visit", pyarrow.int64()),
        ("detector", pyarrow.int32()),
        ("sourceId", pyarrow.int64()),
        ("isolated_star_id", pyarrow.int64()),
        ("ra", pyarrow.float64()),
        ("dec", pyarrow.float64()),
        *((f"reserved_{band}", pyarrow.bool_()) for band in draws),
    ]
    schema = pyarrow.schema(fields, metadata={METADATA_KEY: json.dumps(figures, sort_keys=True)})
    temporary = output.with_name(f".{output.name}.part")
    with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for start in range(0, len(order), ROW_GROUP_ROWS):
            rows = order[start : start + ROW_GROUP_ROWS]
            star = sources["obj_index"][rows]
            arrays = [
                sources["visit"][rows],
                sources["detector"][rows],
                sources[id_column][rows],
                stars.star_id[star],
                stars.ra[star],
                stars.dec[star],
                *(pyarrow.array(draw.reserved[star], mask=~draw.in_band[star]) for draw in draws.values()),
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema), row_group_size=ROW_GROUP_ROWS)
    temporary.replace(output)
