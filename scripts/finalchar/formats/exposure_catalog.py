"""Catalogues of PSFs and aperture corrections, as the LSST stack reads and writes them (specification 8)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from finalchar.errors import InputError
from finalchar.formats.afw_table import AfwTable, Field, read_table, table_hdu
from finalchar.formats.archive import Archive, ArchiveWriter
from finalchar.formats.bounded_fields import add_ap_corr_map
from finalchar.formats.exposure import BoundedField, Box
from finalchar.formats.fits_file import Card, FitsFile, primary_hdu, write_atomically
from finalchar.formats.psfs import StoredPsf, read_stored_psf
from finalchar.formats.psfs_writer import add_psf

__all__ = ["ExposureCatalog", "ExposureRecord", "read_exposure_catalog", "write_exposure_catalog"]

DETECTOR_COMMENTS = (
    "Catalog id is detector id, sorted.",
    "Only one detector with data has an entry.",
)
VISIT_COMMENTS = (
    "Catalog id is detector id, sorted.",
    "Only detectors with data have entries.",
)
_EMPTY_BOX = Box(0, 0, 0, 0)
"""What an unset box reads back as; the finalize task never sets one."""

_ID_FIELDS = (
    ("wcs", "Wcs"),
    ("psf", "Psf"),
    ("photoCalib", "PhotoCalib"),
    ("apCorrMap", "ApCorrMap"),
    ("validPolygon", "Polygon"),
    ("visitInfo", "VisitInfo"),
    ("transmissionCurve", "TransmissionCurve"),
    ("detector", "Detector"),
)
_FIELDS = (
    *(Field(name, "J", doc=f"archive ID for {kind} object") for name, kind in _ID_FIELDS),
    Field("id", "K", doc="unique ID"),
    Field("bbox_min_x", "J", unit="pixel", doc="bounding box (minimum)"),
    Field("bbox_min_y", "J", unit="pixel", doc="bounding box (minimum)"),
    Field("bbox_max_x", "J", unit="pixel", doc="bounding box (maximum)"),
    Field("bbox_max_y", "J", unit="pixel", doc="bounding box (maximum)"),
    Field("visit", "K", doc="Visit number"),
)


@dataclass(frozen=True)
class ExposureRecord:
    """The row of one detector.

    Attributes
    ----------
    detector, visit : int
        Record id and visit number.
    psf : StoredPsf or None
        The PSF as stored; None if it failed.
    ap_corr_map : mapping of str to BoundedField, or None
        Flux-column name -> correction; None if it failed.
    box : Box
        Pixel box; the finalize task leaves it unset.
    """

    detector: int
    visit: int
    psf: StoredPsf | None = None
    ap_corr_map: Mapping[str, BoundedField] | None = None
    box: Box = _EMPTY_BOX


@dataclass(frozen=True)
class ExposureCatalog:
    """Records sorted by detector, and the metadata cards of the table."""

    records: tuple[ExposureRecord, ...]
    metadata: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    comments: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[ExposureRecord]:
        return iter(self.records)


def read_exposure_catalog(path: str | os.PathLike[str]) -> ExposureCatalog:
    """Read a PSF and aperture-correction catalogue, written by us or by the LSST stack.

    Raises
    ------
    InputError
        If the file is missing or broken, is no exposure catalogue, or has rows without their archive.
    """
    file = FitsFile(path)
    unit = file.hdu(1)
    table = read_table(unit)
    if table.afw_type != "EXPOSURE":
        raise InputError(f"{path} is not an exposure catalogue (AFW_TYPE is {table.afw_type!r})")
    archive = Archive(file, unit.header.integer("AR_HDU", 3) - 1)
    metadata = {
        c.keyword: c.value for c in table.metadata if c.keyword not in ("COMMENT", "EXPTABLE_VER", "")
    }
    comments = tuple(card.comment for card in table.metadata if card.keyword == "COMMENT")
    return ExposureCatalog(
        tuple(_read_record(table.rows(row, 1), archive) for row in range(len(table))), metadata, comments
    )


def _read_record(row: AfwTable, archive: Archive) -> ExposureRecord:
    def number(name: str) -> int:
        return int(row.one(name)) if name in row else 0

    ap_corr_map = archive.get(number("apCorrMap"))
    return ExposureRecord(
        detector=number("id"),
        visit=number("visit"),
        psf=read_stored_psf(archive, number("psf")),
        ap_corr_map=ap_corr_map if isinstance(ap_corr_map, Mapping) else None,
        box=Box(*(number(f"bbox_{name}") for name in ("min_x", "min_y", "max_x", "max_y"))),
    )


def write_exposure_catalog(
    path: str | os.PathLike[str],
    records: Sequence[ExposureRecord],
    metadata: Mapping[str, bool | int | float | str] | None = None,
    *,
    comments: Sequence[str] = VISIT_COMMENTS,
    extra_hdus: Iterable[bytes] = (),
) -> None:
    """Write a catalogue that ``ExposureCatalog.readFits`` of the stack and `read_exposure_catalog` open.

    Parameters
    ----------
    path : path-like
        Target; complete or not there.
    records : sequence of ExposureRecord
        One per detector; they are written in order of the detector.
    metadata : mapping, optional
        Cards of the table.
    comments : sequence of str
        COMMENT cards of the table.
    extra_hdus : iterable of bytes
        Complete HDUs behind the archive (the stack does not look at them).
    """
    ordered = sorted(records, key=lambda record: record.detector)
    detectors = [record.detector for record in ordered]
    if len(set(detectors)) < len(detectors):
        raise ValueError(f"a detector has two records: {detectors}")
    writer = ArchiveWriter()
    rows = [_record_row(writer, record) for record in ordered]
    columns = {
        f.name: np.array([row[f.name] for row in rows], dtype=np.int64 if f.code == "K" else np.int32)
        for f in _FIELDS
    }
    cards = [Card("COMMENT", None, text) for text in comments]
    cards += [Card(name, value) for name, value in (metadata or {}).items()]
    table = AfwTable(_FIELDS, columns, afw_type="EXPOSURE", metadata=tuple(cards))
    write_atomically(path, (primary_hdu(), table_hdu(table), *writer.hdus(), *extra_hdus))


def _record_row(writer: ArchiveWriter, record: ExposureRecord) -> dict[str, int]:
    row = dict.fromkeys((f.name for f in _FIELDS), 0)
    row["psf"] = 0 if record.psf is None else add_psf(writer, record.psf)
    row["apCorrMap"] = 0 if record.ap_corr_map is None else add_ap_corr_map(writer, record.ap_corr_map)
    box = record.box
    row.update(bbox_min_x=box.min_x, bbox_min_y=box.min_y, bbox_max_x=box.max_x, bbox_max_y=box.max_y)
    row.update(id=record.detector, visit=record.visit)
    return row
