"""docs/other_surveys.md, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from finalchar.__main__ import main
from finalchar.config import load_config
from finalchar.formats.sextractor import LARGEST, combined_id
from finalchar.frozen import Configured
from finalchar.plan import Plan

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/other_surveys.md").read_text()


@pytest.fixture(name="folder")
def page_followed(tmp_path, monkeypatch):
    """The commands and the configuration of the page, up to the run of the workflow."""
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"```\nfinalchar (.*)\n```", PAGE)
    assert [command.split()[0] for command in commands] == ["simulate", "tabulate", "run"]
    assert main(commands[0].split()) == 0
    (settings,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "config.yaml").write_text(settings)
    assert main(commands[1].split()) == 0
    return tmp_path


def test_the_page(folder, capsys):
    (rows,) = re.findall(r"```\n(visit,detector.*?)```", PAGE, flags=re.DOTALL)
    assert (folder / "my_survey/detectors.csv").read_text().startswith(rows)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "other_surveys.md", "exec"), names)
    assert re.search(r"\d\d sources, \d+ saturated pixels\nok 1\d stars used", capsys.readouterr().out)
    assert names["sources"]["id"][16] == 101000000017
    assert (folder / "my_survey/source_table_188.parquet").exists()
    assert load_config("config.yaml").input.images.flags["CR"] == [3]
    survey = Configured.read(Path("config.yaml")).survey()
    assert len(Plan(survey).survey.visits) == 2


def test_ids_of_the_page():
    number, visit, detector, whole = map(
        int, re.search(r"source (\d+) of visit (\d+), detector (\d+) is (\d+)", PAGE).groups()
    )
    assert combined_id(np.array([number]), visit=visit, detector=detector, origin="")[0] == whole
    largest = int(re.search(r"the visit at most ([\d ]+),", PAGE)[1].replace(" ", ""))
    assert combined_id(np.array([999_999]), visit=largest, detector=999, origin="")[0] <= LARGEST
