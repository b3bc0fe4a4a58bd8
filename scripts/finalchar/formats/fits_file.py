"""Plain FITS: header cards and table bytes, in the order in which they stand in the file.

The tables of the LSST stack depend on repeated cards and on the position of cards (file-format
specification 2.3, 9.1), which general FITS libraries do not keep; this module does, for reading and writing,
and costs nothing to import.
"""

from __future__ import annotations

import gzip
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from finalchar.errors import InputError

__all__ = ["BLOCK", "Card", "FitsFile", "Hdu", "Header", "header_bytes", "primary_hdu", "write_atomically"]

BLOCK = 2880
_CARD = 80
_END = b"END" + b" " * 77
CardValue = bool | int | float | str | None


@dataclass(frozen=True)
class Card:
    """One header card; `value` is None for an undefined value, commentary text stands in `comment`."""

    keyword: str
    value: CardValue = None
    comment: str = ""


@dataclass(frozen=True)
class Header:
    """The cards of one HDU in file order; repeated keywords are kept."""

    cards: tuple[Card, ...]

    @cached_property
    def _first(self) -> dict[str, CardValue]:
        return {card.keyword: card.value for card in reversed(self.cards)}

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._first

    def __iter__(self) -> Iterator[Card]:
        return iter(self.cards)

    def get(self, keyword: str, default: CardValue = None) -> CardValue:
        """Return the value of the first card of this name."""
        return self._first.get(keyword, default)

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return the value of a card that must be an integer."""
        value = self._first.get(keyword, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"header card {keyword} is {value!r}, an integer is needed")
        return value

    def number(self, keyword: str, default: float = math.nan) -> float:
        """Return a card as a float; text such as ``NAN`` or ``+INFINITY`` is understood."""
        value = self._first.get(keyword)
        if isinstance(value, str):
            try:
                return float(value.replace("INFINITY", "inf"))
            except ValueError:
                raise InputError(f"header card {keyword} is {value!r}, a number is needed") from None
        return default if value is None else float(value)

    def text(self, keyword: str, default: str = "") -> str:
        """Return a card as text, without trailing blanks."""
        value = self._first.get(keyword)
        return default if value is None else str(value).rstrip()

    def all(self, keyword: str) -> list[CardValue]:
        """Return the values of all cards of this name."""
        return [card.value for card in self.cards if card.keyword == keyword]


@dataclass(frozen=True)
class Hdu:
    """Where one HDU lies in its file."""

    file: FitsFile
    number: int
    header_start: int
    data_start: int
    data_size: int

    @cached_property
    def header(self) -> Header:
        """All cards, parsed at first use."""
        return Header(tuple(_parse_cards(self.file.buffer[self.header_start : self.data_start])))

    @property
    def end(self) -> int:
        """Offset of the byte behind the padded data."""
        return self.data_start + -(-self.data_size // BLOCK) * BLOCK


class FitsFile:
    """A FITS file opened for reading; HDUs are found one after the other when asked for.

    Parameters
    ----------
    path : path-like
        The file; names ending in ``.gz`` are decompressed in memory.

    Raises
    ------
    InputError
        If the file is missing, empty, not FITS, or ends in the middle of an HDU that is asked for.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.buffer = _open_buffer(self.path)
        if bytes(self.buffer[:9]) != b"SIMPLE  =":
            raise InputError(f"{self.path} is not a FITS file")
        self._hdus: list[Hdu] = []

    def hdu(self, number: int) -> Hdu:
        """Return HDU `number` (0 is the primary one).

        Raises
        ------
        InputError
            If there is no such HDU, or the file is truncated within or before it.
        """
        while len(self._hdus) <= number:
            if not self._scan_next():
                raise InputError(f"{self.path} has {len(self._hdus)} HDUs, HDU {number} is missing")
        return self._hdus[number]

    def find(self, name: str) -> Hdu | None:
        """Return the first HDU of this EXTNAME, None if there is none."""
        for number in range(len(self)):
            if self.hdu(number).header.text("EXTNAME") == name:
                return self.hdu(number)
        return None

    def __len__(self) -> int:
        while self._scan_next():
            pass
        return len(self._hdus)

    def _scan_next(self) -> bool:
        start = self._hdus[-1].end if self._hdus else 0
        if bytes(self.buffer[start : start + _CARD]).strip(b"\0 ") == b"":
            return False
        data_start = self._end_of_header(start)
        size = _data_size(self.buffer[start:data_start], self.path)
        if data_start + size > len(self.buffer):
            raise InputError(
                f"{self.path} is truncated: HDU {len(self._hdus)} needs {data_start + size} bytes, "
                f"the file has {len(self.buffer)}"
            )
        self._hdus.append(Hdu(self, len(self._hdus), start, data_start, size))
        return True

    def _end_of_header(self, start: int) -> int:
        end = self.buffer.find(_END, start)
        while end >= 0 and (end - start) % _CARD:
            end = self.buffer.find(_END, end + 1)
        if end < 0:
            raise InputError(
                f"{self.path} is truncated or broken: the header of HDU {len(self._hdus)} has no END"
            )
        return start + -(-(end + _CARD - start) // BLOCK) * BLOCK


def _open_buffer(path: Path) -> bytes | mmap.mmap:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise InputError(f"{path} is empty")
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _data_size(header: bytes, path: Path) -> int:
    """Bytes of data from the mandatory cards, which stand first and in fixed order."""
    sizes: dict[str, int] = {}
    for start in range(0, len(header), _CARD):
        keyword = header[start : start + 8].decode("ascii", "replace").strip()
        if keyword in ("BITPIX", "PCOUNT", "GCOUNT") or keyword.startswith("NAXIS"):
            try:
                sizes.setdefault(keyword, int(header[start + 10 : start + 80].split(b"/")[0]))
            except ValueError:
                raise InputError(f"{path} is broken: header card {keyword} is not an integer") from None
        elif sizes and keyword not in ("XTENSION", "SIMPLE"):
            break
    if "BITPIX" not in sizes or "NAXIS" not in sizes:
        raise InputError(f"{path} is broken: an HDU lacks BITPIX or NAXIS")
    axes = [sizes.get(f"NAXIS{axis}", 0) for axis in range(1, sizes["NAXIS"] + 1)]
    elements = math.prod(axes) if axes else 0
    return abs(sizes["BITPIX"]) // 8 * sizes.get("GCOUNT", 1) * (sizes.get("PCOUNT", 0) + elements)


def _parse_cards(block: bytes) -> Iterator[Card]:
    text = block.decode("latin-1")
    pending: Card | None = None
    for start in range(0, len(text), _CARD):
        image = text[start : start + _CARD]
        if image.startswith("CONTINUE") and pending is not None and str(pending.value).endswith("&"):
            more, comment = _parse_value(image[8:].strip())
            pending = Card(
                pending.keyword, str(pending.value)[:-1] + str(more or ""), pending.comment + comment
            )
            continue
        if pending is not None:
            yield pending
            pending = None
        if image.startswith("END     "):
            return
        card = _parse_card(image)
        if isinstance(card.value, str) and card.value.endswith("&"):
            pending = card
        else:
            yield card


def _parse_card(image: str) -> Card:
    if image[8:10] == "= " and not image.startswith("HIERARCH"):
        return Card(image[:8].rstrip(), *_parse_value(image[10:].strip()))
    if image.startswith("HIERARCH ") and "=" in image:
        keyword, _, rest = image[9:].partition("=")
        return Card(keyword.strip(), *_parse_value(rest.strip()))
    return Card(image[:8].rstrip(), None, image[8:].rstrip())


def _parse_value(text: str) -> tuple[CardValue, str]:
    if text.startswith("'"):
        end = text.find("'", 1)
        while end >= 0 and text[end : end + 2] == "''":
            end = text.find("'", end + 2)
        if end < 0:
            raise InputError(f"a header card has a string without end: {text!r}")
        return text[1:end].replace("''", "'").rstrip(), _comment(text[end + 1 :])
    value, _, comment = text.partition("/")
    return _parse_scalar(value.strip()), comment.strip()


def _comment(rest: str) -> str:
    return rest.partition("/")[2].strip()


def _parse_scalar(text: str) -> CardValue:
    if text in ("T", "F"):
        return text == "T"
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E").replace("d", "e"))
    except ValueError:
        return text


def header_bytes(cards: Iterable[Card]) -> bytes:
    """Return the padded header block of `cards`, in the given order, END included."""
    text = "".join(_format_card(card) for card in cards) + "END".ljust(_CARD)
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("ascii")


def _format_card(card: Card) -> str:
    if card.keyword in ("COMMENT", "HISTORY", ""):
        return f"{card.keyword:<8}{card.comment}"[:_CARD].ljust(_CARD)
    short = len(card.keyword) <= 8 and card.keyword.replace("-", "").replace("_", "").isalnum()
    head = f"{card.keyword:<8}= " if short and card.keyword.isupper() else f"HIERARCH {card.keyword} = "
    if isinstance(card.value, str):
        return _format_string(head, card.value, card.comment)
    image = head + _format_scalar(card.value).rjust(30 - len(head))
    if len(image) > _CARD:
        raise ValueError(f"header card {card.keyword} does not fit into 80 characters")
    return _with_comment(image, card.comment)


def _format_scalar(value: bool | int | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "'NAN'"
    if math.isinf(value):
        return "'+INFINITY'" if value > 0 else "'-INFINITY'"
    mantissa, letter, exponent = repr(float(value)).upper().partition("E")
    mantissa = mantissa[:-1] if mantissa.endswith(".0") else mantissa
    return (mantissa if "." in mantissa else f"{mantissa}.") + letter + exponent


def _format_string(head: str, value: str, comment: str) -> str:
    quoted = value.replace("'", "''")
    room = _CARD - len(head) - 2
    if len(quoted) <= room:
        return _with_comment(f"{head}'{quoted:<8}'", comment)
    images = []
    while len(quoted) > room:
        cut = room - 1
        while quoted[:cut].count("'") % 2:
            cut -= 1
        images.append(f"{head}'{quoted[:cut]}&'".ljust(_CARD))
        quoted, head, room = quoted[cut:], "CONTINUE  ", _CARD - 12
    images.append(f"{head}'{quoted}'".ljust(_CARD))
    return "".join(images)


def _with_comment(image: str, comment: str) -> str:
    return (f"{image:<30} / {comment}" if comment else image)[:_CARD].ljust(_CARD)


def primary_hdu(cards: Sequence[Card] = ()) -> bytes:
    """Return the bytes of a primary HDU without data."""
    fixed = (
        Card("SIMPLE", True, "file does conform to FITS standard"),
        Card("BITPIX", 16, "number of bits per data pixel"),
        Card("NAXIS", 0, "number of data axes"),
        Card("EXTEND", True, "FITS dataset may contain extensions"),
    )
    return header_bytes((*fixed, *cards))


def write_atomically(path: str | os.PathLike[str], parts: Iterable[bytes]) -> None:
    """Write `parts` to a temporary neighbour of `path` and rename it; the folder is made if needed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
