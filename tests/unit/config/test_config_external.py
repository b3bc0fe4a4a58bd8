"""Plugins ``module:Class`` are looked at when the configuration is read: settings, names, columns."""

import re
import sys

import pytest

from finalchar.config import Config, load_config
from finalchar.errors import ConfigError

NAME = "planned_plugin:Plugin"
MODULE = """
from finalchar.config_base import Field as SettingsField
from finalchar.config_base import Section, subsection
from finalchar.measure.plugin import Field, PerStarPlugin, PluginSettings

NAME = "planned_Flux"
ORDER = 2.0


class Inner(Section):
    "A section of its own."

    radius: float = SettingsField(3.0, gt=0, description="radius, pixels")


class Settings(PluginSettings):
    "Settings of the plugin."

    halfWidth: int = SettingsField(2, ge=0, description="half width, pixels")
    label: str = SettingsField("a", description="a text")
    scale: float = SettingsField(1.0, description="a number")
    inner: Inner = subsection(Inner, "a section of its own")


class Plugin(PerStarPlugin[Settings]):
    "Writes one column."

    def fields(self):
        return [Field("COLUMN", "float64", "ct", "a flux")]
"""


@pytest.fixture(name="module", autouse=True)
def own_module(tmp_path, monkeypatch):
    """Write the module, with the column that it fills."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(column="planned_Flux_instFlux", name="planned_plugin"):
        (tmp_path / f"{name}.py").write_text(MODULE.replace("COLUMN", column))

    write()
    yield write
    for name in ("planned_plugin", "other_planned_plugin"):
        sys.modules.pop(name, None)


@pytest.fixture(name="load")
def load_text(tmp_path):
    def load(settings="", names=NAME):
        text = f"measurement:\n  plugins:\n    names: [base_PsfFlux, {names}]\n    external:\n{settings}"
        (tmp_path / "config.yaml").write_text(text)
        return load_config(tmp_path / "config.yaml")

    return load


def given(load, text):
    return load(f"      {NAME}: {text}\n").measurement.plugins.external[NAME]


def test_settings_have_the_types_of_the_plugin(load):
    assert given(load, '{label: 010, scale: 3, halfWidth: "4"}') == {
        "label": "010",
        "scale": 3,
        "halfWidth": 4,
    }
    assert given(load, "{inner: {radius: 1e1}}") == {"inner": {"radius": 10.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{halfwidth: 2}",
            f"Unknown configuration key 'measurement.plugins.external.{NAME}.halfwidth'; did you mean",
        ),
        (
            "{inner: {radious: 2}}",
            f"'measurement.plugins.external.{NAME}.inner.radious'; did you mean 'radius'",
        ),
        ("{halfWidth: -1}", f"'measurement.plugins.external.{NAME}.halfWidth' must be at least 0, not -1"),
        ("{halfWidth: 2.0}", f"'measurement.plugins.external.{NAME}.halfWidth' must be a whole number"),
        ("{inner: {radius: 0}}", f"'measurement.plugins.external.{NAME}.inner.radius' must be more than 0"),
        ("{doMeasure: yes}", "doMeasure' must be true or false, not 'yes'"),
        ("3", f"external.{NAME}' must be a section of keys, not '3'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_their_line(load, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        given(load, text)
    assert "config.yaml, line 5: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("planned_plugin:Plugi", "'Plugi' in 'planned_plugin' is no class"),
        ("no_module_there:Plugin", "'no_module_there' cannot be imported"),
        ("base_PsfFlux", "settings of a plugin of finalchar stand in measurement.plugins.base_PsfFlux"),
    ],
)
def test_settings_of_no_plugin_are_refused_with_their_line(load, name, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(f"      {NAME}: {{halfWidth: 1}}\n      {name}: {{halfWidth: 1}}\n")
    assert "config.yaml, line 6: " in str(caught.value)


def test_settings_of_a_plugin_that_is_not_run_are_refused(load, module):
    module(name="other_planned_plugin", column="other")
    with pytest.raises(ConfigError, match=rf"line 5: .*names has no such plugin; did you mean '{NAME}'\?"):
        load("      other_planned_plugin:Plugin: {halfWidth: 1}\n")
    with pytest.raises(ConfigError, match="names has no such plugin"):
        Config(measurement={"plugins": {"external": {NAME: {"halfWidth": 1}}}})


@pytest.mark.parametrize(
    ("column", "writers"),
    [
        ("base_PsfFlux_instFlux", f"base_PsfFlux and by {NAME}"),
        ("base_PsfFlux_apCorr", f"{NAME} and by the star table itself"),
        ("psf_max_value", f"{NAME} and by the star table itself"),
    ],
)
def test_a_column_of_two_writers_is_refused_before_any_job(load, module, column, writers):
    module(column)
    with pytest.raises(ConfigError, match=f"line 3: the column '{column}' is written by {writers}; take one"):
        load()


@pytest.mark.parametrize(
    ("right", "wrong", "reason"),
    [
        ("def fields", "def feilds", r"NotImplementedError: "),
        ("float64", "floot", "TypeError: data type 'floot' not understood"),
        ("[Field(", "[None, Field(", "AttributeError: "),
    ],
)
def test_a_plugin_that_does_not_tell_its_columns_is_refused_before_any_job(
    load, tmp_path, right, wrong, reason
):
    path = tmp_path / "planned_plugin.py"
    path.write_text(path.read_text().replace(right, wrong))
    with pytest.raises(
        ConfigError, match=rf"line 3: the plugin {NAME} does not tell its columns \({reason}.*fields\(\) must"
    ):
        load()


def test_two_plugins_of_one_name_are_refused_before_any_job(load, module):
    module(name="other_planned_plugin")
    with pytest.raises(
        ConfigError, match=rf"line 3: .*by other_planned_plugin:Plugin and by {NAME}; take one"
    ):
        load(names=f"{NAME}, other_planned_plugin:Plugin")
