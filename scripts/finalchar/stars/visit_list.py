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

METADATA_KEY = b"finalchar_visit_list"
"""Key of the parquet metadata under which the figures of the visit stand, as JSON."""

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


def _open(path: Path, made_by: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; it is made by {made_by}") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable product of {made_by}: {error}") from None


def _read_rows(file: Any, column: str, value: int, columns: Sequence[str]) -> Any:
    """Rows of a sorted parquet file in which `column` equals `value`; other row groups are not read."""
    index = file.schema_arrow.names.index(column)
    groups = []
    for group in range(file.metadata.num_row_groups):
        limits = file.metadata.row_group(group).column(index).statistics
        if limits is None or limits.min <= value <= limits.max:
            groups.append(group)
    table = file.read_row_groups(groups, columns=[column, *columns])
    return table.filter(table.column(column).to_numpy() == value)


def _read_tract(inputs: TractInputs, visit: int, band: str) -> tuple[_TractRows, dict[str, Any], int]:
    """Read a visit's rows of a tract; also the figures of the draw, and how many rows are not in the band."""
    file = _open(inputs.reserved, "reserve_stars")
    fate = f"reserved_{band}"
    if fate not in file.schema_arrow.names:
        raise InputError(
            f"{inputs.reserved} has no reserve list of the band {band!r} of visit {visit}: the star table of "
            f"tract {inputs.tract} has no column nsource_{band}, or the band is new in the sheet"
        )
    columns = ["detector", "sourceId", "isolated_star_id", "ra", "dec", fate]
    table = _read_rows(file, "visit", visit, columns)
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


def _figures(file: Any, path: Path) -> dict[str, Any]:
    text = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise InputError(f"{path} is not a product of list_visit")
    figures: dict[str, Any] = json.loads(text)
    return figures


def read_detector_rows(path: Path, detector: int) -> IsolatedSources:
    """Read a detector's rows of a visit's list.

    Parameters
    ----------
    path : Path
        Product of `make_visit_list`.
    detector : int

    Returns
    -------
    IsolatedSources
        Without rows if the detector has no source of an isolated star.

    Raises
    ------
    InputError
        If the file is missing or broken.
    """
    file = _open(Path(path), "list_visit")
    figures = _figures(file, Path(path))
    names = [name for name in file.schema_arrow.names if name != "detector"]
    table = _read_rows(file, "detector", detector, names)
    rows = IsolatedSources(
        table.column("detector").to_numpy().astype(np.int32, copy=False),
        table.column("sourceId").to_numpy(),
        table.column("tract").to_numpy(),
        table.column("isolated_star_id").to_numpy(),
        table.column("reserved").to_numpy(),
        table.column("sources_of_star").to_numpy(),
    )
    if "fgcm_bands" not in figures:
        return rows
    return replace(rows, fgcm=_unpack_standard_stars(table, figures["fgcm_bands"]))


def _unpack_standard_stars(table: Any, has_band: Mapping[str, bool]) -> FgcmStars:
    """Standard stars of the rows, each once, in ascending (tract, row)."""

    def flat(name: str) -> Any:
        return table.column(f"fgcm_{name}").combine_chunks().flatten().to_numpy()

    tract, row = flat("tract"), flat("row")
    _, once = np.unique(np.stack([tract, row], axis=1), axis=0, return_index=True)
    return FgcmStars(
        tract[once],
        row[once],
        flat("ra")[once],
        flat("dec")[once],
        {band: flat(f"mag_{band}")[once] for band in has_band},
        dict(has_band),
    )


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
