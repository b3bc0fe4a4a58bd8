"""Tract stage and visit list against a plain look-up, what their digests see, and bad tables."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finalchar.errors import InputError
from finalchar.stars.reserve import draw_reserved
from finalchar.stars.tract import reserve_stars
from finalchar.stars.visit_list import (
    IsolatedSources,
    TractInputs,
    concatenate_isolated_stars,
    make_visit_list,
    read_detector_rows,
    row_digests,
)

BANDS = {101: "g", 102: "r", 103: "g", 104: "i"}
TRACTS = (7, 8)
BIG_ID = 592916301234567891  # beyond 2^53: neighbours are equal as floating-point numbers


def section(**changes):
    values = {
        "reserve_name": "reserved",
        "reserve_fraction": 0.3,
        "method": "lsst",
        "cell_size_arcsec": 6.0,
        "same_in_all_bands": False,
    }
    return SimpleNamespace(**{**values, **changes})


def figures_of(path):
    """Figures of a visit's list, from the metadata of the file."""
    return json.loads(pq.read_schema(path).metadata[b"finalchar_visit_list"])


def make_tables(tract, seed=0, number=60):
    """Star and source tables of a tract as dictionaries of arrays, sources in star order."""
    rng = np.random.default_rng([tract, seed])
    sources = {name: [] for name in ("sourceId", "visit", "detector", "obj_index")}
    nsource = {band: np.zeros(number, np.int32) for band in "gri"}
    for star in range(number):
        for visit, band in BANDS.items():
            if rng.random() < 0.7:
                nsource[band][star] += 1
                sources["sourceId"].append(BIG_ID + len(sources["visit"]) + 10_000 * tract)
                sources["visit"].append(visit)
                sources["detector"].append(int(rng.integers(0, 3)))
                sources["obj_index"].append(star)
    stars = {
        "isolated_star_id": (np.arange(number) + 1) * 100 + tract,
        "ra": 150 + 0.1 * tract + rng.uniform(0, 0.1, number),
        "dec": 2 + rng.uniform(0, 0.1, number),
        "primary_band": np.array(["i"] * number),
        **{f"nsource_{band}": values for band, values in nsource.items()},
    }
    types = {"sourceId": np.int64, "visit": np.int64, "detector": np.int16, "obj_index": np.int32}
    return stars, {name: np.array(values, types[name]) for name, values in sources.items()}


def make_standard_stars(stars, seed=0):
    rng = np.random.default_rng(seed)
    kept = rng.random(len(stars["ra"])) < 0.8
    number = kept.sum()
    table = {
        "ra": stars["ra"][kept] + rng.normal(0, 1e-5, number),
        "dec": stars["dec"][kept] + rng.normal(0, 1e-5, number),
    }
    magnitudes = {f"mag_{band}": rng.uniform(17, 22, number).astype(np.float32) for band in "gi"}
    return {**table, **magnitudes}


class Survey:
    """Two tracts on disk; `run` does both stages and returns the digests by visit and detector."""

    def __init__(self, folder):
        self.folder = folder
        self.stars, self.sources, self.standard = {}, {}, {}
        for tract in TRACTS:
            self.stars[tract], self.sources[tract] = make_tables(tract)
            self.standard[tract] = make_standard_stars(self.stars[tract])

    def path(self, name):
        return self.folder / name

    def write(self, **options):
        for tract in TRACTS:
            for kind in ("stars", "sources", "standard"):
                table = pa.table(getattr(self, kind)[tract])
                pq.write_table(table, self.path(f"{kind}_{tract}.parquet"), **options)

    def run(self, *, fgcm_bands=("g", "i"), settings=None, write_options=None):
        self.write(**(write_options or {}))
        self.figures = {
            tract: reserve_stars(
                tract=tract,
                star_table=self.path(f"stars_{tract}.parquet"),
                source_table=self.path(f"sources_{tract}.parquet"),
                bands=["g", "r", "i"],
                settings=settings or section(),
                id_column="sourceId",
                output=self.path(f"reserved_{tract}.parquet"),
            )
            for tract in TRACTS
        }
        tracts = [
            TractInputs(t, self.path(f"reserved_{t}.parquet"), fgcm=self.path(f"standard_{t}.parquet"))
            for t in TRACTS[::-1]
        ]
        return {
            (visit, detector): digest
            for visit, band in BANDS.items()
            for detector, digest in make_visit_list(
                visit=visit,
                band=band,
                tracts=tracts,
                output=self.path(f"list_{visit}.parquet"),
                fgcm_bands=fgcm_bands,
            ).items()
        }

    def expected(self, visit, detector):
        """Rows as plain tuples, by dictionary look-up, in ascending tract and table order."""
        band, rows = BANDS[visit], []
        for tract in TRACTS:
            stars, sources = self.stars[tract], self.sources[tract]
            in_band = np.flatnonzero(stars[f"nsource_{band}"] > 0)
            drawn = draw_reserved(
                len(in_band), f"{band}_{tract}", reserve_name="reserved", reserve_fraction=0.3
            )
            fate = dict(zip(in_band.tolist(), drawn.tolist(), strict=True))
            for k in range(len(sources["visit"])):
                if (sources["visit"][k], sources["detector"][k]) == (visit, detector):
                    star = int(sources["obj_index"][k])
                    star_id = int(stars["isolated_star_id"][star])
                    rows.append((int(sources["sourceId"][k]), tract, star_id, fate[star]))
        return rows


@pytest.fixture
def survey(tmp_path):
    return Survey(tmp_path)


def as_tuples(rows):
    names = ("source_id", "tract", "isolated_star_id", "reserved")
    return list(zip(*(getattr(rows, name).tolist() for name in names), strict=True))


class TestRows:
    def test_against_look_up(self, survey):
        digests = survey.run()
        assert len(digests) == 12
        for visit, detector in digests:
            rows = read_detector_rows(survey.path(f"list_{visit}.parquet"), detector)
            assert as_tuples(rows) == survey.expected(visit, detector)
            assert set(rows.detector.tolist()) == {detector}
            assert rows.source_id.dtype == np.int64
            assert rows.reserved.dtype == bool
            assert set(rows.sources_of_star.tolist()) == {1}

    def test_detector_without_rows(self, survey):
        survey.run()
        rows = read_detector_rows(survey.path("list_101.parquet"), 77)
        assert len(rows) == 0
        assert rows.source_id.dtype == np.int64
        assert len(rows.fgcm) == 0

    @pytest.mark.parametrize("kind", ["path", "dict", "pandas", "astropy"])
    def test_tables_give_the_same_rows_as_files(self, survey, kind):
        survey.run(settings=section(method="stable"))
        make = {"path": None, "dict": dict, "pandas": pandas_frame, "astropy": astropy_table}[kind]
        tables = [
            {
                tract: survey.path(f"{name}_{tract}.parquet") if make is None else make(table)
                for tract, table in getattr(survey, name).items()
            }
            for name in ("stars", "sources")
        ]
        for visit, band in BANDS.items():
            for detector in range(3):
                listed = read_detector_rows(survey.path(f"list_{visit}.parquet"), detector)
                direct = concatenate_isolated_stars(
                    *tables,
                    band=band,
                    visit=visit,
                    detector=detector,
                    settings=section(method="stable"),
                    id_column="sourceId",
                )
                for name in (
                    "detector",
                    "source_id",
                    "tract",
                    "isolated_star_id",
                    "reserved",
                    "sources_of_star",
                ):
                    assert np.array_equal(getattr(listed, name), getattr(direct, name))
                    assert getattr(listed, name).dtype == getattr(direct, name).dtype

    def test_many_row_groups(self, survey, monkeypatch):
        from finalchar.stars import tract as tract_module
        from finalchar.stars import visit_list as visit_module

        digests = survey.run()
        monkeypatch.setattr(tract_module, "ROW_GROUP_ROWS", 7)
        monkeypatch.setattr(visit_module, "ROW_GROUP_ROWS", 3)
        assert survey.run() == digests
        assert pq.ParquetFile(survey.path("reserved_7.parquet")).metadata.num_row_groups > 10
        rows = read_detector_rows(survey.path("list_102.parquet"), 1)
        assert as_tuples(rows) == survey.expected(102, 1)

    def test_same_star_same_fate_in_all_visits_of_a_band(self, survey):
        survey.run()
        fate = {}
        for visit in (101, 103):
            for detector in range(3):
                rows = read_detector_rows(survey.path(f"list_{visit}.parquet"), detector)
                for star, reserved in zip(rows.isolated_star_id, rows.reserved, strict=True):
                    assert fate.setdefault(star, reserved) == reserved

    def test_standard_stars_near_the_rows(self, survey):
        survey.run()
        for detector in range(3):
            rows = read_detector_rows(survey.path("list_104.parquet"), detector)
            near = set()
            for tract, star_id in zip(rows.tract, rows.isolated_star_id, strict=True):
                star = (star_id - tract) // 100 - 1
                ra, dec = survey.stars[tract]["ra"][star], survey.stars[tract]["dec"][star]
                for other in TRACTS:
                    table = survey.standard[other]
                    distance = np.hypot((table["ra"] - ra) * np.cos(np.radians(dec)), table["dec"] - dec)
                    near |= {(other, int(k)) for k in np.flatnonzero(distance <= 3 / 3600)}
            assert list(zip(rows.fgcm.tract.tolist(), rows.fgcm.row.tolist(), strict=True)) == sorted(near)
            table = survey.standard[7]["mag_i"]
            mine = rows.fgcm.tract == 7
            assert np.array_equal(rows.fgcm.magnitudes["i"][mine], table[rows.fgcm.row[mine]])
            assert rows.fgcm.has_band == {"g": True, "i": True}

    def test_without_standard_stars(self, survey):
        survey.run(fgcm_bands=())
        assert read_detector_rows(survey.path("list_104.parquet"), 0).fgcm is None

    def test_figures(self, survey):
        survey.run()
        figures = figures_of(survey.path("list_102.parquet"))
        assert figures["visit"] == 102
        assert figures["draws"]["7"] == survey.figures[7]["bands"]["r"]
        assert figures["sources"] == sum(len(survey.expected(102, d)) for d in range(3))
        assert figures["repeated_sources"] == figures["stars_with_several_sources"] == 0
        assert survey.figures[7]["visits"] == [101, 102, 103, 104]


def pandas_frame(table):
    import pandas as pd

    return pd.DataFrame(table)


def astropy_table(table):
    from astropy.table import Table

    return Table(table)


class TestDigests:
    """What a detector's digest sees: its own sources and fates, nothing else."""

    def test_same_input_same_bytes(self, survey):
        survey.run()
        before = [survey.path(name).read_bytes() for name in ("reserved_7.parquet", "list_101.parquet")]
        survey.run()
        assert before == [survey.path(n).read_bytes() for n in ("reserved_7.parquet", "list_101.parquet")]

    def test_file_bytes_do_not_matter(self, survey):
        digests = survey.run()
        assert survey.run(write_options={"compression": "gzip", "row_group_size": 13}) == digests

    def test_unused_column_does_not_matter(self, survey):
        digests = survey.run()
        survey.sources[7]["apFlux"] = np.arange(len(survey.sources[7]["visit"]))
        survey.stars[7]["primary_band"] = np.array(["z"] * len(survey.stars[7]["ra"]))
        survey.standard[7]["mag_y"] = survey.standard[7]["mag_g"]
        assert survey.run() == digests

    def test_unused_row_does_not_matter(self, survey):
        """A source in a visit nobody asks for, and a standard star far away."""
        digests = survey.run()
        extra = {"sourceId": 5, "visit": 999, "detector": 0, "obj_index": 3}
        survey.sources[7] = {
            k: np.insert(v, 0, extra[k]).astype(v.dtype) for k, v in survey.sources[7].items()
        }
        far = {"ra": 10.0, "dec": -50.0, "mag_g": 20.0, "mag_i": 19.0}
        survey.standard[8] = {
            k: np.insert(v, 0, far[k]).astype(v.dtype) for k, v in survey.standard[8].items()
        }
        assert survey.run() == digests

    def test_new_ids_of_stars_do_not_matter(self, survey):
        digests = survey.run()
        survey.stars[7]["isolated_star_id"] = survey.stars[7]["isolated_star_id"] + 100_000
        assert survey.run() == digests

    def test_order_of_sources_does_not_matter(self, survey):
        digests = survey.run()
        order = np.random.default_rng(3).permutation(len(survey.sources[8]["visit"]))
        survey.sources[8] = {name: values[order] for name, values in survey.sources[8].items()}
        assert survey.run() == digests

    def test_order_of_stars_does_not_matter_with_stable(self, survey):
        digests = survey.run(settings=section(method="stable"))
        number = len(survey.stars[8]["ra"])
        order = np.random.default_rng(3).permutation(number)
        place = np.argsort(order)
        survey.stars[8] = {name: values[order] for name, values in survey.stars[8].items()}
        survey.sources[8]["obj_index"] = place[survey.sources[8]["obj_index"]].astype(np.int32)
        assert survey.run(settings=section(method="stable")) == digests

    def test_one_source_changes_one_digest(self, survey):
        digests = survey.run()
        row = int(np.flatnonzero(survey.sources[7]["visit"] == 103)[4])
        survey.sources[7]["sourceId"][row] += 1_000_000
        key = (103, int(survey.sources[7]["detector"][row]))
        assert changed(digests, survey.run()) == {key}

    def test_one_star_less_changes_only_its_detectors_with_stable(self, survey):
        digests = survey.run(settings=section(method="stable"))
        gone = survey.sources[7]["obj_index"] == 11
        where = {
            (int(v), int(d))
            for v, d in zip(
                survey.sources[7]["visit"][gone], survey.sources[7]["detector"][gone], strict=True
            )
        }
        survey.sources[7] = {name: values[~gone] for name, values in survey.sources[7].items()}
        for band in "gri":
            survey.stars[7][f"nsource_{band}"][11] = 0
        assert changed(digests, survey.run(settings=section(method="stable"))) == where

    def test_magnitude_changes_the_detectors_that_see_it(self, survey):
        digests = survey.run()
        survey.standard[7]["mag_g"][2] += 0.01
        seen = changed(digests, survey.run())
        assert 0 < len(seen) <= 4
        assert changed(survey.run(fgcm_bands=()), survey.run(fgcm_bands=("i",))) == set(digests)
        survey.standard[7]["mag_g"][2] += 0.01
        assert changed(survey.run(fgcm_bands=("i",)), survey.run(fgcm_bands=("i",))) == set()

    def test_repeated_id_keeps_its_order(self):
        """With compatibility lsst the last row decides the fate of a repeated id."""
        first = row_digests(rows_of([5, 5], [True, False]))
        assert first != row_digests(rows_of([5, 5], [False, True]))
        assert row_digests(rows_of([5, 6], [True, False])) == row_digests(rows_of([6, 5], [False, True]))


def rows_of(ids, fates):
    number = len(ids)
    return IsolatedSources(
        np.zeros(number, np.int32),
        np.array(ids, np.int64),
        np.ones(number, np.int64),
        np.arange(number, dtype=np.int64),
        np.array(fates),
        np.ones(number, np.int32),
    )


def changed(before, after):
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


class TestMultiplicity:
    """Known failure K11: each multiplicity has an outcome and a count."""

    def test_star_with_two_sources_in_a_visit(self, survey):
        star = int(survey.sources[7]["obj_index"][0])
        visit = int(survey.sources[7]["visit"][0])
        extra = {"sourceId": 77, "visit": visit, "detector": 1, "obj_index": star}
        survey.sources[7] = {k: np.append(v, extra[k]).astype(v.dtype) for k, v in survey.sources[7].items()}
        survey.run()
        figures = figures_of(survey.path(f"list_{visit}.parquet"))
        assert figures["stars_with_several_sources"] == 1
        rows = read_detector_rows(survey.path(f"list_{visit}.parquet"), 1)
        assert rows.sources_of_star[rows.source_id == 77].tolist() == [2]

    def test_source_listed_for_two_stars(self, survey):
        source = survey.sources[7]
        other = (int(source["obj_index"][0]) + 1) % 60
        extra = {**{k: v[0] for k, v in source.items()}, "obj_index": other}
        survey.stars[7][f"nsource_{BANDS[int(extra['visit'])]}"][other] += 1
        survey.sources[7] = {k: np.append(v, extra[k]).astype(v.dtype) for k, v in source.items()}
        survey.run()
        assert figures_of(survey.path(f"list_{extra['visit']}.parquet"))["repeated_sources"] == 1

    def test_source_of_a_star_that_is_not_in_the_band(self, survey):
        star = int(survey.sources[7]["obj_index"][0])
        visit = int(survey.sources[7]["visit"][0])
        survey.stars[7][f"nsource_{BANDS[visit]}"][star] = 0
        survey.run()
        figures = figures_of(survey.path(f"list_{visit}.parquet"))
        assert figures["sources_not_in_band"] == 1


class TestBadTables:
    def reserve(self, survey, **changes):
        options = {
            "tract": 7,
            "star_table": survey.path("stars_7.parquet"),
            "source_table": survey.path("sources_7.parquet"),
            "bands": ["g", "r", "i"],
            "settings": section(),
            "id_column": "sourceId",
            "output": survey.path("out.parquet"),
        }
        return reserve_stars(**{**options, **changes})

    @pytest.mark.parametrize("row", [60, -1])
    def test_obj_index_out_of_range(self, survey, row):
        survey.sources[7]["obj_index"][4] = row
        survey.write()
        with pytest.raises(
            InputError, match=rf"sources_7.parquet does not belong to .*obj_index is {row} in row 4"
        ):
            self.reserve(survey)
        assert not survey.path("out.parquet").exists()

    def test_sources_of_another_tract(self, survey):
        """All obj_index are rows of the star table, but those of other stars."""
        for number, tables in survey.stars.items():
            rows = survey.sources[number]["obj_index"]
            tables["nsource"] = np.bincount(rows, minlength=len(tables["ra"])).astype(np.int32)
        survey.write()
        self.reserve(survey)
        keep = survey.sources[7]["visit"] != survey.sources[7]["visit"][0]
        trimmed = {name: values[keep] for name, values in survey.sources[7].items()}
        own, survey.sources[7] = survey.sources[7], trimmed
        survey.write()
        self.reserve(survey)
        survey.sources[7] = {**own, "obj_index": np.roll(own["obj_index"], len(own["obj_index"]) // 2)}
        survey.sources[7]["obj_index"][::3] = 4
        survey.write()
        with pytest.raises(
            InputError, match=r"sources_7\.parquet does not belong to .*stars_7\.parquet: \d+ of"
        ):
            self.reserve(survey)

    def test_sources_instead_of_stars(self, survey):
        survey.write()
        with pytest.raises(InputError, match=r"'nsource_\w' is missing; it is no table of isolated stars"):
            self.reserve(survey, star_table=survey.path("sources_7.parquet"))

    @pytest.mark.parametrize("column", ["sourceId", "visit", "detector", "obj_index"])
    def test_missing_source_column(self, survey, column):
        del survey.sources[7][column]
        survey.write()
        with pytest.raises(InputError, match=f"sources_7.parquet: the column '{column}' is missing"):
            self.reserve(survey)

    def test_missing_band(self, survey):
        """Only the visits of the missing band suffer; no band at all is an error at once."""
        survey.write()
        figures = self.reserve(survey, bands=["g", "N921"])
        assert figures["bands_missing"] == ["N921"]
        inputs = [TractInputs(7, survey.path("out.parquet"))]
        make_visit_list(visit=101, band="g", tracts=inputs, output=survey.path("list.parquet"))
        with pytest.raises(InputError, match=r"no reserve list of the band 'N921'.*nsource_N921"):
            make_visit_list(visit=104, band="N921", tracts=inputs, output=survey.path("list.parquet"))
        with pytest.raises(InputError, match=r"'nsource_N921' is missing.*bands there: g, r, i"):
            self.reserve(survey, bands=["N921"])

    def test_null_id(self, survey):
        ids = [None, *survey.sources[7]["sourceId"][1:].tolist()]
        survey.sources[7]["sourceId"] = pa.array(ids, pa.int64())
        survey.write()
        with pytest.raises(InputError, match="the column 'sourceId' has nulls"):
            self.reserve(survey)

    @pytest.mark.parametrize("column", ["sourceId", "visit"])
    def test_whole_numbers_as_floats(self, survey, column):
        survey.sources[7][column] = survey.sources[7][column].astype(float)
        survey.write()
        with pytest.raises(InputError, match=f"'{column}' has the type float64, not whole numbers"):
            self.reserve(survey)

    def test_ids_beyond_64_bits(self, survey):
        survey.sources[7]["sourceId"] = survey.sources[7]["sourceId"].astype(np.uint64)
        survey.sources[7]["sourceId"][0] = 2**63
        survey.write()
        with pytest.raises(InputError, match="'sourceId' has values that do not fit int64"):
            self.reserve(survey)

    def test_masked_id_in_a_table(self, survey):
        from astropy.table import MaskedColumn, Table

        table = Table(survey.sources[7])
        table["sourceId"] = MaskedColumn(table["sourceId"], mask=np.arange(len(table)) == 3)
        with pytest.raises(
            InputError, match="isolated_star_source of tract 7: the column 'sourceId' has nulls"
        ):
            concatenate_isolated_stars(
                {7: survey.stars[7]},
                {7: table},
                band="g",
                visit=101,
                detector=0,
                settings=section(),
                id_column="sourceId",
            )

    def test_tables_of_other_tracts(self, survey):
        with pytest.raises(
            InputError, match=r"star tables are given for the tracts \[7\] but source tables for \[8\]"
        ):
            concatenate_isolated_stars(
                {7: survey.stars[7]},
                {8: survey.sources[8]},
                band="g",
                visit=101,
                detector=0,
                settings=section(),
                id_column="sourceId",
            )

    def test_empty_tract(self, survey):
        """Not an error: empty lists and a sentence."""
        survey.stars[7] = {name: values[:0] for name, values in survey.stars[7].items()}
        survey.sources[7] = {name: values[:0] for name, values in survey.sources[7].items()}
        survey.write()
        figures = self.reserve(survey)
        assert figures["sentence"] == "tract 7 has no isolated stars"
        output = survey.path("list.parquet")
        inputs = [TractInputs(7, survey.path("out.parquet"), fgcm=survey.path("standard_7.parquet"))]
        for bands in ((), ("g", "i")):
            assert make_visit_list(visit=101, band="g", tracts=inputs, output=output, fgcm_bands=bands) == {}
            rows = read_detector_rows(output, 0)
            assert len(rows) == 0
            assert rows.source_id.dtype == np.int64

    def test_visit_in_the_wrong_band(self, survey):
        """The column nsource_i is there, but no star that visit 101 (band g) saw was seen in i."""
        number = len(survey.stars[7]["isolated_star_id"])
        survey.stars[7]["nsource_i"] = np.zeros(number, dtype=np.int64)
        survey.write()
        self.reserve(survey, bands=["g", "i"])
        output = survey.path("list.parquet")
        inputs = [TractInputs(7, survey.path("out.parquet"))]
        with pytest.raises(InputError, match=r"visit 101: none of its \d+ sources .* the band 'i': correct"):
            make_visit_list(visit=101, band="i", tracts=inputs, output=output)
        assert not output.exists()

    def test_visit_without_tracts(self, survey):
        output = survey.path("list.parquet")
        assert make_visit_list(visit=101, band="g", tracts=[], output=output) == {}
        assert len(read_detector_rows(output, 0)) == 0

    def test_missing_file(self, survey):
        survey.write()
        with pytest.raises(InputError, match=r"stars_9.parquet does not exist"):
            self.reserve(survey, star_table=survey.path("stars_9.parquet"))
        with pytest.raises(InputError, match=r"gone.parquet does not exist; it is made by list_visit"):
            read_detector_rows(survey.path("gone.parquet"), 1)

    def test_broken_file(self, survey):
        survey.write()
        path = survey.path("sources_7.parquet")
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(InputError, match=r"sources_7.parquet cannot be read as a parquet file"):
            self.reserve(survey)

    def test_damaged_pages(self, survey):
        survey.write()
        path = survey.path("sources_7.parquet")
        content = bytearray(path.read_bytes())
        content[4:900] = bytes(896)
        path.write_bytes(bytes(content))
        with pytest.raises(InputError, match=r"sources_7.parquet is damaged"):
            self.reserve(survey)

    def test_standard_stars_wanted_but_not_in_the_sheet(self, survey):
        survey.run()
        with pytest.raises(InputError, match="tract 7 has no fgcm_standard_star in the tracts sheet"):
            make_visit_list(
                visit=101,
                band="g",
                tracts=[TractInputs(7, survey.path("reserved_7.parquet"))],
                output=survey.path("list.parquet"),
                fgcm_bands=["g"],
            )

    def test_another_file_instead_of_a_list(self, survey):
        survey.run()
        with pytest.raises(InputError, match="is not a product of list_visit"):
            read_detector_rows(survey.path("sources_7.parquet"), 1)

    def test_neighbouring_large_ids_stay_apart(self, survey):
        """Known failure K10: ...891 and ...892 are one number in floating point."""
        survey.run()
        ids = [
            read_detector_rows(survey.path(f"list_{visit}.parquet"), detector).source_id
            for visit in BANDS
            for detector in range(3)
        ]
        everything = np.concatenate([survey.sources[tract]["sourceId"] for tract in TRACTS])
        assert sorted(np.concatenate(ids).tolist()) == sorted(everything.tolist())
        assert len(set(everything.astype(float).tolist())) < len(everything)
