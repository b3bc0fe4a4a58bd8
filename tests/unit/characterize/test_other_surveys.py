"""Plain images and a SExtractor catalogue: the same detector as in the form of the LSST stack.

The tests of settings (K05) read the detector once for every setting and compare what was read.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import fitsio
import galsim
import numpy as np
import pytest

from finalchar.characterize import characterize_detector, load_detector_inputs
from finalchar.config import Config, load_config
from finalchar.config_input import Input
from finalchar.config_text import all_keys, section_in
from finalchar.errors import ConfigError, FinalcharError, SheetError
from finalchar.formats.image_rows import image_set_of_row
from finalchar.formats.image_set import read_image_set
from finalchar.formats.sextractor import read_sextractor
from finalchar.frozen import Configured
from finalchar.plan import detector_inputs, detector_wanted
from finalchar.sheets import read_detectors, read_tracts
from finalchar.simulate import make_survey
from finalchar.simulate.plain_form import write_plain_form
from finalchar.stars.tract import reserve_stars
from finalchar.stars.visit_list import TractInputs, make_visit_list
from finalchar.status import Status

VISIT, DETECTOR = 188, 1
PLUGINS = [
    "base_CircularApertureFlux",
    "base_GaussianFlux",
    "base_PsfFlux",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMoments",
]


@pytest.fixture(scope="module", name="surveys")
def both_forms(tmp_path_factory):
    """The micro survey in both forms: pixels, positions and isolated stars are the same."""
    root = tmp_path_factory.mktemp("forms")
    make_survey("micro", root / "lsst", report=None)
    write_plain_form(root / "lsst", root / "images")
    return root


def run(folder, visit, output, **changes):
    """Characterise one detector of a survey, everything before it included."""
    config = load_config(folder / "config.yaml", [f"survey={folder}"])
    config.measurement.plugins.names = PLUGINS if config.input.kind == "images" else PLUGINS[1:]
    config.measurement.slots.modelFlux = "base_GaussianFlux"
    for name, value in changes.items():
        setattr(config.psf_determiner.piff, name, value)
    output.mkdir()
    row = next(
        row
        for row in read_detectors(config.detectors_sheet)
        if (row.visit, row.detector) == (visit, DETECTOR)
    )
    tracts = []
    for tract in read_tracts(config.tracts_sheet):
        product = output / f"{tract.tract}.parquet"
        reserve_stars(
            tract=tract.tract,
            star_table=folder / tract.isolated_star_cat,
            source_table=folder / tract.isolated_star_sources,
            bands=["i", "r"],
            settings=config.reserve_selection,
            id_column=config.id_column,
            output=product,
        )
        tracts.append(TractInputs(tract=tract.tract, reserved=product))
    make_visit_list(visit=visit, band=row.band, tracts=tracts, output=output / "list.parquet")
    inputs = load_detector_inputs(
        visit=visit,
        detector=DETECTOR,
        band=row.band,
        exposure=folder / row.exposure,
        src=folder / row.src,
        visit_list=output / "list.parquet",
        config=config,
        survey=folder,
        row=row.extra,
    )
    result = characterize_detector(inputs=inputs, config=config)
    assert result.status.status is Status.OK, result.status.sentence
    return result


@pytest.fixture(scope="module", name="results")
def results_of_both_forms(surveys, tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    visit_of = {
        "lsst": next(r.visit for r in read_detectors(surveys / "lsst/detectors.csv") if r.band == "i")
    }
    return [run(surveys / form, visit_of.get(form, VISIT), root / form) for form in ("lsst", "images")]


def shapes(result):
    """Size and ellipticity of the PSF at four places."""
    places = [(60.0, 60.0), (340.0, 60.0), (200.0, 200.0), (300.0, 340.0)]
    drawn = [result.fit.model.kernel_image(x=x, y=y).array for x, y in places]
    found = [galsim.hsm.FindAdaptiveMom(galsim.ImageD(np.ascontiguousarray(array))) for array in drawn]
    return np.array([(m.moments_sigma, m.observed_shape.e1, m.observed_shape.e2) for m in found])


def test_the_psf_is_that_of_the_same_pixels_in_lsst_form(results):
    lsst, plain = results
    np.testing.assert_array_equal(lsst.table["slot_Centroid_x"], plain.table["slot_Centroid_x"])
    np.testing.assert_array_equal(lsst.table["calib_psf_reserved"], plain.table["calib_psf_reserved"])
    np.testing.assert_array_equal(lsst.table["calib_psf_used"], plain.table["calib_psf_used"])
    # Stamps differ in a few masked pixels of neighbours only, whose footprints segmentation found: 1e-5.
    np.testing.assert_allclose(shapes(plain), shapes(lsst), rtol=0, atol=1e-4)


def test_fluxes_are_those_of_the_same_pixels_in_lsst_form(results):
    lsst, plain = results
    for name in ("base_PsfFlux_instFlux", "base_GaussianFlux_instFlux"):
        # Corrected to the 12-pixel aperture here, to the compensated one there; both were corrected by 2 %.
        ratio = plain.table[name] / lsst.table[name]
        assert np.nanmedian(ratio) == pytest.approx(1.0, abs=0.02)
        error = plain.table[f"{name}Err"] / lsst.table[f"{name}Err"]
        assert np.nanmedian(error) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("coordinates", ["sky", "field"])
def test_coordinates_of_a_header(surveys, tmp_path, coordinates):
    """A FITS header is enough for both; a model of order 1 is one of order 1 in any linear coordinates."""
    sizes = {"modelSize": 17, "stampSize": 25}  # a turned grid needs larger stamps
    pixel = run(surveys / "images", VISIT, tmp_path / "pixel", **sizes)
    other = run(surveys / "images", VISIT, tmp_path / "other", useCoordinates=coordinates, **sizes)
    # The grid is turned against the pixels: another interpolation of the same stars.
    np.testing.assert_allclose(shapes(other), shapes(pixel), rtol=0, atol=3e-3)


# ------------------------------------------------------------------------------------------------- settings


def read_with(surveys, path, value, **row):
    """What is read with one setting changed: arrays by name."""
    folder = surveys / "images"
    config = load_config(folder / "config.yaml", [f"survey={folder}"])
    config.input.images.gain = 2.0
    section = config.input
    for part in path.split(".")[:-1]:
        section = getattr(section, part)
    if path:
        setattr(section, path.split(".")[-1], value)
    config = config.checked()
    name = f"{VISIT}_{DETECTOR}.fits"
    paths = {"weight": f"weight_{name}", "flag": f"flag_{name}", **row}
    images = image_set_of_row(
        folder / f"image_{name}", paths, survey=folder, band="i", settings=config.input.images
    )
    exposure = read_image_set(images)
    sources = read_sextractor(
        folder / f"cat_{name}", config.input.catalogue, exposure, visit=VISIT, detector=DETECTOR
    )
    return {
        **{
            f.name: getattr(exposure, f.name)
            for f in fields(exposure)
            if f.name in ("image", "mask", "variance")
        },
        "gain": exposure.gain,
        "calibration": None if exposure.calibration is None else float(exposure.calibration.mean),
        **sources.columns,
    }


def differ(one, other):
    if one.keys() != other.keys():
        return True
    return any(
        not np.array_equal(np.asarray(one[k], float), np.asarray(other[k], float), equal_nan=True)
        for k in one
    )


SETTINGS = {
    "images.weight_kind": "variance",
    "images.flag_kind": "values",
    "images.flags": {"SAT": [4]},
    "images.offset": 3.0,
    "images.saturation": 5000.0,
    "images.gain": 5.0,
    "images.photon_noise": "add",
    "images.zero_point": 27.0,
    "images.background": "subtract",
    "catalogue.hdu": 1,
    "catalogue.first_pixel": 0,
    "catalogue.id": "FLAGS",
    "catalogue.id_rule": "as_given",
    "catalogue.x": "YWIN_IMAGE",
    "catalogue.y": "XWIN_IMAGE",
    "catalogue.error_ellipse": [],
    "catalogue.flux": "FLUXERR_AUTO",
    "catalogue.flux_err": "FLUX_AUTO",
    "catalogue.shape": ["XWIN_IMAGE", "YWIN_IMAGE", "XWIN_IMAGE"],
    "catalogue.flags": {"mine": "FLAGS & 1"},
    "catalogue.columns": {"number": "NUMBER"},
    "catalogue.flag_radius": 30.0,
    "catalogue.largest_offset": 1e-5,
}
SHOWN_BELOW = {
    *("preset", "kind"),
    *("catalogue.ra", "catalogue.dec", "images.background_box", "images.background_filter"),
}


@pytest.mark.parametrize("path", SETTINGS)
def test_a_setting_acts_on_what_is_read(surveys, path):
    """K05."""
    base = read_with(surveys, "", None)
    try:
        changed = read_with(surveys, path, SETTINGS[path])
    except FinalcharError:
        return  # what the setting names is not there, or contradicts the pixels
    assert differ(base, changed)


@pytest.mark.parametrize(("name", "value"), [("background_box", 60), ("background_filter", 1)])
def test_the_mesh_of_the_background_acts(surveys, name, value):
    mesh = {"background_box": 128, "background_filter": 3}

    def image(**changes):
        folder = surveys / "images"
        config = load_config(folder / "config.yaml", [f"survey={folder}", "input.images.background=subtract"])
        for each, number in {**mesh, **changes}.items():
            setattr(config.input.images, each, number)
        row = {"weight": f"weight_{VISIT}_1.fits"}
        settings = config.input.images
        return read_image_set(
            image_set_of_row(
                folder / f"image_{VISIT}_1.fits", row, survey=folder, band="i", settings=settings
            )
        ).image

    assert not np.array_equal(image(), image(**{name: value}), equal_nan=True)


def test_sky_positions_of_the_catalogue(surveys, tmp_path):
    folder = surveys / "images"
    rows = fitsio.read(folder / "cat_188_1.fits", ext=2)
    with_sky = np.zeros(len(rows), dtype=[*rows.dtype.descr, ("ALPHA", "f8"), ("DELTA", "f8")])
    for name in rows.dtype.names:
        with_sky[name] = rows[name]
    with_sky["ALPHA"], with_sky["DELTA"] = 150.0, -28.0
    fitsio.write(tmp_path / "cat.fits", with_sky)
    config = load_config(folder / "config.yaml", [f"survey={folder}"])
    config.input.catalogue.ra, config.input.catalogue.dec = "ALPHA", "DELTA"
    row = {"weight": "weight_188_1.fits"}
    settings = config.input.images
    images = image_set_of_row(folder / "image_188_1.fits", row, survey=folder, band="i", settings=settings)
    sources = read_sextractor(
        tmp_path / "cat.fits", config.input.catalogue, read_image_set(images), visit=1, detector=1
    )
    np.testing.assert_array_equal(sources["coord_ra"], np.radians(150.0))
    np.testing.assert_array_equal(sources["coord_dec"], np.radians(-28.0))


def test_every_setting_is_shown():
    leaves = {
        ".".join(path)
        for path in all_keys(Input)
        if len(path) > 1 or section_in(Input.model_fields[path[0]].annotation) is None
    }
    assert leaves == {*SETTINGS, *SHOWN_BELOW}


def test_columns_of_the_sheet_stand_above_the_settings(surveys):
    base = read_with(surveys, "", None)
    changed = read_with(surveys, "", None, gain="4.5", zero_point="27", saturation="5e3", offset="2")
    assert (base["gain"], changed["gain"]) == (2.0, 4.5)
    assert changed["calibration"] == pytest.approx(10 ** (0.4 * 4.4), rel=1e-12)
    assert np.nanmedian(base["image"] - changed["image"]) == pytest.approx(2.0, abs=1e-5)
    assert differ({"mask": base["mask"]}, {"mask": changed["mask"]})


# -------------------------------------------------------------------------------------- presets and sheets


def test_a_preset_stands_beneath_the_settings(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "input: {preset: sextractor, images: {weight_kind: variance, gain: 3}}\n"
        "psf_determiner: {piff: {spatialOrder: 1}}\n"
    )
    (tmp_path / "config.yaml").write_text(
        f"input: {{preset: {mine}, images: {{gain: 4}}}}\npsf_determiner: {{piff: {{modelSize: 21}}}}\n"
    )
    config = load_config(tmp_path / "config.yaml")
    assert (config.input.kind, config.input.images.weight_kind, config.input.images.gain) == (
        "images",
        "variance",
        4.0,
    )
    assert (config.psf_determiner.piff.spatialOrder, config.psf_determiner.piff.modelSize) == (1, 21)
    assert config.input.catalogue.x == "XWIN_IMAGE"
    assert Config(**config.to_plain()).to_plain() == config.to_plain()
    mine.write_text("psf_determiner: {piff: {spatialOrdr: 1}}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml, line 1: Unknown configuration key .*spatialOrdr"):
        load_config(tmp_path / "config.yaml")
    mine.unlink()
    with pytest.raises(ConfigError, match=r"mine\.yaml' does not exist"):
        load_config(tmp_path / "config.yaml")
    # A job makes the configuration of all its values, and does not look at presets again.
    assert Config(**config.to_plain()).to_plain() == config.checked().to_plain() == config.to_plain()


def test_the_kind_of_the_weight_must_be_stated():
    """K08: what the plane means is a required setting."""
    with pytest.raises(ConfigError, match="weight_kind must say what the weight image holds"):
        Config(input={"preset": "sextractor"})


@pytest.mark.parametrize(
    ("sheet", "kind", "message"),
    [
        ("", "images", "line 2: there is no weight image; name it in the column 'weight'"),
        (",weight:w.fits", "lsst", "line 2: the column 'weight' belongs to plain images; choose a preset"),
        (",weight:w.fits,gain:4,5", "images", "5 fields|8 fields"),
        (",weight:w.fits,gain:high", "images", "line 2: the gain 'high' is not a number"),
        (",weight:w.fits,gain:nan", "images", "line 2: the gain 'nan' is not a number"),
        (",weight:w.fits,gain:-1", "images", "line 2: the gain '-1' must be more than 0; correct it or"),
        (",weight:w.fits,saturation:0", "images", "line 2: the saturation '0' must be more than 0"),
    ],
)
def test_sheets_and_kind_belong_together(tmp_path, sheet, kind, message):
    names = [part.split(":")[0] for part in sheet.split(",")[1:] if ":" in part]
    values = [part.split(":")[-1] for part in sheet.split(",")[1:]]
    (tmp_path / "detectors.csv").write_text(
        ",".join(["visit", "detector", "band", "exposure", "src", *names])
        + "\n"
        + ",".join(["1", "2", "r", "a.fits[1]", "c.fits", *values])
        + "\n"
    )
    (tmp_path / "tracts.csv").write_text("tract,isolated_star_cat,isolated_star_sources\n1,a,b\n")
    preset = "{preset: sextractor, images: {weight_kind: variance}}" if kind == "images" else "{preset: lsst}"
    (tmp_path / "config.yaml").write_text(f"survey: {tmp_path}\ninput: {preset}\n")
    with pytest.raises(SheetError, match=message):
        Configured.read(tmp_path / "config.yaml").survey()


def test_what_a_detector_is_compared_by():
    """Files are watched without the number of their HDU; that and the numbers of the row decide as well."""
    row = {"detector": 2, "band": "r", "exposure": "a.fits[1]", "src": "c.fits"}
    assert detector_inputs("s", row).files == {"exposure": "a.fits[1]", "src": "c.fits"}
    plain = {**row, "weight": "a.fits[2]", "flag": "f.fits", "gain": ""}
    assert detector_inputs("s", plain).files == {
        "exposure": "a.fits",
        "src": "c.fits",
        "weight": "a.fits",
        "flag": "f.fits",
    }

    def sheet(row):
        return detector_wanted({}, {"rows": {}}, row)["sheet"]

    assert sheet(row) == "r"
    same = [sheet(plain), sheet({**plain, "comment": "night was clear"})]
    others = [sheet({**plain, "gain": "2"}), sheet({**plain, "weight": "a.fits[3]"})]
    assert same[0] == same[1]
    assert len({*same, *others}) == 3


def test_the_command_simulates_plain_images(tmp_path):
    command = [sys.executable, "-m", "finalchar", "simulate", "micro", tmp_path / "s", "--form", "images"]
    root = Path(__file__).parents[3] / "scripts"
    done = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s/weight_188_1.fits").exists()
    assert load_config(tmp_path / "s/config.yaml").input.kind == "images"


def test_psfex_takes_the_flux_of_the_selection():
    """With the preset alone: it has no aperture flux with a flag, which psfex would ask for."""
    config = Config(input={"preset": "sextractor", "images": {"weight_kind": "variance"}})
    psfex = config.psf_determiner.psfex
    assert psfex.photometricFluxField == config.source_selector.science.signalToNoise.fluxField
    assert not psfex.rejectFlaggedCentroids


def test_psfex_without_second_moments_is_refused_before_the_first_job():
    images = {"weight_kind": "variance"}
    with pytest.raises(ConfigError, match=r"'input\.catalogue\.shape' must name the columns of the second"):
        Config(input={"preset": "sextractor", "images": images}, psf_determiner={"name": "psfex"})
    shape = ["X2_IMAGE", "Y2_IMAGE", "XY_IMAGE"]
    named = {"preset": "sextractor", "images": images, "catalogue": {"shape": shape}}
    assert Config(input=named, psf_determiner={"name": "psfex"}).input.catalogue.shape == shape
