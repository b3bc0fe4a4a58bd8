"""Programs outside Python: what asks for them, their versions, and that products depend on these."""

from __future__ import annotations

from pathlib import Path

import pytest

from finalchar import provenance
from finalchar.config import Config
from finalchar.errors import MissingProgramError
from finalchar.programs import PROGRAMS, Program, needed_programs


def script(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_setting_that_asks_for_a_program_exists(program: Program) -> None:
    section, key = program.setting.split(".")
    config = Config(**{section: {key: program.value}})
    assert needed_programs(config.to_plain()) == [program]
    assert needed_programs(config.stage_settings("detector")) == [program]
    assert needed_programs(Config().to_plain()) == []


def test_another_version_is_another_ingredient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are stale when the program changes, and only those that were made with it."""
    settings = Config(psf_determiner={"name": "psfex"}).stage_settings("detector")
    found = {}
    for version in ("3.21.1", "3.24.2"):
        folder = tmp_path / version
        folder.mkdir()
        script(folder, "psfex", f"echo 'PSFEx version {version} (2018-12-06)'")
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        found[version] = provenance.software("detector", settings)["psfex"]
        assert "psfex" not in provenance.software("detector", Config().stage_settings("detector"))
        assert provenance.software("visit", Config().stage_settings("visit")) == {}
    assert found == {"3.21.1": "3.21.1", "3.24.2": "3.24.2"}


def test_sentence_names_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = Program("wondrous", "psf_determiner.name", "wonder", "wonder-deb", "wonder-conda")
    assert program.version() == "absent"
    with pytest.raises(MissingProgramError) as caught:
        program.find()
    for word in (
        "psf_determiner.name is 'wonder'",
        "'wondrous'",
        "apt-get install wonder-deb",
        "wonder-conda",
    ):
        assert word in str(caught.value)
