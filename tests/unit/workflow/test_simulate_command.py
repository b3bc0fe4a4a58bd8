"""The command line: what it does before any survey is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from finalchar import simulate
from finalchar.__main__ import main

SIMULATE = ["simulate", "demo", "demo", "--if-configured"]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Folders that a survey was simulated in, while the working directory is an empty one."""
    found: list[Path] = []
    monkeypatch.setattr(simulate, "make_survey", lambda kind, folder, **options: found.append(folder))
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize("survey", ["demo", "./demo/", "other/../demo"])
def test_the_demo_survey_is_simulated_if_it_is_configured(simulated: list[Path], survey: str) -> None:
    """What `make run` asks for in a fresh clone."""
    Path("other").mkdir()
    Path("config.yaml").write_text(f"survey: {survey}\noutput: output\n")
    assert main(SIMULATE) == 0
    assert simulated == [Path("demo")]


@pytest.mark.parametrize(
    "settings", ["survey: elsewhere", "survey: demo\nsheets: {detectors: other/detectors.csv}"]
)
def test_no_survey_is_simulated_if_another_is_configured(simulated: list[Path], settings: str) -> None:
    Path("config.yaml").write_text(f"{settings}\noutput: output\n")
    assert main(SIMULATE) == 0
    assert simulated == []


def test_a_survey_that_is_there_is_not_simulated_again(simulated: list[Path]) -> None:
    Path("demo").mkdir()
    Path("demo/detectors.csv").touch()
    Path("config.yaml").write_text("survey: demo\noutput: output\n")
    assert main(SIMULATE) == 0
    assert simulated == []


def test_without_configuration_nothing_is_simulated(
    simulated: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(SIMULATE) == 1
    assert "config.yaml" in capsys.readouterr().err
    assert simulated == []
