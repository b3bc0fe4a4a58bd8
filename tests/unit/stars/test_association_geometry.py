"""Where a tract lies, HEALPix pixels, and the greedy grouping."""

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.stars.greedy_groups import greedy_groups
from finalchar.stars.healpix import in_or_beside, nested_pixel, pixel_size_arcsec
from finalchar.stars.sphere import chord_of, unit_vectors
from finalchar.stars.tract_geometry import TractGeometry

SQUARE = ((10.0, 20.0), (12.0, 20.0), (12.0, 22.0), (10.0, 22.0))


def everywhere(number=20_000, seed=2):
    draw = np.random.default_rng(seed)
    return draw.uniform(0, 360, number), np.degrees(np.arcsin(draw.uniform(-1, 1, number)))


# ------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("limits", [(350, 10, -5, 5), (-10, 10, -5, 5), (0, 360, 80, 90), (10, 20, -90, -80)])
def test_what_a_tract_owns_it_looks_at(limits):
    tract = TractGeometry(1, *limits)
    ra, dec = everywhere()
    owned = tract.owns(ra=ra, dec=dec)
    assert owned.any()
    assert not (owned & ~tract.looks_at(ra=ra, dec=dec)).any()
    assert tract.owns(ra=np.array([limits[0]]), dec=np.array([limits[2]])).all()  # lower limits inclusive


def test_poles_have_an_owner():
    north, south = TractGeometry(1, 0, 360, 80, 90), TractGeometry(2, 0, 360, -90, -80)
    assert north.owns(ra=np.array([10.0]), dec=np.array([90.0])).all()
    assert south.owns(ra=np.array([10.0]), dec=np.array([-90.0])).all()


@pytest.mark.parametrize("corners", [SQUARE, SQUARE[::-1]])
def test_polygon_with_its_corners_in_both_directions(corners):
    tract = TractGeometry(1, 10.5, 11.5, 20.5, 21.5, corners)
    ra, dec = np.array([11.0, 11.0, 9.99, 12.01, 10.0]), np.array([21.0, 19.9, 21.0, 21.0, 20.0])
    assert tract.looks_at(ra=ra, dec=dec).tolist() == [True, False, False, False, True]
    assert tract.looks_at(ra=np.array([11.0]), dec=np.array([22.0001])).all()  # sides are great circles


@pytest.mark.parametrize(
    "tract", [TractGeometry(1, 10.5, 11.5, 20.5, 21.5, SQUARE), TractGeometry(1, 358, 2, 60, 61)]
)
def test_box_of_positions_holds_all_that_is_looked_at(tract):
    draw = np.random.default_rng(4)
    ra = draw.uniform(tract.ra_min - 3, tract.ra_min + 7, 20_000) % 360
    dec = draw.uniform(tract.dec_min - 2, tract.dec_max + 2, 20_000)
    seen = tract.looks_at(ra=ra, dec=dec)
    low, high = tract.dec_range()
    assert seen.any()
    assert dec[seen].min() >= low
    assert dec[seen].max() <= high
    assert all(tract.may_hold_ra(value, value) for value in ra[seen])
    assert tract.may_hold_ra(0.0, 360.0)
    assert not tract.may_hold_ra(100.0, 200.0)


@pytest.mark.parametrize(
    ("limits", "outer", "sentence"),
    [
        ((0, 1, 5, 5), (), "dec_min must be less than dec_max"),
        ((0, 1, -91, 5), (), "both within -90 ... 90"),
        ((3, 3, 0, 5), (), "ra_min and ra_max are the same"),
        ((0, 1, 0, 1), (SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]), "is not convex"),
        ((20, 21, 0, 1), SQUARE, "does not hold the middle of what the tract owns"),
        ((0, 1, 0, 1), SQUARE[:2], "fewer than 3 corners"),
    ],
)
def test_impossible_tracts_are_refused(limits, outer, sentence):
    with pytest.raises(InputError, match=f"tract 3: .*{sentence}"):
        TractGeometry(3, *limits, outer)


# ------------------------------------------------------------------------------------------------- HEALPix


def test_pixels_of_known_positions():
    """Centres of the base pixels, and numbers of an independent implementation at nside 16384."""
    ra = np.array([45.0, 225.0, 0.0, 90.0, 45.0, 315.0])
    dec = np.array([41.8, 41.8, 0.0, 0.0, -41.8, -41.8])
    assert nested_pixel(1, ra=ra, dec=dec).tolist() == [0, 2, 4, 5, 8, 11]
    ra, dec = np.array(PLACES).T
    assert nested_pixel(16384, ra=ra, dec=dec).tolist() == list(NUMBERS)


PLACES = ((150.56, -28.9), (0.0001, 89.9999), (359.9, -89.5), (12.5, 3.25), (271.0, 60.0), (200.0, -75.0))
NUMBERS = (2544360436, 268435455, 2952807508, 1187505010, 1002427552, 2696603864)


def test_pixels_have_equal_areas_and_are_nested():
    ra, dec = everywhere(200_000)
    coarse, fine = nested_pixel(4, ra=ra, dec=dec), nested_pixel(32, ra=ra, dec=dec)
    assert np.array_equal(fine >> 6, coarse)
    counts = np.bincount(coarse, minlength=192)
    assert np.abs(counts / counts.mean() - 1.0).max() < 5.0 / np.sqrt(counts.mean())  # 5 sigma of the counts


def test_sizes_of_pixels_are_those_of_the_specification():
    sizes = [pixel_size_arcsec(nside) for nside in (32, 16384, 32768)]
    assert sizes == pytest.approx([6596.13, 12.883, 6.4415], rel=1e-5)


def test_ring_around_a_pixel_is_what_lies_within_a_fine_pixel_of_it():
    ra, dec = everywhere(50_000)
    pixel, fine = nested_pixel(2, ra=ra, dec=dec), nested_pixel(16, ra=ra, dec=dec)
    size = np.radians(pixel_size_arcsec(16) / 3600.0)
    points = unit_vectors(ra=ra, dec=dec)
    for each in range(48):
        near = in_or_beside(each, 2, 16, ra=ra, dec=dec)
        assert near[pixel == each].all()
        ring = np.flatnonzero(near & (pixel != each))
        distance = [np.linalg.norm(points[pixel == each] - points[k], axis=1).min() for k in ring[::20]]
        assert max(distance) < 2.5 * size  # pixels are not square everywhere
        assert len(np.unique(fine[ring])) in (35, 36)  # 4 x 8 at the sides, 3 or 4 at the corners


# ------------------------------------------------------------------------------------------------ grouping


def slow_groups(points, chord, order):
    """The rule of specification 1.6.4, word by word."""
    near = [np.flatnonzero(np.linalg.norm(points - point, axis=1) <= chord) for point in points]
    assigned, groups = np.zeros(len(points), bool), []
    for seed in order([len(members) for members in near]):
        if not assigned[seed]:
            groups.append(near[seed].tolist())
            assigned[near[seed]] = True
    return groups


ORDERS = {
    "fixed": lambda lengths: sorted(range(len(lengths)), key=lambda k: (-lengths[k], -k)),
    "lsst": lambda lengths: np.argsort(np.array(lengths))[::-1].tolist(),
}


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
@pytest.mark.parametrize("at_a_time", [20, 10**6])
def test_groups_follow_the_rule(compatibility, at_a_time, monkeypatch):
    """Crowded, so that groups share members and chains are long."""
    monkeypatch.setattr("finalchar.stars.greedy_groups.NEIGHBOURS_AT_A_TIME", at_a_time)
    draw = np.random.default_rng(6)
    points = unit_vectors(ra=10 + draw.uniform(0, 0.003, 150), dec=20 + draw.uniform(0, 0.003, 150))
    chord = chord_of(1.0)
    groups = greedy_groups(points, chord, compatibility=compatibility)
    found = [members.tolist() for members in np.split(groups.member, groups.start[1:])]
    assert found == slow_groups(points, chord, ORDERS[compatibility])
    assert sum(map(len, found)) > len(points)  # shared members


def test_no_points_no_groups():
    assert len(greedy_groups(np.zeros((0, 3)), 1e-6)) == 0


def test_match_is_inclusive():
    points = unit_vectors(ra=np.zeros(2), dec=np.array([0.0, 1.0 / 3600.0]))
    chord = float(np.linalg.norm(points[0] - points[1]))
    assert len(greedy_groups(points, chord)) == 1
    assert len(greedy_groups(points, chord * (1 - 1e-9))) == 2
