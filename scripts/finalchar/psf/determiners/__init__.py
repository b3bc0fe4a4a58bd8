"""Registry of PSF determiners: one module per choice of `psf_determiner.name`.

A module of this package is a determiner if it defines `NAME` (its name in the configuration), its settings
``class Settings(Section)``, and ::

    determine(candidates, exposure, settings, *, band, compatibility) -> PsfFit

Adding a determiner is adding a module; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from finalchar.config_base import no_such_choice
from finalchar.errors import ConfigError

__all__ = ["get", "names"]


def names() -> list[str]:
    """Names of the determiners that exist, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> ModuleType:
    """Return the module of the determiner `name`.

    Raises
    ------
    ConfigError
        If there is no such determiner.
    """
    if name not in names():
        raise ConfigError(no_such_choice("PSF determiner", name, names()))
    return importlib.import_module(f"{__name__}.{name}")
