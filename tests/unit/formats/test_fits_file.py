"""Header cards and the hunt for HDUs."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finalchar.errors import InputError
from finalchar.formats.fits_file import Card, FitsFile, header_bytes, primary_hdu, write_atomically

printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200).map(
    lambda t: "x" + t.rstrip()
)


def written(tmp_path: Path, *cards: Card) -> FitsFile:
    path = tmp_path / "cards.fits"
    write_atomically(path, (primary_hdu(cards),))
    return FitsFile(path)


VALUES = [
    True,
    False,
    0,
    -7,
    2**62,
    0.0,
    1e20,
    -1.5e-300,
    0.1,
    "",
    "it's",
    "a" * 67 + "'" * 5,
    "ends with &",
    "b'" * 100,
    None,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("keyword", ["SHORT", "MORE_THAN_EIGHT", "BORE-AIRMASS"])
def test_cards_come_back(tmp_path: Path, keyword: str, value: object) -> None:
    card = written(tmp_path, Card(keyword, value)).hdu(0).header.cards[4]
    assert (card.keyword, card.value) == (keyword, value)
    assert type(card.value) is type(value)


@given(text=printable)
def test_any_text_comes_back(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    header = written(tmp_path_factory.mktemp("t"), Card("HISTTEXT", f"x{text}")).hdu(0).header
    assert header.text("HISTTEXT") == f"x{text}".rstrip()


def test_astropy_reads_the_same_cards(tmp_path: Path) -> None:
    from astropy.io import fits

    cards = [Card(f"K{k}", value, "why") for k, value in enumerate(VALUES) if value is not None]
    cards += [Card("LONG_KEYWORD", 3, "with comment"), Card("COMMENT", None, "free text")]
    header = fits.getheader(written(tmp_path, *cards).path)
    assert [header[f"K{k}"] for k in range(14)] == VALUES[:14]
    assert header["LONG_KEYWORD"] == 3
    assert list(header["COMMENT"]) == ["free text"]


def test_not_finite_numbers_are_text(tmp_path: Path) -> None:
    header = written(tmp_path, Card("A", math.nan), Card("B", -math.inf), Card("C", "abc")).hdu(0).header
    assert math.isnan(header.number("A"))
    assert header.number("B") == -math.inf
    with pytest.raises(InputError, match="card C is 'abc', a number is needed"):
        header.number("C")
    with pytest.raises(InputError, match="card A is 'NAN', an integer is needed"):
        header.integer("A")


def test_repeated_cards_are_kept(tmp_path: Path) -> None:
    header = written(tmp_path, Card("ALIAS", "a:b"), Card("ALIAS", "c:d")).hdu(0).header
    assert header.all("ALIAS") == ["a:b", "c:d"]
    assert header.get("ALIAS") == "a:b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + b"\0" * 100, "is not a FITS file"),
        (primary_hdu()[:200], "has no END"),
        (primary_hdu()[:1000], "truncated: HDU 0 needs 2880 bytes"),
        (b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800), "lacks BITPIX or NAXIS"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.fits"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"broken.fits.*{message}"):
        FitsFile(path).hdu(0)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.fits does not exist"):
        FitsFile(tmp_path / "none.fits")
    with pytest.raises(InputError, match="cannot be read"):
        FitsFile(tmp_path)


def test_truncation_is_found_at_the_hdu_that_suffers(tmp_path: Path) -> None:
    table = header_bytes(
        [
            Card("XTENSION", "BINTABLE"),
            Card("BITPIX", 8),
            Card("NAXIS", 2),
            Card("NAXIS1", 100),
            Card("NAXIS2", 100),
            Card("PCOUNT", 0),
            Card("GCOUNT", 1),
        ]
    )
    path = tmp_path / "short.fits"
    path.write_bytes(primary_hdu() + table + bytes(5000))
    file = FitsFile(path)
    assert file.hdu(0).data_size == 0
    with pytest.raises(InputError, match="truncated: HDU 1 needs 15760 bytes, the file has 10760"):
        file.hdu(1)
    path.write_bytes(primary_hdu())
    with pytest.raises(InputError, match="has 1 HDUs, HDU 1 is missing"):
        FitsFile(path).hdu(1)


def test_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "a.fits.gz"
    path.write_bytes(gzip.compress(primary_hdu([Card("A", 1)])))
    assert FitsFile(path).hdu(0).header.integer("A") == 1
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read"):
        FitsFile(path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "product.fits"
    path.write_bytes(b"before")

    def parts():
        yield b"half"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomically(path, parts())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
