"""Isolated stars as the reference associated them: both tracts, all columns, rows in its order.

The whole survey lies beside the repository.  The small data have no source tables, but the sources of the
isolated stars of both tracts; associated again (they were selected before) they give the same stars.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from finalchar.config import Config
from finalchar.formats.parquet import read_columns, write_table
from finalchar.formats.sources import SourceTable
from finalchar.stars.association import associate_isolated_stars
from finalchar.stars.tract_geometry import TractGeometry

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests/data/golden_small/survey"
COMPLETE = ROOT.parent / "shared/golden/survey"
TRACTS = (4906, 4907)
VISITS = (2026011500101, 2026011500188, 2026012700045, 2026020300212)


def geometry_of(tract):
    about = json.loads((SMALL / "association.json").read_text())["tracts"][str(tract)]
    return TractGeometry(tract, *about["inner_radec_range"], tuple(map(tuple, about["outer_vertices_radec"])))


def reference(tract):
    names = ("isolated_star_cat", "isolated_star_sources")
    return [read_columns(SMALL / f"{name}_{tract}.parquet") for name in names]


def settings():
    return Config().isolated_star_association


def test_defaults_are_those_of_the_reference():
    flat = json.loads((SMALL / "isolated_star_association_config.json").read_text())
    overrides = {
        f"isolated_star_association.{name}": value
        for name, value in flat.items()
        if not name.startswith(("connections.", "saveLogOutput"))
    }
    assert Config.from_lsst_overrides(overrides).isolated_star_association == settings()


def assert_same_stars(made, stars, sources, *, leave_out=()):
    """The same stars, matched by position, with the same sources in the same order."""
    order, expected = (np.lexsort((table["dec"], table["ra"])) for table in (made.stars, stars))
    for name in stars:
        if name != "isolated_star_id" and not name.startswith("source_cat_index"):
            assert np.array_equal(made.stars[name][order], stars[name][expected]), name
    rows, expected_rows = (
        np.concatenate(
            [np.arange(i, i + n) for i, n in zip(t["source_cat_index"][o], t["nsource"][o], strict=True)]
        )
        for t, o in ((made.stars, order), (stars, expected))
    )
    assert list(made.sources) == list(sources)
    for name in set(sources) - {"obj_index", *leave_out}:
        assert made.sources[name].dtype == sources[name].dtype, name
        equal_nan = sources[name].dtype.kind == "f"
        same = np.array_equal(made.sources[name][rows], sources[name][expected_rows], equal_nan=equal_nan)
        assert same, name


# ----------------------------------------------------------------------------------------- the small data


@pytest.fixture(name="tables", scope="module")
def _tables(tmp_path_factory):
    """Source tables of the visits, made of the sources of both tracts."""
    folder = tmp_path_factory.mktemp("tables")
    parts = [reference(tract)[1] for tract in TRACTS]
    names = [name for name in parts[0] if name not in ("source_row", "obj_index")]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    _, first = np.unique(columns["sourceId"], return_index=True)
    paths = {}
    for visit in VISITS:
        rows = first[columns["visit"][first] == visit]
        paths[visit] = folder / f"source_table_visit_{visit}.parquet"
        write_table(SourceTable({name: values[rows] for name, values in columns.items()}), paths[visit])
    return paths


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
@pytest.mark.parametrize("tract", TRACTS)
def test_sources_of_the_reference_give_its_stars(tables, tract, compatibility):
    section = settings()
    section.source_selector.name = "null"
    made = associate_isolated_stars(
        source_tables=tables, geometry=geometry_of(tract), settings=section, compatibility=compatibility
    )
    assert_same_stars(made, *reference(tract), leave_out=["source_row"])


# --------------------------------------------------------------------------------------- the whole survey


def complete_tables():
    if not COMPLETE.is_dir():
        pytest.skip("the whole reference survey is not beside the repository; the small one was compared")
    return {visit: COMPLETE / f"source_table_visit_{visit}.parquet" for visit in VISITS}


@pytest.mark.parametrize("tract", TRACTS)
def test_source_tables_give_the_stars_of_the_reference(tract):
    made = associate_isolated_stars(
        source_tables=complete_tables(), geometry=geometry_of(tract), settings=settings()
    )
    assert_same_stars(made, *reference(tract))


@pytest.mark.parametrize("tract", TRACTS)
def test_every_step_has_the_numbers_of_the_specification(tract):
    """Selection specification 12: sources per visit, stars after i, r and g, isolated, inner."""
    made = associate_isolated_stars(
        source_tables=complete_tables(),
        geometry=geometry_of(tract),
        settings=settings(),
        compatibility="lsst",
    )
    selected, found = {
        4906: ([90, 133, 103, 111], [189, 210, 221]),
        4907: ([109, 151, 112, 145], [216, 231, 240]),
    }[tract]
    assert list(made.figures["selected"].values()) == selected
    assert np.cumsum([made.figures["found"][band] for band in "irg"]).tolist() == found
    assert made.figures["not_isolated"] == 0
    assert made.figures["stars"] == 151


@pytest.mark.parametrize("tract", TRACTS)
def test_order_of_rows_and_ids_are_the_reference_s_where_the_processor_sorts_alike(tract):
    """[S-Q2]: numpy's unstable sort decides; that of the reference used AVX-512."""
    from numpy._core._multiarray_umath import __cpu_features__

    made = associate_isolated_stars(
        source_tables=complete_tables(),
        geometry=geometry_of(tract),
        settings=settings(),
        compatibility="lsst",
    )
    assert_same_stars(made, *reference(tract))
    if __cpu_features__.get("AVX512_SKX"):
        for table, expected in zip((made.stars, made.sources), reference(tract), strict=True):
            for name in expected:
                equal_nan = expected[name].dtype.kind == "f"
                assert np.array_equal(table[name], expected[name], equal_nan=equal_nan), name
