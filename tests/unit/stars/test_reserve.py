"""The reserve draw: stored vectors, the self check, and the independence of the method ``stable``."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finalchar.errors import InputError, ReproducibilityError
from finalchar.stars import reserve

VECTORS = [  # selection specification 2.2: name, stars, fraction, reserved rows
    ("reserved", "i_9813", 20, 0.1, [2, 19]),
    ("reserved", "i_9813", 37, 0.1, [17, 20, 35]),
    ("reserved", "i_9813", 100, 0.1, [31, 33, 40, 51, 60, 61, 69, 70, 83, 97]),
    ("reserved", "i_9813", 7, 0.29, [4, 5]),
    ("reserved", "r_9813", 10, 0.1, [7]),
    ("reserved", "r_9813", 19, 0.1, [4]),
    ("reserved", "r_9813", 20, 0.1, [5, 10]),
    ("reserved", "r_9813", 21, 0.1, [5, 12]),
    ("reserved", "r_9813", 31, 0.1, [9, 15, 17]),
    ("reserved", "g_9813", 30, 0.2, [1, 8, 14, 16, 21, 29]),
    ("reserved", "r_1", 100, 0.1, [0, 1, 14, 56, 61, 66, 72, 73, 74, 80]),
    ("reserved", "N921_9615", 50, 0.3, [7, 11, 12, 15, 16, 19, 21, 22, 23, 24, 29, 37, 43, 48, 49]),
    ("reserved", "z_5063", 9, 0.1, []),
    ("reserved", "z_5063", 10, 0.1, [6]),
    ("reserved", "u_3828", 8, 1.0, list(range(8))),
    ("finalize", "r_9813", 40, 0.25, [3, 12, 13, 19, 22, 29, 33, 36, 38, 39]),
    ("reserved", "", 50, 0.1, [3, 10, 32, 44, 47]),
]


def section(**changes):
    values = {
        "reserve_name": "reserved",
        "reserve_fraction": 0.1,
        "method": "stable",
        "cell_size_arcsec": 6.0,
        "same_in_all_bands": False,
    }
    return SimpleNamespace(**{**values, **changes})


def sky(number, seed=1, arcmin=30.0):
    rng = np.random.default_rng(seed)
    return 150.0 + rng.uniform(0, arcmin / 60, number), 2.0 + rng.uniform(0, arcmin / 60, number)


def fates(ra, dec, extra="r", **changes):
    return reserve.draw_reserved_by_position(ra=ra, dec=dec, extra=extra, settings=section(**changes))


class TestLsstDraw:
    @pytest.mark.parametrize(("name", "extra", "number", "fraction", "expected"), VECTORS)
    def test_vectors(self, name, extra, number, fraction, expected):
        drawn = reserve.draw_reserved(number, extra, reserve_name=name, reserve_fraction=fraction)
        assert drawn.dtype == bool
        assert drawn.shape == (number,)
        assert np.flatnonzero(drawn).tolist() == expected

    def test_long_vector(self):
        drawn = reserve.draw_reserved(1000, "y_4849", reserve_name="reserved", reserve_fraction=0.1)
        assert drawn.sum() == 100
        assert np.flatnonzero(drawn).sum() == 52517

    def test_number_is_truncated(self):  # S-Q23: 0.29 * 100 is 28.999999999999996
        assert reserve.draw_reserved(100, "r_1", reserve_name="x", reserve_fraction=0.29).sum() == 28

    def test_fraction_zero_and_no_stars(self):
        assert not reserve.draw_reserved(10, "r_1", reserve_name="x", reserve_fraction=0.0).any()
        assert reserve.draw_reserved(0, "r_1", reserve_name="x", reserve_fraction=0.5).shape == (0,)


class AnotherGenerator:
    """The generator of numpy, but two neighbours are swapped after each shuffle."""

    def __init__(self, seed, place):
        self.generator = GENUINE(seed)
        self.place = place

    def shuffle(self, values):
        self.generator.shuffle(values)
        if len(values) > self.place + 1:
            pair = slice(self.place, self.place + 2)
            values[pair] = values[pair][::-1].copy()


GENUINE = np.random.default_rng


class TestSelfCheck:
    @pytest.mark.parametrize("place", [0, 5, 50, 120])
    def test_another_stream_stops_the_run(self, monkeypatch, place):
        monkeypatch.setattr(np.random, "default_rng", lambda seed: AnotherGenerator(seed, place))
        with pytest.raises(ReproducibilityError, match=f"numpy {np.__version__}"):
            reserve.draw_reserved(100, "r_9813", reserve_name="reserved", reserve_fraction=0.1)

    def test_another_hash_stops_the_run(self, monkeypatch):
        genuine = reserve._mix
        monkeypatch.setattr(reserve, "_mix", lambda values: genuine(values) ^ np.uint64(1))
        with pytest.raises(ReproducibilityError, match="hash of star positions"):
            fates([150.0], [2.0])

    def test_both_hold_here(self):
        reserve.check_lsst_draw()
        reserve.check_stable_hash()

    def test_hash_against_plain_integers(self):
        """The same hash with Python's own integers: no library can change it unnoticed."""
        rng = np.random.default_rng(5)
        rings, cells = rng.integers(0, 108_000, 50), rng.integers(0, 216_000, 50)
        hashed = reserve._cell_hash(rings.astype(np.uint64), cells.astype(np.uint64), "reserved_i")
        key = int.from_bytes(hashlib.sha256(b"reserved_i").digest()[:8], "big")
        expected = [mix(mix(int(ring) ^ key) ^ int(cell)) for ring, cell in zip(rings, cells, strict=True)]
        assert hashed.tolist() == expected


def mix(value):
    word = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & word
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & word
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & word
    return value ^ (value >> 31)


class TestStable:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 200), st.integers(0, 200))
    def test_no_other_star_matters(self, seed, added, removed):
        """Adding, removing and shuffling stars changes the fate of none that stays."""
        ra, dec = sky(400, seed)
        new_ra, new_dec = sky(added, seed + 1)
        kept = np.random.default_rng(seed).permutation(400)[removed:]
        before = fates(ra, dec)
        after = fates(np.append(ra[kept], new_ra), np.append(dec[kept], new_dec))
        assert np.array_equal(after[: len(kept)], before[kept])

    @pytest.mark.parametrize("fraction", [0.1, 0.5])
    def test_jitter_of_5_mas(self, fraction):
        """Fates flip in at most 0.1 per cent of the stars, cells change as often as geometry says."""
        ra, dec = sky(1_000_000)
        rng = np.random.default_rng(7)
        moved = ra + rng.normal(0, 0.005 / 3600, ra.size) / np.cos(np.radians(dec))
        raised = dec + rng.normal(0, 0.005 / 3600, dec.size)
        before = reserve.sky_cells(ra=ra, dec=dec, cell_size_arcsec=6.0)
        after = reserve.sky_cells(ra=moved, dec=raised, cell_size_arcsec=6.0)
        crossed = np.mean((before[0] != after[0]) | (before[1] != after[1]))
        # mean |displacement| of a Gaussian is sigma * sqrt(2 / pi) in each of two directions; error 4e-5
        assert crossed == pytest.approx(2 * 0.005 * np.sqrt(2 / np.pi) / 6.0, abs=1.5e-4)
        flipped = np.mean(
            fates(ra, dec, reserve_fraction=fraction) != fates(moved, raised, reserve_fraction=fraction)
        )
        # a star that crosses gets an independent fate, which differs with probability 2 f (1 - f)
        assert flipped == pytest.approx(crossed * 2 * fraction * (1 - fraction), abs=1.2e-4)
        assert flipped < 1e-3

    @pytest.mark.parametrize("fraction", [0.0, 0.1, 0.37, 1.0])
    def test_fraction(self, fraction):
        ra, dec = sky(100_000, arcmin=600)  # 1e4 x the cells: stars rarely share one
        number = fates(ra, dec, reserve_fraction=fraction).sum()
        assert abs(number - fraction * 1e5) <= 4 * np.sqrt(1e5 * fraction * (1 - fraction))

    def test_bands_are_independent_unless_wanted(self):
        ra, dec = sky(50_000)
        both = fates(ra, dec, "r") & fates(ra, dec, "i")
        assert both.mean() == pytest.approx(0.01, abs=0.002)  # 4.5 standard deviations
        nsource = {"r": np.ones(50_000, int), "i": np.ones(50_000, int)}
        for same, agreement in ((True, True), (False, False)):
            draws = reserve.draw_tract(
                tract=1,
                nsource=nsource,
                ra=ra,
                dec=dec,
                star_id=np.arange(50_000),
                bands=["r", "i"],
                settings=section(same_in_all_bands=same),
            )
            assert np.array_equal(draws["r"].reserved, draws["i"].reserved) == agreement

    def test_name_and_cell_size_matter(self):
        ra, dec = sky(5000)
        assert not np.array_equal(fates(ra, dec), fates(ra, dec, reserve_name="other"))
        assert not np.array_equal(fates(ra, dec), fates(ra, dec, cell_size_arcsec=5.0))

    def test_no_seam_at_zero(self):
        assert np.array_equal(fates([359.999999], [10.0]), fates([-0.000001], [10.0]))
        ring, cell = reserve.sky_cells(ra=[360.0 - 1e-13, 0.0], dec=[0.0, 0.0], cell_size_arcsec=6.0)
        assert cell.tolist() == [215_998, 0]  # the ring beside the equator has 215 999 cells
        assert ring[0] == ring[1]

    @pytest.mark.parametrize("dec", [-90.0, -89.99999, 89.99999, 90.0])
    def test_poles(self, dec):
        ring, cell = reserve.sky_cells(
            ra=np.linspace(0, 359, 100), dec=np.full(100, dec), cell_size_arcsec=6.0
        )
        assert len(set(ring.tolist())) == 1
        assert cell.max() <= 4  # the ring next to the pole has three cells of 6 arcsec

    def test_cells_are_wide_enough(self):
        dec = np.linspace(-89.9, 89.9, 1001)
        ring, _ = reserve.sky_cells(ra=np.zeros(1001), dec=dec, cell_size_arcsec=6.0)
        _, last = reserve.sky_cells(ra=np.full(1001, 360 - 1e-9), dec=dec, cell_size_arcsec=6.0)
        middle = np.radians((ring + 0.5) * 6.0 / 3600 - 90)
        width = 360 * 3600 * np.cos(middle) / (last + 1.0)
        assert np.all(width >= 6.0 * (1 - 1e-9))
        assert np.all(width < 6.0 * 1.1)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_position_that_is_no_number(self, bad):
        with pytest.raises(InputError, match=r"1 isolated stars have no finite ra, dec \(first in row 1\)"):
            fates([150.0, bad], [2.0, 2.0])


class TestDrawTract:
    def test_only_stars_of_the_band(self):
        """The worked example of selection specification 2.3."""
        nsource = np.full(25, 2)
        nsource[::5] = 0
        draws = self.draw(nsource)
        assert np.flatnonzero(draws.reserved).tolist() == [7, 13]
        assert np.array_equal(draws.in_band, nsource > 0)
        nsource[1::5] = 0
        assert np.flatnonzero(self.draw(nsource).reserved).tolist() == [19]

    @staticmethod
    def draw(nsource, star_id=None, **changes):
        number = len(nsource)
        return reserve.draw_tract(
            tract=9813,
            nsource={"r": nsource},
            ra=None,
            dec=None,
            star_id=np.arange(number) if star_id is None else star_id,
            bands=["r"],
            settings=section(method="lsst", **changes),
        )["r"]

    def test_same_in_all_bands_draws_over_all_stars(self):
        in_r, in_i = np.arange(40) % 2, np.arange(40) % 3
        draws = reserve.draw_tract(
            tract=1,
            nsource={"r": in_r, "i": in_i},
            ra=None,
            dec=None,
            star_id=np.arange(40),
            bands=["r", "i"],
            settings=section(method="lsst", same_in_all_bands=True, reserve_fraction=0.5),
        )
        both = (in_r > 0) & (in_i > 0)
        assert np.array_equal(draws["r"].reserved[both], draws["i"].reserved[both])
        assert not (draws["r"].reserved & (in_r == 0)).any()

    def test_digest(self):
        ids, in_band, fate = np.arange(20), np.ones(20, bool), np.arange(20) % 7 == 0
        digest = reserve.draw_digest(ids, in_band, fate)
        order = np.random.default_rng(1).permutation(20)
        assert reserve.draw_digest(ids[order], in_band[order], fate[order]) == digest
        fate[3] = True
        assert reserve.draw_digest(ids, in_band, fate) != digest
