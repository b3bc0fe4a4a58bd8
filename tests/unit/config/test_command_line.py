"""K04 on the command line: settings reach planner and jobs as they were typed."""

import sys

import pytest

from finalchar.__main__ import main
from finalchar.commands import OVERRIDES, flat_overrides, typed_overrides


@pytest.fixture
def _no_environment(monkeypatch):
    monkeypatch.setenv(OVERRIDES, "[]")  # so that what the call sets is undone
    monkeypatch.delenv(OVERRIDES)


@pytest.mark.usefixtures("_no_environment")
def test_the_text_of_the_command_line_wins_over_the_dictionary_of_snakemake(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["snakemake", "-c", "2", "--config", "output=2026_01_15", "--quiet"])
    assert typed_overrides({"output": 20260115}) == ["output=2026_01_15"]


@pytest.mark.usefixtures("_no_environment")
def test_jobs_see_what_the_main_process_was_given(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["snakemake", "--config", "output=2026_01_15"])
    typed_overrides({"output": 20260115})
    monkeypatch.setattr(sys, "argv", ["snakemake", "--config", "output=20260115", "--mode", "remote"])
    assert typed_overrides({"output": 20260115}) == ["output=2026_01_15"]


@pytest.mark.usefixtures("_no_environment")
def test_without_a_command_line_the_dictionary_serves(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["python"])
    assert typed_overrides({"psf_determiner": {"piff": {"spatialOrder": 3}}, "full_graph": True}) == [
        "psf_determiner.piff.spatialOrder=3",
        "full_graph=true",
    ]


def test_dictionary_as_texts():
    assert flat_overrides({"a": {"b": [1, 2]}, "c": "010"}) == ["a.b=[1, 2]", 'c="010"']


def test_configuration_that_is_no_file_is_told_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--config", "nothing.yaml"]) == 1
    assert capsys.readouterr().err.startswith("error: nothing.yaml does not exist: go to its folder")
    (tmp_path / "folder").mkdir()
    assert main(["status", "--config", "folder"]) == 1
    assert capsys.readouterr().err.startswith("error: folder is not a file: go to its folder")
