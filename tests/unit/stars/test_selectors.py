"""Source selectors: strictness and NaN of each building block, order of the steps, and the size clusters."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from finalchar.config_base import Section
from finalchar.errors import ConfigError, InputError, NoWorkError
from finalchar.formats.sources import SourceTable
from finalchar.stars import selectors
from finalchar.stars.selectors import limits

NOT_NUMBERS = np.array([np.nan, np.inf, -np.inf, 0.0, -5.0, 5.0])


def settings_of(name, **changes):
    settings = selectors.get(name).Settings()
    for path, value in changes.items():
        *sections, field = path.split("__")
        owner = settings
        for section in sections:
            owner = getattr(owner, section)
        setattr(owner, field, value)
    return settings


def select(name, columns, exposure=None, compatibility="fixed", **changes):
    table = SourceTable({key: np.asarray(values) for key, values in columns.items()})
    return selectors.get(name).select(table, settings_of(name, **changes), exposure, compatibility).tolist()


class TestRegistry:
    def test_names(self):
        assert selectors.names() == ("flagged", "null", "objectSize", "references", "science")

    @pytest.mark.parametrize("name", ["science", "references", "null", "objectSize", "flagged"])
    def test_every_choice_is_complete(self, name):
        module = selectors.get(name)
        assert name == module.NAME
        assert issubclass(module.Settings, Section)
        assert callable(module.select)

    def test_unknown(self):
        with pytest.raises(
            ConfigError,
            match=r"no source selector 'sience'; did you mean 'science'\? There are: flagged, null",
        ):
            selectors.get("sience")


class TestLimits:
    @pytest.mark.parametrize(
        ("minimum", "maximum", "expected"),
        [
            (None, None, [True, True, True, True, True, True]),
            (0.0, None, [False, True, False, False, False, True]),
            (None, 0.0, [False, False, True, False, True, False]),
            (-5.0, 5.0, [False, False, False, True, False, False]),
        ],
    )
    def test_strict_and_nan_fails(self, minimum, maximum, expected):
        limit = limits.Limit(minimum=minimum, maximum=maximum)
        assert limits.within(NOT_NUMBERS, limit).tolist() == expected

    def test_signal_to_noise(self):
        """Infinity from a zero error passes unless there is a maximum; 0/0 and NaN never pass."""
        columns = {
            "flux": [100.0, 100.0, 0.0, np.nan, 100.0, 100.0],
            "flux_err": [1.0, 0.0, 0.0, 1.0, np.nan, -1.0],
        }
        options = {"doSignalToNoise": True, "doRequireFiniteRaDec": False, "signalToNoise__minimum": 50.0}
        assert select("references", columns, **options) == [True, True, False, False, False, False]
        options["signalToNoise__maximum"] = 1000.0
        assert select("references", columns, **options) == [True, False, False, False, False, False]

    def test_ratio_is_formed_in_the_columns_precision(self):
        flux, error = np.array([1e8], np.float32), np.array([2e6], np.float32)
        assert flux[0] / error[0] == np.float32(50)
        columns = {"base_PsfFlux_instFlux": flux, "base_PsfFlux_instFluxErr": error}
        options = {"doSignalToNoise": True, "signalToNoise__minimum": 50.0}
        assert select("science", columns, **options) == [False]

    def test_implied_flag_counts_where_it_exists(self):
        columns = {"slot_CalibFlux_instFlux": [1.0, 1.0]}
        assert select("science", columns, doFluxLimit=True, fluxLimit__minimum=0.0) == [True, True]
        columns["slot_CalibFlux_instFlux_flag"] = [True, False]
        assert select("science", columns, doFluxLimit=True, fluxLimit__minimum=0.0) == [False, True]

    def test_magnitudes(self):
        magnitude = limits.ab_magnitude(np.array([3630.780547701014, 0.0, -1.0, np.nan]))
        assert magnitude[0] == pytest.approx(22.5, abs=1e-12)  # 10^(-0.4 (22.5 - 31.4)) nJy
        assert magnitude[1] == np.inf
        assert np.isnan(magnitude[2:]).all()

    def test_color(self):
        columns = {"g": [100.0, 100.0, -1.0], "r": [100.0, 1000.0, 100.0]}
        color = limits.ColorLimit(primary="g", secondary="r", minimum=1.0)
        options = {"doRequireFiniteRaDec": False, "colorLimits": {"gr": color}}
        assert select("references", columns, **options) == [False, True, False]

    def test_flags(self):
        columns = {"good": [True, True, False], "bad": [False, True, False]}
        options = {"doFlags": True, "flags__good": ["good"], "flags__bad": ["bad"]}
        assert select("science", columns, **options) == [True, False, False]

    @pytest.mark.parametrize(
        "option", ["doFlags", "doUnresolved", "doSignalToNoise", "doIsolated", "doFluxLimit"]
    )
    def test_missing_column_is_named(self, option):
        with pytest.raises(
            InputError, match=r"the source catalogue: the column '.*' is missing, which .* asks for"
        ):
            select("science", {"id": [1]}, **{option: True})

    def test_finite_position(self):
        columns = {"coord_ra": [0.0, np.nan, np.inf, 1.0], "coord_dec": [0.0, 0.0, 0.0, np.nan]}
        assert select("science", columns, doRequireFiniteRaDec=True) == [True, False, False, False]

    def test_isolated_and_primary(self):
        columns = {"parent": [0, 5, 0], "deblend_nChild": [0, 0, 2], "detect_isPrimary": [1, 0, 1]}
        assert select("science", columns, doIsolated=True) == [True, False, False]
        assert select("science", columns, doRequirePrimary=True) == [True, False, True]

    def test_sky_sources_pass_all_but_the_centroid(self):
        columns = {
            "sky_source": [True, True, False],
            "detect_isPrimary": [False, False, False],
            "slot_Centroid_xErr": [0.1, np.nan, 0.1],
            "slot_Centroid_yErr": [0.1, 0.1, 0.1],
        }
        options = {"doSkySources": True, "doRequirePrimary": True}
        assert select("science", columns, **options) == [True, True, False]
        assert select("science", columns, doCentroidErrorLimit=True, **options) == [True, False, False]

    def test_masked_region(self):
        """Outside positions are moved to the edge, coordinates truncated, NaN taken as the first pixel."""
        mask = np.zeros((3, 4), np.int32)
        mask[0, 0] = 1 << 8
        mask[2, 3] = 1 << 8
        mask[1, 1] = 1 << 2
        exposure = SimpleNamespace(
            mask=mask,
            mask_planes={"NO_DATA": 8, "CR": 2},
            box=SimpleNamespace(min_x=10, min_y=20),
            mask_bits=lambda names: np.int32(sum(1 << {"NO_DATA": 8, "CR": 2}[name] for name in names)),
        )
        columns = {
            "centroid_x": [10.9, 11.0, 99.0, -99.0, 11.0, np.nan, 13.0],
            "centroid_y": [20.9, 20.0, 99.0, -99.0, 21.0, np.nan, 21.9],
        }
        options = {"doCullFromMaskedRegion": True, "doRequireFiniteRaDec": False}
        expected = [False, True, False, False, True, False, True]
        assert select("references", columns, exposure, **options) == expected
        with pytest.raises(InputError, match="needs the exposure"):
            select("references", columns, **options)

    def test_null_and_flagged(self):
        assert select("null", {"id": [1, 2]}) == [True, True]
        assert select("flagged", {"calib_psf_used": [True, False]}) == [True, False]
        with pytest.raises(InputError, match="'x' is missing, which field asks for"):
            select("flagged", {"calib_psf_used": [True, False]}, field="x")


WIDTHS = [
    1.80,
    1.82,
    1.78,
    1.81,
    1.79,
    1.83,
    1.77,
    1.80,
    1.95,
    2.05,
    2.3,
    2.6,
    2.9,
    3.4,
    3.8,
    4.5,
    1.81,
    1.79,
]
WIDTHS += [1.60, 5.5]


def sizes(widths, **columns):
    number = len(widths)
    base = {
        "slot_Shape_xx": np.square(widths),
        "slot_Shape_yy": np.square(widths),
        "slot_Shape_xy": np.zeros(number),
        "slot_Centroid_x": np.zeros(number),
        "slot_Centroid_y": np.zeros(number),
        "base_PsfFlux_instFlux": np.full(number, 1e5),
        "base_PsfFlux_instFluxErr": np.full(number, 1e3),
        "bad": np.zeros(number, bool),
    }
    return {**base, **columns}


class TestObjectSize:
    @pytest.mark.parametrize(
        ("widths", "expected"),
        [
            (WIDTHS, [0, 1, 2, 3, 4, 5, 6, 7, 16, 17]),
            ([2.0, 2.01, 1.99, 2.02, 1.98, 2.6], [0, 1, 2, 3, 4]),
            ([1.5] * 4, [0, 1, 2, 3]),
            ([1.5] * 6, []),  # no scatter: nothing is within 2 sigma of 0, strictly
        ],
    )
    def test_vectors(self, widths, expected):
        selected = select("objectSize", sizes(widths), badFlags=["bad"])
        assert np.flatnonzero(selected).tolist() == expected

    def test_bad_numbers(self):
        """NaN flux is dropped, a NaN signal-to-noise is not (selection specification 3.6, item 3)."""
        flux = np.array([1e5, np.nan, 1e5, 1e5])
        error = np.array([1e3, 1e3, np.nan, 0.0])
        columns = sizes([2.0] * 4, base_PsfFlux_instFlux=flux, base_PsfFlux_instFluxErr=error)
        assert select("objectSize", columns, badFlags=["bad"]) == [True, False, True, True]

    def test_inclusive_bounds(self):
        columns = sizes([2.0, 2.0], base_PsfFlux_instFlux=np.array([12500.0, 12499.0]))
        options = {"doFluxLimit": True, "doSignalToNoiseLimit": False, "badFlags": ["bad"]}
        assert select("objectSize", columns, **options) == [True, False]

    def test_nothing_to_look_at(self):
        with pytest.raises(NoWorkError, match="No good star candidates out of 2 input sources"):
            select("objectSize", sizes([20.0, 30.0]), badFlags=["bad"])
        with pytest.raises(NoWorkError, match="the source catalogue is empty"):
            select("objectSize", sizes([]), badFlags=["bad"])

    def test_limits_in_the_wrong_order(self):
        with pytest.raises((ConfigError, ValueError), match="widthMin"):
            selectors.get("objectSize").Settings(widthMin=5.0, widthMax=1.0)

    def test_distortion(self):
        """With `fixed` a pixel twice as wide counts twice [S-Q7]; with `lsst` it does not."""
        field = SimpleNamespace(jacobian=stretched)
        exposure = SimpleNamespace(field_angle=field, box=SimpleNamespace(centre=(0.0, 0.0)))
        columns = sizes([2.0] * 4 + [1.0], slot_Centroid_x=np.array([0.0, 0, 0, 0, 500.0]))
        options = {"badFlags": ["bad"], "widthMin": 1.5}
        assert select("objectSize", columns, exposure, "lsst", **options) == [True] * 4 + [False]
        assert (
            select("objectSize", columns, exposure, "fixed", **options) == [False] * 5
        )  # all alike: no scatter


def stretched(*, x, y):
    scale = 0.2 * np.where(np.asarray(x) > 100, 2.0, 1.0)
    return scale[..., np.newaxis, np.newaxis] * np.eye(2)
