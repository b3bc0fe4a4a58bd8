"""Galaxy-model fluxes of drawn stars and galaxies, and of what cannot be fitted."""

from __future__ import annotations

from dataclasses import replace

import galsim
import numpy as np
import pytest

from finalchar.errors import ConfigError, MeasurementError
from finalchar.measure import plugins

NAME = "modelfit_CModel"
SHAPELETS = "modelfit_DoubleShapeletPsfApprox"
PLUGINS = ["base_PsfFlux", "ext_shapeHSM_HsmSourceMoments", SHAPELETS, NAME]
STAGES = ("initial", "exp", "dev")
RADIAN_PER_ARCSEC = np.pi / 180 / 3600


class Sky:
    """Pixels of 0.2 arcsec, rotated by 30 degrees, at declination -30 degrees."""

    def pixel_to_sky(self, *, x, y):
        cos, sin = np.cos(np.deg2rad(30.0)), np.sin(np.deg2rad(30.0))
        east, north = (cos * x - sin * y) * 0.2, (sin * x + cos * y) * 0.2
        dec = np.deg2rad(-30.0) + north * RADIAN_PER_ARCSEC
        return 1.0 + east * RADIAN_PER_ARCSEC / np.cos(dec), dec


def with_sky(scene):
    return replace(scene, exposure=replace(scene.exposure, wcs=Sky()))


def add_galaxy(scene, galaxy, x, y):
    """Return the scene with one more galaxy on its image, convolved with its PSF."""
    image = scene.exposure.image.astype(float)
    stamp = galsim.ImageD(image.shape[1], image.shape[0], xmin=0, ymin=0, scale=1.0)
    drawn = galsim.Convolve([galaxy, scene.psf.profile])
    drawn.drawImage(image=stamp, center=galsim.PositionD(x, y), method="no_pixel")
    return scene.with_planes(image=(image + stamp.array).astype(np.float32))


@pytest.fixture(name="stars", scope="module")
def measured_stars():
    from measured_scene import make_scene, measurement_settings

    rng = np.random.default_rng(0)
    x = np.tile([40.0, 90.0, 140.0, 190.0], 3) + rng.uniform(-1, 1, 12)
    y = np.repeat([35.0, 85.0, 135.0], 4) + rng.uniform(-1, 1, 12)
    scene = with_sky(make_scene(x=x, y=y, flux=np.geomspace(1e4, 2e5, 12)))
    return scene, scene.measure("fixed", measurement_settings(PLUGINS))


def test_stars_have_their_flux(stars):
    scene, table = stars
    for name in (NAME, f"{NAME}_exp", f"{NAME}_dev"):
        pull = (table[f"{name}_instFlux"] - scene.flux) / table[f"{name}_instFluxErr"]
        assert np.abs(pull).max() < 3  # images have less noise than their variance says
        # the two shapelets describe this PSF to a part in a thousand
        np.testing.assert_allclose(table[f"{name}_instFlux"][6:], scene.flux[6:], rtol=0.01)
        assert not table[f"{name}_flag"].any()


def test_stars_have_no_size(stars):
    _, table = stars
    size = np.sqrt(0.5 * (table[f"{NAME}_exp_ellipse_xx"] + table[f"{NAME}_exp_ellipse_yy"]))
    assert (size < 1.0).all()  # pixels; the PSF has 1.8
    assert table[f"{NAME}_flags_region_usedFootprintArea"].all()


def test_results_do_not_depend_on_the_other_stars(stars, settings_of):
    scene, table = stars
    some = scene.measure("fixed", settings_of(PLUGINS), rows=[2, 7])
    for column in table.columns:
        if column.startswith(NAME) and not column.endswith("_time"):
            assert some[column].tobytes() == table[column][[2, 7]].tobytes(), column


def test_both_modes_agree_but_for_the_calibration(stars, settings_of, scene_of):
    one = with_sky(scene_of(x=[100.0], y=[90.0], flux=[2e4]))
    calibrated = replace(one, exposure=replace(one.exposure, calibration=object()))
    settings = settings_of(PLUGINS, doReplaceWithNoise=False)
    fixed, lsst = one.measure("fixed", settings), calibrated.measure("lsst", settings)
    assert fixed[f"{NAME}_instFlux"].tobytes() == lsst[f"{NAME}_instFlux"].tobytes()
    with pytest.raises(MeasurementError, match="needs the photometric calibration"):
        one.measure("lsst", settings)


@pytest.mark.parametrize(
    ("galaxy", "stage"),
    [
        (galsim.Exponential(half_light_radius=3.0, flux=2e5).shear(g1=0.15, g2=-0.1), "exp"),
        (galsim.DeVaucouleurs(half_light_radius=3.0, flux=2e5, trunc=24.0).shear(g1=0.1, g2=0.1), "dev"),
    ],
)
def test_galaxies_have_their_flux_and_shape(galaxy, stage, scene_of, settings_of):
    scene = scene_of(x=[100.3], y=[99.6], flux=[1e-3], sky_sigma=2.0, radius=30.0)
    table = add_galaxy(with_sky(scene), galaxy, 100.3, 99.6).measure("fixed", settings_of(PLUGINS))
    assert not table[f"{NAME}_flag"][0]
    # the region holds a few radii; profiles are fits of the truncated ones to a percent or two
    assert table[f"{NAME}_{stage}_instFlux"][0] == pytest.approx(2e5, rel=0.03)
    assert table[f"{NAME}_instFlux"][0] == pytest.approx(2e5, rel=0.03)
    assert table[f"{NAME}_fracDev"][0] == pytest.approx(float(stage == "dev"), abs=0.2)
    radius = np.linalg.det(
        [
            [table[f"{NAME}_{stage}_ellipse_xx"][0], table[f"{NAME}_{stage}_ellipse_xy"][0]],
            [table[f"{NAME}_{stage}_ellipse_xy"][0], table[f"{NAME}_{stage}_ellipse_yy"][0]],
        ]
    )
    # the de Vaucouleurs profile of the fit has a softened core and a smooth truncation
    assert radius**0.25 == pytest.approx(3.0, rel=0.08)
    shear = galaxy.jac if hasattr(galaxy, "jac") else np.eye(2)
    assert np.sign(table[f"{NAME}_{stage}_ellipse_xy"][0]) == np.sign((shear @ shear.T)[0, 1])


def broken_scene(scene_of, **changes):
    scene = with_sky(scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[5e4, 5e4]))
    image, mask = scene.exposure.image.copy(), scene.exposure.mask.copy()
    variance = scene.exposure.variance.copy()
    changes.get("change", lambda *planes: None)(image, mask, variance)
    return scene.with_planes(image=image, mask=mask, variance=variance)


def assert_second_star_is_fine(table):
    assert not table[f"{NAME}_flag"][1]
    assert table[f"{NAME}_instFlux"][1] == pytest.approx(5e4, rel=0.01)


def test_nan_pixel(scene_of, settings_of):
    def change(image, mask, variance):
        image[72, 60] = np.nan

    table = broken_scene(scene_of, change=change).measure("fixed", settings_of(PLUGINS))
    for stage in STAGES:  # measurement specification, appendix B 6
        assert table[f"{NAME}_{stage}_flag"][0]
        assert table[f"{NAME}_{stage}_flag_numericError"][0]
        assert np.isnan(table[f"{NAME}_{stage}_instFlux"][0])
        assert table[f"{NAME}_{stage}_nIter"][0] == 0
    assert table[f"{NAME}_flag"][0]
    assert np.isnan(table[f"{NAME}_instFlux"][0])
    assert_second_star_is_fine(table)


def test_masked_core(scene_of, settings_of):
    def change(image, mask, variance):
        mask[66:75, 56:65] |= 1 << 1  # SAT

    table = broken_scene(scene_of, change=change).measure("fixed", settings_of(PLUGINS))
    assert table[f"{NAME}_flag_region_maxBadPixelFraction"].tolist() == [True, False]
    assert table[f"{NAME}_flag"][0]
    for stage in STAGES:
        assert table[f"{NAME}_{stage}_flag"][0]
    assert_second_star_is_fine(table)


def test_few_masked_pixels_are_left_out(scene_of, settings_of):
    def change(image, mask, variance):
        image[75, 66] = 1e6
        mask[75, 66] |= 1 << 8  # NO_DATA

    scene = broken_scene(scene_of, change=change)
    table = scene.measure("fixed", settings_of([name for name in PLUGINS if "Hsm" not in name]))
    assert not table[f"{NAME}_flag_region_maxBadPixelFraction"][0]
    assert table[f"{NAME}_initial_instFlux"][0] == pytest.approx(5e4, rel=0.05)
    assert table[f"{NAME}_flag_noShape"].all()  # there are no moments: the fit starts from the PSF's


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
def test_impossible_variance_of_a_pixel(value, scene_of, settings_of):
    def change(image, mask, variance):
        variance[70, 60] = value

    table = broken_scene(scene_of, change=change).measure("fixed", settings_of(PLUGINS))
    # K19: never a wrong number that looks like a good one
    right = abs(table[f"{NAME}_instFlux"][0] - 5e4) < 0.01 * 5e4
    assert table[f"{NAME}_flag"][0] or right
    assert table[f"{NAME}_flag"][0] or not np.isfinite(table[f"{NAME}_instFluxErr"][0])
    assert_second_star_is_fine(table)


def test_groups_make_no_difference(stars, settings_of, monkeypatch):
    scene, table = stars
    monkeypatch.setattr("finalchar.measure.cmodel.measurement.PIXELS_PER_GROUP", 1)
    one_by_one = scene.measure("fixed", settings_of(PLUGINS))
    for column in table.columns:
        if column.startswith(NAME) and not column.endswith("_time"):
            assert one_by_one[column].tobytes() == table[column].tobytes(), column


def test_star_over_the_edge(scene_of, settings_of):
    scene = with_sky(scene_of(x=[3.0, 150.0], y=[70.0, 120.0], flux=[5e4, 5e4]))
    table = scene.measure("fixed", settings_of(PLUGINS))
    assert table[f"{NAME}_flag_region_maxBadPixelFraction"].tolist() == [True, False]
    assert_second_star_is_fine(table)


def test_negative_star(scene_of, settings_of):
    scene = with_sky(scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[-5e4, 5e4]))
    table = scene.measure("fixed", settings_of(PLUGINS))
    # measurement specification, 8.3 and appendix B 6
    assert not table[f"{NAME}_initial_flag"][0]
    assert table[f"{NAME}_initial_instFlux"][0] < 0
    for stage in ("exp", "dev"):
        assert table[f"{NAME}_{stage}_flag"][0]
        assert table[f"{NAME}_{stage}_flag_numericError"][0]
        assert table[f"{NAME}_{stage}_nIter"][0] == 1
        assert table[f"{NAME}_{stage}_instFlux"][0] < 0
    assert table[f"{NAME}_flag"][0]
    assert np.isnan(table[f"{NAME}_instFlux"][0])
    assert_second_star_is_fine(table)


def test_pure_noise_does_not_raise(scene_of, settings_of):
    scene = with_sky(scene_of(x=np.linspace(30, 190, 9), y=[100.0] * 9, flux=[1e-3] * 9, radius=8.0))
    table = scene.measure("fixed", settings_of(PLUGINS))
    unflagged = ~table[f"{NAME}_flag"]
    assert np.isfinite(table[f"{NAME}_instFlux"][unflagged]).all()
    assert (table[f"{NAME}_flag_noShape"] == table["ext_shapeHSM_HsmSourceMoments_flag"]).all()


def test_psf_without_shapelets(scene_of, settings_of):
    scene = with_sky(scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[5e4, 5e4]))
    settings = settings_of(PLUGINS)
    shapelets = plugins.get(SHAPELETS).Settings()
    shapelets.optimizer.maxOuterIterations = 1
    setattr(settings.plugins, SHAPELETS, shapelets)
    table = scene.measure("fixed", settings)
    assert table[f"{NAME}_flag_noShapeletPsf"].all()
    assert table[f"{NAME}_flag"].all()
    assert np.isnan(table[f"{NAME}_initial_instFlux"]).all()
    assert np.isnan(table[f"{NAME}_region_initial_ellipse_xx"]).all()
    calibrated = replace(scene, exposure=replace(scene.exposure, calibration=object()))
    table = calibrated.measure("lsst", settings)
    for name, value in (("xx", 1.0), ("yy", 1.0), ("xy", 0.0)):  # what the reference leaves there
        assert (table[f"{NAME}_region_initial_ellipse_{name}"] == value).all()
        assert (table[f"{NAME}_region_final_ellipse_{name}"] == value).all()


def test_stars_without_place_or_footprint(scene_of, settings_of):
    scene = with_sky(scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[5e3, 5e3], footprint_of=[]))
    scene.x[0] = np.nan
    table = scene.measure("fixed", settings_of(PLUGINS))
    assert table[f"{NAME}_flag"].tolist() == [True, False]
    assert table[f"{NAME}_flags_region_usedPsfArea"].tolist() == [False, True]


def test_what_the_fit_needs(scene_of, settings_of):
    scene = scene_of(x=[100.0], y=[90.0], flux=[2e4])
    with pytest.raises(MeasurementError, match="needs the astrometry of the exposure"):
        scene.measure("fixed", settings_of(PLUGINS))
    with pytest.raises(ConfigError, match=r"add it to measurement\.plugins\.names"):
        with_sky(scene).measure("fixed", settings_of(["base_PsfFlux", NAME]))
    wrong = plugins.get(NAME).Settings()
    wrong.dev.nComponents = 3
    settings = settings_of(PLUGINS)
    setattr(settings.plugins, NAME, wrong)
    with pytest.raises(ConfigError, match="no profile 'luv' of 3 Gaussians"):
        with_sky(scene).measure("fixed", settings)


def test_limits_of_the_optimiser_are_flags(scene_of, settings_of):
    scene = with_sky(scene_of(x=[60.0], y=[70.0], flux=[5e4]))
    own = plugins.get(NAME).Settings()
    own.exp.optimizer.maxOuterIterations = 1
    own.dev.doRecordHistory = False
    settings = settings_of(PLUGINS)
    setattr(settings.plugins, NAME, own)
    table = scene.measure("fixed", settings)
    assert table[f"{NAME}_exp_flag_maxIter"][0]
    assert table[f"{NAME}_exp_flag"][0]
    assert table[f"{NAME}_flag"][0]
    assert np.isfinite(table[f"{NAME}_exp_instFlux"][0])  # what is known is written
    assert np.isnan(table[f"{NAME}_instFlux"][0])
    assert table[f"{NAME}_dev_nIter"][0] == 0


def test_fluxes_that_want_a_correction():
    plugin = plugins.get(NAME).Plugin(NAME, plugins.get(NAME).Settings())
    assert sorted(plugin.fluxes()) == [NAME, f"{NAME}_dev", f"{NAME}_exp", f"{NAME}_initial"]
    fields = {field.name for field in plugin.fields()}
    for flux in plugin.fluxes():
        assert {f"{flux}_instFlux", f"{flux}_instFluxErr", f"{flux}_flag"} <= fields
