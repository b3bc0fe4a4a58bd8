"""The PSFs and aperture corrections of a detector or visit, ready to be drawn and evaluated."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from finalchar.formats.exposure import BoundedField
from finalchar.formats.exposure_catalog import (
    VISIT_COMMENTS,
    ExposureRecord,
    read_exposure_catalog,
    write_exposure_catalog,
)

if TYPE_CHECKING:
    from finalchar.psf.model import PsfModel

__all__ = ["PsfApCorrCatalog", "PsfApCorrRow", "read_psf_ap_corr"]


@dataclass(frozen=True)
class PsfApCorrRow:
    """PSF and aperture corrections of one detector.

    `psf` is opened when it is asked for (None: the detector has none); `ap_corr_map` maps
    ``<flux>_instFlux`` and ``<flux>_instFluxErr`` to fields (empty: the detector has none).  `compatibility`
    decides the box of images at half-integer positions [S-Q16].
    """

    record: ExposureRecord
    compatibility: str = "fixed"

    @property
    def detector(self) -> int:
        """Detector number."""
        return self.record.detector

    @property
    def visit(self) -> int:
        """Visit number."""
        return self.record.visit

    @cached_property
    def psf(self) -> PsfModel | None:
        """The PSF: ``psf.kernel_image(x=..., y=..., color=...)``, ``psf.images(...)``, ..."""
        from finalchar.psf.stored import model_from_stored

        if self.record.psf is None:
            return None
        return model_from_stored(self.record.psf, compatibility=self.compatibility)

    @property
    def ap_corr_map(self) -> Mapping[str, BoundedField]:
        """Aperture corrections: ``ap_corr_map["base_PsfFlux_instFlux"].evaluate(x=..., y=...)``."""
        return self.record.ap_corr_map or {}


@dataclass(frozen=True)
class PsfApCorrCatalog(Mapping[int, PsfApCorrRow]):
    """Rows by detector number, in ascending order: ``catalog[42].psf``."""

    rows: tuple[PsfApCorrRow, ...]
    comments: tuple[str, ...] = field(default=VISIT_COMMENTS)

    def __getitem__(self, detector: int) -> PsfApCorrRow:
        for row in self.rows:
            if row.detector == detector:
                return row
        raise KeyError(f"detector {detector} has no entry; there are: {', '.join(map(str, self))}")

    def __iter__(self) -> Iterator[int]:
        return iter(row.detector for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the catalogue; stored PSFs byte for byte as they are."""
        write_exposure_catalog(path, [row.record for row in self.rows], comments=self.comments)


def catalog_of(
    records: Sequence[ExposureRecord],
    comments: Sequence[str] = VISIT_COMMENTS,
    *,
    compatibility: str = "fixed",
) -> PsfApCorrCatalog:
    """Return records as a catalogue, sorted by detector."""
    ordered = sorted(records, key=lambda record: record.detector)
    return PsfApCorrCatalog(tuple(PsfApCorrRow(record, compatibility) for record in ordered), tuple(comments))


def read_psf_ap_corr(path: str | os.PathLike[str], *, compatibility: str = "fixed") -> PsfApCorrCatalog:
    """Read a catalogue of PSFs and aperture corrections, written by us or by the LSST stack.

    Parameters
    ----------
    path : path-like
        ``finalized_psf_ap_corr_catalog.fits`` of a visit, or the catalogue of a detector.
    compatibility : {'fixed', 'lsst'}
        `lsst` labels images at half-integer positions as the reference does [S-Q16].

    Returns
    -------
    PsfApCorrCatalog
        Rows by detector number; PSFs are opened, with the allow-list of classes, when they are used.

    Raises
    ------
    InputError
        If the file is missing or broken.
    """
    catalog = read_exposure_catalog(path)
    return catalog_of(list(catalog), catalog.comments, compatibility=compatibility)
