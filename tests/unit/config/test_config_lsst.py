"""The model has the names and defaults of the LSST task, and its overrides translate line by line."""

import json
from pathlib import Path

import pytest

from finalchar.config import Config
from finalchar.config_fixed import FIXED_VALUES
from finalchar.config_lsst import FRAMEWORK, nested, path_of
from finalchar.config_sites import LSST_DETERMINERS, LSST_PLUGINS
from finalchar.errors import ConfigError, NotYetImplementedError

ROOT = Path(__file__).parents[3]
GOLDEN = [ROOT / "tests" / "data" / "golden_small", ROOT.parent / "shared" / "golden"]


@pytest.fixture(scope="module")
def lsst():
    """Every field of the effective configuration of the LSST task, flat."""
    path = next(folder / "default" / "config.json" for folder in GOLDEN if folder.exists())
    return json.loads(path.read_text())


def known_of(lsst):
    """Fields with a counterpart here: ours, and not of a choice that is still to come."""
    config = Config()
    for flat, value in lsst.items():
        path = path_of(flat)
        if any(path[: len(own.split("."))] == tuple(own.split(".")) for own in FRAMEWORK):
            continue
        if (
            path[:2] == ("measurement", "plugins")
            and path[2] in LSST_PLUGINS
            and not hasattr(config.measurement.plugins, path[2])
        ):
            continue
        if (
            path[0] == "psf_determiner"
            and path[1] in LSST_DETERMINERS
            and not hasattr(config.psf_determiner, path[1])
        ):
            continue
        yield path, value


def test_every_default_is_that_of_lsst(lsst):
    config, compared = Config(), 0
    for path, value in known_of(lsst):
        if path == ("measurement", "plugins", "names"):
            assert config.measurement.plugins.names == [
                n for n in value if hasattr(config.measurement.plugins, n)
            ]
            continue
        ours = config
        for part in path:
            ours = getattr(ours, part, None)
        if ours is None and ".".join(path) in FIXED_VALUES:
            ours = FIXED_VALUES[".".join(path)]
        assert ours == value, path
        assert type(ours) is type(value), path
        compared += 1
    assert compared > 200


def test_effective_configuration_of_lsst_is_the_default_here(lsst):
    assert Config.from_lsst_overrides(lsst, drop_unimplemented=True) == Config()


def test_overrides_translate_line_by_line():
    config = Config.from_lsst_overrides(
        {
            "psf_determiner['piff'].spatialOrderPerBand": {"u": 2, "g": 4},
            'psf_determiner["piff"].useColor': True,
            "source_selector['science'].signalToNoise.minimum": 20,
            "measure_ap_corr.fitConfig.orderX": 1,
        },
        compatibility="lsst",
    )
    assert config.psf_determiner.piff.spatialOrderPerBand == {"u": 2, "g": 4}
    assert config.psf_determiner.piff.useColor is True
    assert config.source_selector.science.signalToNoise.minimum == 20.0
    assert config.measure_ap_corr.fitConfig.orderX == 1
    assert config.compatibility == "lsst"


def test_unknown_names_and_values_are_refused():
    with pytest.raises(ConfigError, match=r"'psf_determiner\['piff'\]\.spatialOrderr' is no setting"):
        nested({"psf_determiner['piff'].spatialOrderr": 4})
    with pytest.raises(ConfigError, match="must be a whole number"):
        Config.from_lsst_overrides({"psf_determiner['piff'].spatialOrder": "4"})
    plugin = "measurement.plugins['ext_shapeHSM_HsmShapeRegauss']"
    with pytest.raises(ConfigError, match=r"deblendNChild' must be one of '', not 'deblend_nChild'"):
        Config.from_lsst_overrides({f"{plugin}.deblendNChild": "deblend_nChild"})


def test_private_settings_of_the_gaap_kernels_have_one_value():
    flat = "measurement.plugins['ext_gaap_GaapFlux']._modelPsfMatch.kernel['AL'].kernelSize"
    assert nested({flat: 21}) == {}
    with pytest.raises(NotYetImplementedError, match=r"kernelSize' can only be 21 yet, not 23"):
        nested({flat: 23})


def test_choices_to_come_are_refused_or_left_out():
    from finalchar.config_choices import Choices

    for kind, known in (("psf_determiner", LSST_DETERMINERS), ("measurement.plugins", LSST_PLUGINS)):
        section = Config()
        for part in kind.split("."):
            section = getattr(section, part)
        assert isinstance(section, Choices)
        for name in set(known) - set(type(section).NAMES):
            flat = f"{kind}['{name}'].something"
            assert nested({flat: 1}, drop_unimplemented=True) == {}
            with pytest.raises(NotYetImplementedError, match=f"'{name}' is known, but not implemented yet"):
                nested({flat: 1})
