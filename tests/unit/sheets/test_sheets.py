"""K01, K02: a sheet is read as the user sees it, or refused with its line; identifiers are exact."""

import csv
import io
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finalchar.errors import SheetError
from finalchar.sheets import check_tracts, read_detectors, read_tracts

HEADER = "visit,detector,band,exposure,src"
ROW = "2026031100077,0,r,e0.fits,s0.fits"


@pytest.fixture
def sheet(tmp_path):
    """Read a sheet from its bytes."""

    def read(content, reader=read_detectors):
        path = tmp_path / "detectors.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return reader(path)

    return read


def without_lines(rows):
    return [row._replace(line=0) for row in rows]


# --- K01: dialects


def test_plain_sheet(sheet):
    (row,) = sheet(f"{HEADER}\n{ROW}\n")
    assert (row.visit, row.detector, row.band) == (2026031100077, 0, "r")
    assert (row.exposure, row.src) == ("e0.fits", "s0.fits")
    assert row.extra == {}
    assert row.line == 2


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\n{ROW},\n",  # a separator at the end of the rows
        f"{HEADER},\n{ROW},\n",  # and of the header
        f"{HEADER}\n{ROW},,,\n",
        "\ufeff" + f"{HEADER}\n{ROW}\n",
        f"{HEADER}\r\n{ROW}\r\n",
        f"{HEADER}\r{ROW}\r",
        f"{HEADER}\n{ROW}",
        f"{HEADER}\n\n{ROW}\n\n  \n,,,,\n",
        '"visit","detector","band","exposure","src"\n' + ROW,
        f'{HEADER}\n"2026031100077","0","r","e0.fits","s0.fits"\n',
        " visit , detector,band,exposure,src\n" + ROW,
        "src,exposure,band,detector,visit\ns0.fits,e0.fits,r,0,2026031100077\n",
    ],
)
def test_dialects_give_the_same_rows(sheet, content):
    assert without_lines(sheet(content)) == without_lines(sheet(f"{HEADER}\n{ROW}\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"the sheet is empty; its first line names the columns visit, detector"),
        ("\n\n", "the sheet is empty"),
        (f"{HEADER}\n{ROW},x\n", "line 2: 6 fields where the header has 5"),
        (f"{HEADER}\n\n{ROW},,x\n", "line 3: 7 fields where the header has 5"),
        (f"{HEADER}\n1,2,r\n", "line 2: 3 fields where the header has 5; the column 'exposure' is missing"),
        (f"{HEADER.replace(',', chr(9))}\n", "line 1: the separator is a tab; use a comma"),
        (f"{HEADER.replace(',', ';')}\n", "line 1: the separator is ';'; use a comma"),
        (f"{HEADER},band\n{ROW},r\n", "line 1: the column 'band' stands twice"),
        (f"visit,,{HEADER[6:]}\n", "line 1: column 2 has no name"),
        ("visit,detector,band,exposure\n", "line 1: the column 'src' is missing; there are: visit, detector"),
        (f"{HEADER}\n1,2,,e,s\n", "line 2: the column 'band' is empty"),
        (f"{HEADER}\n1,2,r, e.fits,s\n", "line 2: the exposure ' e.fits' begins or ends with a blank"),
        (f"{HEADER}\n1,2,r/a,e,s\n", "line 2: the band 'r/a' may have letters, digits"),
        (f'{HEADER}\n1,2,r,"e.fits"x,s\n', "line 2: not a comma-separated row"),
        (f'{HEADER}\n1,2,r,"e.fits,s\n', "line 2: not a comma-separated row"),
        (f"{HEADER}\n1,2,r,\xe4,s\n".encode("latin-1"), "the sheet is not UTF-8 text"),
        (f"{HEADER}\n1,2,r,e\0,s\n", "zero byte"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "not UTF-8 text|zero byte"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(sheet, content, message):
    with pytest.raises(SheetError, match=message) as caught:
        sheet(content)
    assert "detectors.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_value_with_comma_and_line_break_in_quotes(sheet):
    first, second = sheet(f'{HEADER}\n1,2,r,"a,b\nc.fits","s""1.fits"\n1,3,r,e,s\n')
    assert (first.exposure, first.src, first.line) == ("a,b\nc.fits", 's"1.fits', 2)
    assert second.line == 4


def test_other_columns_are_kept_as_text(sheet):
    (row,) = sheet(f"{HEADER},weight,seeing\n{ROW},w.fits,010\n")
    assert row.extra == {"weight": "w.fits", "seeing": "010"}


PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda t: t == t.strip())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    paths=st.lists(st.tuples(PATHS, PATHS), min_size=1, max_size=5),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    trailing=st.integers(0, 2),
)
def test_no_dialect_moves_a_value(tmp_path, paths, quoting, end, bom, trailing):
    """The kind of K01: whatever the dialect, every value is found in its own row and column."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator=end)
    writer.writerow(HEADER.split(","))
    for number, (exposure, src) in enumerate(paths):
        writer.writerow([7, number, "r", exposure, src, *[""] * trailing])
    path = tmp_path / "sheet.csv"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode())
    rows = read_detectors(path)
    assert [(row.detector, row.exposure, row.src) for row in rows] == [
        (i, *pair) for i, pair in enumerate(paths)
    ]


# --- K02: identifiers


def test_leading_zeros_are_one_spelling_of_the_same_number(sheet):
    (row,) = sheet(f"{HEADER}\n00362921,08,r,D00362921_r_c08.fits,s.fits\n")
    assert (row.visit, row.detector) == (362921, 8)
    assert row.exposure == "D00362921_r_c08.fits"
    with pytest.raises(SheetError, match="lines 2 and 4 are both visit 362921, detector 8; remove one"):
        sheet(f"{HEADER}\n00362921,08,r,a,s\n362921,9,r,b,s\n362921,8,r,c,s\n")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.integers(0, 2**63 - 1), zeros=st.integers(0, 5))
def test_every_identifier_is_exact(tmp_path, number, zeros):
    path = tmp_path / "sheet.csv"
    path.write_text(f"{HEADER}\n{'0' * zeros}{number},{number},r,e,s\n")
    assert read_detectors(path)[0][:2] == (number, number)


@pytest.mark.parametrize(
    "text", ["1.0", "1e3", "-1", "+1", "0x10", "1_000", "٣", "", "nan", "r12", str(2**63), "9" * 60]
)
@pytest.mark.parametrize("column", [0, 1])
def test_what_is_no_identifier_is_refused(sheet, text, column):
    values = ["1", "2", "r", "e", "s"]
    values[column] = text
    with pytest.raises(
        SheetError, match=f"line 2: the {HEADER.split(',')[column]} '.*' is not an identifier"
    ):
        sheet(f"{HEADER}\n{','.join(values)}\n")


def test_visit_with_two_bands_is_refused(sheet):
    with pytest.raises(SheetError, match="line 3: visit 1 has band 'i' here and 'r' in line 2"):
        sheet(f"{HEADER}\n1,2,r,e,s\n1,3,i,e,s\n")


# --- tracts


def test_tracts(sheet):
    text = "tract,isolated_star_cat,isolated_star_sources,fgcm_standard_star,note\n00042,a,b,,x\n43,c,d,f,\n"
    first, second = sheet(text, read_tracts)
    assert first[:4] == (42, "a", "b", None)
    assert second[:4] == (43, "c", "d", "f")
    assert first.extra == {"note": "x"}
    assert (
        sheet("tract,isolated_star_cat,isolated_star_sources\n1,a,b\n", read_tracts)[0].fgcm_standard_star
        is None
    )


def test_tract_twice_is_refused(sheet):
    with pytest.raises(SheetError, match="lines 2 and 3 are both tract 42"):
        sheet("tract,isolated_star_cat,isolated_star_sources\n42,a,b\n042,c,d\n", read_tracts)


@pytest.mark.parametrize(
    ("header", "reader"),
    [(HEADER, read_detectors), ("tract,isolated_star_cat,isolated_star_sources", read_tracts)],
)
@pytest.mark.parametrize("below", ["", "\n", "\n\n , ,\n"])
def test_sheet_without_rows_is_refused(sheet, header, reader, below):
    with pytest.raises(SheetError, match="no rows below its header"):
        sheet(header + below, reader)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("99", r"line 3: the tract 99 .* is not in the sheet of tracts"),
        ("4906 99", r"line 3: the tract 99"),
        ("a b", r"line 3: the tract 'a' is not an identifier"),
        ("'4906", r"line 3: the tract ''4906' is not an identifier"),
        ('"4906,4907"', r"line 3: the tract '4906,4907' is not an identifier"),
        ("4906.0", r"line 3: the tract '4906.0' is not an identifier"),
    ],
)
def test_column_of_tracts_that_is_wrong(sheet, text, message):
    tracts = sheet("tract,isolated_star_cat,isolated_star_sources\n4906,a,b\n4907,a,b\n", read_tracts)
    detectors = sheet(f"{HEADER},tracts\n1,1,r,a,b,4906\n1,2,r,a,b,{text}\n")
    with pytest.raises(SheetError, match=message):
        check_tracts("detectors.csv", detectors, tracts)


@pytest.mark.parametrize("text", ["", "4906", "04906 4907", "4906;4907"])
def test_column_of_tracts(sheet, text):
    tracts = sheet("tract,isolated_star_cat,isolated_star_sources\n4906,a,b\n4907,a,b\n", read_tracts)
    check_tracts("detectors.csv", sheet(f"{HEADER},tracts\n1,1,r,a,b,{text}\n"), tracts)
    check_tracts("detectors.csv", sheet(f"{HEADER}\n1,1,r,a,b\n"), tracts)


def test_missing_sheet_is_one_sentence(tmp_path):
    with pytest.raises(SheetError, match=r"none\.csv: the sheet does not exist"):
        read_tracts(tmp_path / "none.csv")


def test_a_large_sheet_is_fast(tmp_path):
    path = tmp_path / "large.csv"
    with path.open("w") as stream:
        stream.write(HEADER + "\n")
        for number in range(50_000):
            stream.write(
                f"{2026031100000 + number // 189},{number % 189},r,calexp/{number}.fits,src/{number}.fits\n"
            )
    start = time.process_time()
    assert len(read_detectors(path)) == 50_000
    # 0.13 s on an idle core; the plain csv module takes half of it, a shared machine several times that
    assert time.process_time() - start < 1.0
