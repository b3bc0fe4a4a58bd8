"""The micro survey: same bytes, readable, true to its truth."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.formats.parquet import read_columns
from finalchar.sheets import read_detectors, read_tracts
from finalchar.simulate import make_survey
from finalchar.simulate.surveys import MICRO, exposure_id

STAR_COLUMNS = {
    "isolated_star_id": "int64",
    "ra": "float64",
    "dec": "float64",
    "primary_band": "<U1",
    "source_cat_index": "int32",
    "nsource": "int32",
    **{
        f"{name}_{band}": "int32"
        for band in ("i", "z", "r", "g", "y", "u")
        for name in ("source_cat_index", "nsource")
    },
}
SOURCE_COLUMNS = {
    "sourceId": "int64",
    "visit": "int64",
    "detector": "int16",
    "ra": "float64",
    "dec": "float64",
    "physical_filter": "<U7",
    "band": "<U1",
    "normCompTophatFlux_instFlux": "float64",
    "normCompTophatFlux_instFluxErr": "float64",
    "x": "float64",
    "y": "float64",
    "xErr": "float32",
    "yErr": "float32",
    "apFlux_12_0_instFlux": "float64",
    "apFlux_12_0_instFluxErr": "float64",
    "apFlux_12_0_flag": "bool",
    "apFlux_17_0_instFlux": "float64",
    "apFlux_17_0_instFluxErr": "float64",
    "apFlux_17_0_flag": "bool",
    "localBackground_instFlux": "float64",
    "localBackground_flag": "bool",
    "ixx": "float64",
    "iyy": "float64",
    "ixy": "float64",
    "source_row": "int32",
    "obj_index": "int32",
}


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    make_survey("micro", folder, report=None)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_same_bytes_every_time(survey: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    make_survey("micro", tmp_path, report=lines.append)
    assert digests(tmp_path) == digests(survey)
    assert len(lines) == 6 + 2, "a line per detector and per tract"


def test_another_seed_is_another_survey(survey: Path, tmp_path: Path) -> None:
    make_survey("micro", tmp_path, seed=7, report=None)
    first, second = digests(survey), digests(tmp_path)
    unchanged = {name for name in first if first[name] == second[name]}
    assert unchanged == {"config.yaml", "detectors.csv", "tracts.csv"}


def test_sheets_name_existing_files(survey: Path) -> None:
    rows = read_detectors(survey / "detectors.csv")
    assert [(row.visit, row.detector) for row in rows] == [
        (visit.visit, detector) for visit in MICRO.visits for detector in range(3)
    ]
    named = [path for row in rows for path in (row.exposure, row.src)]
    for row in read_tracts(survey / "tracts.csv"):
        named += [row.isolated_star_cat, row.isolated_star_sources, str(row.fgcm_standard_star)]
    assert all((survey / name).is_file() for name in named)


def test_configuration_is_valid(survey: Path) -> None:
    from finalchar.config import load_config

    config = load_config(survey / "config.yaml")
    assert config.psf_determiner.piff.spatialOrder == MICRO.psf_order
    assert config.measure_ap_corr.fitConfig.orderX == MICRO.psf_order


@pytest.mark.parametrize("detector", [0, 1])  # stored plain and compressed
def test_exposure_reads_back(survey: Path, detector: int) -> None:
    visit = MICRO.visits[0]
    exposure = read_exposure(survey / f"calexp_{visit.visit}_{detector}.fits")
    assert exposure.image.shape == (MICRO.camera.height, MICRO.camera.width)
    assert exposure.band == "r"
    assert exposure.physical_filter == "r_synth"
    assert exposure.gain == 1.0
    assert exposure.visit_info.exposure_id == exposure_id(visit.visit, detector)
    assert exposure.visit_info.instrument == "SynthCam"
    assert np.isfinite(exposure.visit_info.boresight_parallactic_angle)
    assert exposure.initial_ap_corr is not None
    assert {"base_PsfFlux_instFlux", "base_CompensatedTophatFlux_12_instFlux"} <= set(
        exposure.initial_ap_corr
    )
    for plane in ("BAD", "INTRP", "CR", "EDGE", "DETECTED"):
        assert ((exposure.mask & exposure.mask_bits([plane])) != 0).any(), plane


def test_noise_is_that_of_the_variance_plane(survey: Path) -> None:
    exposure = read_exposure(survey / f"calexp_{MICRO.visits[1].visit}_2.fits")
    blank = exposure.mask == 0
    ratio = exposure.image[blank] / np.sqrt(exposure.variance[blank])
    # 1e5 pixels: the standard error of the scatter is 0.002; wings of stars below the detection limit lift
    # mean and scatter by a few per cent.
    assert np.std(ratio) == pytest.approx(1.0, abs=0.03)
    assert np.mean(ratio) == pytest.approx(0.0, abs=0.08)


def test_camera_geometry_agrees_with_astrometry(survey: Path) -> None:
    exposure = read_exposure(survey / f"calexp_{MICRO.visits[1].visit}_0.fits")
    assert exposure.field_angle is not None
    x, y = np.array([0.0, 100.0, 399.0]), np.array([3.0, 200.0, 399.0])
    angle = np.hypot(*exposure.field_angle.apply(x=x, y=y))
    xi, eta = exposure.wcs.pixel_to_intermediate(x=x, y=y)
    # Same polynomial, evaluated twice: rounding only.
    np.testing.assert_allclose(angle, 3600.0 * np.hypot(xi, eta), rtol=1e-12)


def test_header_astrometry_agrees_with_archive(survey: Path) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    path = survey / f"calexp_{MICRO.visits[1].visit}_1.fits"
    exposure = read_exposure(path)
    x, y = np.array([0.0, 100.0, 399.0]), np.array([3.0, 200.0, 399.0])
    with fits.open(path) as file:
        ra, dec = WCS(file["IMAGE"].header).all_pix2world(x, y, 0)
    ours = exposure.wcs.pixel_to_sky(x=x, y=y)
    # Rounding of degrees around 150: 3e-14 degrees.
    np.testing.assert_allclose(np.degrees(ours[0]), ra, atol=1e-12, rtol=0)
    np.testing.assert_allclose(np.degrees(ours[1]), dec, atol=1e-12, rtol=0)


def test_positions_of_the_catalogue_follow_the_astrometry(survey: Path) -> None:
    for row in read_detectors(survey / "detectors.csv"):
        exposure, table = read_exposure(survey / row.exposure), read_source_table(survey / row.src)
        ra, dec = exposure.wcs.pixel_to_sky(x=table["slot_Centroid_x"], y=table["slot_Centroid_y"])
        # Two implementations of one projection: rounding, 1e-15 rad.
        np.testing.assert_allclose(ra, table["coord_ra"], atol=1e-14, rtol=0)
        np.testing.assert_allclose(dec, table["coord_dec"], atol=1e-14, rtol=0)


def test_identifiers_are_unique_and_large(survey: Path) -> None:
    rows = read_detectors(survey / "detectors.csv")
    ids = np.concatenate([read_source_table(survey / row.src)["id"] for row in rows])
    assert ids.dtype == np.int64
    assert ids.min() > 2**53
    assert len(np.unique(ids)) == len(ids)


def test_stars_are_where_the_truth_says(survey: Path) -> None:
    deviation, ratio, error = _compare_isolated_stars(survey)
    n = len(ratio)
    assert n > 100
    # Errors are the bound for a Gaussian profile; a Moffat star on pixels with a Gaussian weight does up to
    # 1.5 times worse.  Means within 4 standard errors.
    assert 0.7 < deviation.std() < 1.6
    assert abs(deviation.mean()) < 4.0 * 1.5 / np.sqrt(2 * n)
    # Corrected PSF fluxes are 12-pixel fluxes (0.995 of the total); the constant initial PSF scatters by 2 %.
    assert np.median(ratio) == pytest.approx(0.997, abs=0.01)
    assert (np.abs(ratio - np.median(ratio)) < 5 * error + 0.08).all()


def _compare_isolated_stars(survey: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations of centroids in units of their errors, PSF fluxes over truth, their relative errors."""
    truth = read_columns(survey / "truth_sources.parquet", None)
    of_source = {int(number): row for row, number in enumerate(truth["source_id"]) if number > 0}
    deviations, ratios, errors = [], [], []
    isolated = np.concatenate(
        [
            read_columns(survey / f"isolated_star_sources_{tract}.parquet", ["sourceId"])["sourceId"]
            for tract in MICRO.sky.tracts
        ]
    )
    for row in read_detectors(survey / "detectors.csv"):
        table = read_source_table(survey / row.src)
        table = table.select(np.isin(table["id"], isolated))
        true = np.array([of_source[int(number)] for number in table["id"]])
        for axis in "xy":
            offset = table[f"slot_Centroid_{axis}"] - truth[axis][true]
            deviations.append(offset / table[f"slot_Centroid_{axis}Err"])
        ratios.append(table["slot_PsfFlux_instFlux"] / truth["flux"][true])
        errors.append(table["slot_PsfFlux_instFluxErr"] / truth["flux"][true])
        assert truth["is_star"][true].all()
    return np.concatenate(deviations), np.concatenate(ratios), np.concatenate(errors)


@pytest.mark.parametrize("tract", MICRO.sky.tracts)
def test_isolated_star_tables_have_the_columns_of_the_task(survey: Path, tract: int) -> None:
    stars = read_columns(survey / f"isolated_star_cat_{tract}.parquet", None)
    sources = read_columns(survey / f"isolated_star_sources_{tract}.parquet", None)
    assert {name: str(stars[name].dtype) for name in stars} == STAR_COLUMNS
    assert {name: str(sources[name].dtype) for name in sources} == SOURCE_COLUMNS
    assert list(stars) == list(STAR_COLUMNS)
    assert list(sources) == list(SOURCE_COLUMNS)


@pytest.mark.parametrize("tract", MICRO.sky.tracts)
def test_slices_of_the_star_table(survey: Path, tract: int) -> None:
    stars = read_columns(survey / f"isolated_star_cat_{tract}.parquet", None)
    sources = read_columns(survey / f"isolated_star_sources_{tract}.parquet", None)
    assert stars["nsource"].sum() == len(sources)
    np.testing.assert_array_equal(stars["isolated_star_id"], (np.arange(len(stars)) + 1) * 100_000 + tract)
    for star in range(len(stars)):
        start, number = stars["source_cat_index"][star], stars["nsource"][star]
        np.testing.assert_array_equal(sources["obj_index"][start : start + number], star)
        for band in ("i", "r", "g"):
            first, count = stars[f"source_cat_index_{band}"][star], stars[f"nsource_{band}"][star]
            assert (sources["band"][first : first + count] == band).all()
            assert (sources["band"][start : start + number] == band).sum() == count
    east = (stars["ra"] >= MICRO.sky.boundary_ra).all()
    west = (stars["ra"] < MICRO.sky.boundary_ra).all()
    assert (west, east) == ((True, False) if tract == MICRO.sky.tracts[0] else (False, True))


def test_isolated_sources_are_rows_of_the_catalogues(survey: Path) -> None:
    parts = [read_columns(survey / f"isolated_star_sources_{t}.parquet", None) for t in MICRO.sky.tracts]
    for row in read_detectors(survey / "detectors.csv"):
        table = read_source_table(survey / row.src)
        where = {int(number): k for k, number in enumerate(table["id"])}
        for sources in parts:
            mine = np.flatnonzero((sources["visit"] == row.visit) & (sources["detector"] == row.detector))
            rows = np.array([where[int(number)] for number in sources["sourceId"][mine]], dtype=int)
            np.testing.assert_array_equal(sources["x"][mine], table["slot_Centroid_x"][rows])
            assert (table["parent"][rows] == 0).all()
            assert (table["deblend_nChild"][rows] == 0).all()
            assert (sources["band"][mine] == row.band).all()


def test_footprints_cover_peaks_and_children_share_their_parent(survey: Path) -> None:
    children = 0
    for row in read_detectors(survey / "detectors.csv"):
        footprints, table = read_footprints(survey / row.src), read_source_table(survey / row.src)
        np.testing.assert_array_equal(footprints.source_id, table["id"])
        np.testing.assert_array_equal(footprints.heavy, table["parent"] != 0)
        where = {int(number): k for k, number in enumerate(table["id"])}
        shared: dict[int, float] = {}
        for index in range(len(footprints)):
            y, x = footprints.pixels(index)
            peak_x, peak_y = footprints.peaks(index)
            pixels = set(zip(y.tolist(), x.tolist(), strict=True))
            assert set(zip(peak_y.tolist(), peak_x.tolist(), strict=True)) <= pixels
            if footprints.heavy[index]:
                children += 1
                parent_y, parent_x = footprints.pixels(where[int(footprints.parent[index])])
                assert pixels <= set(zip(parent_y.tolist(), parent_x.tolist(), strict=True))
                parent = int(footprints.parent[index])
                shared[parent] = shared.get(parent, 0.0) + float(footprints.heavy_pixels(index).sum())
        _check_light_is_shared(survey / row.exposure, footprints, where, shared)
    assert children > 4


def _check_light_is_shared(path: Path, footprints, where: dict[int, int], shared: dict[int, float]) -> None:
    exposure = read_exposure(path)
    for parent, light in shared.items():
        y, x = footprints.pixels(where[parent])
        # All positive pixels belong to a child, and only those; sums are in float32.
        assert light == pytest.approx(float(np.maximum(exposure.image[y, x], 0.0).sum()), rel=1e-3)


def test_standard_stars_are_near_their_stars(survey: Path) -> None:
    for tract in MICRO.sky.tracts:
        stars = read_columns(survey / f"isolated_star_cat_{tract}.parquet", None)
        standards = read_columns(survey / f"fgcm_standard_star_{tract}.parquet", None)
        row = {int(number): k for k, number in enumerate(stars["isolated_star_id"])}
        rows = np.array([row[int(number)] for number in standards["isolated_star_id"]])
        offset = 3600.0 * (standards["dec"] - stars["dec"][rows])
        assert np.abs(offset).max() < 0.3  # 0.03 arcsec of the standards plus faint centroids
        assert 0 < len(standards) <= len(stars)
        assert standards["mag_g"].dtype == np.float32


def test_source_catalogue_has_the_columns_of_the_reference(survey: Path) -> None:
    golden = Path(__file__).parents[2] / "data" / "golden_small" / "survey"
    reference = read_source_table(golden / "src_2026011500101_0.fits")
    table = read_source_table(survey / f"src_{MICRO.visits[0].visit}_0.fits")
    assert {name: table[name].dtype for name in table} == {
        name: reference[name].dtype for name in table if name in reference.columns
    }
    assert set(table.aliases.items()) <= set(reference.aliases.items())
