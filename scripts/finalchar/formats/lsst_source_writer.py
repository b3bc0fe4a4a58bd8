"""Writing LSST source catalogues with footprints (file-format specification 2.6, 2.7, 9.4)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.afw_table import AfwTable, Field, fields_of, write_table
from finalchar.formats.archive import ArchiveWriter
from finalchar.formats.fits_file import Card
from finalchar.formats.sources import Footprints, SourceTable

__all__ = ["FootprintExtras", "write_source_catalogue"]

_SPAN_SET_FIELDS = (Field("id", "J", doc="archive ID of SpanSet object"),)
_SPAN_FIELDS = (
    Field("y", "J", unit="pixel", doc="The row position of the span"),
    Field("x0", "J", unit="pixel", doc="First column of span (inclusive)"),
    Field("x1", "J", unit="pixel", doc="Second column of span (inclusive)"),
)
_PEAK_FIELDS = (
    Field("id", "K", doc="unique ID"),
    Field("f_x", "E", unit="pixel", doc="position of peak (floating point)"),
    Field("f_y", "E", unit="pixel", doc="position of peak (floating point)"),
    Field("i_x", "J", unit="pixel", doc="position of peak (integer)"),
    Field("i_y", "J", unit="pixel", doc="position of peak (integer)"),
    Field("peakValue", "E", unit="count", doc="value of peak pixel"),
    Field("significance", "D", doc="significance of peak"),
)
_HEAVY_FIELDS = (
    Field("image", "E", "Array", 0, unit="count", doc="image pixels for HeavyFootprint"),
    Field("mask", "J", "Array", 0, doc="mask pixels for HeavyFootprint"),
    Field("variance", "E", "Array", 0, unit="count^2", doc="variance pixels for HeavyFootprint"),
)


@dataclass(frozen=True)
class FootprintExtras:
    """What a stored footprint has besides the `Footprints` contract.

    `peak_value` and `peak_significance` have one element per peak; `mask` and `variance` are the planes of
    the exposure, arrays (y, x) with their first pixel at (0, 0), from which heavy footprints copy.
    """

    peak_value: npt.NDArray[np.float32]
    peak_significance: npt.NDArray[np.float64]
    mask: npt.NDArray[np.int32]
    variance: npt.NDArray[np.float32]


def write_source_catalogue(
    path: str | os.PathLike[str],
    table: SourceTable,
    footprints: Footprints | None = None,
    extras: FootprintExtras | None = None,
    metadata: tuple[Card, ...] = (),
) -> None:
    """Write a source catalogue that the LSST stack and `read_source_table` open.

    Parameters
    ----------
    path : path-like
        Target.
    table : SourceTable
        The columns, the first four being id, coord_ra, coord_dec (radians) and parent; units in the
        spelling of afw (count, pixel, rad).
    footprints, extras : Footprints, FootprintExtras
        Footprints in the order of the table; None writes a catalogue without them.
    metadata : tuple of Card
        Further cards of the table.
    """
    if list(table.columns)[:4] != ["id", "coord_ra", "coord_dec", "parent"]:
        raise ValueError("a source catalogue begins with the columns id, coord_ra, coord_dec, parent")
    angles = ("coord_ra", "coord_dec")
    fields = fields_of(table.columns, table.info, angles)
    if footprints is None or extras is None:
        write_table(AfwTable(fields, table.columns, table.aliases, "SOURCE", metadata), path)
        return
    writer = ArchiveWriter()
    ids = [_add_footprint(writer, index, footprints, extras) for index in range(len(footprints))]
    fields += (Field("footprint", "J", doc="archive ID for Footprint"),)
    columns = {**table.columns, "footprint": np.array(ids, dtype=np.int32)}
    afw_table = AfwTable(fields, columns, table.aliases, "SOURCE", metadata)
    write_table(afw_table, path, hdus=writer.hdus(), archive_hdu=3)


def _add_footprint(writer: ArchiveWriter, index: int, footprints: Footprints, extras: FootprintExtras) -> int:
    """Add one footprint (heavy if it has pixels of its own) and return its archive id."""
    footprint_id = writer.new_id()
    y, x0, x1 = footprints.spans(index)
    span_id = writer.add("SpanSet", "lsst.afw.geom", [AfwTable(_SPAN_FIELDS, {"y": y, "x0": x0, "x1": x1})])
    head = AfwTable(_SPAN_SET_FIELDS, {"id": np.array([span_id], dtype=np.int32)})
    catalogues = [head, _peak_table(index, footprints, extras)]
    heavy = bool(footprints.heavy[index])
    if heavy:
        catalogues.append(_heavy_table(index, footprints, extras))
    name = "HeavyFootprintF" if heavy else "Footprint"
    return writer.add(name, "lsst.afw.detection", catalogues, footprint_id)


def _peak_table(index: int, footprints: Footprints, extras: FootprintExtras) -> AfwTable:
    part = slice(footprints.peak_offset[index], footprints.peak_offset[index + 1])
    columns = {
        "id": np.arange(part.start + 1, part.stop + 1, dtype=np.int64),
        "f_x": footprints.peak_f_x[part],
        "f_y": footprints.peak_f_y[part],
        "i_x": footprints.peak_x[part],
        "i_y": footprints.peak_y[part],
        "peakValue": extras.peak_value[part].astype(np.float32),
        "significance": extras.peak_significance[part].astype(np.float64),
    }
    return AfwTable(_PEAK_FIELDS, columns)


def _heavy_table(index: int, footprints: Footprints, extras: FootprintExtras) -> AfwTable:
    pixels = footprints.pixels(index)
    cells = (footprints.heavy_pixels(index), extras.mask[pixels], extras.variance[pixels])
    columns: dict[str, npt.NDArray[np.object_]] = {}
    for field, values in zip(_HEAVY_FIELDS, cells, strict=True):
        cell = np.empty(1, dtype=object)
        cell[0] = values
        columns[field.name] = cell
    return AfwTable(_HEAVY_FIELDS, columns)
