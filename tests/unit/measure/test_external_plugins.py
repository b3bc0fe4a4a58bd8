"""Plugins named module:Class in the configuration: the example of the documentation, outside the registry."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from finalchar.config import Config, load_config
from finalchar.errors import ConfigError
from finalchar.measure import plugins
from finalchar.measure.schema import active_plugins, correctable_fluxes

PAGE = Path(__file__).parents[3] / "docs" / "measurement_plugins.md"
NAME = "own_core_flux:Plugin"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(name="module", autouse=True)
def own_module(tmp_path, monkeypatch):
    """The example as a module of its own, outside this package."""
    path = tmp_path / "own_core_flux.py"
    path.write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("own_core_flux", None)


@pytest.fixture(name="config")
def configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(blocks("yaml")[1].replace("example_core_flux", "own_core_flux"))
    return load_config(path)


def test_the_documented_configuration_measures(scene_of, config):
    plugin = next(
        one for one in active_plugins(config.measurement, "fixed") if one.name == "example_CoreFlux"
    )
    assert plugin.settings.halfWidth == 2
    settings = config.measurement
    assert "example_CoreFlux" in correctable_fluxes(settings, "fixed")
    settings.slots.modelFlux = settings.slots.gaussianFlux = None
    table = scene_of(x=[100.0, 1.0], y=[90.0, 90.0], flux=[3e4, 3e4]).measure("fixed", settings)
    assert 0.6 * 3e4 < table["example_CoreFlux_instFlux"][0] < 0.75 * 3e4
    assert table["example_CoreFlux_flag_edge"].tolist() == [False, True]
    assert np.isfinite(table["base_PsfFlux_instFlux"]).all()


def test_the_registry_does_not_list_it(config):
    assert "example_CoreFlux" not in plugins.names()
    assert NAME in config.measurement.plugins.names
    assert NAME not in config.measurement.plugins.active


def test_settings_and_file_decide_what_is_made_again(config, module):
    before = config.stage_settings("detector")
    assert before["measurement"]["plugins"]["external"][NAME] == {"halfWidth": 2}
    assert "plugin_files" not in Config().stage_settings("detector")
    module.write_text(module.read_text() + "# changed\n")
    assert config.stage_settings("detector")["plugin_files"] != before["plugin_files"]


def test_all_modules_of_its_package_decide_as_well(tmp_path, monkeypatch, module):
    """A plugin may be made of several files, and be named by the package that only imports it."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "inner.py").write_text(module.read_text())
    (folder / "helper.py").write_text("HALF = 1\n")
    (folder / "compiled.so").write_text("machine code\n")
    (folder / "__init__.py").write_text("from own_package.inner import NAME, ORDER, Plugin, Settings\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = Config()
    config.measurement.plugins.names = ["base_PsfFlux", "own_package:Plugin"]
    seen = {config.stage_settings("detector")["plugin_files"]["own_package:Plugin"]}
    for name in ("inner.py", "helper.py", "compiled.so"):
        path = folder / name
        path.write_text(path.read_text() + "# changed\n")
        seen.add(config.stage_settings("detector")["plugin_files"]["own_package:Plugin"])
    assert len(seen) == 4
    for name in [each for each in sys.modules if each.startswith("own_package")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Plugin", r"'no_such_module_here' cannot be imported .*PYTHONPATH"),
        ("own_core_flux:Nothing", "'Nothing' in 'own_core_flux' is no class that derives from Measurement"),
        ("own_core_flux:NAME", "'NAME' in 'own_core_flux' is no class"),
        ("finalchar.measure.plugin:PerStarPlugin", "does not define NAME, ORDER, Settings"),
    ],
)
def test_names_of_nothing_are_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        Config().measurement.plugins.names = ["base_PsfFlux", name]


@pytest.mark.parametrize(
    ("given", "message"),
    [({"halfwidth": 2}, "did you mean 'halfWidth'"), ({"halfWidth": -1}, "halfWidth")],
)
def test_settings_that_do_not_fit(config, given, message):
    config.measurement.plugins.external = {NAME: given}
    with pytest.raises(ConfigError, match=message):
        active_plugins(config.measurement, "fixed")


def test_a_module_that_fails_to_import(module):
    module.write_text("1 / 0\n")
    sys.modules.pop("own_core_flux", None)
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        plugins.get(NAME)
