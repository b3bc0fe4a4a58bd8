"""Programs outside Python that a choice of the configuration needs: where they are, and in which version.

Standard library only: the planner asks, too, so that a missing program is told before the first job, and
another version of it makes products stale.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finalchar.errors import MissingProgramError

__all__ = ["PROGRAMS", "Program", "needed_programs"]


@dataclass(frozen=True)
class Program:
    """A program and the packages that have it.

    Attributes
    ----------
    name : str
        Of the program, looked for on the PATH.
    setting, value : str
        The setting that asks for it, and the value that does.
    debian, conda : str
        Names of the packages.
    """

    name: str
    setting: str
    value: str
    debian: str
    conda: str

    def find(self) -> str:
        """Return the path of the program.

        Raises
        ------
        MissingProgramError
            Naming the packages, if it is not on the PATH.
        """
        found = shutil.which(self.name)
        if found is None:
            raise MissingProgramError(
                f"{self.setting} is '{self.value}', but there is no program '{self.name}' on the PATH: "
                f"install it (Debian, Ubuntu: apt-get install {self.debian}; conda: conda install "
                f"-c conda-forge {self.conda}) or choose another value."
            )
        return found

    def version(self) -> str:
        """Return the version, such as ``3.21.1``; ``absent`` without the program."""
        found = shutil.which(self.name)
        return "absent" if found is None else _version(found)


PROGRAMS = (Program("psfex", "psf_determiner.name", "psfex", "psfex", "astromatic-psfex"),)


def needed_programs(settings: Mapping[str, Any]) -> list[Program]:
    """Return the programs that nested settings ask for.

    Parameters
    ----------
    settings : mapping
        Plain values, of a whole configuration or of a stage.
    """
    return [program for program in PROGRAMS if _value(settings, program.setting) == program.value]


def _value(settings: Mapping[str, Any], path: str) -> Any:
    value: Any = settings
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@functools.cache
def _version(path: str) -> str:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    number = re.search(r"\d+(\.\d+)+", told.stdout)
    return number.group() if number else "unknown"
