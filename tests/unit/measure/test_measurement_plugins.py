"""The plugins on simulated stars whose truth is known, and on images that are broken."""

from __future__ import annotations

from dataclasses import replace

import galsim
import numpy as np
import pytest

from finalchar.errors import ConfigError, InputError, MeasurementError
from finalchar.formats.exposure import Box
from finalchar.measure import plugins
from finalchar.measure.fixed_moments import Quadrupole, fixed_moment_flux, weight_region
from finalchar.measure.noise_replacement import measure_noise, replace_sources
from finalchar.measure.plugin import StarError
from finalchar.measure.run import noise_seed
from finalchar.measure.schema import active_plugins, correctable_fluxes

HSM = "ext_shapeHSM_Hsm"
SOURCE = f"{HSM}SourceMoments"
HIGHER = "ext_shapeHSM_HigherOrderMoments"


@pytest.fixture(name="stars", scope="module")
def measured_stars(request):
    from measured_scene import make_scene

    rng = np.random.default_rng(0)
    x = np.tile([40.0, 90.0, 140.0, 190.0], 3) + rng.uniform(-1, 1, 12)
    y = np.repeat([35.0, 85.0, 135.0], 4) + rng.uniform(-1, 1, 12)
    scene = make_scene(x=x, y=y, flux=np.geomspace(1e4, 2e5, 12), origin=(0, 0))
    return scene, scene.measure("lsst")


def test_psf_flux_is_the_true_flux_and_its_error_is_right(stars):
    scene, table = stars
    pull = (table["base_PsfFlux_instFlux"] - scene.flux) / table["base_PsfFlux_instFluxErr"]
    # The images carry only sky noise while the variance has the stars' own, too: pulls are small
    assert np.abs(pull).max() < 3
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"], scene.flux, rtol=0.02)
    assert (table["base_PsfFlux_npixels"] == 625).all()
    assert not table["base_PsfFlux_flag"].any()


def test_psf_flux_without_noise_is_exact(scene_of, settings_of):
    scene = scene_of(x=[60.3, 141.8], y=[70.4, 101.5], flux=[1e4, -3e4], sky_sigma=1e-4)
    table = scene.measure("lsst", settings_of(doReplaceWithNoise=False))
    # image and stamp are normalised on 220 x 200 and 25 x 25 pixels: 1e-10 of the light is outside
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"], scene.flux, rtol=1e-6)
    psf = scene.psf.image(x=60.3, y=70.4).array
    assert table["base_PsfFlux_area"][0] == np.float32(1 / (psf**2).sum())


def test_gaussian_flux_of_a_gaussian_is_its_flux(stars):
    scene, table = stars
    error = table["base_GaussianFlux_instFluxErr"]
    assert (np.abs(table["base_GaussianFlux_instFlux"] - scene.flux) < 3 * error).all()


def test_moments_are_those_of_the_profile(stars):
    scene, table = stars
    shape = scene.psf.profile
    jacobian = shape.jac if hasattr(shape, "jac") else np.eye(2)
    truth = 1.823**2 * np.asarray(jacobian) @ np.asarray(jacobian).T
    for axes, value in (("xx", truth[0, 0]), ("yy", truth[1, 1]), ("xy", truth[0, 1])):
        np.testing.assert_allclose(table[f"{HSM}PsfMoments_{axes}"], value, atol=1e-4)  # precision of HSM
        np.testing.assert_allclose(table[f"{SOURCE}_{axes}"], value, atol=0.1)  # noise of the faintest
    np.testing.assert_allclose(table[f"{SOURCE}_x"], scene.x, atol=0.05)
    np.testing.assert_allclose(table[f"{SOURCE}_y"], scene.y, atol=0.05)
    np.testing.assert_allclose(table[f"{HSM}PsfMoments_x"], 0, atol=1e-6)


def test_standardised_moments_of_a_gaussian(stars):
    _, table = stars
    truth = {"40": 0.75, "04": 0.75, "22": 0.25}
    for name in ("03", "12", "21", "30", "04", "13", "22", "31", "40"):
        np.testing.assert_allclose(table[f"{HIGHER}PSF_{name}"], truth.get(name, 0), atol=1e-6)
        np.testing.assert_allclose(table[f"{HIGHER}Source_{name}"], truth.get(name, 0), atol=0.05)


def test_most_stars_fail_the_psf_correction_with_nan_and_flag(stars):
    _, table = stars
    failed = table[f"{HSM}ShapeRegauss_flag"]
    assert failed.any()
    assert np.isnan(table[f"{HSM}ShapeRegauss_e1"][failed]).all()
    assert np.isfinite(table[f"{HSM}ShapeRegauss_e1"][~failed]).all()


def test_regauss_recovers_the_shear_of_a_galaxy(scene_of):
    scene = scene_of(x=[100.0], y=[100.0], flux=[1e-3], sky_sigma=1.0, radius=20.0)
    galaxy = galsim.Convolve([galsim.Gaussian(sigma=3.0, flux=2e5).shear(g1=0.1, g2=0.05), scene.psf.profile])
    image = scene.exposure.image.copy()
    stamp = galsim.ImageD(image.shape[1], image.shape[0], xmin=0, ymin=0, scale=1.0)
    image += galaxy.drawImage(image=stamp, center=galsim.PositionD(100, 100), method="no_pixel").array
    table = scene.with_planes(image=image).measure("lsst")
    assert not table[f"{HSM}ShapeRegauss_flag"][0]
    distortion = galsim.Shear(g1=0.1, g2=0.05)
    assert table[f"{HSM}ShapeRegauss_e1"][0] == pytest.approx(distortion.e1, abs=0.01)
    assert table[f"{HSM}ShapeRegauss_e2"][0] == pytest.approx(distortion.e2, abs=0.01)


def test_the_origin_of_the_exposure_does_not_matter(scene_of):
    near = scene_of(x=[60.3], y=[70.4], flux=[5e4])
    # float32 offsets: the shift is a power of two, so that positions stay exact
    far = scene_of(x=[60.3 + 4096], y=[70.4 + 8192], flux=[5e4], origin=(4096, 8192))
    first, second = near.measure("lsst"), far.measure("lsst")
    assert first["base_PsfFlux_instFlux"][0] == pytest.approx(second["base_PsfFlux_instFlux"][0], rel=1e-9)
    assert first["base_GaussianFlux_instFlux"][0] == pytest.approx(
        second["base_GaussianFlux_instFlux"][0], rel=1e-6
    )
    assert second[f"{SOURCE}_x"][0] - 4096 == pytest.approx(first[f"{SOURCE}_x"][0], abs=1e-6)


def test_a_neighbour_with_footprint_is_replaced(scene_of):
    alone = scene_of(x=[100.2], y=[90.1], flux=[2e4])
    pair = scene_of(x=[100.2, 122.0], y=[90.1, 90.1], flux=[2e4, 2e6], radius=10.0)
    first, second = alone.measure("lsst"), pair.measure("lsst")
    difference = second["base_PsfFlux_instFlux"][0] - first["base_PsfFlux_instFlux"][0]
    assert abs(difference) < 3 * first["base_PsfFlux_instFluxErr"][0]


def test_the_noise_differs_between_exposures_only_when_fixed(scene_of):
    scene = scene_of(x=[100.2, 115.0], y=[90.1, 90.1], flux=[2e4, 2e5], radius=6.0)
    other = scene.with_planes(visit_info=replace(scene.exposure.visit_info, exposure_id=8))
    column = "base_PsfFlux_instFlux"
    assert scene.measure("lsst")[column][0] == other.measure("lsst")[column][0]  # M-Q3
    assert scene.measure("fixed")[column][0] != other.measure("fixed")[column][0]


def test_the_noise_seed_tells_detectors_of_one_visit_apart(scene_of):
    scene = scene_of(x=[100.2], y=[90.1], flux=[2e4])
    neighbour = replace(scene.footprints, source_id=scene.footprints.source_id + (1 << 23))
    seeds = {noise_seed(scene.exposure, one, 1, "fixed") for one in (scene.footprints, neighbour)}
    assert len(seeds) == 2
    assert noise_seed(scene.exposure, neighbour, 3, "lsst") == 3


def test_star_at_the_edge_uses_the_pixels_that_exist(scene_of):
    scene = scene_of(x=[5.2, 100.0], y=[60.3, 197.9], flux=[5e4, 5e4])
    table = scene.measure("lsst")
    assert table["base_PsfFlux_flag"].all()
    assert table["base_PsfFlux_flag_edge"].all()
    assert table["base_PsfFlux_npixels"].tolist() == [18 * 25, 25 * 14]
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"], 5e4, rtol=0.01)


def test_star_off_the_image(scene_of):
    scene = scene_of(x=[-40.0], y=[60.0], flux=[5e4], footprint_of=[])
    table = scene.measure("fixed")
    for flag in ("flag", "flag_edge", "flag_noGoodPixels"):
        assert table[f"base_PsfFlux_{flag}"][0]
    assert table["base_GaussianFlux_flag"][0]
    assert table[f"{SOURCE}_flag"][0]


def test_focal_plane_position_without_detector_sets_only_its_own_flag(stars):
    _, table = stars
    assert table["base_FPPosition_missingDetector_flag"].all()
    assert not table["base_FPPosition_flag"].any()
    assert np.isnan(table["base_FPPosition_x"]).all()


class Affine:
    def apply(self, *, x, y):
        return 0.01 * np.asarray(x) - 5, 0.01 * np.asarray(y) + 2


def test_focal_plane_position(scene_of):
    scene = scene_of(x=[100.0], y=[50.0], flux=[1e4]).with_planes(focal_plane=Affine())
    table = scene.measure("lsst")
    assert table["base_FPPosition_x"][0] == -4.0
    assert table["base_FPPosition_y"][0] == 2.5


# Failure patterns of the running stack (measurement specification, appendix B, item 6)


def test_pure_noise(scene_of):
    x, y = np.meshgrid(np.arange(20.0, 210, 25), np.arange(20.0, 190, 25))
    scene = scene_of(x=x.ravel(), y=y.ravel(), flux=np.zeros(x.size))
    table = scene.measure("lsst")
    failed = table[f"{SOURCE}_flag"]
    assert failed.sum() > 0.5 * len(failed)
    for name in (f"{HIGHER}Source_flag", "base_GaussianFlux_flag"):
        assert table[name][failed].all()
    assert np.isnan(table["base_GaussianFlux_instFlux"][failed]).all()
    assert np.isfinite(table["base_PsfFlux_instFlux"]).all()
    assert not table["base_PsfFlux_flag"].any()


def test_negative_star(scene_of):
    table = scene_of(x=[60.3], y=[70.4], flux=[-5e4]).measure("lsst")
    assert not table[f"{SOURCE}_flag"][0]
    for name in ("base_PsfFlux", "base_GaussianFlux"):
        assert table[f"{name}_instFlux"][0] < 0
        assert not table[f"{name}_flag"][0]


def test_one_nan_pixel(scene_of):
    scene = scene_of(x=[60.3, 150.0], y=[70.4, 70.4], flux=[5e4, 5e4])
    image = scene.exposure.image.copy()
    image[70, 62] = np.nan
    table = scene.with_planes(image=image).measure("lsst")
    assert table["base_PsfFlux_flag"].tolist() == [True, False]
    assert not table["base_PsfFlux_flag_edge"][0]
    assert np.isnan(table["base_PsfFlux_instFlux"][0])
    assert np.isfinite(table["base_PsfFlux_area"][0])
    assert table["base_PsfFlux_npixels"][0] == 625
    for name in (SOURCE, f"{HSM}ShapeRegauss", "base_GaussianFlux", f"{HIGHER}Source"):
        assert table[f"{name}_flag"][0]
    assert np.isnan(table[f"{SOURCE}Round_xx"][0])
    assert not table[f"{SOURCE}Round_flag"][0]
    assert not table[f"{SOURCE}_flag"][1]
    assert np.isfinite(table["base_GaussianFlux_instFlux"][1])


def test_hsm_failures_set_only_the_general_flag(scene_of):
    scene = scene_of(x=[60.3], y=[70.4], flux=[5e4], footprint_of=[])
    table = scene.measure("lsst")
    names = [name for name in table if name.startswith(f"{SOURCE}_flag")]
    assert [name for name in names if table[name][0]] == [f"{SOURCE}_flag"]  # M-Q6


def test_a_flagged_centroid_flags_but_does_not_stop(scene_of, settings_of):
    from finalchar.measure import make_output_table, run_measurement

    scene = scene_of(x=[60.3], y=[70.4], flux=[5e4])
    selected = scene.catalogue()
    selected["base_SdssCentroid_flag"][:] = True
    settings = settings_of()
    table = make_output_table(selected=selected, settings=settings, compatibility="lsst")
    run_measurement(
        exposure=scene.exposure,
        psf=scene.psf,
        footprints=scene.footprints,
        table=table,
        settings=settings,
        compatibility="lsst",
    )
    assert table["base_PsfFlux_flag"][0]
    assert np.isfinite(table["base_PsfFlux_instFlux"][0])
    assert table[f"{SOURCE}_flag"][0]
    assert not table["base_GaussianFlux_flag"][0]  # M-Q4
    assert table["base_PsfFlux_flag_badCentroid"][0]  # the alias


@pytest.mark.parametrize("flagged", [True, False])
def test_a_nan_centroid_uses_the_peak_if_it_is_flagged(scene_of, settings_of, flagged):
    from finalchar.measure import make_output_table, run_measurement

    scene = scene_of(x=[60.0], y=[70.0], flux=[5e4])
    selected = scene.catalogue()
    selected["base_SdssCentroid_x"][:] = np.nan
    selected["base_SdssCentroid_flag"][:] = flagged
    settings = settings_of()
    table = make_output_table(selected=selected, settings=settings, compatibility="lsst")
    run_measurement(
        exposure=scene.exposure,
        psf=scene.psf,
        footprints=scene.footprints,
        table=table,
        settings=settings,
        compatibility="lsst",
    )
    assert table["base_PsfFlux_flag"][0]
    if flagged:
        assert table["base_PsfFlux_instFlux"][0] == pytest.approx(5e4, rel=0.02)
    else:
        assert np.isnan(table["base_PsfFlux_instFlux"][0])


def test_a_psf_that_cannot_be_drawn_costs_its_stars_only(scene_of):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 70.0], flux=[5e4, 5e4])

    class HalfPsf(type(scene.psf)):
        def images(self, *, x, y, color=np.nan):
            raise RuntimeError("no batch here")

        kernel_images = images

        def image(self, *, x, y, color=np.nan):
            if x > 100:
                raise RuntimeError("beyond the model")
            return super().image(x=x, y=y)

        def kernel_image(self, *, x, y, color=np.nan):
            if x > 100:
                raise RuntimeError("beyond the model")
            return super().kernel_image(x=x, y=y)

    table = replace(scene, psf=HalfPsf()).measure("fixed")
    assert table["base_InvalidPsf_flag"].tolist() == [False, True]
    assert table["base_PsfFlux_flag"].tolist() == [False, True]
    assert table["base_PsfFlux_instFlux"][0] == pytest.approx(5e4, rel=0.02)
    assert table["finalchar_Plausibility_flag"].tolist() == [False, True]


def test_an_exception_of_one_star_flags_that_star_only(scene_of, monkeypatch):
    module = plugins.get("base_GaussianFlux")
    original = module.Plugin.measure_star

    def sometimes(self, context, table, star):
        if star == 0:
            raise ZeroDivisionError("unexpected")
        original(self, context, table, star)

    monkeypatch.setattr(module.Plugin, "measure_star", sometimes)
    table = scene_of(x=[60.0, 150.0], y=[70.0, 70.0], flux=[5e4, 5e4]).measure("lsst")
    assert table["base_GaussianFlux_flag"].tolist() == [True, False]


@pytest.mark.parametrize("error", [MemoryError(), MeasurementError("the whole detector")])
def test_fatal_errors_end_the_measurement(scene_of, monkeypatch, error):
    def fail(self, context, table, star):
        raise error

    monkeypatch.setattr(plugins.get("base_GaussianFlux").Plugin, "measure_star", fail)
    with pytest.raises(type(error)):
        scene_of(x=[60.0], y=[70.0], flux=[5e4]).measure("lsst")


def test_a_missing_mask_plane_is_told_once(scene_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[5e4]).with_planes(mask_planes={"BAD": 0})
    with pytest.raises(InputError, match="'SAT'"):
        scene.measure("lsst")


def test_no_stars_at_all(scene_of):
    table = scene_of(x=[], y=[], flux=[]).measure("fixed")
    assert len(table) == 0


def test_a_plugin_can_be_switched_off(scene_of, settings_of):
    settings = settings_of()
    own = plugins.get("base_PsfFlux").Settings(doMeasure=False)
    settings.plugins.base_PsfFlux = own
    table = scene_of(x=[60.0], y=[70.0], flux=[5e4]).measure("lsst", settings)
    assert np.isnan(table["base_PsfFlux_instFlux"][0])


def test_bad_planes_of_the_psf_flux_are_left_out(scene_of, settings_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[5e4])
    mask, image = scene.exposure.mask.copy(), scene.exposure.image.copy()
    image[70, 62] += 1e5
    mask[70, 62] = 1 << 3
    settings = settings_of()
    settings.plugins.base_PsfFlux = plugins.get("base_PsfFlux").Settings(badMaskPlanes=["CR"])
    table = scene.with_planes(mask=mask, image=image).measure("lsst", settings)
    assert table["base_PsfFlux_npixels"][0] == 624
    assert table["base_PsfFlux_instFlux"][0] == pytest.approx(5e4, rel=0.02)


def test_an_unknown_plugin_is_named():
    with pytest.raises(ConfigError, match=r"base_PsfFlax.*base_PsfFlux"):
        plugins.get("base_PsfFlax")


def test_execution_order_is_by_order_and_name(settings_of):
    names = [plugin.name for plugin in active_plugins(settings_of(), "lsst")]
    assert names == [
        "base_FPPosition",
        f"{HSM}PsfMoments",
        f"{HSM}ShapeRegauss",
        SOURCE,
        f"{SOURCE}Round",
        "base_GaussianFlux",
        "base_PsfFlux",
        f"{HIGHER}PSF",
        f"{HIGHER}Source",
    ]
    assert active_plugins(settings_of(), "fixed")[-1].name == "finalchar_Plausibility"


def test_fluxes_to_be_corrected(settings_of):
    assert correctable_fluxes(settings_of(), "lsst") == ["base_GaussianFlux", "base_PsfFlux"]
    assert correctable_fluxes(settings_of(names=["base_PsfFlux"]), "fixed") == ["base_PsfFlux"]


# The flux under a fixed weight


def test_fixed_moment_flux_of_its_own_gaussian_is_the_flux():
    shape = Quadrupole(4.0, 3.0, 0.5)
    box = weight_region(shape=shape, x=30.2, y=25.7)
    x, y = np.arange(box.min_x, box.max_x + 1) - 30.2, np.arange(box.min_y, box.max_y + 1)[:, None] - 25.7
    w11, w12, w22 = shape.inverse
    image = np.exp(-0.5 * (w11 * x**2 + 2 * w12 * x * y + w22 * y**2))
    image *= 1000 / (2 * np.pi * np.sqrt(shape.determinant))
    # the weight stops at exponent 14, where 8e-7 of the product is left
    assert fixed_moment_flux(image, box=box, shape=shape, x=30.2, y=25.7) == pytest.approx(1000, rel=2e-6)


def test_small_weights_are_sampled_at_16_points():
    shape = Quadrupole(0.2, 0.2, 0.0)
    box = Box(8, 8, 12, 12)
    image = np.zeros((5, 5))
    image[2, 2] = 1.0
    offsets = np.array([-0.375, -0.125, 0.125, 0.375])
    total = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2) / 0.2).sum()
    flux = fixed_moment_flux(image, box=box, shape=shape, x=10.0, y=10.0)
    assert flux == pytest.approx(2 * total, rel=1e-6)  # not divided by 16: M-Q26


@pytest.mark.parametrize(
    "shape", [Quadrupole(1.0, 1.0, 1.0), Quadrupole(1.0, -1.0, 0.0), Quadrupole(np.nan, 1, 0)]
)
def test_singular_weights_are_refused(shape):
    with pytest.raises(StarError):
        fixed_moment_flux(np.ones((3, 3)), box=Box(0, 0, 2, 2), shape=shape, x=1.0, y=1.0)


# Definitions of the reference, one by one


def test_the_gaussian_error_takes_the_truncated_pixel(scene_of):
    scene = scene_of(x=[60.7], y=[70.8], flux=[5e4])
    variance = scene.exposure.variance.copy()
    variance[70, 60] = 400.0
    table = scene.with_planes(variance=variance).measure("lsst")
    xx, yy, xy = (table[f"{SOURCE}_{axes}"][0] for axes in ("xx", "yy", "xy"))
    error = 2 * np.sqrt(400 * np.pi * np.sqrt(xx * yy - xy**2))  # M-Q5
    assert table["base_GaussianFlux_instFluxErr"][0] == pytest.approx(error, rel=1e-12)


def test_chi2_is_the_sum_over_the_stamp(scene_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[5e4], radius=30.0)
    table = scene.measure("lsst")
    drawn = scene.psf.image(x=60.0, y=70.0)
    part = (slice(drawn.y0, drawn.y0 + 25), slice(drawn.x0, drawn.x0 + 25))
    residual = scene.exposure.image[part] - table["base_PsfFlux_instFlux"][0] * drawn.array
    chi2 = (residual**2 / scene.exposure.variance[part]).sum()
    assert table["base_PsfFlux_chi2"][0] == pytest.approx(chi2, rel=1e-6)  # float32


def test_the_regauss_uncertainty_is_twice_galsims(scene_of, monkeypatch):
    class Shape:
        corrected_e1, corrected_e2, corrected_shape_err = 0.1, -0.2, 0.03
        resolution_factor, correction_status = 0.4, 0

    monkeypatch.setattr(galsim.hsm, "EstimateShear", lambda *args, **keywords: Shape())
    table = scene_of(x=[60.0], y=[70.0], flux=[5e4]).measure("lsst")
    values = [table[f"{HSM}ShapeRegauss_{name}"][0] for name in ("e1", "e2", "sigma", "resolution")]
    assert values == [0.1, -0.2, 0.06, 0.4]
    assert not table[f"{HSM}ShapeRegauss_flag"][0]


def test_bad_pixels_of_higher_moments_are_replaced_by_the_rule_of_the_reference(scene_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[5e4], radius=8.0)
    mask = scene.exposure.mask.copy()
    mask[70, 63] = 2  # SAT
    scene = scene.with_planes(mask=mask)
    table = scene.measure("lsst")
    y, x = np.mgrid[62:79, 52:69].astype(float)
    x -= table[f"{SOURCE}_x"][0]
    y -= table[f"{SOURCE}_y"][0]
    pairs = (("xx", "xy"), ("xy", "yy"))
    matrix = np.array([[table[f"{SOURCE}_{axes}"][0] for axes in pair] for pair in pairs])
    values, vectors = np.linalg.eigh(matrix)
    u, v = np.einsum("ij,jab->iab", vectors @ np.diag(values**-0.5) @ vectors.T, np.stack([x, y]))
    weight = np.exp(-0.5 * (u**2 + v**2))
    stamp = _seen_by_first_star(scene)
    bad = scene.exposure.mask[62:79, 52:69] != 0
    weighted = weight * stamp
    weighted[bad] = weight[bad] ** 2 * stamp[~bad].sum() / weight[~bad].sum()  # M-Q7
    for p, q in ((4, 0), (0, 4), (2, 2), (3, 0), (1, 2)):
        wanted = (u**p * v**q * weighted).sum() / weighted.sum()
        # the sums of the ratio are float32
        assert table[f"{HIGHER}Source_{p}{q}"][0] == pytest.approx(wanted, abs=1e-7)


def _seen_by_first_star(scene):
    images = replace_sources(
        image=scene.exposure.image,
        box=scene.exposure.box,
        footprints=scene.footprints,
        stars=np.array([0]),
        level=measure_noise(scene.exposure.image),
        seed=1,
    )
    return images.stamp(0, Box(52, 62, 68, 78)).astype(float)
