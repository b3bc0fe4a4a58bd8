"""afw tables: FITS binary tables with schema cards (file-format specification 2).

A table is a list of `Field` (name, storage, unit, documentation) and a dictionary of columns.  Flags are bool
columns here and one bit column in the file.  Field order is the order of first appearance in the header,
which for some persisted classes is part of the format (9.1).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, MissingColumnError
from finalchar.formats.fits_file import (
    BLOCK,
    Card,
    FitsFile,
    Hdu,
    Header,
    header_bytes,
    primary_hdu,
    write_atomically,
)
from finalchar.formats.sources import ColumnInfo, SourceTable

__all__ = ["AfwTable", "Field", "fields_of", "read_table", "table_hdu", "write_table"]

Column = npt.NDArray[Any]

_DTYPES = {"B": ">u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
_CODES = {"u1": "B", "u2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}
_NAME_COMMENT = "label for field"
_TEMPLATE_COMMENT = "Field template used by lsst.afw.table"
_STRUCTURE = re.compile(
    r"(XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|THEAP|FLAGCOL|ALIAS|AFW_TYPE|AFW_TABLE_VERSION|AR_HDU|"
    r"(TTYPE|TFORM|TUNIT|TDOC|TCCLS|TFLAG|TFDOC|TZERO|TSCAL|TNULL|TDISP|TDIM)\d+)$"
)


@dataclass(frozen=True)
class Field:
    """One field of an afw schema.

    `code` is the FITS letter (B, I = u16, J, K, E, D, A) or X for a flag; `template` is Scalar, Array, Angle,
    String or Flag; `length` is the number of elements (bytes of a string), 0 for variable length.
    """

    name: str
    code: str
    template: str = "Scalar"
    length: int = 1
    unit: str = ""
    doc: str = ""

    @property
    def storage(self) -> tuple[str, str, str, int]:
        """What has to agree for two tables to have the same schema."""
        return self.name, self.code, self.template, self.length


@dataclass(frozen=True)
class AfwTable:
    """A table with its schema.

    Attributes
    ----------
    fields : tuple of Field
        In order of first appearance in the header.
    columns : dict of str to ndarray
        Native byte order; flags bool; strings ``U``; array fields (n, length); variable-length fields are
        object arrays of arrays, or of str for strings.
    aliases : dict of str to str
        Alias -> target.
    afw_type : str
        Record class (``SOURCE``, ``EXPOSURE``, ...), '' if the header has none.
    metadata : tuple of Card
        The cards that do not describe the table.
    origin : str
        Path of its file, or how messages call it.
    """

    fields: tuple[Field, ...]
    columns: dict[str, Column]
    aliases: dict[str, str] = field(default_factory=dict)
    afw_type: str = ""
    metadata: tuple[Card, ...] = ()
    origin: str = field(default="a stored table", compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Column:
        try:
            return self.columns[name]
        except KeyError:
            raise MissingColumnError(name, table=self.origin, there=self.columns) from None

    def rows(self, start: int, number: int) -> AfwTable:
        """Return the rows ``start:start + number``, sharing memory."""
        part = slice(start, start + number)
        return replace(self, columns={name: values[part] for name, values in self.columns.items()})

    def one(self, name: str) -> Any:
        """Return the value of `name` in the only row; arrays of length one stay arrays."""
        values = self[name]
        if len(values) != 1:
            raise InputError(f"a stored object has {len(values)} rows where one is needed (column {name!r})")
        return values[0] if values.dtype == object or values.ndim > 1 else values[0].item()

    def to_source_table(self) -> SourceTable:
        """Return the columns as the table type of the other rooms, units in astropy's spelling."""
        info = {
            f.name: ColumnInfo(astropy_unit(f.unit), f.doc) for f in self.fields if f.name in self.columns
        }
        return SourceTable(dict(self.columns), info, dict(self.aliases), self.origin)


def astropy_unit(unit: str) -> str:
    """Return astropy's spelling of an afw unit: ``count`` -> ``ct``, ``pixel^2`` -> ``pix2``.

    Source: file-format specification 10.
    """
    words = re.sub(r"\^|\*\*", "", unit.replace("*", " ") if "**" not in unit else unit).split()
    spelled = [re.sub(r"^(pixels?|pix)(?=\d|$)", "pix", re.sub(r"^counts?(?=\d|$)", "ct", w)) for w in words]
    if len(spelled) == 2 and spelled[0] == spelled[1] and spelled[0].isalpha():
        return spelled[0] + "2"
    return " ".join(spelled)


# --------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Stored:
    """A column as it lies in the file."""

    number: int
    field: Field
    offset: int
    dtype: str
    count: int
    descriptor: str
    is_flags: bool


_FORM = re.compile(r"^\s*(\d*)([PQ]?)([LXBIJKAEDCM])(\(\d*\))?\s*$")


def read_table(
    source: str | os.PathLike[str] | Hdu, hdu: int = 1, names: Iterable[str] | None = None
) -> AfwTable:
    """Read an afw table.

    Parameters
    ----------
    source : path-like or Hdu
        The file, or directly an HDU of an open `FitsFile`.
    hdu : int
        Number of the HDU (0 is the primary one), if `source` is a path.
    names : iterable of str, optional
        Fields to read; others are left out of `columns` (not of `fields`).

    Raises
    ------
    InputError
        If the file or HDU is missing or broken, or the table is of a version that is not supported.
    """
    unit = source if isinstance(source, Hdu) else FitsFile(source).hdu(hdu)
    header = unit.header
    if header.text("XTENSION") != "BINTABLE":
        raise InputError(f"HDU {unit.number} of {unit.file.path} is not a binary table")
    version = _version(header, unit)
    stored, fields = _schema(header)
    wanted = None if names is None else set(names)
    columns = _read_columns(unit, stored, fields, wanted)
    aliases = _aliases(header, version, fields)
    metadata = tuple(card for card in header if not _STRUCTURE.match(card.keyword))
    origin = str(unit.file.path)
    return AfwTable(tuple(fields), columns, aliases, header.text("AFW_TYPE"), metadata, origin)


def _version(header: Header, unit: Hdu) -> int:
    version = header.integer("AFW_TABLE_VERSION", 0 if "AFW_TYPE" in header else 3)
    if version not in (1, 2, 3):
        raise InputError(
            f"HDU {unit.number} of {unit.file.path} is an afw table of version {version}; "
            "versions 1 to 3 are supported, convert it with the LSST stack"
        )
    return version


def _schema(header: Header) -> tuple[list[_Stored], list[Field]]:
    """Return the stored columns and all fields (flags included) in order of first appearance."""
    cards = {card.keyword: card for card in header}
    flag_column = header.integer("FLAGCOL", 0)
    stored, offset = [], 0
    for number in range(1, header.integer("TFIELDS") + 1):
        column = _stored_column(cards, number, offset, number == flag_column)
        stored.append(column)
        offset += np.dtype(column.dtype).itemsize * column.count
    by_number = {number: column.field for number, column in enumerate(stored, 1) if not column.is_flags}
    fields: dict[str, Field] = {}
    for card in header:
        prefix, digits = card.keyword.rstrip("0123456789"), card.keyword.lstrip("TYPEFORMCLSDUNIAG")
        if prefix in ("TTYPE", "TFORM", "TCCLS", "TDOC", "TUNIT") and digits and int(digits) in by_number:
            fields.setdefault(by_number[int(digits)].name, by_number[int(digits)])
        elif prefix == "TFLAG" and digits:
            doc = cards.get(f"TFDOC{digits}")
            name = str(card.value)
            fields.setdefault(name, Field(name, "X", "Flag", doc=str(doc.value) if doc else card.comment))
    return stored, [f for f in fields.values() if f.code not in ("L", "C", "M", "X") or f.template == "Flag"]


def _stored_column(cards: Mapping[str, Card], number: int, offset: int, is_flags: bool) -> _Stored:
    def text(prefix: str) -> str:
        card = cards.get(f"{prefix}{number}")
        return str(card.value) if card is not None and card.value is not None else ""

    form = _FORM.match(text("TFORM"))
    if form is None:
        raise InputError(f"column {number} of a table has the unknown format {text('TFORM')!r}")
    repeat, descriptor, code = int(form[1] or 1), form[2], form[3]
    doc = text("TDOC") or _comment_of(cards.get(f"TTYPE{number}"))
    template = text("TCCLS") or _default_template(code, repeat, descriptor)
    length = 0 if descriptor else repeat
    entry = Field(text("TTYPE"), code, template, length, text("TUNIT"), doc)
    if descriptor:
        return _Stored(
            number, entry, offset, ">i4" if descriptor == "P" else ">i8", 2 * repeat, descriptor, False
        )
    if code == "X":
        return _Stored(number, entry, offset, ">u1", -(-repeat // 8), "", is_flags)
    if code == "A":
        return _Stored(number, entry, offset, f"S{repeat}", 1 if repeat else 0, "", False)
    sizes = {"L": ">u1", "C": ">c8", "M": ">c16"}
    return _Stored(number, entry, offset, _DTYPES.get(code) or sizes[code], repeat, "", False)


def _comment_of(card: Card | None) -> str:
    """Return the description in a TTYPE comment; the standard comment is none."""
    return "" if card is None or card.comment == _NAME_COMMENT else card.comment


def _default_template(code: str, repeat: int, descriptor: str) -> str:
    if code == "A":
        return "String"
    return "Array" if descriptor or repeat != 1 else "Scalar"


def _read_columns(
    unit: Hdu, stored: Sequence[_Stored], fields: Sequence[Field], wanted: set[str] | None
) -> dict[str, Column]:
    read: dict[str, Column] = {}
    flags = [f.name for f in fields if f.template == "Flag"]
    for column in stored:
        if column.is_flags:
            if wanted is None or wanted.intersection(flags):
                read.update(_read_flags(unit, column, unit.header))
        elif wanted is None or column.field.name in wanted:
            if column.field.code in "LCMX":
                continue
            read[column.field.name] = _read_column(unit, column)
    return {f.name: read[f.name] for f in fields if f.name in read and (wanted is None or f.name in wanted)}


def _raw(unit: Hdu, column: _Stored) -> Column:
    header = unit.header
    width, rows = header.integer("NAXIS1"), header.integer("NAXIS2")
    item = np.dtype(column.dtype).itemsize
    if column.offset + item * column.count > width:
        raise InputError(
            f"column {column.field.name!r} of {unit.file.path} lies outside the rows of its table"
        )
    if rows == 0 or column.count == 0:
        return np.empty((rows, column.count), column.dtype)
    return np.ndarray(
        (rows, column.count), column.dtype, unit.file.buffer, unit.data_start + column.offset, (width, item)
    )


def _read_flags(unit: Hdu, column: _Stored, header: Header) -> dict[str, Column]:
    names = {
        int(card.keyword[5:]): str(card.value) for card in header if re.match(r"TFLAG\d+$", card.keyword)
    }
    bits = np.ascontiguousarray(np.unpackbits(_raw(unit, column), axis=1).T).view(np.bool_)
    if names and max(names) > len(bits):
        raise InputError(f"{unit.file.path} names more flags than its flag column has bits")
    return {name: bits[number - 1] for number, name in names.items()}


def _read_column(unit: Hdu, column: _Stored) -> Column:
    raw = _raw(unit, column)
    entry = column.field
    if column.descriptor:
        return _read_ragged(unit, raw, entry)
    if entry.code == "A":
        text: Column = np.char.decode(np.ascontiguousarray(raw[:, 0]), "utf-8", "replace")
        return np.char.rstrip(text)
    values = _unscaled(unit, raw, column)
    return values if entry.template == "Array" or column.count > 1 else np.ascontiguousarray(values[:, 0])


def _unscaled(unit: Hdu, raw: Column, column: _Stored) -> Column:
    """Return native numbers; integers stay integers, and a null among them is refused (K10)."""
    header, number, name = unit.header, column.number, column.field.name
    zero, scale = header.get(f"TZERO{number}", 0), header.get(f"TSCAL{number}", 1)
    null = header.get(f"TNULL{number}")
    if null is not None and np.any(raw == null):
        raise InputError(
            f"{unit.file.path}: column {name!r} has {int(np.sum(raw == null))} nulls, which integers "
            "cannot express; drop these rows"
        )
    if column.field.code == "I":
        return (raw.astype(np.int32) + int(zero or 0)).astype(np.uint16 if zero == 32768 else np.int16)
    if (zero, scale) != (0, 1):
        raise InputError(f"{unit.file.path}: column {name!r} is stored scaled, which is not supported")
    return raw.astype(raw.dtype.newbyteorder("="))


def _read_ragged(unit: Hdu, descriptors: Column, entry: Field) -> Column:
    header = unit.header
    table_size = header.integer("NAXIS1") * header.integer("NAXIS2")
    heap = unit.data_start + header.integer("THEAP", table_size)
    dtype = np.dtype("S1" if entry.code == "A" else _DTYPES[entry.code])
    cells = np.empty(len(descriptors), dtype=object)
    for row, (number, start) in enumerate(descriptors.tolist()):
        if (
            min(number, start) < 0
            or start + number * dtype.itemsize > unit.data_start + unit.data_size - heap
        ):
            raise InputError(f"a cell of column {entry.name!r} of {unit.file.path} lies outside its heap")
        raw = np.frombuffer(unit.file.buffer, dtype, number, heap + start) if number else np.empty(0, dtype)
        if entry.code == "A":
            cells[row] = raw.tobytes().decode("utf-8", "replace").rstrip(" \0")
        else:
            cells[row] = raw.astype(dtype.newbyteorder("="))
    return cells


def _aliases(header: Header, version: int, fields: Sequence[Field]) -> dict[str, str]:
    aliases = {}
    for value in header.all("ALIAS"):
        alias, _, target = str(value).partition(":")
        aliases[alias] = target
    names = {f.name for f in fields}
    for f in fields:
        name = f.name
        if version == 1 and name.endswith("Sigma"):
            name = name.removesuffix("Sigma") + "Err"
            aliases.setdefault(name, f.name)
        if (
            version < 3
            and re.search(r"_flux(Err|Sigma)?$", f.name)
            and re.search("count|dn|adu", f.unit.lower())
        ):
            modern = re.sub(r"_flux(Err)?$", r"_instFlux\1", name)
            if modern not in names:
                aliases.setdefault(modern, f.name)
    return aliases


# --------------------------------------------------------------------------------------------- writing


def fields_of(
    columns: Mapping[str, Column],
    info: Mapping[str, ColumnInfo] | None = None,
    angles: Iterable[str] = (),
) -> tuple[Field, ...]:
    """Return the fields that store `columns`, derived from their dtypes.

    Parameters
    ----------
    columns : mapping of str to ndarray
        bool -> Flag, ``U`` -> String, numbers -> Scalar, two dimensions -> Array, objects -> variable length.
    info : mapping of str to ColumnInfo, optional
        Units (afw spelling) and documentation.
    angles : iterable of str
        Names of f64 columns to store as Angle (unit rad).
    """
    angular = set(angles)
    fields = []
    for name, values in columns.items():
        about = (info or {}).get(name, ColumnInfo())
        code, template, length = _storage(name, values)
        if name in angular:
            template, about = "Angle", ColumnInfo("rad", about.description)
        fields.append(Field(name, code, template, length, about.unit, about.description))
    return tuple(fields)


def _storage(name: str, values: Column) -> tuple[str, str, int]:
    if values.dtype == np.bool_:
        return "X", "Flag", 1
    if values.dtype.kind == "U":
        return "A", "String", max(1, values.dtype.itemsize // 4)
    if values.dtype == object:
        first = values[0] if len(values) else np.empty(0)
        if isinstance(first, str):
            return "A", "String", 0
        return _code(name, np.asarray(first).dtype), "Array", 0
    if values.ndim == 2:
        return _code(name, values.dtype), "Array", values.shape[1]
    return _code(name, values.dtype), "Scalar", 1


def _code(name: str, dtype: np.dtype[Any]) -> str:
    try:
        return _CODES[dtype.kind + str(dtype.itemsize)]
    except KeyError:
        raise ValueError(f"column {name!r} has dtype {dtype}, which an afw table cannot store") from None


def write_table(
    table: AfwTable,
    path: str | os.PathLike[str],
    *,
    primary: Sequence[Card] = (),
    hdus: Iterable[bytes] = (),
    archive_hdu: int | None = None,
) -> None:
    """Write a table as HDU 1 behind an empty primary HDU, then `hdus` (an archive) as they are.

    Parameters
    ----------
    table : AfwTable
        The table; its metadata cards are written behind the schema.
    path : path-like
        Target; written under a temporary name first.
    primary : sequence of Card
        Further cards of the primary HDU.
    hdus : iterable of bytes
        Complete HDUs that follow the table.
    archive_hdu : int, optional
        Value of ``AR_HDU`` (counted from 1); source catalogues need it.
    """
    write_atomically(path, (primary_hdu(primary), table_hdu(table, archive_hdu=archive_hdu), *hdus))


def table_hdu(table: AfwTable, *, archive_hdu: int | None = None) -> bytes:
    """Return the complete binary-table HDU of `table`: cards in field order, data, heap, padding."""
    flags = [f for f in table.fields if f.template == "Flag"]
    plain = [f for f in table.fields if f.template != "Flag"]
    rows = len(table)
    descriptors, heap = _pack_heap([f for f in plain if f.length == 0], table)
    parts = [_pack_flags(table, flags)] if flags else []
    parts += [
        descriptors[f.name] if f.length == 0 else _encode_column(f, table.columns[f.name]) for f in plain
    ]
    body = np.concatenate(parts, axis=1).tobytes() if parts and rows else b""
    width = sum(part.shape[1] for part in parts)
    data = body + heap
    cards = [*_size_cards(width, rows, len(heap), len(parts)), *_schema_cards(table, flags)]
    cards += [Card("ALIAS", f"{alias}:{target}") for alias, target in sorted(table.aliases.items())]
    cards += table.metadata
    if archive_hdu is not None:
        cards.append(
            Card("AR_HDU", archive_hdu, "HDU (1-indexed) containing the archive index for this table")
        )
    cards.append(Card("AFW_TABLE_VERSION", 3))
    if table.afw_type:
        kind = table.afw_type.capitalize()
        article = "an" if kind == "Exposure" else "a"
        cards.append(
            Card("AFW_TYPE", table.afw_type, f"Tells lsst::afw to load this as {article} {kind} table.")
        )
    cards += _exposure_version(table)
    return header_bytes(cards) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


def _exposure_version(table: AfwTable) -> list[Card]:
    return [Card("EXPTABLE_VER", 5, "Exposure table version")] if table.afw_type == "EXPOSURE" else []


def _size_cards(width: int, rows: int, heap: int, columns: int) -> list[Card]:
    return [
        Card("XTENSION", "BINTABLE", "binary table extension"),
        Card("BITPIX", 8, "8-bit bytes"),
        Card("NAXIS", 2, "2-dimensional binary table"),
        Card("NAXIS1", width, "width of table in bytes"),
        Card("NAXIS2", rows, "number of rows in table"),
        Card("PCOUNT", heap, "size of special data area"),
        Card("GCOUNT", 1, "one data group (required keyword)"),
        Card("TFIELDS", columns, "number of fields in each row"),
    ]


def _schema_cards(table: AfwTable, flags: Sequence[Field]) -> list[Card]:
    cards: list[Card] = []
    column = bit = 0
    if flags:
        column = 1
        cards += [
            Card("TTYPE1", "flags", "bits for all Flag fields; see also TFLAGn"),
            Card("TFORM1", f"{len(flags)}X", "format of field"),
            Card("FLAGCOL", 1, "Column number for the bitflags."),
        ]
    for f in table.fields:
        if f.template == "Flag":
            bit += 1
            cards.append(Card(f"TFLAG{bit}", f.name))
            cards += [Card(f"TFDOC{bit}", f.doc)] if f.doc else []
            continue
        column += 1
        cards += [
            Card(f"TTYPE{column}", f.name, _NAME_COMMENT),
            Card(f"TFORM{column}", _form(f, table.columns[f.name]), "format of field"),
        ]
        cards += [Card(f"TZERO{column}", 32768)] if f.code == "I" else []
        cards += [Card(f"TDOC{column}", f.doc)] if f.doc else []
        cards += [Card(f"TUNIT{column}", f.unit)] if f.unit else []
        cards.append(Card(f"TCCLS{column}", f.template, _TEMPLATE_COMMENT))
    return cards


def _form(f: Field, values: Column) -> str:
    if f.length == 0:
        longest = max((max(1, len(cell)) if f.code == "A" else len(cell) for cell in values), default=0)
        return f"1Q{f.code}({longest})"
    return f"{f.length}{f.code}"


def _pack_flags(table: AfwTable, flags: Sequence[Field]) -> npt.NDArray[np.uint8]:
    bits = np.stack([table.columns[f.name] for f in flags], axis=1).astype(np.uint8)
    return np.packbits(bits, axis=1)


def _encode_column(f: Field, values: Column) -> npt.NDArray[np.uint8]:
    """Return the bytes of one column of fixed length, shape (rows, bytes)."""
    rows = len(values)
    if f.code == "A" and rows == 0:
        return np.zeros((0, f.length), np.uint8)
    if f.code == "A":
        encoded = np.char.encode(np.asarray(values, dtype=str), "utf-8")
        if encoded.dtype.itemsize > f.length:
            raise ValueError(f"column {f.name!r} has a text longer than its {f.length} bytes")
        stored: Column = np.char.ljust(encoded, f.length).astype(f"S{f.length}")
        return np.frombuffer(stored.tobytes(), np.uint8).reshape(rows, f.length)
    if f.code == "I":
        values = (values.astype(np.int32) - 32768).astype(np.int16)
    stored = np.ascontiguousarray(values, dtype=_DTYPES[f.code]).reshape(rows, f.length)
    return stored.view(np.uint8).reshape(rows, f.length * stored.dtype.itemsize)


def _pack_heap(fields: Sequence[Field], table: AfwTable) -> tuple[dict[str, npt.NDArray[np.uint8]], bytes]:
    """Return the descriptor bytes of the variable-length columns and the heap, row after row."""
    descriptors = {f.name: np.zeros((len(table), 2), dtype=">i8") for f in fields}
    cells: list[bytes] = []
    position = 0
    for row in range(len(table) if fields else 0):
        for f in fields:
            content, number = _encode_cell(f, table.columns[f.name][row])
            descriptors[f.name][row] = number, position
            cells.append(content)
            position += len(content)
    packed = {name: raw.view(np.uint8).reshape(len(table), 16) for name, raw in descriptors.items()}
    return packed, b"".join(cells)


def _encode_cell(f: Field, cell: Any) -> tuple[bytes, int]:
    """Return the bytes of one variable-length cell and its number of elements."""
    if f.code == "A":
        # An empty string is one NUL byte: the stack cannot read a cell of length 0 (F-19).
        content = cell.encode("utf-8") or b"\0"
        return content, len(content)
    return np.ascontiguousarray(cell, dtype=_DTYPES[f.code]).tobytes(), len(cell)
