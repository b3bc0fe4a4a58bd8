"""Set up `.venv` with the pinned requirements, once; standard library only.

    python3 envs/install.py [--dev]

Nothing is done when the requirement files are those of the last installation (compared by content).
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "finalchar-installed"
OLDEST = (3, 11)
COMMAND = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys

from finalchar.__main__ import main

sys.exit(main())
"""
"""Shell and Python at once: the first line of a script cannot name a path with a blank."""


def main(arguments: list[str]) -> None:
    """Install what is missing and say so in one line."""
    if sys.version_info < OLDEST:
        sys.exit(
            f"finalchar needs Python 3.11 or newer, not {sys.version.split()[0]}: make PYTHON=python3.12."
        )
    files = [ROOT / "envs" / "requirements.txt"]
    if "--dev" in arguments:
        files.append(ROOT / "envs" / "requirements-dev.txt")
    installed = set(STAMP.read_text().split()) if STAMP.exists() else set()
    missing = [path for path in files if _digest(path) not in installed]
    if not missing:
        return
    print(
        "Installing " + " and ".join(f"envs/{path.name}" for path in missing) + " into .venv ...", flush=True
    )
    if not PYTHON.exists():
        _run(
            [sys.executable, "-m", "venv", str(VENV)],
            "Could not create .venv (on Debian: apt install python3-venv)",
        )
    _pip(missing)
    _make_importable()
    # an update of one file drops the other file's digest only if that file has changed, too
    current = {_digest(path) for path in (ROOT / "envs").glob("requirements*.txt")}
    STAMP.write_text("\n".join(sorted(installed & current | {_digest(path) for path in missing})) + "\n")


def _digest(path: Path) -> str:
    """Digest of a requirement file and of the constraints."""
    constraints = path.with_name("constraints.txt").read_bytes()
    return hashlib.sha256(path.read_bytes() + constraints).hexdigest()


def _pip(files: list[Path]) -> None:
    command = [str(PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    for path in files:
        command += ["-r", str(path)]
    _run([*command, "-c", str(ROOT / "envs" / "constraints.txt")], "pip could not install the requirements")


def _make_importable() -> None:
    """Let the environment's Python import `finalchar` from the clone, and offer the command `finalchar`."""
    site = subprocess.run(
        [PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Path(site, "finalchar-clone.pth").write_text(f"{ROOT / 'scripts'}\n")
    command = VENV / "bin" / "finalchar"
    command.write_text(COMMAND.format(python=PYTHON))
    command.chmod(0o755)


def _run(command: list[str], sentence: str) -> None:
    if subprocess.run(command, env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "false"}).returncode:
        sys.exit(f"{sentence}; see the messages above.")


if __name__ == "__main__":
    main(sys.argv[1:])
