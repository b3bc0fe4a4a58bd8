"""Reserve draw, selectors, candidates, stamps and colours against the reference, all equal.

Runs on the small cut in tests/data; with the complete reference beside the repository, on all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from finalchar.errors import NoWorkError
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.formats.sources import SourceTable
from finalchar.stars import selectors
from finalchar.stars.candidates import make_psf_candidates
from finalchar.stars.colors import assign_colors, matched_magnitudes
from finalchar.stars.matching import candidate_table, match_isolated_sources
from finalchar.stars.reserve import draw_reserved
from finalchar.stars.selectors.limits import ColorLimit
from finalchar.stars.tract import reserve_stars
from finalchar.stars.visit_list import TractInputs, make_visit_list, read_detector_rows

ROOT = Path(__file__).parents[2]
REFERENCES = [
    path for path in (ROOT / "tests/data/golden_small", ROOT.parent / "shared/golden") if path.is_dir()
]
BANDS = {2026011500101: "g", 2026011500188: "i", 2026012700045: "r", 2026020300212: "i"}
TRACTS = (4906, 4907)
SLOTS = {
    "slot_Centroid": "base_SdssCentroid",
    "slot_Shape": "base_SdssShape",
    "slot_CalibFlux": "base_CircularApertureFlux_12_0",
    "slot_PsfFlux": "base_PsfFlux",
}
PIXEL_FLAGS = "edge nodata interpolatedCenter saturatedCenter crCenter bad interpolated saturated"


def test_there_is_a_reference():
    assert REFERENCES, "tests/data/golden_small is part of the repository"


@pytest.fixture(params=REFERENCES, ids=[path.name for path in REFERENCES])
def reference(request):
    return request.param


def reserve_section(name="reserved", fraction=0.1):
    return SimpleNamespace(
        reserve_name=name,
        reserve_fraction=fraction,
        method="lsst",
        cell_size_arcsec=6.0,
        same_in_all_bands=False,
    )


def science_of_the_task(minimum=50.0, maximum=1000.0):
    settings = selectors.get("science").Settings(doFlags=True, doSignalToNoise=True)
    settings.flags.bad = [f"base_PixelFlags_flag_{name}" for name in PIXEL_FLAGS.split()]
    settings.flags.bad = [*settings.flags.bad, "slot_Centroid_flag", "base_GaussianFlux_flag"]
    settings.signalToNoise.minimum, settings.signalToNoise.maximum = minimum, maximum
    settings.signalToNoise.fluxField = "base_GaussianFlux_instFlux"
    settings.signalToNoise.errField = "base_GaussianFlux_instFluxErr"
    return settings


class TestReserve:
    def test_vectors(self, reference):
        for case in json.loads((reference / "reserve_vectors.json").read_text()):
            drawn = draw_reserved(
                case["nstar"],
                case["extra"],
                reserve_name=case["reserve_name"],
                reserve_fraction=case["reserve_fraction"],
            )
            assert np.flatnonzero(drawn).tolist() == case["reserved_index"], case

    def test_tracts(self, reference, tmp_path):
        """The stars that the reference reserves in each tract and band, by their ids."""
        expected = json.loads((reference / "survey/reserved_stars.json").read_text())
        for tract in TRACTS:
            output = run_tract(reference, tract, tmp_path)
            table = pq.read_table(output).to_pydict()
            for band in "gri":
                fates = zip(table["isolated_star_id"], table[f"reserved_{band}"], strict=True)
                reserved = {star for star, fate in fates if fate}
                assert reserved == set(expected[f"{band}_{tract}"]["isolated_star_id"])


def run_tract(reference, tract, folder, settings=None):
    output = folder / f"reserved_{tract}.parquet"
    reserve_stars(
        tract=tract,
        star_table=reference / f"survey/isolated_star_cat_{tract}.parquet",
        source_table=reference / f"survey/isolated_star_sources_{tract}.parquet",
        bands=["g", "r", "i"],
        settings=settings or reserve_section(),
        id_column="sourceId",
        output=output,
    )
    return output


class TestSelectors:
    def test_all_cases(self, reference):
        """Five selectors in 19 configurations on 12 catalogues, with NaN, inf, zero and negative inputs."""
        with np.load(reference / "reference_selectors.npz") as data:
            configs = json.loads(str(data["info_json"]))["configs"]
            for catalogue in sorted({name.split("|")[0] for name in data.files if "|in|" in name}):
                prefix = f"{catalogue}|in|"
                columns = {n.removeprefix(prefix): data[n] for n in data.files if n.startswith(prefix)}
                table = SourceTable(columns, aliases=SLOTS)
                for name, config in configs.items():
                    expected = data[f"{catalogue}|out|{name}"]
                    assert np.array_equal(run_selector(table, config), expected), (catalogue, name)


def run_selector(table, config):
    module = selectors.get(config["selector"])
    settings = module.Settings()
    for key, value in config["settings"].items():
        if key == "COLORS":
            fields = ("primary", "secondary", "minimum", "maximum")
            settings.colorLimits = {
                label: ColorLimit(**dict(zip(fields, limits, strict=True))) for label, limits in value.items()
            }
            continue
        *sections, field = key.split(".")
        owner = settings
        for section in sections:
            owner = getattr(owner, section)
        setattr(owner, field, value)
    try:
        return module.select(table, settings)
    except NoWorkError:
        return np.zeros(0, bool)


def detectors_of(reference):
    keys = sorted(path.stem.removeprefix("src_") for path in (reference / "survey").glob("src_*.fits"))
    return [tuple(int(part) for part in key.split("_")) for key in keys]


@pytest.fixture
def lists(reference, tmp_path):
    return make_lists(reference, tmp_path, reserve_section())


def make_lists(reference, folder, settings):
    tracts = [
        TractInputs(
            tract,
            run_tract(reference, tract, folder, settings),
            fgcm=reference / f"survey/fgcm_standard_star_{tract}.parquet",
        )
        for tract in TRACTS
    ]
    for visit, band in BANDS.items():
        make_visit_list(
            visit=visit,
            band=band,
            tracts=tracts,
            output=folder / f"list_{visit}.parquet",
            fgcm_bands=list("grizy"),
        )
    return folder


def candidates_of(reference, lists, visit, detector, section):
    sources = read_source_table(reference / f"survey/src_{visit}_{detector}.fits")
    selected = sources.select(selectors.get("science").select(sources, section))
    isolated = read_detector_rows(lists / f"list_{visit}.parquet", detector)
    matches = match_isolated_sources(
        source_id=selected["id"], isolated=isolated, catalogue_id=sources["id"], compatibility="lsst"
    )
    return candidate_table(selected, matches), isolated


def rows_of(path, visit, detector, columns):
    table = pq.read_table(path, columns=["visit", "detector", *columns]).to_pandas()
    return table[(table.visit == visit) & (table.detector == detector)]


class TestDetectors:
    def test_candidates_and_reserved(self, reference, lists):
        """Same stars, same order, same fates on every detector."""
        self.compare(reference, lists, "default", science_of_the_task())

    def test_other_draw_and_limits(self, reference, tmp_path):
        """Configuration ``field_variant``: reserve name ``other``, fraction 0.25, S/N 80 to 600."""
        lists = make_lists(reference, tmp_path, reserve_section("other", 0.25))
        self.compare(reference, lists, "field_variant", science_of_the_task(80.0, 600.0))

    @staticmethod
    def compare(reference, lists, configuration, section):
        with np.load(reference / configuration / "flags.npz") as data:
            flags = {name: data[name] for name in data.files}
        visits = set(flags["visit"].tolist())
        for visit, detector in detectors_of(reference):
            if visit not in visits:
                continue
            mine = (flags["visit"] == visit) & (flags["detector"] == detector)
            table, _ = candidates_of(reference, lists, visit, detector, section)
            assert np.array_equal(table["id"], flags["id"][mine])
            assert np.array_equal(table["calib_psf_reserved"], flags["reserved"][mine])

    def test_stamps(self, reference, lists):
        """``psf_max_value`` of every candidate; good pixels where the specification (12) lists them."""
        good_pixels = {412220507128070155: 562, 412220507128070196: 614, 412220320288604165: 625}
        seen = 0
        for visit, detector in detectors_of(reference):
            table, _ = candidates_of(reference, lists, visit, detector, science_of_the_task())
            exposure = read_exposure(reference / f"survey/calexp_{visit}_{detector}.fits")
            footprints = read_footprints(reference / f"survey/src_{visit}_{detector}.fits")
            settings = SimpleNamespace(kernelSize=27, borderWidth=0)
            found = make_psf_candidates(table, footprints, exposure, settings)
            values = np.full(len(table), np.nan, np.float32)
            values[found.index] = found.psf_max_value
            rows = rows_of(reference / "default/measured.parquet", visit, detector, ["psf_max_value"])
            assert np.array_equal(values, rows.psf_max_value.to_numpy(), equal_nan=True)
            bits = exposure.mask_bits(["BAD", "CR", "INTRP", "SAT", "SUSPECT", "NO_DATA"])
            stamps = found.stamps(exposure, 25)
            for star in np.flatnonzero(np.isin(found.source_id, list(good_pixels))):
                seen += 1
                number = ((stamps.mask[star] & bits) == 0).sum()
                assert number == good_pixels[int(found.source_id[star])]
        assert seen > 0

    def test_colors_and_magnitudes(self, reference, lists):
        """Configuration ``color_sky_fgcm``, with the standard stars as the visit list cut them."""
        columns = ["psf_color_value", "psf_color_type", *(f"fgcm_mag_{band}" for band in "grizy")]
        for visit, detector in detectors_of(reference):
            table, isolated = candidates_of(reference, lists, visit, detector, science_of_the_task())
            rows = rows_of(reference / "color_sky_fgcm/measured.parquet", visit, detector, columns)
            position = {"ra": np.degrees(table["coord_ra"]), "dec": np.degrees(table["coord_dec"])}
            band = BANDS[visit]
            colors = assign_colors(
                **position, stars=isolated.fgcm, band=band, color={band: "g-i"}, compatibility="lsst"
            )
            assert np.array_equal(colors.value, rows.psf_color_value.to_numpy(), equal_nan=True)
            assert colors.kind.tolist() == rows.psf_color_type.tolist()
            magnitudes, _ = matched_magnitudes(**position, stars=isolated.fgcm, compatibility="lsst")
            for name, values in magnitudes.items():
                assert np.array_equal(values, rows[f"fgcm_mag_{name}"].to_numpy(), equal_nan=True)
