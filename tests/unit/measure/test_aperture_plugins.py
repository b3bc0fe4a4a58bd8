"""Kron, convolved, GAaP and circular aperture fluxes on simulated stars, and on what is no star."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from finalchar.config import Config
from finalchar.errors import ConfigError, MeasurementError
from finalchar.measure import plugins
from finalchar.measure.noise_replacement import PlainImage
from finalchar.measure.schema import correctable_fluxes

SHAPES = ["ext_shapeHSM_HsmSourceMoments", "ext_shapeHSM_HsmPsfMoments"]
KRON, CONVOLVED, GAAP = "ext_photometryKron_KronFlux", "ext_convolved_ConvolvedFlux", "ext_gaap_GaapFlux"
CIRCULAR, TOPHAT = "base_CircularApertureFlux", "base_CompensatedTophatFlux"
DEFAULT = [*SHAPES, KRON, CONVOLVED, GAAP]
SIGMA = 1.823
"""Of the scenes' PSF, pixels; its shear of 0.036 is neglected in the truths below."""
PIXEL = 0.2
GAAP_NAMES = ["PsfFlux", "Optimal", "0_5", "0_7", "1_0", "1_5", "2_5", "3_0"]


class TangentPlane:
    """A sky of straight lines, 0.2 arcsec per pixel."""

    def pixel_to_sky(self, *, x, y):
        scale = PIXEL / 3600 * np.pi / 180
        return 2.0 + (np.asarray(x) - 100) * scale, (np.asarray(y) - 100) * scale


@pytest.fixture(name="settings")
def default_settings(settings_of):
    return settings_of(names=DEFAULT)


def measure(scene, settings, compatibility="lsst"):
    return scene.with_planes(wcs=TangentPlane()).measure(compatibility, settings)


@pytest.fixture(name="stars", scope="module")
def measured_stars():
    from measured_scene import make_scene, measurement_settings

    rng = np.random.default_rng(7)
    x = np.tile([45.0, 90.0, 140.0, 180.0], 3) + rng.uniform(-1, 1, 12)
    y = np.repeat([40.0, 95.0, 150.0], 4) + rng.uniform(-1, 1, 12)
    scene = make_scene(x=x, y=y, flux=np.geomspace(2e4, 4e5, 12))
    return scene, measure(scene, measurement_settings(names=DEFAULT))


def flags_of(table, start):
    """Names of the flags of a plugin that are set anywhere."""
    return {
        name
        for name, values in table.columns.items()
        if name.startswith(start) and values.dtype == bool and values.any()
    }


def test_nothing_is_flagged_on_good_stars(stars):
    _, table = stars
    assert flags_of(table, KRON) <= {f"{KRON}_flag_used_psf_radius", f"{KRON}_flag_small_radius"}
    assert flags_of(table, CONVOLVED) == {f"{CONVOLVED}_0_deconv"}  # 3.5 pixels are better than 4.3
    assert flags_of(table, GAAP) <= {f"{GAAP}_1_15x_0_5_flag", f"{GAAP}_1_15x_0_5_flag_bigPsf"}


def test_kron_radius_and_flux(stars):
    scene, table = stars
    np.testing.assert_allclose(table[f"{KRON}_psf_radius"], np.sqrt(np.pi / 2) * SIGMA, rtol=2e-3)
    # noise between 3 and 6 sigma of the faintest star moves its radius by 10 %
    np.testing.assert_allclose(table[f"{KRON}_radius"], np.sqrt(np.pi / 2) * SIGMA, rtol=0.15)
    sigma_shape = (
        table["ext_shapeHSM_HsmSourceMoments_xx"] * table["ext_shapeHSM_HsmSourceMoments_yy"]
        - table["ext_shapeHSM_HsmSourceMoments_xy"] ** 2
    ) ** 0.25
    np.testing.assert_allclose(table[f"{KRON}_radius_for_radius"], 6 * sigma_shape, rtol=1e-6)
    inside = 1 - np.exp(-0.5 * (2.5 * table[f"{KRON}_radius"] / SIGMA) ** 2)
    pull = (table[f"{KRON}_instFlux"] - inside * scene.flux) / table[f"{KRON}_instFluxErr"]
    assert np.abs(pull).max() < 3


def test_kron_error_is_the_sum_of_the_variances(scene_of, settings):
    scene = scene_of(x=[100.0], y=[90.0], flux=[1e5])
    scene = scene.with_planes(variance=np.full_like(scene.exposure.variance, 49.0))
    table = measure(scene, settings)
    area = np.pi * (2.5 * table[f"{KRON}_radius"][0]) ** 2
    # the coefficients ring: the sum of their squares is 1 % below the area
    assert table[f"{KRON}_instFluxErr"][0] == pytest.approx(7.0 * np.sqrt(area), rel=0.03)


@pytest.mark.parametrize(("number", "fwhm"), [(0, 3.5), (1, 5.0), (2, 6.5), (3, 8.0)])
def test_convolved_fluxes_are_those_of_the_seeing(stars, number, fwhm):
    scene, table = stars
    np.testing.assert_allclose(table[f"{CONVOLVED}_seeing"], SIGMA, rtol=2e-3)
    sigma = max(fwhm / 2.3548200450309493, SIGMA)
    for radius in (3.3, 4.5, 6.0):
        name = f"{CONVOLVED}_{number}_{radius:.1f}".replace(".", "_")
        inside = 1 - np.exp(-0.5 * (radius / sigma) ** 2)
        ratio = table[f"{name}_instFlux"] / scene.flux / inside
        # The smallest is too bright off the centre, the more so the wider the star [M-Q27]; noise of 1 %
        np.testing.assert_allclose(ratio, 1.0, atol=0.05 if radius < 4 else 0.015)
        assert (table[f"{name}_instFluxErr"] > 0).all()
    assert np.isfinite(table[f"{CONVOLVED}_{number}_kron_instFlux"]).all()


def test_wide_apertures_fit_on_what_is_convolved(scene_of, settings_of):
    """The convolved part of the image grows with the largest of the apertures that are asked for."""
    settings = settings_of(names=DEFAULT)
    wide = plugins.get(CONVOLVED).Settings(aperture={"radii": [3.3, 18.0]})
    setattr(settings.plugins, CONVOLVED, wide)
    table = measure(scene_of(x=[100.3], y=[90.1], flux=[1e5], sky_sigma=1e-3, radius=4.0), settings)
    for number in range(4):
        name = f"{CONVOLVED}_{number}_18_0"
        assert not table[f"{name}_flag"][0]
        # 18 pixels are 5 sigma of the widest seeing
        assert table[f"{name}_instFlux"][0] == pytest.approx(1e5, rel=1e-2)


def test_the_convolution_lowers_the_error(stars):
    _, table = stars
    for aperture in ("3_3", "4_5", "6_0", "kron"):
        errors = [table[f"{CONVOLVED}_{k}_{aperture}_instFluxErr"] for k in range(4)]
        assert (errors[3] < errors[2]).all()
        assert (errors[2] < errors[1]).all()


def test_gaap_psf_flux_is_the_total_flux(stars):
    """Under its own Gaussian the flux of the Gaussianised star is its total flux."""
    scene, table = stars
    error = table[f"{GAAP}_1_15x_PsfFlux_instFluxErr"]
    np.testing.assert_allclose(
        table[f"{GAAP}_1_15x_PsfFlux_instFlux"], scene.flux, atol=4 * error.max(), rtol=0.01
    )


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5, 2.5, 3.0])
def test_gaap_aperture_fluxes_of_a_star(scene_of, settings, sigma):
    """Before the seeing a star is a point: the Gaussian aperture has weight one there.

    The weight after the seeing is Q; the sum over the Gaussianised star, of width s, is |Q| / |Q + s^2|,
    which the factor |W| / |Q| undoes.
    """
    scene = scene_of(x=[100.3, 60.2], y=[90.1, 120.4], flux=[1e5, 2e5], sky_sigma=1e-3, radius=25.0)
    table = measure(scene, settings)
    name = f"{GAAP}_1_15x_{sigma}".replace(".", "_")
    # the kernel's sum is fixed after the fit: a few per mille in the core
    np.testing.assert_allclose(table[f"{name}_instFlux"], scene.flux, rtol=5e-3)


def test_gaap_apertures_follow_the_pixel_scale(scene_of, settings):
    """On a sky twice as coarse an aperture twice as large is the same in pixels."""

    class Coarse(TangentPlane):
        def pixel_to_sky(self, *, x, y):
            ra, dec = super().pixel_to_sky(x=x, y=y)
            return 2.0 + 2 * (ra - 2.0), 2 * dec

    scene = scene_of(x=[100.3], y=[90.1], flux=[1e5])
    fine = measure(scene, settings)
    coarse = scene.with_planes(wcs=Coarse()).measure("lsst", settings)
    for one, other in (("1_5", "3_0"),):
        for what in ("instFlux", "instFluxErr"):
            assert coarse[f"{GAAP}_1_15x_{other}_{what}"][0] == pytest.approx(
                fine[f"{GAAP}_1_15x_{one}_{what}"][0], rel=1e-6
            )
    # 0.7 arcsec are then 1.75 pixels, less than the Gaussianised PSF of 2.1
    assert coarse[f"{GAAP}_1_15x_0_7_flag_bigPsf"][0]
    assert coarse[f"{GAAP}_1_15x_0_7_flag"][0]
    assert np.isnan(coarse[f"{GAAP}_1_15x_0_7_instFlux"][0])


def test_gaap_errors_are_those_of_white_noise(scene_of, settings_of):
    """The correlation of the noise is in the errors: fluxes of empty places scatter as they say."""
    rng = np.random.default_rng(11)
    x, y = np.repeat(np.arange(40.0, 700, 60), 11), np.tile(np.arange(40.0, 700, 60), 11)
    # a flux of 400 at a sky of 5: the shape would be noise, so only PsfFlux and one aperture
    scene = scene_of(x=x, y=y, flux=np.full(len(x), 1e-3), shape=(700, 700), sky_sigma=5.0)
    assert rng is not None
    table = measure(scene, settings_of(names=DEFAULT, doReplaceWithNoise=False))
    for name in ("PsfFlux", "1_0"):
        flux = table[f"{GAAP}_1_15x_{name}_instFlux"]
        error = table[f"{GAAP}_1_15x_{name}_instFluxErr"]
        # 121 places: the scatter is known to 6.4 %
        assert np.std(flux) == pytest.approx(error.mean(), rel=0.2)


def test_the_odd_part_of_the_kernel_has_the_right_sign_when_fixed(scene_of, settings):
    """An asymmetric PSF: the reference applies the kernel mirrored [M-Q19]."""
    scene = scene_of(x=[100.0], y=[90.0], flux=[1e-3], sky_sigma=1e-3)

    class Coma(type(scene.psf)):
        def _draw(self, dx, dy):
            image = super()._draw(dx, dy) + 0.25 * super()._draw(dx + 1.6, dy + 0.4)
            return image / image.sum()

    psf = Coma()
    stamp = psf.image(x=100.0, y=90.0)
    image = scene.exposure.image.copy()
    image[stamp.y0 : stamp.y0 + 25, stamp.x0 : stamp.x0 + 25] += 1e5 * stamp.array
    scene = replace(scene.with_planes(image=image), psf=psf)
    name = f"{GAAP}_1_15x_PsfFlux_instFlux"
    right, mirrored = measure(scene, settings, "fixed")[name][0], measure(scene, settings, "lsst")[name][0]
    assert abs(right / 1e5 - 1) < 0.01
    assert abs(mirrored - right) > 0.002 * 1e5


def test_masked_pixels_are_used_as_they_are(scene_of, settings):
    scene = scene_of(x=[100.3], y=[90.1], flux=[1e5])
    mask = np.zeros_like(scene.exposure.mask)
    mask[80:100, 90:110] = 1 << 4
    first, second = measure(scene, settings), measure(scene.with_planes(mask=mask), settings)
    for name in (f"{KRON}_instFlux", f"{CONVOLVED}_3_4_5_instFlux", f"{GAAP}_1_15x_1_0_instFlux"):
        assert first[name][0] == second[name][0]


def test_a_star_alone_is_measured_as_among_others(stars):
    """Batches do not mix stars."""
    scene, table = stars
    from measured_scene import measurement_settings

    settings = measurement_settings(names=DEFAULT, doReplaceWithNoise=False)
    together = measure(scene, settings)
    alone = scene.with_planes(wcs=TangentPlane()).measure("lsst", settings, rows=[3])
    for name, values in alone.columns.items():
        if name.startswith((KRON, CONVOLVED, GAAP)) and values.dtype.kind == "f":
            # batched matrix products of other sizes
            np.testing.assert_allclose(values[0], together[name][3], rtol=1e-7, err_msg=name)
    assert len(table) == 12


def test_one_nan_pixel(scene_of, settings):
    """The failure pattern of the running stack (Appendix B, item 6)."""
    scene = scene_of(x=[60.2, 150.4], y=[70.3, 80.1], flux=[5e4, 5e4])
    image = scene.exposure.image.copy()
    image[70, 62] = np.nan
    table = measure(scene.with_planes(image=image), settings)
    kron = {"flag", "flag_bad_shape", "flag_bad_radius", "flag_used_psf_radius", "flag_small_radius"}
    assert {name for name in flags_of(table, KRON) if table[name][0]} == {f"{KRON}_{name}" for name in kron}
    assert np.isfinite(table[f"{KRON}_psf_radius"][0])
    for column in ("instFlux", "instFluxErr", "radius", "radius_for_radius"):
        assert np.isnan(table[f"{KRON}_{column}"][0])
    for number in range(4):
        for aperture in ("3_3", "4_5", "6_0", "kron"):
            assert np.isnan(table[f"{CONVOLVED}_{number}_{aperture}_instFlux"][0])
            assert not table[f"{CONVOLVED}_{number}_{aperture}_flag"][0]
    assert not table[f"{CONVOLVED}_flag"][0]
    for name in GAAP_NAMES:
        assert np.isnan(table[f"{GAAP}_1_15x_{name}_instFlux"][0])
        assert table[f"{GAAP}_1_15x_{name}_flag"][0] == (name == "Optimal")
    assert table[f"{GAAP}_1_15x_Optimal_flag_bigPsf"][0]
    for name in (f"{KRON}_instFlux", f"{CONVOLVED}_2_6_0_instFlux", f"{GAAP}_1_15x_PsfFlux_instFlux"):
        assert table[name][1] == pytest.approx(5e4, rel=0.1)  # the other star is not touched
        assert np.isfinite(table[name.replace("instFlux", "instFluxErr")][1])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0])
def test_a_bad_variance_costs_errors_not_fluxes(scene_of, settings, value):
    """K19: one pixel of the variance plane, that of the centre."""
    scene = scene_of(x=[60.2, 150.4], y=[70.3, 80.1], flux=[5e4, 5e4])
    good = measure(scene, settings)
    variance = scene.exposure.variance.copy()
    variance[70, 60] = value
    table = measure(scene.with_planes(variance=variance), settings)
    for name in (f"{KRON}", f"{CONVOLVED}_2_4_5", f"{GAAP}_1_15x_PsfFlux", f"{GAAP}_1_15x_1_5"):
        np.testing.assert_array_equal(table[f"{name}_instFlux"], good[f"{name}_instFlux"])
        assert table[f"{name}_flag"].tolist() == [False, False]
        assert table[f"{name}_instFluxErr"][1] == good[f"{name}_instFluxErr"][1]
    # the error of GAaP is that of the one pixel
    error = table[f"{GAAP}_1_15x_PsfFlux_instFluxErr"][0]
    assert error == value if value in (0.0, np.inf) else np.isnan(error)
    kron = table[f"{KRON}_instFluxErr"][0]
    assert np.isfinite(kron) == np.isfinite(value)
    assert table[f"{CONVOLVED}_2_kron_flag"][0] == (not np.isfinite(value))


def test_a_stamp_of_zeros(scene_of, settings):
    """K18: no placeholder of a failed moment becomes a number."""
    scene = scene_of(x=[100.2], y=[90.3], flux=[5e4])
    image = np.zeros_like(scene.exposure.image)
    table = measure(scene.with_planes(image=image), settings)
    assert table[f"{KRON}_flag"][0]
    assert table[f"{KRON}_flag_bad_shape"][0]
    assert table[f"{KRON}_flag_bad_radius"][0]
    for column in ("instFlux", "instFluxErr", "radius", "radius_for_radius"):
        assert np.isnan(table[f"{KRON}_{column}"][0])
    assert np.isnan(table[f"{GAAP}_OptimalShape_xx"][0])
    assert table[f"{GAAP}_1_15x_Optimal_flag"][0]
    assert table[f"{GAAP}_1_15x_1_0_instFlux"][0] == pytest.approx(0.0, abs=1e-6)
    assert table[f"{CONVOLVED}_1_4_5_instFlux"][0] == 0.0
    assert np.isnan(table[f"{CONVOLVED}_1_kron_instFlux"][0])


def test_a_star_in_the_footprint_of_another(scene_of, settings):
    """K20: without a footprint of its own a star is measured as the image has it, and GAaP says so."""
    scene = scene_of(x=[100.0, 106.0], y=[90.0, 90.0], flux=[5e4, 5e4], footprint_of=[0], radius=14.0)
    table = measure(scene, settings, "fixed")
    assert table[f"{GAAP}_flag_no_pixel"].tolist() == [False, True]
    assert np.isfinite(table[f"{CONVOLVED}_2_4_5_instFlux"]).all()
    assert table[f"{KRON}_flag"][1]  # it has no moments


def test_a_negative_star(scene_of, settings):
    table = measure(scene_of(x=[100.2], y=[90.3], flux=[-5e4]), settings)
    assert flags_of(table, KRON) - {f"{KRON}_flag_small_radius"} == {
        f"{KRON}_flag_bad_radius",
        f"{KRON}_flag_used_psf_radius",
    }
    assert table[f"{KRON}_instFlux"][0] < 0
    assert np.isnan(table[f"{KRON}_radius_for_radius"][0])
    assert table[f"{GAAP}_1_15x_PsfFlux_instFlux"][0] == pytest.approx(-5e4, rel=0.02)


def test_pure_noise(scene_of, settings):
    table = measure(scene_of(x=[60.0, 100.0, 150.0], y=[90.0] * 3, flux=[1e-3] * 3), settings)
    failed = table["ext_shapeHSM_HsmSourceMoments_flag"]
    assert failed.any()
    for suffix in ("flag", "flag_bad_shape"):
        assert table[f"{KRON}_{suffix}"][failed].all()
    assert np.isnan(table[f"{GAAP}_OptimalShape_xx"][failed]).all()
    assert table[f"{GAAP}_1_15x_Optimal_flag_bigPsf"][failed].all()
    assert not table[f"{GAAP}_1_15x_PsfFlux_flag"].any()
    assert np.isfinite(table[f"{GAAP}_1_15x_PsfFlux_instFlux"]).all()
    # without a Kron radius there is no Kron flux, and no flag [M-Q16]
    lost = np.isnan(table[f"{KRON}_radius"])
    assert np.isnan(table[f"{CONVOLVED}_2_kron_instFlux"][lost]).all()
    assert not table[f"{CONVOLVED}_2_kron_flag"][lost].any()


def test_a_star_at_the_edge(scene_of, settings):
    table = measure(scene_of(x=[4.3, 100.0], y=[60.3, 196.6], flux=[5e4, 5e4]), settings)
    for suffix in ("flag", "flag_edge"):
        assert table[f"{KRON}_{suffix}"].all()
    assert np.isnan(table[f"{KRON}_instFlux"]).all()
    assert table[f"{GAAP}_flag_edge"].all()
    assert not table[f"{GAAP}_flag"].any()
    assert np.isfinite(table[f"{GAAP}_1_15x_PsfFlux_instFlux"]).all()
    assert table[f"{CONVOLVED}_1_6_0_flag_sincCoeffsTruncated"].all()
    assert table[f"{CONVOLVED}_1_6_0_flag_apertureTruncated"].all()
    assert table[f"{CONVOLVED}_1_6_0_flag"].all()
    assert np.isnan(table[f"{CONVOLVED}_1_6_0_instFlux"]).all()
    assert np.isfinite(table[f"{CONVOLVED}_1_3_3_instFlux"][0])  # 3.3 pixels fit: 4.3 - 3.3 is on pixel 1
    assert not table[f"{CONVOLVED}_1_3_3_flag"][0]


def test_a_star_without_footprint(scene_of, settings):
    table = measure(scene_of(x=[60.0, 150.0], y=[70.0, 70.0], flux=[5e4, 5e4], footprint_of=[0]), settings)
    assert table[f"{GAAP}_flag_no_pixel"].tolist() == [False, True]
    assert table[f"{GAAP}_flag"].tolist() == [False, True]
    for name in GAAP_NAMES:
        assert table[f"{GAAP}_1_15x_{name}_flag"][1]
    assert all(table[f"{CONVOLVED}_{number}_deconv"][1] for number in range(4))
    assert np.isfinite(table[f"{CONVOLVED}_3_6_0_instFlux"][1])


def test_a_psf_that_cannot_be_drawn(scene_of, settings):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 70.0], flux=[5e4, 5e4])

    class HalfPsf(type(scene.psf)):
        def kernel_images(self, *, x, y, color=np.nan):
            raise RuntimeError("no batch here")

        def kernel_image(self, *, x, y, color=np.nan):
            if x > 120:
                raise RuntimeError("beyond the model")
            return super().kernel_image(x=x, y=y)

    table = measure(replace(scene, psf=HalfPsf()), settings)
    assert table["base_InvalidPsf_flag"].tolist() == [False, True]
    for name in (KRON, CONVOLVED, GAAP):
        assert table[f"{name}_flag"].tolist() == [False, True]
    assert np.isnan(table[f"{KRON}_instFlux"]).tolist() == [False, True]
    assert np.isnan(table[f"{CONVOLVED}_2_4_5_instFlux"]).tolist() == [False, True]
    assert np.isnan(table[f"{GAAP}_1_15x_2_5_instFlux"]).tolist() == [False, True]


def test_a_flagged_centroid(scene_of, settings):
    """Convolved fluxes repeat the flag; GAaP does not, and Kron only sees that the shape is flagged."""
    scene = scene_of(x=[100.2], y=[90.3], flux=[5e4])
    selected = scene.catalogue()
    selected["base_SdssCentroid_flag"][:] = True
    catalogue = scene.with_planes(wcs=TangentPlane())
    catalogue.catalogue = lambda: selected
    table = catalogue.measure("lsst", settings)
    assert table[f"{CONVOLVED}_flag"][0]
    assert table["ext_shapeHSM_HsmSourceMoments_flag"][0]
    assert table[f"{KRON}_flag_bad_shape"][0]
    assert not table[f"{GAAP}_flag"][0]


@pytest.mark.parametrize("far", [130.0, 1e6, np.inf])
def test_a_centroid_far_from_its_footprint(scene_of, settings, far):
    """No window grows with the distance: flags, and the other star as ever."""
    scene = scene_of(x=[100.2, 150.0], y=[90.3, 90.0], flux=[5e4, 5e4])
    selected = scene.catalogue()
    selected["base_SdssCentroid_y"][0] = far
    broken = scene.with_planes(wcs=TangentPlane())
    broken.catalogue = lambda: selected
    table = broken.measure("lsst", settings)
    assert table[f"{GAAP}_flag"].tolist() == [True, False]
    assert table[f"{KRON}_flag"].tolist() == [True, False]
    assert np.isnan(table[f"{GAAP}_1_15x_2_5_instFlux"]).tolist() == [True, False]
    if far > 200:
        assert np.isnan(table[f"{CONVOLVED}_2_4_5_instFlux"]).tolist() == [True, False]


def test_batches_are_split_by_their_pixels(scene_of, settings, monkeypatch):
    from finalchar.measure import star_windows

    x, y = np.tile([45.0, 100.0, 170.0], 2), np.repeat([50.0, 140.0], 3)
    scene = scene_of(x=x, y=y, flux=np.geomspace(2e4, 4e5, 6))
    together = measure(scene, settings)
    monkeypatch.setattr(star_windows, "BATCH_PIXELS", 3000)
    split = measure(scene, settings)
    for name, values in together.columns.items():
        if name.startswith((KRON, CONVOLVED, GAAP)) and values.dtype.kind == "f":
            np.testing.assert_allclose(split[name], values, rtol=1e-7, err_msg=name)


def test_a_nan_centroid(scene_of, settings):
    scene = scene_of(x=[100.2, 150.0], y=[90.3, 90.0], flux=[5e4, 5e4])
    selected = scene.catalogue()
    selected["base_SdssCentroid_x"][0] = np.nan
    broken = scene.with_planes(wcs=TangentPlane())
    broken.catalogue = lambda: selected
    table = broken.measure("lsst", settings)
    for name in (CONVOLVED, GAAP):
        assert table[f"{name}_flag"].tolist() == [True, False]
    assert np.isnan(table[f"{GAAP}_1_15x_PsfFlux_instFlux"]).tolist() == [True, False]
    assert np.isnan(table[f"{CONVOLVED}_2_4_5_instFlux"]).tolist() == [True, False]


@pytest.mark.parametrize(("compatibility", "flagged"), [("lsst", False), ("fixed", True)])
def test_a_kron_aperture_over_the_edge_is_flagged_when_fixed(scene_of, settings_of, compatibility, flagged):
    """The region of the radius fits and the aperture does not: NaN, without a flag in the reference."""
    settings = settings_of(names=DEFAULT)
    settings.plugins.ext_photometryKron_KronFlux = plugins.get(KRON).Settings(
        nSigmaForRadius=3.0, nRadiusForFlux=3.5
    )
    table = measure(scene_of(x=[6.2], y=[90.3], flux=[2e5], radius=6.0), settings, compatibility)
    assert np.isfinite(table[f"{KRON}_radius"][0])
    assert np.isnan(table[f"{KRON}_instFlux"][0])
    assert table[f"{KRON}_flag"][0] == flagged
    assert table[f"{KRON}_flag_edge"][0] == flagged


def test_a_near_singular_optimal_aperture_ends_the_row(scene_of, settings):
    """A barely positive weight raises: later variants are NaN, only the general flag is set [M-Q18]."""
    scene = scene_of(x=[100.3], y=[90.1], flux=[1e5])
    reference = measure(scene, settings)
    module = plugins.get(GAAP)

    class Shrunk(module.Plugin):
        def _optimal_shapes(self, context, table):
            shape = super()._optimal_shapes(context, table)
            psf = context.psf_shapes
            target = 1.15**2 * 0.5 * (psf.xx + psf.yy) + 1e-5
            return type(shape).circles(target)

    from types import SimpleNamespace

    table = reference.select(slice(None))
    for name in GAAP_NAMES:
        table[f"{GAAP}_1_15x_{name}_instFlux"][:] = np.nan
    plugin = Shrunk(GAAP, module.Settings())
    plugin.measure(_context(scene.with_planes(wcs=TangentPlane()), table, SimpleNamespace()), table)
    assert table[f"{GAAP}_flag"][0]
    assert np.isfinite(table[f"{GAAP}_1_15x_PsfFlux_instFlux"][0])
    for name in GAAP_NAMES[1:]:
        assert np.isnan(table[f"{GAAP}_1_15x_{name}_instFlux"][0])
        assert not table[f"{GAAP}_1_15x_{name}_flag"][0] or name == "0_5"


def _context(scene, table, slots):
    from finalchar.measure.context import make_context

    slots.shape, slots.psfShape = SHAPES
    return make_context(
        exposure=scene.exposure,
        psf=scene.psf,
        footprints=scene.footprints,
        footprint_index=np.arange(len(table)),
        images=PlainImage(scene.exposure.image, scene.exposure.box),
        table=table,
        slots=slots,
        compatibility="lsst",
    )


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        (KRON, "kron_flux", "kron_radii"),
        (CONVOLVED, "convolved_flux", "smooth_windows"),
        (GAAP, "gaap_flux", "convolve_with_kernel"),
    ],
)
def test_an_unexpected_error_costs_one_star(scene_of, settings, monkeypatch, caplog, name, module, function):
    """An error of a batch: the stars are measured one by one, and only the faulty one is flagged."""
    from importlib import import_module

    scene = scene_of(x=[60.2, 150.4, 100.3], y=[70.3, 80.1, 130.2], flux=[5e4, 1e5, 7e4])
    wanted = measure(scene, settings)
    place = import_module(f"finalchar.measure.plugins.{module}")
    original = getattr(place, function)

    def broken(first, *rest, **options):
        image = getattr(first, "image", first)
        if np.max(image) > 4000:  # the second star, of 4800 at its peak
            raise ZeroDivisionError("of one star")
        return original(first, *rest, **options)

    monkeypatch.setattr(place, function, broken)
    table = measure(scene, settings)
    assert "measures star by star" in caplog.text
    assert table[f"{name}_flag"].tolist() == [False, True, False]
    for column, values in wanted.columns.items():
        if column.startswith(name) and values.dtype.kind == "f":
            np.testing.assert_allclose(table[column][[0, 2]], values[[0, 2]], rtol=1e-7, err_msg=column)


def test_an_exposure_without_astrometry_is_told(scene_of, settings):
    with pytest.raises(MeasurementError, match="ext_gaap_GaapFlux needs the astrometry of the exposure"):
        scene_of(x=[100.2], y=[90.3], flux=[5e4]).measure("lsst", settings)


def test_the_convolved_fluxes_need_the_kron_radius(scene_of, settings_of):
    settings = settings_of(names=[*SHAPES, CONVOLVED])
    with pytest.raises(ConfigError, match="add ext_photometryKron_KronFlux to"):
        measure(scene_of(x=[100.2], y=[90.3], flux=[5e4]), settings)


@pytest.mark.parametrize("compatibility", ["lsst", "fixed"])
def test_reference_flux_for_a_catalogue_without_one(scene_of, compatibility):
    """The aperture slots filled by our own measurements, configured as docs/aperture_fluxes.md says."""
    page = (Path(__file__).parents[3] / "docs/aperture_fluxes.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    settings = Config(**yaml.safe_load(text), compatibility=compatibility).measurement
    scene = scene_of(x=[100.3, 60.4], y=[90.1, 120.2], flux=[1e5, 2e5], sky_sigma=1e-3)
    catalogue = scene.catalogue()
    for name in [name for name in catalogue if "Aperture" in name or "Tophat" in name]:
        del catalogue.columns[name]
    catalogue.aliases = {"slot_Centroid": "base_SdssCentroid"}
    scene.catalogue = lambda: catalogue
    table = scene.measure(compatibility, settings)
    np.testing.assert_allclose(table["slot_CalibFlux_instFlux"], scene.flux, rtol=1e-5)
    np.testing.assert_allclose(table["slot_ApFlux_instFlux"], scene.flux, rtol=1e-5)
    assert not table["slot_CalibFlux_flag"].any()


def test_fluxes_that_want_a_correction(settings):
    fluxes = correctable_fluxes(settings, "lsst")
    assert len([name for name in fluxes if name.startswith(CONVOLVED)]) == 16
    assert len([name for name in fluxes if name.startswith(GAAP)]) == 8
    assert KRON in fluxes


def circular_scene(scene_of, settings_of, **changes):
    scene = scene_of(x=[100.3, 60.4, 15.0], y=[90.1, 120.2, 90.0], flux=[1e5, 2e5, 1e5], sky_sigma=1e-3)
    settings = settings_of(names=[CIRCULAR, TOPHAT], doReplaceWithNoise=False)
    settings.plugins.base_CircularApertureFlux = plugins.get(CIRCULAR).Settings(
        radii=[4.5, 9.0, 20.0], **changes
    )
    catalogue = scene.catalogue()
    for name in [name for name in catalogue if name.startswith(CIRCULAR)]:
        del catalogue.columns[name]
    catalogue.aliases["slot_ApFlux"] = "base_SdssCentroid"
    scene.catalogue = lambda: catalogue
    return scene, measure_keeping_catalogue(scene, settings)


def measure_keeping_catalogue(scene, settings):
    return scene.measure("lsst", settings)


def test_circular_apertures(scene_of, settings_of):
    scene, table = circular_scene(scene_of, settings_of)
    for radius in (4.5, 9.0, 20.0):
        name = f"{CIRCULAR}_{radius}".replace(".", "_")
        inside = 1 - np.exp(-0.5 * (radius / SIGMA) ** 2)
        np.testing.assert_allclose(table[f"{name}_instFlux"][:2], inside * scene.flux[:2], rtol=2e-3)
    assert f"{CIRCULAR}_9_0_flag_sincCoeffsTruncated" in table
    assert f"{CIRCULAR}_20_0_flag_sincCoeffsTruncated" not in table
    assert table[f"{CIRCULAR}_20_0_flag_apertureTruncated"].tolist() == [False, False, True]
    assert table[f"{CIRCULAR}_20_0_flag"].tolist() == [False, False, True]
    assert table.aliases[f"{CIRCULAR}_flag_badCentroid"] == "base_SdssCentroid_flag"


def test_compensated_top_hat_takes_off_the_background(scene_of, settings_of):
    scene, table = circular_scene(scene_of, settings_of)
    name = f"{TOPHAT}_12"
    np.testing.assert_allclose(table[f"{name}_instFlux"][:2], scene.flux[:2], rtol=1e-5)
    for suffix in ("flag", "flag_bounds"):
        assert table[f"{name}_{suffix}"].tolist() == [False, False, True]
    image = scene.exposure.image + np.float32(100.0)
    raised = replace(scene, exposure=replace(scene.exposure, image=image))
    raised.catalogue = scene.catalogue
    again = raised.measure("lsst", settings_of(names=[TOPHAT], doReplaceWithNoise=False))
    # circles of pixels differ from pi r^2 by a few pixels
    np.testing.assert_allclose(again[f"{name}_instFlux"][:2], scene.flux[:2], atol=100 * 12)


def test_compensated_top_hat_tells_the_mask(scene_of, settings_of):
    scene, _ = circular_scene(scene_of, settings_of)
    mask = np.zeros_like(scene.exposure.mask)
    mask[90 + 21, 100 + 21] = 1 << 3  # the corner of the square of 21 pixels
    mask[90 + 22, 100] = 1 << 2
    masked = replace(scene, exposure=replace(scene.exposure, mask=mask))
    masked.catalogue = scene.catalogue
    table = masked.measure("lsst", settings_of(names=[TOPHAT], doReplaceWithNoise=False))
    assert table[f"{TOPHAT}_12_mask_bits"].tolist() == [1 << 3, 0, 0]
