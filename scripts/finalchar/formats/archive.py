"""The object archive of LSST files: objects that point to each other by integer id (specification 3).

`Archive` reads objects when they are asked for; `ArchiveWriter` collects objects and gives the HDUs.  How an
object of a class is made from its rows stands in the module that `_READERS` names.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.afw_table import AfwTable, Field, read_table, table_hdu
from finalchar.formats.fits_file import Card, FitsFile

__all__ = ["Archive", "ArchiveIndex", "ArchiveWriter", "UnknownObject"]

_ROOM = "finalchar.formats."
_READERS = {
    "SkyWcs": "ast_text:read_sky_wcs",
    "TransformPoint2ToPoint2": "ast_text:read_transform",
    "TransformMap": "detector:read_transform_map",
    "Detector": "detector:read_detector",
    "PhotoCalib": "photo_calib:read_photo_calib",
    "Calib": "photo_calib:read_old_calib",
    "ApCorrMap": "bounded_fields:read_ap_corr_map",
    "ChebyshevBoundedField": "bounded_fields:read_chebyshev_field",
    "TransformBoundedField": "bounded_fields:read_transform_field",
    "ProductBoundedField": "bounded_fields:read_product_field",
    "PixelAreaBoundedField": "bounded_fields:read_pixel_area_field",
    "FilterLabel": "lsst_components:read_filter_label",
    "Polygon": "lsst_components:read_polygon",
    "VisitInfo": "lsst_components:read_visit_info",
    "PiffPsf": "psfs:read_piff_psf",
    "PsfexPsf": "psfs:read_psfex_psf",
    "KernelPsf": "psfs:read_kernel_psf",
    "PcaPsf": "psfs:read_kernel_psf",
    "SingleGaussianPsf": "psfs:read_gaussian_psf",
    "DoubleGaussianPsf": "psfs:read_gaussian_psf",
    "GaussianPsf": "psfs:read_gaussian_psf",
    "FixedKernel": "psfs:read_fixed_kernel",
    "LinearCombinationKernel": "psfs:read_linear_combination_kernel",
    "AnalyticKernel": "psfs:read_analytic_kernel",
    "DeltaFunctionKernel": "psfs:read_delta_function_kernel",
    "PolynomialFunction2D": "psfs:read_polynomial_function",
    "Chebyshev1Function2D": "psfs:read_chebyshev_function",
    "GaussianFunction2D": "psfs:read_gaussian_function",
    "DoubleGaussianFunction2D": "psfs:read_double_gaussian_function",
}
"""Persisted class -> module and function of this package that makes the object."""

_IN_THE_MAKING = object()


@dataclass(frozen=True)
class UnknownObject:
    """An archived object of a class without reader."""

    name: str
    module: str


@dataclass(frozen=True)
class ArchiveIndex:
    """The index table, sorted by (id, part): where the rows of each object lie."""

    object_id: npt.NDArray[np.int64]
    part: npt.NDArray[np.int64]
    table: npt.NDArray[np.int64]
    row0: npt.NDArray[np.int64]
    nrows: npt.NDArray[np.int64]
    name: npt.NDArray[np.str_]
    module: npt.NDArray[np.str_]

    def find(
        self, object_id: npt.NDArray[Any], part: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Return index rows of the given part of each object, and whether there is one."""
        keys = self.object_id * 8 + self.part
        wanted = np.asarray(object_id, dtype=np.int64) * 8 + part
        rows = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
        found = keys[rows] == wanted if len(keys) else np.zeros(len(wanted), dtype=np.bool_)
        return rows, found


class Archive:
    """The objects of one file, read when asked for and only once.

    Parameters
    ----------
    file : FitsFile
        The open file.
    first_hdu : int
        HDU of the index, counted from 0.

    Raises
    ------
    InputError
        If the index is missing or is not an index.
    """

    def __init__(self, file: FitsFile, first_hdu: int) -> None:
        self.file = file
        self.first_hdu = first_hdu
        self._objects: dict[int, Any] = {}
        self._tables: dict[int, AfwTable] = {}
        self._unknown: set[str] = set()
        header = file.hdu(first_hdu).header
        if header.text("EXTTYPE") != "ARCHIVE_INDEX" or header.integer("AR_CATN", -1) != 0:
            raise InputError(f"HDU {first_hdu} of {file.path} is not an archive index")
        self.number_of_tables = header.integer("AR_NCAT") - 1

    @cached_property
    def index(self) -> ArchiveIndex:
        """The index, read at first use."""
        table = read_table(self.file.hdu(self.first_hdu))
        order = np.lexsort((table["cat.persistable"], table["id"]))

        def integers(name: str) -> npt.NDArray[np.int64]:
            return table[name][order].astype(np.int64)

        return ArchiveIndex(
            object_id=integers("id"),
            part=integers("cat.persistable"),
            table=integers("cat.archive"),
            row0=integers("row0"),
            nrows=integers("nrows"),
            name=table["name"][order],
            module=table["module"][order],
        )

    def table(self, number: int) -> AfwTable:
        """Return data table `number` (counted from 1)."""
        if number not in self._tables:
            if not 1 <= number <= self.number_of_tables:
                raise InputError(
                    f"{self.file.path}: the archive index names table {number}, "
                    f"the archive has {self.number_of_tables}"
                )
            unit = self.file.hdu(self.first_hdu + number)
            if unit.header.text("EXTTYPE") != "ARCHIVE_DATA" or unit.header.integer("AR_CATN", -1) != number:
                raise InputError(f"HDU {unit.number} of {self.file.path} is not archive table {number}")
            self._tables[number] = read_table(unit)
        return self._tables[number]

    def catalogues(self, object_id: int) -> tuple[str, str, list[AfwTable]]:
        """Return class name, module and the catalogues of one object."""
        index = self.index
        first, last = np.searchsorted(index.object_id, (object_id, object_id + 1))
        if first == last:
            raise InputError(f"{self.file.path}: the archive has no object {object_id}")
        if len(set(index.name[first:last].tolist())) > 1:
            raise InputError(f"{self.file.path}: archive object {object_id} has two class names")
        slices = [self._slice(row) for row in range(first, last) if index.table[row] >= 0]
        return str(index.name[first]), str(index.module[first]), slices

    def _slice(self, row: int) -> AfwTable:
        index = self.index
        table = self.table(int(index.table[row]))
        start, number = int(index.row0[row]), int(index.nrows[row])
        if start < 0 or start + number > len(table):
            raise InputError(
                f"{self.file.path}: archive object {index.object_id[row]} lies outside its table"
            )
        return table.rows(start, number)

    def get(self, object_id: int) -> Any:
        """Return the object of this id; None for id 0; an `UnknownObject` if its class is not known.

        Raises
        ------
        InputError
            If the id is not in the archive or its rows are broken.
        """
        if object_id == 0:
            return None
        if object_id not in self._objects:
            name, module, catalogues = self.catalogues(object_id)
            self._objects[object_id] = _IN_THE_MAKING
            self._objects[object_id] = self._make(name, module, catalogues)
        if self._objects[object_id] is _IN_THE_MAKING:
            raise InputError(f"{self.file.path}: archive object {object_id} contains itself")
        return self._objects[object_id]

    def _make(self, name: str, module: str, catalogues: list[AfwTable]) -> Any:
        # Function2F variants differ only in the type of their parameters.
        place = _READERS.get(name) or _READERS.get(name.removesuffix("F") + "D")
        if place is None:
            if name not in self._unknown:
                self._unknown.add(name)
                warnings.warn(f"{self.file.path}: no reader for the class {name} ({module})", stacklevel=3)
            return UnknownObject(name, module)
        module_name, function = place.split(":")
        reader: Callable[[str, list[AfwTable], Archive], Any]
        reader = getattr(importlib.import_module(_ROOM + module_name), function)
        try:
            return reader(name, catalogues, self)
        except (IndexError, ValueError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{self.file.path}: a stored {name} is broken ({error})") from error


# --------------------------------------------------------------------------------------------- writing

_INDEX_FIELDS = (
    Field(
        "id", "J", doc="Archive ID of the persistable object that owns the records pointed at by this entry"
    ),
    Field(
        "cat.archive",
        "J",
        doc="index of the catalog this entry points to, from the perspective of the archive",
    ),
    Field(
        "cat.persistable",
        "J",
        doc="index of the catalog this entry points to, from the perspective of the Persistable",
    ),
    Field("row0", "J", doc="first row used by the persistable object in this catalog"),
    Field("nrows", "J", doc="number of rows used by the persistable object in this catalog"),
    Field("name", "A", "String", 64, doc="unique name for the persistable object's class"),
    Field(
        "module",
        "A",
        "String",
        64,
        doc="Python module that should be imported to register the object's factory",
    ),
)


class _DataTable:
    """The rows of all objects that share one schema."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        self.pieces: list[AfwTable] = []
        self.names: list[str] = []
        self.length = 0

    def append(self, name: str, piece: AfwTable) -> int:
        """Add rows, return the number of the first."""
        start = self.length
        self.pieces.append(piece)
        self.length += len(piece)
        if name not in self.names:
            self.names.append(name)
        return start

    def joined(self) -> AfwTable:
        columns = {f.name: np.concatenate([piece[f.name] for piece in self.pieces]) for f in self.fields}
        return AfwTable(self.fields, columns)


class ArchiveWriter:
    """Collects objects and gives the HDUs of their archive, grouped into one table per schema."""

    def __init__(self) -> None:
        self._tables: dict[tuple[tuple[str, str, str, int], ...], _DataTable] = {}
        self._rows: list[tuple[int, int, int, int, int, str, str]] = []
        self._last = 0

    def new_id(self) -> int:
        """Return a fresh id, for an object whose parts are added before it but get larger ids."""
        self._last += 1
        return self._last

    def open_table(self, fields: tuple[Field, ...]) -> None:
        """Give the table of this schema its number now, before the tables of parts that are added first."""
        self._tables.setdefault(tuple(f.storage for f in fields), _DataTable(fields))

    def add(
        self, name: str, module: str, catalogues: Sequence[AfwTable], object_id: int | None = None
    ) -> int:
        """Add an object and return its id.

        Parameters
        ----------
        name, module : str
            Persisted class and the Python module that registers it (specification 3.3).
        catalogues : sequence of AfwTable
            Its catalogues in the order of the class; none for an object without tables.
        object_id : int, optional
            An id from `new_id`; otherwise a fresh one.
        """
        number = self.new_id() if object_id is None else object_id
        if not catalogues:
            self._rows.append((number, -1, -1, -1, 0, name, module))
        for part, catalogue in enumerate(catalogues):
            key = tuple(f.storage for f in catalogue.fields)
            table = self._tables.setdefault(key, _DataTable(catalogue.fields))
            position = list(self._tables).index(key) + 1
            self._rows.append(
                (number, position, part, table.append(name, catalogue), len(catalogue), name, module)
            )
        return number

    def hdus(self) -> list[bytes]:
        """Return the index HDU and the data HDUs."""
        seen: dict[str, int] = {}
        data = []
        for number, table in enumerate(self._tables.values(), 1):
            last = table.names[-1]
            seen[last] = seen.get(last, 0) + 1
            data.append(
                table_hdu(replace(table.joined(), metadata=_data_cards(number, table.names, seen[last])))
            )
        return [self._index_hdu(len(data) + 1), *data]

    def _index_hdu(self, number_of_tables: int) -> bytes:
        rows = sorted(self._rows, key=lambda row: (row[0], row[2]))
        columns = {
            f.name: np.array([row[k] for row in rows], dtype="U64" if f.code == "A" else np.int32)
            for k, f in enumerate(_INDEX_FIELDS)
        }
        cards = (
            Card("EXTTYPE", "ARCHIVE_INDEX"),
            Card("EXTNAME", "ARCHIVE_INDEX"),
            Card("AR_CATN", 0, "# of this catalog relative to the start of this archive"),
            Card("AR_NCAT", number_of_tables, "# of catalogs in this archive, including the index"),
        )
        return table_hdu(AfwTable(_INDEX_FIELDS, columns, metadata=cards))


def _data_cards(number: int, names: Sequence[str], version: int) -> tuple[Card, ...]:
    return (
        Card("EXTTYPE", "ARCHIVE_DATA"),
        Card("AR_CATN", number, "# of this catalog relative to the start of this archive"),
        *([Card("EXTVER", version)] if version > 1 else []),
        *(Card("AR_NAME", name, "Class name for objects stored here") for name in names),
        Card("EXTNAME", names[-1]),
    )
