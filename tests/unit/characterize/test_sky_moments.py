"""Moments on the sky: planted Gaussians, both definitions of the axes, the horizon."""

from __future__ import annotations

import numpy as np
import pytest

from finalchar.formats.sources import SourceTable
from finalchar.sky_moments import COLUMNS, add_sky_moments

SCALE = 0.2 / 3600.0


class TangentPlane:
    """A TAN projection: square pixels, rotated by `angle`, x to the west as on the sky."""

    def __init__(self, ra=2.6, dec=-0.5, angle=0.3, centre=(500.0, 400.0)):
        self.ra, self.dec, self.centre = ra, dec, centre
        cos, sin = np.cos(angle), np.sin(angle)
        self.cd = SCALE * np.array([[-cos, sin], [sin, cos]])

    def local_cd_matrix(self, *, x, y):
        return np.broadcast_to(self.cd, (len(np.atleast_1d(x)), 2, 2))

    def pixel_to_sky(self, *, x, y):
        offset = np.stack([np.asarray(x) - self.centre[0], np.asarray(y) - self.centre[1]])
        xi, eta = np.radians(self.cd @ offset)
        down = np.cos(self.dec) - eta * np.sin(self.dec)
        ra = self.ra + np.arctan2(xi, down)
        dec = np.arctan2(np.sin(self.dec) + eta * np.cos(self.dec), np.hypot(xi, down))
        return np.mod(ra, 2.0 * np.pi), dec


def make_table(x, y, xx=4.0, yy=3.0, xy=0.5):
    n = len(x)
    columns = {"slot_Centroid_x": np.asarray(x, dtype=float), "slot_Centroid_y": np.asarray(y, dtype=float)}
    for slot in ("slot_Shape", "slot_PsfShape"):
        columns |= {f"{slot}_xx": np.full(n, xx), f"{slot}_yy": np.full(n, yy), f"{slot}_xy": np.full(n, xy)}
    return SourceTable(columns)


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_moments_at_the_origin(compatibility):
    """At the tangent point both definitions are the same: C M C^T in arcsec^2, u east, v north."""
    wcs = TangentPlane()
    table = add_sky_moments(make_table([500.0], [400.0]), wcs, 0.0, compatibility=compatibility)
    wanted = (wcs.cd @ np.array([[4.0, 0.5], [0.5, 3.0]]) @ wcs.cd.T) * 3600.0**2
    # float32 columns: 6e-8, twice in lsst mode.
    np.testing.assert_allclose(
        [table["shape_Iuu"][0], table["shape_Ivv"][0], table["shape_Iuv"][0]],
        [wanted[0, 0], wanted[1, 1], wanted[0, 1]],
        rtol=3e-7,
    )
    assert table["shape_Iuu"].dtype == np.float32


def test_axes_at_the_star_turn_away_from_the_tangent_plane():
    """A long way from the origin north is not the tangent plane's north: the convergence of meridians."""
    wcs = TangentPlane(dec=-1.2, angle=0.0)
    x = np.array([500.0 + 3600.0 * 5.0 * 5.0])  # five degrees west
    table = make_table(x, [400.0], xx=6.0, yy=2.0, xy=0.0)
    fixed = add_sky_moments(table, wcs, 0.0)
    lsst = add_sky_moments(table, wcs, 0.0, compatibility="lsst")
    ra, dec = wcs.pixel_to_sky(x=x, y=np.array([400.0]))
    turned = 0.5 * np.arctan2(2.0 * fixed["shape_Iuv"], fixed["shape_Iuu"] - fixed["shape_Ivv"])
    # Convergence over the way in right ascension, to first order in the field.
    convergence = abs((ra[0] - wcs.ra) * np.sin(0.5 * (dec[0] + wcs.dec)))
    assert abs(turned[0]) == pytest.approx(convergence, rel=0.02)
    assert lsst["shape_Iuv"][0] == 0.0


def test_rotation_to_the_horizon():
    wcs = TangentPlane(angle=0.0)
    table = add_sky_moments(make_table([500.0], [400.0], xy=0.0), wcs, np.pi / 2.0)
    # A quarter turn exchanges the axes; the turned u axis is called altitude [M-Q25].
    assert table["shape_Ialtalt"][0] == pytest.approx(table["shape_Ivv"][0], rel=1e-6)
    assert table["shape_Iazaz"][0] == pytest.approx(table["shape_Iuu"][0], rel=1e-6)


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_sense_of_the_rotation_to_the_horizon(compatibility):
    """What is long to the east lies, after an eighth of a turn, between the first axis and the second."""
    wcs = TangentPlane(angle=0.0)
    table = make_table([500.0], [400.0], xx=4.0, yy=3.0, xy=0.0)
    turned = add_sky_moments(table, wcs, np.pi / 4.0, compatibility=compatibility)
    half_difference = 0.5 * (turned["shape_Iuu"][0] - turned["shape_Ivv"][0])
    assert half_difference > 0.0
    assert turned["shape_Ialtaz"][0] == pytest.approx(half_difference, rel=1e-6)


@pytest.mark.parametrize("axes", ["xx", "yy", "xy"])
def test_a_moment_that_is_not_finite_gives_nan(axes):
    table = make_table([400.0, 500.0], [400.0, 300.0])
    table[f"slot_Shape_{axes}"][0] = np.nan
    result = add_sky_moments(table, TangentPlane(), 0.4)
    for name in COLUMNS:
        assert np.isnan(result[name][0]) == name.startswith("shape_")
        assert np.isfinite(result[name][1])


def test_right_ascension_zero_is_no_edge():
    wcs = TangentPlane(ra=0.0)
    table = add_sky_moments(make_table([499.9, 500.1], [400.0, 400.0]), wcs, 0.0)
    assert table["shape_Iuu"][0] == pytest.approx(table["shape_Iuu"][1], rel=1e-5)


@pytest.mark.parametrize("x", [500.0, 501.0, 505.0, 560.0])
def test_the_pole_is_a_place_like_any_other(x):
    """Right ascension turns by any angle from pixel to pixel there; size and flattening must not."""
    table = add_sky_moments(make_table([x], [400.0]), TangentPlane(dec=np.pi / 2), 0.0)
    uu, vv, uv = (float(table[f"shape_I{axes}"][0]) for axes in ("uu", "vv", "uv"))
    pixel = (SCALE * 3600.0) ** 2
    # Within an arcminute of the tangent point pixels are the same size to 1e-8; float32 columns.
    assert uu + vv == pytest.approx(pixel * 7.0, rel=1e-6)
    assert uu * vv - uv**2 == pytest.approx(pixel**2 * 11.75, rel=1e-6)


def test_a_mirrored_projection():
    """x to the east instead of to the west: the cross moment changes sign."""
    wcs, mirrored = TangentPlane(angle=0.0), TangentPlane(angle=0.0)
    mirrored.cd = wcs.cd * np.array([[-1.0], [1.0]])
    table = make_table([500.0], [400.0])
    one, other = (add_sky_moments(table, each, 0.0) for each in (wcs, mirrored))
    assert other["shape_Iuv"][0] == pytest.approx(-one["shape_Iuv"][0], rel=1e-6)
    assert other["shape_Iuu"][0] == pytest.approx(one["shape_Iuu"][0], rel=1e-6)
