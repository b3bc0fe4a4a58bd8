"""The worked example of docs/measurement_plugins.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from finalchar.measure import plugins
from finalchar.measure.schema import correctable_fluxes

PAGE = Path(__file__).parents[3] / "docs" / "measurement_plugins.md"


def _block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


@pytest.fixture(name="example", autouse=True)
def example_plugin(tmp_path, monkeypatch):
    (tmp_path / "example_core_flux.py").write_text(_block("python"))
    monkeypatch.setattr(plugins, "__path__", [*plugins.__path__, str(tmp_path)])
    plugins._modules.cache_clear()
    yield plugins.get("example_CoreFlux")
    plugins._modules.cache_clear()


def test_the_example_measures(scene_of, settings_of, example):
    section = yaml.safe_load(_block("yaml"))["measurement"]["plugins"]
    settings = settings_of(names=section["names"])
    settings.plugins.example_CoreFlux = example.Settings(**section["example_CoreFlux"])
    scene = scene_of(x=[100.0, 1.0], y=[90.0, 90.0], flux=[3e4, 3e4])
    table = scene.measure("fixed", settings)
    flux = table["example_CoreFlux_instFlux"]
    # the inner 5 x 5 pixels hold 68 per cent of the light
    assert 0.6 * 3e4 < flux[0] < 0.75 * 3e4
    assert np.isnan(flux[1])
    assert table["example_CoreFlux_flag"].tolist() == [False, True]
    assert table["example_CoreFlux_flag_edge"].tolist() == [False, True]
    assert "example_CoreFlux" in correctable_fluxes(settings, "fixed")
    assert "apcorr_example_CoreFlux_used" in table.columns


def test_the_example_has_thirty_lines():
    code = [line for line in _block("python").splitlines() if line.strip()]
    assert len(code) <= 30


def test_the_page_names_all_checks():
    module = plugins.get("finalchar_Plausibility")
    text = PAGE.read_text()
    for field in module.Plugin(module.NAME, module.Settings()).fields():
        suffix = field.name.removeprefix(module.NAME)
        assert f"`...{suffix}`" in text or f"`{field.name}`" in text, field.name
