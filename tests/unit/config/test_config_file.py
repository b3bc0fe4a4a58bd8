"""The config.yaml of the clone says what the model says, and the documentation too."""

import json
import re
from pathlib import Path

import pytest

from finalchar.config import Config, load_config

ROOT = Path(__file__).parents[3]


def test_written_settings_are_loaded():
    config = load_config(ROOT / "config.yaml")
    assert config.survey == "demo"
    assert config.detectors_sheet == Path("demo/detectors.csv")


def test_commented_settings_are_the_defaults(tmp_path):
    """Taking the "#" of any settings away changes nothing: the comments do not lie."""
    text = (ROOT / "config.yaml").read_text()
    assert re.search(r"^#\w", text, re.M)
    uncommented = re.sub(
        r"^#(?=[ \w])(?! -|[ ][A-Z])", "", re.sub(r"^# .*$", "", text, flags=re.M), flags=re.M
    )
    uncommented = re.sub(r"^output: output.*$", "", uncommented, flags=re.M)  # the section is given as well
    uncommented = re.sub(r"^detectors_per_job.*$", "", uncommented, flags=re.M)
    (tmp_path / "config.yaml").write_text(uncommented)
    assert load_config(tmp_path / "config.yaml") == Config()


@pytest.mark.parametrize(
    "block", re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), re.S)
)
def test_examples_of_the_documentation_are_loaded(tmp_path, block):
    (tmp_path / "config.yaml").write_text(block)
    assert load_config(tmp_path / "config.yaml") != Config()


def test_example_of_lsst_overrides():
    text = (ROOT / "docs" / "configuration.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", text, re.S)
    assert Config.from_lsst_overrides(json.loads(block)) != Config()
