"""Known failures K18 and K19: what is reported as a success is checked, what failed is NaN and flagged."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

CHECK = "finalchar_Plausibility"
SOURCE = "ext_shapeHSM_HsmSourceMoments"
MEASURED = ("xx", "yy", "xy", "x", "y")


def test_good_stars_pass_all_checks(scene_of):
    table = scene_of(x=[60.3, 150.2], y=[70.4, 120.8], flux=[1e4, 1e5]).measure("fixed")
    assert not any(table[name].any() for name in table if name.startswith(f"{CHECK}_flag"))
    assert (table[f"{CHECK}_centroidOffset"] < 0.05).all()
    assert (table[f"{CHECK}_maskedFraction"] == 0).all()


def test_the_checks_are_absent_when_the_reference_is_reproduced(scene_of):
    table = scene_of(x=[60.3], y=[70.4], flux=[1e4]).measure("lsst")
    assert not any(name.startswith("finalchar_") for name in table)


def test_checks_change_no_column_of_the_reference(scene_of):
    # one star alone: the noise, whose seed differs between the two, is under no star
    scene = scene_of(x=[60.3], y=[70.4], flux=[1e4], radius=30.0)
    ours, theirs = scene.measure("fixed"), scene.measure("lsst")
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("distance", [8.0, 9.5, 11.0])
@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5, 4.0])
def test_moments_that_ran_to_a_neighbour_without_footprint(scene_of, distance, angle):
    x, y = 100.2 + distance * np.cos(angle), 90.1 + distance * np.sin(angle)
    scene = scene_of(x=[100.2, x], y=[90.1, y], flux=[300, 3e4], footprint_of=[0], sky_sigma=1.0)
    table = scene.measure("fixed", rows=[0])
    offset = table[f"{CHECK}_centroidOffset"][0]
    assert np.isnan(offset) or offset > 2  # GalSim reports success far from the star, or an error
    assert table[f"{CHECK}_flag"][0]
    assert table[f"{CHECK}_flag_displaced"][0] or table[f"{CHECK}_flag_noMoments"][0]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_an_empty_stamp_gives_nan_and_flag(scene_of, settings_of, value):
    scene = scene_of(x=[100.2], y=[90.1], flux=[3e4])
    image = np.full_like(scene.exposure.image, value)
    table = scene.with_planes(image=image).measure("fixed", settings_of(doReplaceWithNoise=False))
    for axes in MEASURED:
        assert np.isnan(table[f"{SOURCE}_{axes}"][0]) or value != 0.0
    if value == 0.0:
        assert table[f"{SOURCE}_flag"][0]
        assert np.isnan(table["base_GaussianFlux_instFlux"][0])
        assert table[f"{CHECK}_flag_noMoments"][0]


def test_an_undersampled_profile_gives_no_placeholder(scene_of, settings_of):
    scene = scene_of(x=[100.0], y=[90.0], flux=[0.0])
    image = np.zeros_like(scene.exposure.image)
    image[90, 100] = 1e4  # all light in one pixel
    table = scene.with_planes(image=image).measure("fixed", settings_of(doReplaceWithNoise=False))
    values = np.array([table[f"{SOURCE}_{axes}"][0] for axes in ("xx", "yy")])
    if table[f"{SOURCE}_flag"][0]:
        assert np.isnan(values).all()
        assert table[f"{CHECK}_flag"][0]
    else:
        assert (values > 0).all()


def test_no_placeholder_number_in_any_failed_row(scene_of):
    x, y = np.meshgrid(np.arange(20.0, 210, 25), np.arange(20.0, 190, 25))
    table = scene_of(x=x.ravel(), y=y.ravel(), flux=np.zeros(x.size)).measure("fixed")
    for name in (SOURCE, f"{SOURCE}Round", "ext_shapeHSM_HsmPsfMoments"):
        failed = table[f"{name}_flag"]
        for axes in MEASURED:
            assert np.isnan(table[f"{name}_{axes}"][failed]).all()
    failed = table["ext_shapeHSM_HsmShapeRegauss_flag"]
    for column in ("e1", "e2", "sigma", "resolution"):
        assert np.isnan(table[f"ext_shapeHSM_HsmShapeRegauss_{column}"][failed]).all()
    failed = table[f"{SOURCE}_flag"]
    assert failed.any()
    assert table[f"{CHECK}_flag_noMoments"][failed].all()


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (-3, 1), (6, -6)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_pixel_is_never_a_finite_wrong_number(scene_of, place, value):
    scene = scene_of(x=[100.2], y=[90.1], flux=[3e4])
    good = scene.measure("fixed")
    image, mask = scene.exposure.image.copy(), scene.exposure.mask.copy()
    image[90 + place[0], 100 + place[1]] = value
    mask[90 + place[0], 100 + place[1]] = 1  # BAD
    table = scene.with_planes(image=image, mask=mask).measure("fixed")
    for axes in MEASURED:
        ours = table[f"{SOURCE}_{axes}"][0]
        assert np.isnan(ours) or ours == pytest.approx(good[f"{SOURCE}_{axes}"][0], abs=1e-6)
    assert table[f"{SOURCE}_flag"][0] == np.isnan(table[f"{SOURCE}_xx"][0])
    assert table[f"{CHECK}_maskedFraction"][0] > 0
    if place == (0, 0):
        assert table[f"{CHECK}_flag_maskedCore"][0]


def test_a_hole_in_the_core_is_flagged(scene_of):
    scene = scene_of(x=[100.0], y=[90.0], flux=[3e4])
    mask = scene.exposure.mask.copy()
    mask[88:93, 101:105] = 1  # rows 13-17, columns 16-19 of a 31 x 31 stamp
    table = scene.with_planes(mask=mask).measure("fixed")
    assert not table[f"{SOURCE}_flag"][0]  # the reference's column calls it good
    assert table[f"{SOURCE}_xx"][0] < 0.5 * table["ext_shapeHSM_HsmPsfMoments_xx"][0]
    assert table[f"{CHECK}_flag_maskedCore"][0]
    assert table[f"{CHECK}_flag"][0]
    weight = galsim.ImageD(25, 25, scale=1.0)
    scene.psf.profile.drawImage(image=weight, method="no_pixel")
    lost = weight.array[10:15, 13:17].sum() / weight.array.sum()
    assert table[f"{CHECK}_maskedFraction"][0] == pytest.approx(lost, abs=1e-6)


def test_masked_wings_are_not_flagged(scene_of):
    scene = scene_of(x=[100.0], y=[90.0], flux=[3e4])
    mask = scene.exposure.mask.copy()
    mask[80:100, 106:112] = 2  # SAT, 3 sigma off
    table = scene.with_planes(mask=mask).measure("fixed")
    assert not table[f"{CHECK}_flag"][0]
    assert 0 < table[f"{CHECK}_maskedFraction"][0] < 0.01


def test_missing_columns_through_the_star(scene_of):
    scene = scene_of(x=[100.2, 40.0], y=[90.1, 90.1], flux=[3e4, 3e4])
    image, mask = scene.exposure.image.copy(), scene.exposure.mask.copy()
    image[:, 98:103] = np.nan
    mask[:, 98:103] = 1 << 8  # NO_DATA
    table = scene.with_planes(image=image, mask=mask).measure("fixed")
    assert table[f"{CHECK}_flag_maskedCore"].tolist() == [True, False]
    assert np.isnan(table["base_PsfFlux_instFlux"][0])
    assert table["base_PsfFlux_flag"][0]
    assert table["base_PsfFlux_instFlux"][1] == pytest.approx(3e4, rel=0.02)


@pytest.mark.parametrize("value", [0.0, -4.0, np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0), (2, 1)])
def test_an_impossible_variance_is_a_bad_pixel(scene_of, value, place):
    scene = scene_of(x=[100.2, 40.0], y=[90.1, 90.1], flux=[3e4, 3e4])
    variance = scene.exposure.variance.copy()
    variance[90 + place[0], 100 + place[1]] = value
    table = scene.with_planes(variance=variance).measure("fixed")
    assert table[f"{CHECK}_maskedFraction"][0] > 0
    assert table[f"{CHECK}_flag_maskedCore"].tolist() == [place == (0, 0), False]
    assert np.isfinite(table[f"{SOURCE}_xx"]).all()
    flux = table["base_PsfFlux_instFlux"][0]
    assert table["base_PsfFlux_flag"][0] if np.isnan(flux) else flux == pytest.approx(3e4, rel=0.02)
