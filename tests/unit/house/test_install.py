"""The set-up works wherever the clone lies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["plain", "my clone #2", "x" * 200])
def test_command_runs_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    """A "#!" line could not: it ends at a blank, and after 127 characters on some systems."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "envs" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    folder = tmp_path / name
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    command = folder / "finalchar"
    command.write_text(install.COMMAND.format(python=python))
    for path in (python, command):
        path.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run([command, "explain", "--help"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "VISIT" in done.stdout.upper()
