"""Matching by id in every multiplicity and order (K11), and bad numbers kept out of fits (K12)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finalchar.errors import InputError
from finalchar.formats.sources import SourceTable
from finalchar.stars import selectors
from finalchar.stars.matching import candidate_table, match_isolated_sources
from finalchar.stars.usable import selection_flux_fields, usable_for_fit
from finalchar.stars.visit_list import IsolatedSources

BASE = 592916301234567800


def isolated(ids, fates, star=None, tract=None):
    number = len(ids)
    star = np.arange(number) if star is None else np.array(star)
    several = np.array([np.sum(star == s) for s in star], np.int32) if number else np.zeros(0, np.int32)
    return IsolatedSources(
        np.zeros(number, np.int32),
        np.array(ids, np.int64),
        np.ones(number, np.int64) if tract is None else np.array(tract, np.int64),
        star.astype(np.int64),
        np.array(fates, bool),
        several,
    )


class TestMatching:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32 - 1))
    def test_any_order_against_look_up(self, seed):
        rng = np.random.default_rng(seed)
        source = BASE + rng.permutation(80)[:50]
        listed = BASE + rng.permutation(80)[:40]
        fate = rng.random(40) < 0.3
        matches = match_isolated_sources(source_id=source, isolated=isolated(listed, fate))
        table = dict(zip(listed.tolist(), fate.tolist(), strict=True))
        expected = [(row, table[i]) for row, i in enumerate(source.tolist()) if i in table]
        assert list(zip(matches.rows.tolist(), matches.reserved.tolist(), strict=True)) == expected
        assert matches.counts["isolated_not_selected"] == 40 - len(expected)

    def test_neighbours_beyond_double_precision(self):
        matches = match_isolated_sources(
            source_id=np.array([592916301234567892]), isolated=isolated([592916301234567891], [True])
        )
        assert len(matches) == 0

    def test_repeated_id_in_the_catalogue(self):
        with pytest.raises(InputError, match=r"has the id 7 more than once \(1 ids are repeated\)"):
            match_isolated_sources(
                source_id=np.array([5]), isolated=isolated([5], [True]), catalogue_id=np.array([7, 5, 7])
            )

    def test_ids_as_floating_point(self):
        with pytest.raises(InputError, match="ids of the type float64"):
            match_isolated_sources(source_id=np.array([5.0]), isolated=isolated([5], [True]))

    def test_unsigned_ids_beyond_double_precision(self):
        """K10: numpy looks up unsigned among signed integers as doubles; ids must not go that way."""
        ids = BASE + np.arange(50)
        unsigned = ids.astype(np.uint64)
        matches = match_isolated_sources(
            source_id=unsigned[::2], isolated=isolated(ids, np.zeros(50, bool)), catalogue_id=unsigned
        )
        assert matches.rows.tolist() == list(range(25))
        assert matches.counts["isolated_not_in_catalogue"] == 0
        table = candidate_table(SourceTable({"id": unsigned[::2]}), matches)
        assert table["id"].dtype == np.int64
        assert table["id"].tolist() == ids[::2].tolist()
        with pytest.raises(InputError, match="does not fit a signed 64-bit integer"):
            match_isolated_sources(source_id=np.array([2**63], np.uint64), isolated=isolated([5], [True]))

    @pytest.mark.parametrize(
        ("fates", "fixed", "lsst"), [([True, False], True, False), ([False, True], True, True)]
    )
    def test_source_of_two_stars(self, fates, fixed, lsst):
        both = isolated([5, 5], fates)
        for compatibility, expected in (("fixed", fixed), ("lsst", lsst)):
            matches = match_isolated_sources(
                source_id=np.array([5, 6]), isolated=both, compatibility=compatibility
            )
            assert matches.reserved.tolist() == [expected]
            assert matches.counts["repeated_isolated_sources"] == 1
            assert matches.counts["contradicting_fates"] == 1

    def test_counts(self):
        """One source is not in the catalogue, one not selected, one star has two sources."""
        listed = isolated([1, 2, 3, 4], [True, False, True, True], star=[0, 1, 2, 2])
        matches = match_isolated_sources(
            source_id=np.array([3, 1]), isolated=listed, catalogue_id=np.array([4, 3, 1])
        )
        assert matches.rows.tolist() == [0, 1]
        assert matches.counts == {
            "isolated_sources": 4,
            "isolated_not_in_catalogue": 1,
            "isolated_not_selected": 2,
            "repeated_isolated_sources": 0,
            "contradicting_fates": 0,
            "stars_with_several_sources": 1,
            "candidates": 2,
            "reserved": 2,
        }

    def test_nothing_to_match(self):
        matches = match_isolated_sources(source_id=np.array([3, 1]), isolated=isolated([], []))
        assert len(matches) == 0
        matches = match_isolated_sources(source_id=np.zeros(0, np.int64), isolated=isolated([1], [True]))
        assert len(matches) == 0

    def test_candidate_table(self):
        """Flags of 4.10: candidate for all rows, reserved as drawn, used not yet; old values are gone."""
        selected = SourceTable(
            {
                "id": np.array([9, 5, 7]),
                "flux": np.array([1.0, 2.0, 3.0]),
                "calib_psf_used": np.ones(3, bool),
                "calib_psf_reserved": np.ones(3, bool),
                "psf_max_value": np.ones(3, np.float32),
            }
        )
        matches = match_isolated_sources(source_id=selected["id"], isolated=isolated([7, 9], [True, False]))
        table = candidate_table(selected, matches)
        assert table["id"].tolist() == [9, 7]
        assert table["calib_psf_candidate"].tolist() == [True, True]
        assert table["calib_psf_reserved"].tolist() == [False, True]
        assert table["calib_psf_used"].tolist() == [False, False]
        assert np.isnan(table["psf_max_value"]).all()
        assert table["psf_max_value"].dtype == table["psf_color_value"].dtype == np.float32
        assert table["psf_color_type"].dtype == "<U10"
        assert selected["calib_psf_used"].all()


class TestUsable:
    def test_each_reason(self):
        table = {
            "slot_Centroid_x": np.array([1.0, np.nan, 1, 1, 1, 1, 1]),
            "slot_Centroid_y": np.array([1.0, 1, np.inf, 1, 1, 1, 1]),
            "flux": np.array([1e5, 1e5, 1e5, np.nan, 1e5, 1e5, 1e5]),
            "error": np.array([1e3, 1e3, 1e3, 1e3, np.nan, 0.0, -1.0]),
        }
        found = usable_for_fit(table, flux_field="flux", error_field="error")
        assert found.usable.tolist() == [True] + [False] * 6
        assert found.counts == {
            "centroid_not_finite": 2,
            "flux_not_finite": 1,
            "flux_error_not_finite": 1,
            "flux_error_not_positive": 2,
        }

    def test_infinite_signal_to_noise_is_selected_but_not_usable(self):
        """The selector agrees with the reference; the fit does not take the star."""
        table = SourceTable(
            {
                "slot_Centroid_x": np.ones(2),
                "slot_Centroid_y": np.ones(2),
                "base_PsfFlux_instFlux": np.array([1e5, 1e5]),
                "base_PsfFlux_instFluxErr": np.array([1e3, 0.0]),
            }
        )
        science = selectors.get("science")
        section = science.Settings(doSignalToNoise=True)
        section.signalToNoise.minimum = 50.0
        assert science.select(table, section).tolist() == [True, True]
        flux, error = section.signalToNoise.fluxField, section.signalToNoise.errField
        assert usable_for_fit(table, flux_field=flux, error_field=error).usable.tolist() == [True, False]

    def test_missing_column(self):
        with pytest.raises(InputError, match="'slot_Centroid_x' is missing, which the PSF fit asks for"):
            usable_for_fit({"flux": np.ones(1)}, flux_field="flux", error_field="flux")

    def test_selection_flux(self):
        """A selector without signal-to-noise lends the fields of science [S-Q8]."""
        science = SimpleNamespace(signalToNoise=SimpleNamespace(fluxField="f", errField="e"))
        section = SimpleNamespace(name="science", science=science, null=SimpleNamespace())
        assert selection_flux_fields(section) == ("f", "e")
        section.name = "null"
        assert selection_flux_fields(section) == ("f", "e")
        with pytest.raises(InputError, match="'null' has no signalToNoise section"):
            selection_flux_fields(section, compatibility="lsst")
