"""The visit stage: one small reserve list per visit, so that no detector job opens a tract file.

A list has a row per source of an isolated star, sorted by detector, and with each row the FGCM standard stars
near its star if colours or magnitudes are wanted.  Its digests, one per detector, cover what a detector job
makes use of and nothing else: not the order of rows, not unused columns or rows, not the bytes of a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.stars.colors import FgcmStars, concatenate_fgcm, read_fgcm, stack_fgcm
from finalchar.stars.isolated_sources import IsolatedSources, Neighbours, find_neighbours, row_digests
from finalchar.stars.isolated_tables import ColumnTypes, check_star_rows, read_columns, read_isolated_stars
from finalchar.stars.list_rows import METADATA_KEY, open_product, read_detector_rows, read_rows
from finalchar.stars.reserve import ReserveSettings, draw_tract
from finalchar.stars.tract import METADATA_KEY as TRACT_METADATA_KEY

__all__ = [
    "IsolatedSources",
    "TractInputs",
    "concatenate_isolated_stars",
    "make_visit_list",
    "read_detector_rows",
    "row_digests",
]

ROW_GROUP_ROWS = 4096
"""Rows in a row group: about the sources of ten detectors."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TractInputs:
    """Where one tract's contribution to a visit comes from.

    Attributes
    ----------
    tract : int
    reserved : Path
        Product of `finalchar.stars.tract.reserve_stars`.
    star_table, source_table : Path or None
        The tract's tables; not opened here.
    fgcm : Path or None
        The tract's FGCM standard stars.
    """

    tract: int
    reserved: Path
    star_table: Path | None = None
    source_table: Path | None = None
    fgcm: Path | None = None


@dataclass(frozen=True)
class _TractRows:
    """The sources of one tract in one visit, in the order of the tract's table."""

    tract: int
    detector: npt.NDArray[np.int32]
    source_id: IntArray
    star_id: IntArray
    ra: npt.NDArray[np.float64]
    dec: npt.NDArray[np.float64]
    reserved: npt.NDArray[np.bool_]


def make_visit_list(
    *,
    visit: int,
    band: str,
    tracts: Sequence[TractInputs],
    output: Path,
    fgcm_bands: Sequence[str] = (),
) -> dict[int, str]:
    """Write the reserve list of a visit (selection specification 2.3).

    Parameters
    ----------
    visit : int
    band : str
        Band of the visit; sources of stars that the association does not know in this band are dropped.
    tracts : sequence of TractInputs
        Tracts that may overlap the visit.
    output : Path
        Parquet file to write (under a temporary name, then renamed).
    fgcm_bands : sequence of str, optional
        Bands of standard-star magnitudes that the detector stage needs; empty: none are read.

    Returns
    -------
    dict of int to str
        Digest of the rows of each detector that has any.

    Raises
    ------
    InputError
        If a product of the tract stage is broken or was not made for the band, or a tract has no table of
        standard stars although they are needed.
    """
    tracts = sorted(tracts, key=lambda inputs: inputs.tract)
    parts, draws, dropped = [], {}, 0
    for inputs in tracts:
        part, draw, without_band = _read_tract(inputs, visit, band)
        dropped += without_band
        if len(part.source_id):
            parts.append(part)
            draws[inputs.tract] = draw
    if dropped and not parts:
        raise InputError(
            f"visit {visit}: none of its {dropped} sources in the tables of isolated stars is of a star that "
            f"was seen in the band {band!r}: correct the band in detectors.csv"
        )
    order, rows = _assemble(parts)
    neighbours = None
    if fgcm_bands:
        standard = _read_standard_stars([i for i in tracts if i.tract in draws], fgcm_bands)
        ra, dec = (_joined(parts, name, np.float64)[order] for name in ("ra", "dec"))
        neighbours = find_neighbours(ra, dec, standard)
    figures = {"visit": visit, "band": band, "draws": draws, "sources_not_in_band": dropped, **_counts(rows)}
    _write(Path(output), rows, neighbours, sorted(fgcm_bands), figures)
    return row_digests(rows, neighbours)


def _joined(parts: Sequence[Any], name: str, dtype: type) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])


def _assemble(parts: Sequence[_TractRows]) -> tuple[IntArray, IsolatedSources]:
    """Stack tracts in their order and sort by detector; rows of a detector keep the stacked order."""
    detector = _joined(parts, "detector", np.int32)
    star_id = _joined(parts, "star_id", np.int64)
    tract = np.concatenate(
        [np.zeros(0, np.int64), *(np.full(len(part.source_id), part.tract, np.int64) for part in parts)]
    )
    stars = np.stack([tract, star_id], axis=1)
    _, inverse, number = np.unique(stars, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(detector, kind="stable")
    rows = IsolatedSources(
        detector,
        _joined(parts, "source_id", np.int64),
        tract,
        star_id,
        _joined(parts, "reserved", np.bool_),
        number[inverse.ravel()].astype(np.int32),
    )
    return order, rows.select(order)


def _counts(rows: IsolatedSources) -> dict[str, int]:
    """Multiplicities of a visit, for the status (known failure K11)."""
    several = rows.sources_of_star > 1
    stars = np.stack([rows.tract[several], rows.isolated_star_id[several]], axis=1)
    return {
        "sources": len(rows),
        "reserved_sources": int(rows.reserved.sum()),
        "repeated_sources": len(rows) - len(np.unique(rows.source_id)),
        "stars_with_several_sources": len(np.unique(stars, axis=0)),
    }


def _read_tract(inputs: TractInputs, visit: int, band: str) -> tuple[_TractRows, dict[str, Any], int]:
    """Read a visit's rows of a tract; also the figures of the draw, and how many rows are not in the band."""
    file = open_product(inputs.reserved, "reserve_stars")
    fate = f"reserved_{band}"
    if fate not in file.schema_arrow.names:
        raise InputError(
            f"{inputs.reserved} has no reserve list of the band {band!r} of visit {visit}: the star table of "
            f"tract {inputs.tract} has no column nsource_{band}, or the band is new in the sheet"
        )
    columns = ["detector", "sourceId", "isolated_star_id", "ra", "dec", fate]
    table = read_rows(file, "visit", visit, columns)
    number = table.num_rows
    table = table.filter(table.column(fate).is_valid())
    values = {name: table.column(name).to_numpy() for name in columns}
    part = _TractRows(
        inputs.tract,
        values["detector"],
        values["sourceId"],
        values["isolated_star_id"],
        values["ra"],
        values["dec"],
        values[fate],
    )
    figures = json.loads((file.schema_arrow.metadata or {}).get(TRACT_METADATA_KEY, b"{}"))
    return part, dict(figures.get("bands", {}).get(band, {})), number - table.num_rows


def _read_standard_stars(tracts: Sequence[TractInputs], bands: Sequence[str]) -> FgcmStars:
    parts = []
    for inputs in tracts:
        if inputs.fgcm is None:
            raise InputError(
                f"tract {inputs.tract} has no fgcm_standard_star in the tracts sheet, but "
                "psf_determiner.piff.useColor or do_add_fgcm_photometry needs it"
            )
        parts.append(read_fgcm(Path(inputs.fgcm), tract=inputs.tract, bands=bands))
    return concatenate_fgcm(parts, bands=bands)


def _write(
    output: Path,
    rows: IsolatedSources,
    neighbours: Neighbours | None,
    bands: Sequence[str],
    figures: dict[str, Any],
) -> None:
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {
        "detector": rows.detector,
        "sourceId": rows.source_id,
        "tract": rows.tract,
        "isolated_star_id": rows.isolated_star_id,
        "reserved": rows.reserved,
        "sources_of_star": rows.sources_of_star,
    }
    if neighbours is not None:
        offsets = pyarrow.array(neighbours.offset, pyarrow.int32())
        stars, star = neighbours.stars, neighbours.star
        values: dict[str, npt.NDArray[Any]] = {f"mag_{band}": stars.magnitudes[band] for band in bands}
        values = {"tract": stars.tract, "row": stars.row, "ra": stars.ra, "dec": stars.dec, **values}
        for name, array in values.items():
            columns[f"fgcm_{name}"] = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(array[star]))
        figures = {**figures, "fgcm_bands": {band: stars.has_band[band] for band in bands}}
    table = pyarrow.table(columns)
    metadata = {METADATA_KEY: json.dumps(figures, sort_keys=True)}
    temporary = output.with_name(f".{output.name}.part")
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(metadata), temporary, compression="zstd", row_group_size=ROW_GROUP_ROWS
    )
    temporary.replace(output)


def concatenate_isolated_stars(
    isolated_star_cat_dict: Mapping[int, Any],
    isolated_star_source_dict: Mapping[int, Any],
    *,
    band: str,
    visit: int,
    detector: int | None,
    settings: ReserveSettings,
    id_column: str,
    fgcm_standard_star_dict: Mapping[int, Any] | None = None,
    fgcm_bands: Sequence[str] = (),
) -> IsolatedSources:
    """Draw and select from tables directly: the same rows as tract stage and visit list give.

    Parameters
    ----------
    isolated_star_cat_dict, isolated_star_source_dict : mapping of int to path or table
        Star and source tables by tract.
    band : str
    visit : int
    detector : int or None
        None: all detectors, sorted.
    settings : ReserveSettings
        The section ``reserve_selection``.
    id_column : str
    fgcm_standard_star_dict : mapping of int to path or table, optional
        Standard stars by tract.
    fgcm_bands : sequence of str, optional
        Bands of their magnitudes that are needed.

    Raises
    ------
    InputError
        As `finalchar.stars.tract.reserve_stars`.
    """
    if set(isolated_star_cat_dict) != set(isolated_star_source_dict):
        raise InputError(
            f"star tables are given for the tracts {sorted(isolated_star_cat_dict)} but source tables for "
            f"{sorted(isolated_star_source_dict)}"
        )
    parts = [
        _tract_rows_of_tables(tract, cat, isolated_star_source_dict[tract], band, visit, settings, id_column)
        for tract, cat in sorted(isolated_star_cat_dict.items())
    ]
    _, rows = _assemble(parts)
    if fgcm_standard_star_dict is not None and fgcm_bands:
        rows = replace(rows, fgcm=stack_fgcm(fgcm_standard_star_dict, bands=fgcm_bands))
    return rows if detector is None else rows.select(rows.detector == detector)


def _tract_rows_of_tables(
    tract: int,
    star_table: Any,
    source_table: Any,
    band: str,
    visit: int,
    settings: ReserveSettings,
    id_column: str,
) -> _TractRows:
    names = [
        str(table) if isinstance(table, str | Path) else f"{kind} of tract {tract}"
        for kind, table in (("isolated_star_cat", star_table), ("isolated_star_source", source_table))
    ]
    stars = read_isolated_stars(star_table, bands=[band], name=names[0])
    types: ColumnTypes = {id_column: np.int64, "visit": np.int64, "detector": np.int32, "obj_index": np.int32}
    sources = read_columns(source_table, types, name=names[1], asked_by={id_column: "id_column"})
    check_star_rows(sources["obj_index"], len(stars), stars=names[0], sources=names[1])
    draw = draw_tract(
        tract=tract,
        nsource=stars.nsource,
        ra=stars.ra,
        dec=stars.dec,
        star_id=stars.star_id,
        bands=[band],
        settings=settings,
    )[band]
    mine = sources["visit"] == visit
    if len(stars):
        mine &= draw.in_band[sources["obj_index"]]
    star = sources["obj_index"][mine]
    return _TractRows(
        tract,
        sources["detector"][mine],
        sources[id_column][mine],
        stars.star_id[star],
        stars.ra[star],
        stars.dec[star],
        draw.reserved[star],
    )
