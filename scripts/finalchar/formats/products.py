"""Our products: the PSF catalogue and star table of a detector, those of a visit, and the stamps in them.

A detector has two files.  The catalogue is an LSST exposure catalogue with two more tables behind the
archive: the predicted errors of its PSF, and the stamps of its best and worst stars.  Every file is written
under a temporary name and renamed, and the same content gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats import parquet
from finalchar.formats.afw_table import AfwTable, Field, read_table, table_hdu
from finalchar.formats.exposure_catalog import (
    DETECTOR_COMMENTS,
    VISIT_COMMENTS,
    ExposureRecord,
    read_exposure_catalog,
    write_exposure_catalog,
)
from finalchar.formats.fits_file import Card, FitsFile
from finalchar.formats.psf_errors import PSF_ERRORS, PredictedErrors, errors_from_hdu, errors_hdu
from finalchar.formats.sources import SourceTable
from finalchar.formats.stamps import StampSet

__all__ = [
    "DetectorOutput",
    "read_detector_record",
    "read_psf_errors",
    "read_stamps",
    "read_star_table",
    "stamps_hdu",
    "write_detector_products",
    "write_table",
    "write_visit_catalogue",
]

STAMPS = "FINALCHAR_STAMPS"
"""EXTNAME of the table of stamps."""


class DetectorOutput(Protocol):
    """What a detector gives to be written; a part that is None is not written."""

    @property
    def record(self) -> ExposureRecord | None:
        """Entry of the exposure catalogue."""

    @property
    def table(self) -> SourceTable | None:
        """Star table."""

    @property
    def stamps(self) -> StampSet | None:
        """Stamps for looking at later."""

    @property
    def psf_errors(self) -> PredictedErrors | None:
        """Predicted errors of the PSF."""


def write_detector_products(result: DetectorOutput, psf_ap_corr: Path, table: Path) -> None:
    """Write catalogue and star table of a detector; nothing for a detector without rows.

    Parameters
    ----------
    result : DetectorOutput
        Result of the characterisation.
    psf_ap_corr, table : Path
        Where the two files go.
    """
    if result.record is None or result.table is None:
        return
    extra = [] if result.psf_errors is None else [errors_hdu(result.psf_errors)]
    extra += [] if result.stamps is None else [stamps_hdu(result.stamps)]
    write_exposure_catalog(psf_ap_corr, [result.record], comments=DETECTOR_COMMENTS, extra_hdus=extra)
    write_table(result.table, table)


def write_table(table: SourceTable, path: Path) -> None:
    """Write a table as parquet with units and descriptions."""
    parquet.write_table(table, path)


def read_star_table(path: Path) -> SourceTable:
    """Read a star table or summary with exact types."""
    return parquet.read_columns(path)


def read_detector_record(path: Path) -> ExposureRecord:
    """Return the one record of a detector's catalogue.

    Raises
    ------
    InputError
        If there is not exactly one.
    """
    records = list(read_exposure_catalog(path))
    if len(records) != 1:
        raise InputError(f"{path} has {len(records)} records, the catalogue of a detector has one")
    return records[0]


def write_visit_catalogue(
    records: Sequence[ExposureRecord], path: Path, *, compatibility: str = "fixed"
) -> None:
    """Write the catalogue of a visit; stored PSFs are written byte for byte as they were read.

    With ``lsst`` the comment still says that one detector has an entry, as the reference does [S-Q3].
    """
    comments = DETECTOR_COMMENTS if compatibility == "lsst" else VISIT_COMMENTS
    write_exposure_catalog(path, records, comments=comments)


# ---------------------------------------------------------------------------------------------- stamps

_SCALARS = (
    ("source_id", "K", np.int64, "source id"),
    ("reserved", "J", np.int32, "1 for a star that the fit never saw"),
    ("rank", "J", np.int32, "1, 2, ... from the best, -1, -2, ... from the worst, per group"),
    ("reduced_chi_squared", "E", np.float32, "of data minus model over pixels with weight"),
    ("flux", "E", np.float32, "factor of the PSF, counts"),
    ("x0", "J", np.int32, "parent column of the first pixel"),
    ("y0", "J", np.int32, "parent row of the first pixel"),
)
_PLANES = (
    ("data", "pixels of the star, counts"),
    ("model", "PSF at its place, scaled to the star, counts"),
    ("weight", "inverse variance; 0 where a pixel was not used"),
)


def stamps_hdu(stamps: StampSet) -> bytes:
    """Return the table of stamps as an HDU; planes are (size, size) cells for any FITS reader."""
    size = stamps.data.shape[-1]
    fields = [Field(name, code, doc=doc) for name, code, _, doc in _SCALARS]
    fields += [Field(name, "E", "Array", size * size, doc=doc) for name, doc in _PLANES]
    columns: dict[str, npt.NDArray[Any]] = {
        name: getattr(stamps, name).astype(dtype) for name, _, dtype, _ in _SCALARS
    }
    for name, _ in _PLANES:
        columns[name] = getattr(stamps, name).astype(np.float32).reshape(len(stamps), size * size)
    first = len(_SCALARS) + 1
    cards = [Card("EXTNAME", STAMPS), Card("STAMPSIZ", size, "side of the stamps, pixels")]
    cards += [Card(f"TDIM{first + plane}", f"({size},{size})") for plane in range(len(_PLANES))]
    return table_hdu(AfwTable(tuple(fields), columns, metadata=tuple(cards)))


def read_psf_errors(path: Path) -> PredictedErrors | None:
    """Return the predicted errors of the PSF in a detector's catalogue, or None if it has none."""
    unit = FitsFile(path).find(PSF_ERRORS)
    return None if unit is None else errors_from_hdu(unit)


def read_stamps(path: Path) -> StampSet | None:
    """Return the stamps in a detector's catalogue, or None if it has none."""
    unit = FitsFile(path).find(STAMPS)
    if unit is None:
        return None
    table = read_table(unit)
    size = unit.header.integer("STAMPSIZ")
    columns: dict[str, Any] = {name: table[name].astype(dtype) for name, _, dtype, _ in _SCALARS}
    columns |= {name: table[name].reshape(-1, size, size) for name, _ in _PLANES}
    columns["reserved"] = columns["reserved"] != 0
    return StampSet(**columns)
