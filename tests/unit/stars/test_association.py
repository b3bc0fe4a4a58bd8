"""Association of isolated stars: bands, isolation, ownership, tables; every way an input can be unusual."""

from pathlib import Path

import numpy as np
import pytest
from made_source_tables import (
    ARCSEC,
    AROUND_ZERO,
    associated,
    offset,
    scattered,
    settings,
    source_table,
    write,
)

from finalchar.errors import ConfigError, InputError, MissingColumnError
from finalchar.formats.parquet import read_columns, write_table
from finalchar.formats.sources import SourceTable
from finalchar.stars.association import associate_isolated_stars
from finalchar.stars.association_tables import id_factor
from finalchar.stars.greedy_groups import greedy_groups
from finalchar.stars.sphere import chord_of, unit_vectors
from finalchar.stars.tract_geometry import TractGeometry

BOTH = pytest.mark.parametrize("compatibility", ["fixed", "lsst"])


def sources_of(made, star, band=None):
    """Rows of the sources of a star through its slice."""
    ending = f"_{band}" if band else ""
    start, number = (int(made.stars[f"{name}{ending}"][star]) for name in ("source_cat_index", "nsource"))
    return slice(start, start + number)


# --------------------------------------------------------------------------------------------- the tables


@BOTH
def test_stars_of_three_visits_and_their_sources(tmp_path, compatibility):
    ra, dec = np.array([0.1, 0.2, 359.9]), np.array([0.1, -0.2, 0.3])
    made = associated(
        tmp_path,
        source_table(ra, dec, visit=1, band="r"),
        source_table(ra[:2], dec[:2] + 0.2 * ARCSEC, visit=2, band="i"),
        source_table(ra[:1], dec[:1] + 0.4 * ARCSEC, visit=3, band="i"),
        compatibility=compatibility,
    )
    assert sorted(made.stars["nsource"]) == [1, 2, 3]
    three = int(np.argmax(made.stars["nsource"]))
    assert made.stars["primary_band"][three] == "i"
    assert made.stars["dec"][three] == pytest.approx(dec[0] + 0.3 * ARCSEC, abs=1e-12)  # mean of both i
    rows = sources_of(made, three)
    assert made.sources["band"][rows].tolist() == ["i", "i", "r"]
    assert made.sources["visit"][rows].tolist() == [2, 3, 1]
    assert made.sources["band"][sources_of(made, three, "r")].tolist() == ["r"]
    assert (made.sources["obj_index"][rows] == three).all()
    assert made.stars["isolated_star_id"].tolist() == [100007, 200007, 300007]
    assert (made.stars["nsource_z"] == 0).all()
    assert made.figures["sentence"].startswith(
        "tract 7: 3 isolated stars with 6 sources; found first: 2 in i, 1 in r"
    )


def test_types_and_order_of_the_columns(tmp_path):
    made = associated(tmp_path, source_table([0.1], [0.1]))
    assert {name: str(made.stars[name].dtype) for name in list(made.stars)[:6]} == {
        "isolated_star_id": "int64",
        "ra": "float64",
        "dec": "float64",
        "primary_band": "<U1",
        "source_cat_index": "int32",
        "nsource": "int32",
    }
    assert list(made.sources)[:9] == [
        *("sourceId", "visit", "detector", "ra", "dec", "physical_filter", "band"),
        *("normCompTophatFlux_instFlux", "normCompTophatFlux_instFluxErr"),
    ]
    assert list(made.sources)[-2:] == ["source_row", "obj_index"]
    assert made.sources["detector"].dtype == np.int16
    assert made.sources["source_row"].dtype == made.sources["obj_index"].dtype == np.int32


@pytest.mark.parametrize(("number", "factor"), [(1, 10), (9999, 10_000), (10_000, 100_000), (18938, 100_000)])
def test_factor_of_the_ids(number, factor):
    assert id_factor(number) == factor  # the examples of specification 1.6.8


def test_tract_beyond_their_number_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"number_of_tracts is 7, but there is a tract 7; set it"):
        associated(tmp_path, source_table([0.1], [0.1]), number_of_tracts=7)


def test_source_row_is_the_row_in_the_unselected_table(tmp_path):
    fluxes = np.array([10.0, 1000.0, 1000.0, 50_000.0])  # S/N 1, 100, 100, 5000; selected: 8 to 1000
    table = source_table([0.1, 0.2, 0.3, 0.4], np.zeros(4), columns={"normCompTophatFlux_instFlux": fluxes})
    assert sorted(associated(tmp_path, table).sources["source_row"]) == [1, 2]


# ------------------------------------------------------------------------------- what makes a star isolated


@BOTH
def test_both_members_of_a_close_pair_are_left_out(tmp_path, compatibility):
    ra, dec = [0.1, 0.1, 0.3, 0.3], [0.0, 1.9 * ARCSEC, 0.0, 2.1 * ARCSEC]
    made = associated(tmp_path, source_table(ra, dec), compatibility=compatibility)
    assert made.stars["ra"].tolist() == [0.3, 0.3]
    assert made.figures["not_isolated"] == 2


@BOTH
def test_pair_of_stars_of_different_bands_is_not_isolated(tmp_path, compatibility):
    made = associated(
        tmp_path,
        source_table([0.1], [0.0], visit=1, band="i"),
        source_table([0.1], [1.5 * ARCSEC], visit=2, band="r"),
        compatibility=compatibility,
    )
    assert made.figures["found"]["i"] == made.figures["found"]["r"] == 1
    assert len(made.stars) == len(made.sources) == 0


def test_chain_is_grouped_around_the_point_with_most_matches(tmp_path):
    """Greedy groups are neighbourhoods: the middle of three takes both; no chain is followed."""
    dec = np.arange(3) * 0.8 * ARCSEC
    made = associated(tmp_path, source_table(np.full(3, 0.1), dec, visit=1))
    assert made.figures["found"]["i"] == 1
    assert made.stars["dec"][0] == pytest.approx(dec.mean(), abs=1e-12)
    assert made.stars["nsource"][0] == 3  # all within 1 arcsec of the mean


def test_of_points_with_equally_many_matches_the_later_comes_first():
    """A chain of four, of which the two in the middle have three matches each."""
    dec = np.array([0.0, 0.4, 0.8, 1.2]) * ARCSEC
    groups = greedy_groups(unit_vectors(ra=np.zeros(4), dec=dec), chord_of(0.5))
    assert [part.tolist() for part in np.split(groups.member, groups.start[1:])] == [[1, 2, 3], [0, 1]]


def test_several_sources_of_a_star_in_a_visit_are_kept_and_counted(tmp_path):
    made = associated(
        tmp_path, source_table([0.1, 0.1], [0.0, 0.5 * ARCSEC]), source_table([0.1], [0.0], visit=2)
    )
    assert made.stars["nsource"].tolist() == [3]
    assert made.figures["several_in_a_visit"] == 1


def test_stars_of_other_tracts_are_left_out_but_are_neighbours(tmp_path):
    edge = 1.0
    ra = np.array([edge - 0.5 * ARCSEC, edge + ARCSEC, edge - 60 * ARCSEC, edge + 30 * ARCSEC])
    made = associated(tmp_path, source_table(ra, np.zeros(4)))
    assert made.stars["ra"].tolist() == [ra[2]]
    assert made.figures["of_other_tracts"] == 1


def test_every_star_has_one_tract(tmp_path):
    ra, dec = scattered(400, half=0.9)
    ra[:3], dec[3:6] = 0.0, 0.0  # on the common boundaries
    quarters = [
        TractGeometry(number, *limits)
        for number, limits in enumerate([(359, 0, -1, 0), (0, 1, -1, 0), (359, 0, 0, 1), (0, 1, 0, 1)])
    ]
    made = [associated(tmp_path, source_table(ra, dec), geometry=quarter) for quarter in quarters]
    whole = associated(tmp_path, source_table(ra, dec))
    assert sum(len(each.stars) for each in made) == len(whole.stars)
    found = np.concatenate([each.stars["ra"] for each in made])
    assert np.array_equal(np.sort(found), np.sort(whole.stars["ra"]))


# ----------------------------------------------------------------------------------- places on the sphere


@BOTH
@pytest.mark.parametrize("centre", [(0.0, 0.0), (180.0, 45.0), (0.0, -70.0)])
def test_truth_is_found_everywhere(tmp_path, centre, compatibility):
    ra, dec = scattered(300, centre=centre, half=0.3)
    geometry = TractGeometry(1, (centre[0] - 60) % 360, (centre[0] + 60) % 360, centre[1] - 1, centre[1] + 1)
    visits = [
        source_table(*offset(ra, dec, 0.05, seed), visit=seed, band=band)
        for seed, band in ((1, "i"), (2, "i"), (3, "g"))
    ]
    made = associated(tmp_path, *visits, geometry=geometry, compatibility=compatibility)
    distance = separation(made.stars["ra"], made.stars["dec"], ra, dec)
    assert len(made.stars) > 290  # some of 300 random stars are near others
    assert distance.max() < 0.3  # 0.05 arcsec per coordinate over two sources
    assert (made.stars["nsource"] == 3).all()


def test_star_across_ra_zero_is_one_at_the_mean(tmp_path):
    tables = [
        source_table([359.9999], [0.2], visit=1),
        source_table([0.00006], [0.2], visit=2),
    ]
    made = associated(tmp_path, *tables)
    assert len(made.stars) == 1
    assert (made.stars["ra"][0] + 180.0) % 360.0 - 180.0 == pytest.approx(-2e-5, abs=1e-10)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_stars_at_a_pole(tmp_path, sign):
    """RA is no coordinate to be averaged there: sources around the pole are one star at the pole."""
    around = np.arange(0.0, 360.0, 40.0)
    at_pole = source_table(around, np.full(9, sign * (90.0 - 0.3 * ARCSEC)), visit=1)
    near = source_table([10.0, 100.0], np.full(2, sign * 89.99), visit=2)
    geometry = TractGeometry(1, 0, 360, *sorted((sign * 89.0, sign * 90.0)))
    made = associated(tmp_path, at_pole, near, geometry=geometry)
    assert sorted(made.stars["nsource"]) == [1, 1, 9]
    star = int(np.argmax(made.stars["nsource"]))
    assert abs(made.stars["dec"][star]) == pytest.approx(90.0, abs=1e-9)


def separation(ra, dec, other_ra, other_dec):
    """Distance of each position to the nearest of the others, arcsec."""
    from finalchar.stars.sphere import unit_vectors

    one, other = unit_vectors(ra=ra, dec=dec), unit_vectors(ra=other_ra, dec=other_dec)
    return np.degrees(np.linalg.norm(one[:, None] - other[None], axis=-1).min(axis=1)) / ARCSEC


# --------------------------------------------------------------------------------- what must not matter


def crowded(number=600, seed=5):
    """Visits of a crowded square of 10 x 10 arcmin on the corner of four HEALPix pixels of nside 4."""
    ra, dec = scattered(number, seed=seed, centre=(0.0, 0.0), half=0.02)
    return [
        source_table(*offset(ra, dec, 0.3, visit), visit=visit, band=band)
        for visit, band in ((1, "i"), (2, "i"), (3, "i"), (4, "r"), (5, "g"))
    ]


def content(made):
    """Stars by position, with the ids of their sources."""
    ids = made.sources["sourceId"]
    return {
        (ra, dec): (str(made.stars["primary_band"][star]), sorted(ids[sources_of(made, star)].tolist()))
        for star, (ra, dec) in enumerate(zip(made.stars["ra"], made.stars["dec"], strict=True))
    }


def test_split_decides_the_order_only(tmp_path):
    tables = crowded()
    whole, split = (associated(tmp_path, *tables, nside_split=nside) for nside in (1, 2048))
    assert content(whole) == content(split)
    assert len(whole.stars) > 50
    assert whole.stars["ra"].tolist() != split.stars["ra"].tolist()


def test_memory_decides_nothing(tmp_path, monkeypatch):
    tables = crowded()
    one = associated(tmp_path, *tables)
    monkeypatch.setattr("finalchar.stars.greedy_groups.NEIGHBOURS_AT_A_TIME", 10)
    other = associated(tmp_path, *tables)
    assert all(np.array_equal(one.stars[name], other.stars[name]) for name in one.stars)


def test_order_of_rows_in_the_inputs_decides_only_the_column_that_tells_it(tmp_path):
    tables = crowded()
    draw = np.random.default_rng(3)
    shuffled = [table.select(draw.permutation(len(table))) for table in tables]
    one, other = associated(tmp_path, *tables), associated(tmp_path, *shuffled)
    assert all(np.array_equal(one.stars[name], other.stars[name]) for name in one.stars)
    differing = [name for name in one.sources if not np.array_equal(one.sources[name], other.sources[name])]
    assert differing == ["source_row"]


def test_row_groups_outside_the_tract_are_not_read(tmp_path):
    import pyarrow.parquet as pq

    ra, dec = np.concatenate([np.linspace(0.1, 0.9, 50), np.linspace(20.1, 20.9, 50)]), np.zeros(100)
    expected = associated(tmp_path, source_table(ra, dec))
    path = tmp_path / "source_table_visit_1.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=10)
    made = associate_isolated_stars(source_tables={1: path}, geometry=AROUND_ZERO, settings=settings())
    assert (made.figures["rows"], made.figures["rows_read"]) == (100, 50)
    assert all(np.array_equal(made.sources[name], expected.sources[name]) for name in expected.sources)


# --------------------------------------------------------------------------------- empty and broken inputs


@BOTH
@pytest.mark.parametrize("ra", [[], [120.0]])
def test_no_stars_give_empty_tables_with_the_types_of_full_ones(tmp_path, ra, compatibility):
    full = associated(tmp_path, source_table([0.1], [0.1]), compatibility=compatibility)
    empty = associated(tmp_path, source_table(ra, np.zeros(len(ra))), compatibility=compatibility)
    for one, other in ((full.stars, empty.stars), (full.sources, empty.sources)):
        assert len(other) == 0
        assert {name: one[name].dtype.kind for name in one} == {
            name: other[name].dtype.kind for name in other
        }
    assert empty.figures["sentence"] == "tract 7: no selected sources in 1 visits"
    write_table(empty.sources, tmp_path / "empty.parquet")
    assert len(read_columns(tmp_path / "empty.parquet")) == 0


def test_empty_visit_changes_nothing(tmp_path):
    visit = source_table([0.1, 0.2], [0.1, 0.2], visit=1)
    nothing = source_table([], [], visit=2)
    one, other = associated(tmp_path, visit), associated(tmp_path, visit, nothing)
    assert all(np.array_equal(one.stars[name], other.stars[name]) for name in one.stars)
    assert other.figures["selected"] == {"1": 2, "2": 0}


def test_bands_beyond_the_order_are_ignored_with_a_warning(tmp_path, caplog):
    made = associated(
        tmp_path, source_table([0.1], [0.1]), source_table([0.1, 0.4], [0.1, 0.4], visit=2, band="N921")
    )
    assert made.stars["nsource"].tolist() == [1]
    assert made.figures["bands_ignored"] == ["N921"]
    assert "sources of band N921 are ignored; it is not in band_order" in caplog.text


def test_long_band_names(tmp_path):
    made = associated(tmp_path, source_table([0.1], [0.1], band="N921"), band_order=["i", "N921"])
    assert made.stars["primary_band"].tolist() == ["N921"]
    assert made.stars["nsource_N921"].tolist() == [1]


def test_positions_that_are_not_finite_are_no_sources(tmp_path):
    made = associated(tmp_path, source_table([0.1, np.nan, 0.3, np.inf], [0.1, 0.1, np.nan, 0.2]))
    assert made.stars["ra"].tolist() == [0.1]


def test_no_source_tables(tmp_path):
    with pytest.raises(InputError, match=r"tract 7 has no source tables; name those of its visits"):
        associated(tmp_path)


@pytest.mark.parametrize("column", ["ixx", "detect_isPrimary", "visit", "pixelFlags_bad", "ra"])
def test_missing_column_is_named_with_file_and_setting(tmp_path, column):
    table = source_table([0.1], [0.1])
    del table.columns[column]
    path = tmp_path / "source_table_visit_1.parquet"
    write_table(table, path)
    with pytest.raises(
        MissingColumnError, match=rf"source_table_visit_1.parquet: the column '{column}' is missing"
    ):
        associate_isolated_stars(source_tables={1: path}, geometry=AROUND_ZERO, settings=settings())


def test_source_that_stands_twice_is_refused(tmp_path):
    ids = np.array([592916301234567891, 592916301234567892, 592916301234567891])
    table = source_table([0.1, 0.2, 0.1], [0.1, 0.1, 0.1], columns={"sourceId": ids})
    with pytest.raises(
        InputError, match=r"tract 7 have the sourceId 592916301234567891 more than once \(1 rep"
    ):
        associated(tmp_path, table)
    assert len(associated(tmp_path, table, compatibility="lsst").sources) == 3


def test_ids_are_exact(tmp_path):
    ids = np.array([592916301234567891, 592916301234567892])
    made = associated(tmp_path, source_table([0.1, 0.2], [0.1, 0.1], columns={"sourceId": ids}))
    assert sorted(made.sources["sourceId"].tolist()) == ids.tolist()


def test_ids_that_are_no_integers_are_refused(tmp_path):
    table = source_table([0.1], [0.1], columns={"sourceId": np.array([5.0])})
    with pytest.raises(InputError, match="'sourceId' has ids of the type float64"):
        associated(tmp_path, table)


def test_null_id_is_refused_by_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = write(tmp_path, source_table([0.1, 0.2], [0.1, 0.1]))
    table = pq.read_table(paths[1])
    index = table.schema.get_field_index("sourceId")
    pq.write_table(table.set_column(index, "sourceId", pa.array([1, None], pa.int64())), paths[1])
    with pytest.raises(InputError, match="'sourceId' has 1 nulls"):
        associate_isolated_stars(source_tables=paths, geometry=AROUND_ZERO, settings=settings())


def test_rows_of_another_visit_are_refused(tmp_path):
    paths = write(tmp_path, source_table([0.1], [0.1], visit=5))
    with pytest.raises(InputError, match="named as the source table of visit 6 but has rows of visit 5"):
        associate_isolated_stars(source_tables={6: paths[5]}, geometry=AROUND_ZERO, settings=settings())


def test_damaged_table_is_named(tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"broken\.parquet cannot be read as parquet"):
        associate_isolated_stars(source_tables={1: path}, geometry=AROUND_ZERO, settings=settings())


def test_flux_field_decides_flag_error_and_noise_unless_lsst(tmp_path):
    """[S-Q1]: the reference goes on looking at the flag and the noise of the default flux."""
    flux = {
        "psfFlux_instFlux": np.array([1000.0, 1000.0, 20.0]),
        "psfFlux_instFluxErr": np.full(3, 10.0),
        "psfFlux_flag": np.array([False, True, False]),
    }
    table = source_table([0.1, 0.2, 0.3], np.zeros(3), columns=flux)
    fixed = associated(tmp_path, table, inst_flux_field="psfFlux_instFlux")
    assert fixed.stars["ra"].tolist() == [0.1]
    assert "psfFlux_instFluxErr" in fixed.sources
    lsst = associated(tmp_path, table, inst_flux_field="psfFlux_instFlux", compatibility="lsst")
    assert sorted(lsst.stars["ra"]) == [0.1, 0.2, 0.3]


def test_table_that_was_given_is_not_changed(tmp_path):
    paths = write(tmp_path, source_table([0.1], [0.1]))
    before = paths[1].read_bytes()
    associate_isolated_stars(source_tables=paths, geometry=AROUND_ZERO, settings=settings())
    assert paths[1].read_bytes() == before
    assert isinstance(read_columns(paths[1]), SourceTable)


def test_example_of_the_documentation(tmp_path, monkeypatch):
    page = Path(__file__).parents[3].joinpath("docs/association.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    write(tmp_path, source_table([149.0, 150.0], [-29.0, -29.0], visit=2026011500101))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["made"].figures["sentence"].startswith("tract 4906: 2 isolated stars with 2 sources")
