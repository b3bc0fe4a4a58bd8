"""Geometry, detection and measurements of the simulator against what is known without it."""

from __future__ import annotations

from dataclasses import replace

import galsim
import numpy as np
import pytest

from finalchar.simulate import photometry
from finalchar.simulate.detection import detect_sources
from finalchar.simulate.pointing import point_detector
from finalchar.simulate.render import Planes
from finalchar.simulate.sky import make_sky
from finalchar.simulate.streams import stream
from finalchar.simulate.surveys import DEMO, MICRO, exposure_id

SIGMA = 1.8
STARS = [(60.3, 50.8, 8e4), (150.2, 61.6, 5e4), (157.7, 66.1, 4e4)]  # the last two blend


@pytest.fixture
def planes() -> Planes:
    """Draw Gaussian stars with little noise."""
    image = galsim.ImageF(galsim.BoundsI(0, 219, 0, 119), init_value=0.0)
    for x, y, flux in STARS:
        star = galsim.Gaussian(sigma=SIGMA, flux=flux)
        star.drawImage(image, center=galsim.PositionD(x, y), scale=1.0, add_to_image=True, method="no_pixel")
    noise = stream(1, "test").normal(0.0, 1.0, image.array.shape)
    pixels = (image.array + noise).astype(np.float32)
    return Planes(pixels, np.zeros(pixels.shape, np.int32), np.ones(pixels.shape, np.float32))


@pytest.mark.parametrize("plan", [DEMO, MICRO], ids=["demo", "micro"])
def test_sky_to_pixel_inverts_pixel_to_sky(plan) -> None:
    x, y = np.meshgrid(np.linspace(0, plan.camera.width, 4), np.linspace(0, plan.camera.height, 4))
    for visit in plan.visits:
        for detector in range(plan.camera.n_detectors):
            pointing = point_detector(plan.sky, plan.camera, visit, detector)
            back = pointing.sky_to_pixel(
                **dict(zip(("ra", "dec"), pointing.pixel_to_sky(x=x, y=y), strict=True))
            )
            # Degrees near 150 resolve 3e-14 degrees = 5e-10 pixel.
            np.testing.assert_allclose(back, (x, y), atol=2e-9, rtol=0)


def test_local_jacobian_is_the_derivative_on_the_sky() -> None:
    pointing = point_detector(DEMO.sky, DEMO.camera, DEMO.visits[1], 3)
    x, y = 900.0, 20.0
    ra, dec = pointing.pixel_to_sky(x=[x - 0.5, x + 0.5, x, x], y=[y, y, y - 0.5, y + 0.5])
    east, north = ra * np.cos(np.radians(dec.mean())) * 3600.0, dec * 3600.0
    numerical = [[east[1] - east[0], east[3] - east[2]], [north[1] - north[0], north[3] - north[2]]]
    # 190 arcsec from the tangent point meridians turn by 190 arcsec * tan(29 deg) = 5e-4, of 0.2 arcsec.
    np.testing.assert_allclose(pointing.local_jacobian(x=x, y=y), numerical, atol=1.2e-4)


def test_exposure_ids_are_those_of_the_reference() -> None:
    # File of the reference survey: visit 2026011500101, detector 0 has EXPID 49140491520.
    assert exposure_id(2026011500101, 0) == 49140491520
    assert exposure_id(2026011500101, 3) == 49140491523


def test_streams_are_independent_of_each_other() -> None:
    first = stream(5, "noise", 1, 2).normal(size=3)
    np.testing.assert_array_equal(first, stream(5, "noise", 1, 2).normal(size=3))
    for other in (stream(6, "noise", 1, 2), stream(5, "noise", 12), stream(5, "noise", 1, 3)):
        assert not np.array_equal(first, other.normal(size=3))


def test_minimum_separation_of_stars() -> None:
    sky = make_sky(replace(MICRO.sky, pair_fraction=0.0, galaxies_per_arcmin2=0.0), seed=3)
    x, y = 3600.0 * sky.ra * np.cos(np.radians(MICRO.sky.centre_dec)), 3600.0 * sky.dec
    distance = np.hypot(*(np.subtract.outer(v, v) for v in (x, y))) + 1e9 * np.eye(len(sky))
    assert distance.min() > MICRO.sky.minimum_separation - 1e-6


def test_detection_makes_a_parent_and_two_children(planes: Planes) -> None:
    detections = detect_sources(planes, SIGMA, first_id=1000)
    footprints = detections.footprints
    np.testing.assert_array_equal(footprints.source_id, 1001 + np.arange(4))
    np.testing.assert_array_equal(footprints.parent, [0, 0, 1002, 1002])
    np.testing.assert_array_equal(detections.n_child, [0, 2, 0, 0])
    # Peaks in falling height; positions rounded to pixels.
    np.testing.assert_array_equal(footprints.peak_x[footprints.peak_offset[[0, 2, 3]]], [60, 150, 158])
    np.testing.assert_array_equal(footprints.peak_y[footprints.peak_offset[[0, 2, 3]]], [51, 62, 66])
    assert ((planes.mask & (1 << 5)) != 0).sum() == sum(len(footprints.pixels(k)[0]) for k in (0, 1))


def test_measurements_of_stars_of_known_flux_and_shape(planes: Planes) -> None:
    footprints = detect_sources(planes, SIGMA, first_id=0).footprints
    stamps = photometry.cut_stamps(planes, footprints)
    start = footprints.peak_offset[:-1]
    x, y, lost = photometry.measure_centroids(
        stamps, x=footprints.peak_x[start] * 1.0, y=footprints.peak_y[start] * 1.0, psf_sigma=SIGMA
    )
    moments = photometry.measure_moments(stamps, x=x, y=y, psf_sigma=SIGMA)
    single, true = 0, STARS[0]
    assert not lost.any()
    # Signal-to-noise 6000: errors are 3e-4 pixel in position and 3e-4 relative in flux and shape.
    assert (x[single], y[single]) == pytest.approx(true[:2], abs=2e-3)
    assert moments.xx[single] == pytest.approx(SIGMA**2, rel=2e-3)
    assert moments.yy[single] == pytest.approx(SIGMA**2, rel=2e-3)
    assert moments.xy[single] == pytest.approx(0.0, abs=5e-3)
    aperture, error = photometry.aperture_flux(stamps, x=x, y=y, radius=9.0)
    assert aperture[single] == pytest.approx(true[2], abs=4 * error[single])
    gaussian, error = photometry.gaussian_flux(stamps, moments, x=x, y=y)
    assert gaussian[single] == pytest.approx(true[2], rel=2e-3)
    # Twice the root of the summed squared weights: 2 sqrt(pi) sigma for unit noise.
    assert error[single] == pytest.approx(2.0 * np.sqrt(np.pi) * SIGMA, rel=1e-3)
    kernel = galsim.Gaussian(sigma=SIGMA).drawImage(nx=41, ny=41, scale=1.0, method="no_pixel").array
    point, _ = photometry.psf_flux(stamps, kernel.astype(np.float64), x=x, y=y)
    assert point[single] == pytest.approx(true[2], rel=2e-3)
    # The templates of overlapping stars share the light between them: 3 % is what symmetry leaves.
    for child, (_, _, flux) in zip((2, 3), STARS[1:], strict=True):
        assert point[child] == pytest.approx(flux, rel=0.03)


def test_empty_image_has_no_sources() -> None:
    shape = (50, 60)
    empty = Planes(np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.ones(shape, np.float32))
    detections = detect_sources(empty, SIGMA, first_id=7)
    assert len(detections.footprints) == 0
    assert len(photometry.cut_stamps(empty, detections.footprints)) == 0
