"""Matching of standard stars, magnitudes and colours in both compatibilities; placeholders (K12)."""

from __future__ import annotations

import numpy as np
import pytest

from finalchar.errors import ConfigError, InputError
from finalchar.stars.colors import (
    FgcmStars,
    assign_colors,
    color_bands,
    match_on_sky,
    matched_magnitudes,
    read_fgcm,
    stack_fgcm,
    usable_magnitude,
)

ARCSEC = 1 / 3600


def stars_at(ra, dec, **magnitudes):
    number = len(ra)
    return FgcmStars(
        np.ones(number, np.int64),
        np.arange(number, dtype=np.int64),
        np.array(ra, float),
        np.array(dec, float),
        {band: np.array(values, np.float32) for band, values in magnitudes.items()},
        {band: True for band in magnitudes},
    )


def colors(stars, ra, dec, compatibility="fixed", band="r", color=None):
    return assign_colors(
        ra=ra, dec=dec, stars=stars, band=band, color=color or {"r": "g-i"}, compatibility=compatibility
    )


class TestMatching:
    @pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.0, 0.0), (10.0, 89.9999), (200.0, -90.0)])
    def test_all_pairs(self, ra, dec):
        """Against the angle by the haversine; across right ascension 0 and beside the poles."""
        rng = np.random.default_rng(4)
        narrow = max(np.cos(np.radians(dec)), 1e-3)
        places = [
            (
                (ra + rng.uniform(-3, 3, 40) * ARCSEC / narrow) % 360,
                np.clip(dec + rng.uniform(-3, 3, 40) * ARCSEC, -90, 90),
            )
            for _ in range(2)
        ]
        (ra_1, dec_1), (ra_2, dec_2) = places
        first, second, _ = match_on_sky(ra=ra_1, dec=dec_1, other_ra=ra_2, other_dec=dec_2, radius_arcsec=1.0)
        half = np.radians(np.subtract.outer(dec_1, dec_2)) / 2, np.radians(np.subtract.outer(ra_1, ra_2)) / 2
        product = np.outer(np.cos(np.radians(dec_1)), np.cos(np.radians(dec_2)))
        angle = 2 * np.arcsin(np.sqrt(np.sin(half[0]) ** 2 + product * np.sin(half[1]) ** 2))
        expected = np.argwhere(angle <= np.radians(ARCSEC))
        assert np.array_equal(np.stack([first, second], axis=1), expected)
        assert 0 < len(expected) < 1600

    def test_positions_that_are_no_numbers(self):
        first, _, _ = match_on_sky(
            ra=[150, np.nan], dec=[2, 2], other_ra=[150, np.inf], other_dec=[2, 2], radius_arcsec=1.0
        )
        assert first.tolist() == [0]

    @pytest.mark.parametrize(("ours", "theirs"), [([], [150.0]), ([150.0], []), ([], [])])
    def test_nothing_to_match(self, ours, theirs):
        found = match_on_sky(ra=ours, dec=ours, other_ra=theirs, other_dec=theirs, radius_arcsec=1.0)
        assert [len(part) for part in found] == [0, 0, 0]


class TestColors:
    def test_nearest_or_last(self):
        """S-Q9: the reference takes the last match, we the nearest."""
        stars = stars_at(
            [150, 150, 150],
            [2 + 0.1 * ARCSEC, 2 + 0.05 * ARCSEC, 2 - 0.9 * ARCSEC],
            g=[20, 21, 22],
            i=[19, 19, 19],
        )
        assert colors(stars, [150], [2]).value.tolist() == [2.0]
        assert colors(stars, [150], [2], "lsst").value.tolist() == [3.0]

    @pytest.mark.parametrize("bad", [99.0, -999.0, 90.0, np.nan, np.inf])
    def test_placeholder(self, bad):
        """K12: a placeholder is no magnitude, and no colour comes of it."""
        stars = stars_at([150, 151], [2, 2], g=[bad, 20.0], i=[19.0, 19.5])
        found = colors(stars, [150, 151, 152], [2, 2, 2])
        assert np.isnan(found.value[0])
        assert found.value[1] == 0.5
        assert found.kind.tolist() == ["g-i", "g-i", ""]
        assert found.counts == {"colors": 1, "no_standard_star": 1, "placeholder_magnitude": 1}
        magnitudes, matched = matched_magnitudes(ra=[150, 151, 152], dec=[2, 2, 2], stars=stars)
        assert np.isnan(magnitudes["g"][[0, 2]]).all()
        assert matched.tolist() == [True, True, False]
        raw, _ = matched_magnitudes(ra=[150], dec=[2], stars=stars, compatibility="lsst")
        assert raw["g"][0] == np.float32(bad) or np.isnan(bad)

    def test_difference_is_formed_in_single_precision(self):
        stars = stars_at([150], [2], g=[20.1], i=[19.3])
        found = colors(stars, [150], [2])
        assert found.value.dtype == np.float32
        assert found.value[0] == np.float32(20.1) - np.float32(19.3)
        assert found.kind.dtype == "<U10"

    def test_band_without_a_color(self):
        """One missing colour does not end a job; with lsst it does."""
        stars = stars_at([150], [2], g=[20.0], i=[19.0])
        found = colors(stars, [150], [2], band="z")
        assert np.isnan(found.value).all()
        assert found.counts == {"colors": 0, "no_color_for_band": 1}
        with pytest.raises(ConfigError, match="has no entry for the band 'z'"):
            colors(stars, [150], [2], "lsst", band="z")

    def test_magnitude_that_no_table_has(self):
        stars = stars_at([150], [2], g=[20.0])
        assert np.isnan(colors(stars, [150], [2]).value).all()
        with pytest.raises(InputError, match="lack mag_g or mag_i"):
            colors(stars, [150], [2], "lsst")

    def test_expression(self):
        """S-Q9: the reference reads characters 0 and 2 only."""
        assert color_bands("g-i") == color_bands("g-i", compatibility="lsst") == ("g", "i")
        assert color_bands("N708-N540") == ("N708", "N540")
        assert color_bands("N708-N540", compatibility="lsst") == ("N", "0")
        for wrong in ("g", "g-", "g-r-i", ""):
            with pytest.raises(ConfigError, match="is not two bands"):
                color_bands(wrong)

    def test_usable_magnitude(self):
        assert usable_magnitude([20.0, 89.9, 90.0, -90.0, np.nan]).tolist() == [
            True,
            True,
            False,
            False,
            False,
        ]


class TestTables:
    def test_stacked_in_ascending_tract(self):
        tables = {
            9: {"ra": np.array([3.0]), "dec": np.array([0.0]), "mag_g": np.array([20.0], np.float32)},
            2: {"ra": np.array([1.0, 2.0]), "dec": np.zeros(2), "mag_i": np.array([19.0, 18.0], np.float32)},
        }
        stars = stack_fgcm(tables, bands=["g", "i", "y"])
        assert stars.tract.tolist() == [2, 2, 9]
        assert stars.row.tolist() == [0, 1, 0]
        assert stars.ra.tolist() == [1.0, 2.0, 3.0]
        assert np.isnan(stars.magnitudes["g"][:2]).all()
        assert stars.has_band == {"g": True, "i": True, "y": False}
        assert len(stack_fgcm({}, bands=["g"])) == 0

    def test_masked_magnitude_is_missing(self):
        from astropy.table import MaskedColumn, Table

        masked = MaskedColumn(np.array([20.0, 21.0], np.float32), mask=[True, False])
        stars = read_fgcm(Table({"ra": [1.0, 2.0], "dec": [0.0, 0.0], "mag_g": masked}), tract=1, bands=["g"])
        assert np.isnan(stars.magnitudes["g"][0])
        assert stars.magnitudes["g"][1] == 21.0

    def test_null_magnitude_in_a_file(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"ra": [1.0, 2.0], "dec": [0.0, 0.0], "mag_g": pa.array([None, 21.0], pa.float32())})
        pq.write_table(table, tmp_path / "fgcm.parquet")
        stars = read_fgcm(tmp_path / "fgcm.parquet", tract=1, bands=["g"])
        assert np.isnan(stars.magnitudes["g"][0])
        assert stars.magnitudes["g"][1] == 21.0

    def test_table_without_position(self):
        with pytest.raises(InputError, match="the column 'dec' is missing"):
            read_fgcm({"ra": np.zeros(1)}, tract=1, bands=["g"])
