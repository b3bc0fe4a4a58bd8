"""The PSF room against the reference: shapes, drawing of stored PSFs, and fits of the four configurations.

Runs on the small cut in tests/data; with the complete reference beside the repository, on that too.  What is
fitted there is a choice (a detector with a rejected star, one of another visit, the ones that fail); the
parity tool fits all detectors.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from finalchar.errors import PsfError
from finalchar.formats.exposure_catalog import read_exposure_catalog
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.psf import acceptance
from finalchar.psf.determiners import piff as determiner
from finalchar.psf.shape import adaptive_moments
from finalchar.psf.stored import model_from_stored
from finalchar.stars.candidates import make_psf_candidates

ROOT = Path(__file__).parents[2]
SMALL, COMPLETE = ROOT / "tests/data/golden_small", ROOT.parent / "shared/golden"
REFERENCES = [path for path in (SMALL, COMPLETE) if path.is_dir()]
CONFIGURATIONS = ("default", "color_sky_fgcm", "sky_oversampled", "field_variant")
CHOSEN = {
    SMALL: ("2026011500101_0", "2026011500101_1", "2026011500188_3"),
    COMPLETE: ("2026011500188_1", "2026020300212_2"),
}
TOTALS = {  # chi-square, degrees of freedom, iterations: selection specification 6.3 and 12
    ("default", "2026011500101_0"): (9477.0564, 19282, 2),
    ("default", "2026011500101_1"): (4868.9497, 16172, 2),
    ("default", "2026011500188_1"): (7916.8474, 22860, 3),
    ("color_sky_fgcm", "2026011500101_0"): (13459.5391, 29626, 2),
    ("color_sky_fgcm", "2026011500101_1"): (7176.3098, 24908, 2),
    ("color_sky_fgcm", "2026011500188_1"): (13256.8059, 35915, 2),
    ("sky_oversampled", "2026011500101_0"): (14150.0516, 25961, 2),
    ("sky_oversampled", "2026011500188_1"): (11065.8884, 30695, 3),
    ("field_variant", "2026011500101_0"): (1132.3188, 13062, 2),
    ("field_variant", "2026011500188_1"): (1449.8524, 14255, 2),
}


def reference_images(reference, configuration, name):
    """Images, kernel images and where and with what colour they were drawn."""
    with np.load(reference / configuration / f"psf_images_{name}.npz") as file:
        stored = {key: file[key] for key in file}
    number = len(stored["kernel"])
    x, y = np.tile(stored["position"], (number // len(stored["position"]), 1)).T
    color = np.repeat(stored["probe_color"], number // len(stored["probe_color"]))
    return SimpleNamespace(**stored, x=x, y=y, color=color)


def assert_draws_like(model, expected, tolerance):
    """Images, kernel images and their boxes; tolerance as a fraction of the peak."""
    kernels = model.kernel_images(x=expected.x, y=expected.y, color=expected.color)
    images, x0, y0 = model.images(x=expected.x, y=expected.y, color=expected.color)
    peak = expected.kernel.max()
    np.testing.assert_allclose(kernels, expected.kernel, rtol=0, atol=tolerance * peak)
    np.testing.assert_allclose(images, expected.image, rtol=0, atol=tolerance * peak)
    np.testing.assert_array_equal(np.column_stack([x0, y0]), expected.image_xy0)
    assert model.average_position == pytest.approx(tuple(expected.average_position), abs=1e-9)
    np.testing.assert_allclose(model.average_color, expected.average_color, rtol=1e-12)


# Rounding to single precision of the stored images; those of `default` are in double precision.
TOLERANCE = {"default": 1e-13, "psfex": 2e-7}
"""PSFEx: its image is made in single precision, too, before it is resampled."""


# ----------------------------------------------------------------------------------------------- shapes


def image_files():
    return [
        pytest.param(path, id=f"{reference.name}-{path.parent.name}-{path.stem}")
        for reference in REFERENCES
        for path in sorted(reference.glob("*/psf_images_*.npz"))
    ]


@pytest.mark.parametrize("path", image_files())
def test_shapes_are_the_reference_to_the_last_bit(path):
    with np.load(path) as file:
        kernels, expected = file["kernel"].astype(np.float64), file["shape_xx_yy_xy"]
    moments = adaptive_moments(kernels)
    np.testing.assert_array_equal(np.column_stack([moments.xx, moments.yy, moments.xy]), expected)
    assert not moments.failed.any()


# --------------------------------------------------------------------------------------- stored models


def catalogues():
    return [
        pytest.param(path, id=f"{reference.name}-{path.parent.name}-{path.stem}")
        for reference in REFERENCES
        for path in sorted(reference.glob("*/psf_ap_corr_*.fits"))
        if path.stem.count("_") == 3
    ]


@pytest.mark.parametrize("path", catalogues())
def test_stored_psfs_draw_as_the_reference(path):
    reference, configuration = path.parents[1], path.parent.name
    drawn = 0
    for record in read_exposure_catalog(path).records:
        name = f"{record.visit}_{record.detector}"
        if record.psf is None or not (path.parent / f"psf_images_{name}.npz").exists():
            continue
        model = model_from_stored(record.psf, compatibility="lsst")
        expected = reference_images(reference, configuration, name)
        assert_draws_like(model, expected, TOLERANCE.get(configuration, 1e-7))
        drawn += 1
    if "2026011500101" in path.stem:
        assert drawn


def exposures():
    return [
        pytest.param(path, id=f"{reference.name}-{path.stem}")
        for reference in REFERENCES
        for path in sorted((reference / "survey").glob("calexp_*.fits"))
    ]


@pytest.mark.parametrize("path", exposures())
def test_initial_psfs_draw_as_the_reference(path):
    name = path.stem.removeprefix("calexp_")
    with np.load(path.parent / "inputs_check.npz") as file:
        expected = {key.split("|", 1)[1]: file[key] for key in file if key.startswith(f"{name}|")}
    model = model_from_stored(read_exposure(path).initial_psf)
    x, y = expected["probe_xy"].T
    moments = adaptive_moments(model.kernel_images(x=x, y=y))
    shapes = np.column_stack([moments.xx, moments.yy, moments.xy])
    np.testing.assert_array_equal(shapes, expected["psf_shape_xx_yy_xy"])
    images, x0, y0 = model.images(x=x, y=y)
    corners = np.column_stack([x0, y0])
    place = np.flatnonzero((corners == expected["psf_image_xy0"]).all(axis=1))
    # Roundings of the separable kernel.
    np.testing.assert_allclose(images[place], expected["psf_image"], rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------------------------- fits


def fits():
    return [
        pytest.param(reference, configuration, name, id=f"{configuration}-{name}")
        for reference in REFERENCES
        for configuration in CONFIGURATIONS
        for name in CHOSEN[reference]
        if not (configuration == "field_variant" and name.startswith("20260203"))
    ]


def reference_case(reference, configuration, name):
    """Exposure, candidates that are not reserved, settings, and which rows of the flags they are."""
    changed_file = reference / configuration / "config_diff_from_default.json"
    changed = json.loads(changed_file.read_text()) if changed_file.exists() else {}
    prefix = "psf_determiner['piff']."
    settings = determiner.Settings(
        **{key.removeprefix(prefix): value for key, value in changed.items() if key.startswith(prefix)}
    )
    visit, detector = map(int, name.split("_"))
    with np.load(reference / configuration / "flags.npz") as file:
        rows = (file["visit"] == visit) & (file["detector"] == detector)
        flags = {key: file[key][rows] for key in ("id", "reserved", "used")}
    exposure = read_exposure(reference / f"survey/calexp_{name}.fits")
    sources = read_source_table(reference / f"survey/src_{name}.fits")
    table = sources.select(np.searchsorted(sources["id"], flags["id"]))
    if settings.useColor:
        columns = ["id", "psf_color_value", "psf_color_type"]
        measured = pq.read_table(reference / configuration / "measured.parquet", columns=columns).to_pandas()
        measured = measured.set_index("id").loc[flags["id"]]
        table = table.with_columns(
            {
                "psf_color_value": measured["psf_color_value"].to_numpy(np.float32),
                "psf_color_type": measured["psf_color_type"].to_numpy().astype("U10"),
            }
        )
    size = SimpleNamespace(kernelSize=changed.get("make_psf_candidates.kernelSize", 27), borderWidth=0)
    found = make_psf_candidates(table, read_footprints(reference / f"survey/src_{name}.fits"), exposure, size)
    return exposure, found.select(~flags["reserved"][found.index]), settings, flags


@pytest.mark.parametrize(("reference", "configuration", "name"), fits())
def test_fits_are_the_reference(reference, configuration, name):
    exposure, found, settings, flags = reference_case(reference, configuration, name)
    if not flags["used"].any():
        with pytest.raises(PsfError, match="too few good stars"):
            determiner.determine(found, exposure, settings, band=exposure.band, compatibility="lsst")
        return
    fit = determiner.determine(found, exposure, settings, band=exposure.band, compatibility="lsst")
    used = np.zeros(len(flags["id"]), bool)
    used[found.index[fit.used]] = True
    np.testing.assert_array_equal(used, flags["used"])
    # The stack's and our linear algebra library: roundings times the condition of the normal equations.
    tolerance = 1e-9 if configuration == "default" else 1e-7
    assert_draws_like(fit.model, reference_images(reference, configuration, name), tolerance)
    if (configuration, name) in TOTALS:
        chi_squared, dof, iterations = TOTALS[configuration, name]
        assert fit.figures["chi_squared"] == pytest.approx(chi_squared, abs=1e-3)
        assert fit.figures["degrees_of_freedom"] == dof
        assert fit.figures["iterations"] == iterations
    acceptance.check_psf(fit, exposure, acceptance.Settings())
