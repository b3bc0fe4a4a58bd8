"""Tracts given as regions, and the source tables of visits that go with them."""

import pytest

from finalchar.config import Config
from finalchar.errors import SheetError
from finalchar.frozen import Configured
from finalchar.sheets import read_tracts
from finalchar.tract_regions import source_tables

REGION = "tract,ra_min,ra_max,dec_min,dec_max"
BOTH = "tract,isolated_star_cat,isolated_star_sources,ra_min,ra_max,dec_min,dec_max,outer_polygon"


@pytest.fixture(name="tracts")
def _tracts(tmp_path):
    def read(text):
        (tmp_path / "tracts.csv").write_text(text)
        return read_tracts(tmp_path / "tracts.csv")

    return read


def test_region_instead_of_tables(tracts):
    (row,) = tracts(f"{REGION}\n7,359.5,0.5,-30,-28.25\n")
    assert (row.isolated_star_cat, row.isolated_star_sources) == ("", "")
    assert row.region == {"ra_min": 359.5, "ra_max": 0.5, "dec_min": -30.0, "dec_max": -28.25, "outer": []}
    assert row.extra == {}


def test_both_kinds_of_tracts_in_one_sheet(tracts):
    polygon = '"10 20; 12 20; 12 22; 10 22"'
    tables, region = tracts(f"{BOTH}\n1,a,b,,,,,\n2,,,10.5,11.5,20.5,21.5,{polygon}\n")
    assert (tables.isolated_star_cat, tables.region) == ("a", None)
    assert region.region["outer"] == [[10.0, 20.0], [12.0, 20.0], [12.0, 22.0], [10.0, 22.0]]


def test_standard_stars_of_a_region(tracts):
    (row,) = tracts(f"{REGION},fgcm_standard_star\n7,0,1,0,1,f.parquet\n")
    assert row.fgcm_standard_star == "f.parquet"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tract,ra_min,ra_max,dec_min\n7,0,1,0", "line 1: the column 'dec_max' is missing"),
        ("tract\n7", "line 1: the column 'isolated_star_cat' is missing"),
        (f"{REGION}\n7,0,1,0,", "line 2: the column 'dec_max' is empty"),
        (f"{REGION}\n7,0,1,0,north", "line 2: the dec_max 'north' is not a number of degrees"),
        (f"{REGION}\n7,0,1,0,nan", "line 2: the dec_max 'nan' is not a number of degrees"),
        (f"{REGION}\n7,0,1,5,4", "dec_min must be less than dec_max"),
        (f"{REGION}\n7,0,1,5,91", "both within -90 ... 90"),
        (f"{REGION}\n7,1,361,5,6", "ra_min and ra_max are the same"),
        (f"{REGION},outer_polygon\n7,0,1,5,6,1 2; 3 4", "must have three corners or more"),
        (f"{REGION},outer_polygon\n7,0,1,5,6,1 2; 3 4; 5", "each RA and Dec with a blank between"),
        (f"{BOTH}\n1,a,,0,1,0,1,", "the column 'isolated_star_sources' is empty"),
    ],
)
def test_what_is_no_region_is_refused(tracts, text, sentence):
    with pytest.raises(SheetError, match=sentence):
        tracts(text + "\n")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10,12,0,5", "11,13,0,5"),
        ("359,1,0,5", "0.5,2,4,6"),
        ("0,360,0,5", "7,8,4.9,6"),
        ("10,12,0,5", "10,12,-1,6"),
        ("12,10,0,5", "350,355,1,2"),
    ],
)
def test_a_star_has_one_tract(tracts, first, second):
    with pytest.raises(SheetError, match=r"lines 2 and 4: the regions of the tracts [79] and [79] overlap"):
        tracts(f"{REGION}\n7,{first}\n8,200,201,40,41\n9,{second}\n")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10,12,0,5", "12,14,0,5"),
        ("10,12,0,5", "10,12,5,6"),
        ("359,1,0,5", "1,359,0,5"),
        ("350,360,0,5", "0,10,0,5"),
        ("10,12.0000000001,0,5", "12,14,0,5"),
        ("0,360,89,90", "0,360,88,89"),
    ],
)
def test_neighbours_do_not_overlap(tracts, first, second):
    assert len(tracts(f"{REGION}\n7,{first}\n9,{second}\n")) == 2


def test_source_tables_of_the_visits():
    visits = {
        1: [{"source_table": "a"}, {"source_table": "a"}],
        2: [{"source_table": "b", "tracts": "7 8"}],
        3: [{"source_table": "c", "tracts": "8"}],
        4: [{"tracts": "8"}],
    }
    assert source_tables("sheet", visits, 7) == {"1": "a", "2": "b"}
    with pytest.raises(
        SheetError, match="visit 4 has no source table, of which the isolated stars of tract 8"
    ):
        source_tables("sheet", visits, 8)
    with pytest.raises(SheetError, match="visit 1 has the source_table 'a' in one row and 'b' in another"):
        source_tables("sheet", {1: [{"source_table": "b"}, {"source_table": "a"}]}, 7)


def test_survey_knows_the_source_tables_of_regions_only(tmp_path):
    (tmp_path / "detectors.csv").write_text(
        "visit,detector,band,exposure,src,source_table\n5,0,i,e,s,table_5\n5,1,i,e1,s1,table_5\n"
    )
    (tmp_path / "tracts.csv").write_text(f"{BOTH}\n1,a,b,,,,,\n2,,,10.5,11.5,20.5,21.5,\n")
    survey = Configured(tmp_path / "config.yaml", Config(survey=str(tmp_path))).survey()
    assert "source_tables" not in survey.tracts[1]
    assert survey.tracts[2]["source_tables"] == {"5": "table_5"}
