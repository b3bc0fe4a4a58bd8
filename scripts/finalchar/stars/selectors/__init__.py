"""Source selectors: which sources of a catalogue are looked at, one module per choice.

Each module of this package that defines ``NAME`` is a choice: its name in the configuration, its ``Settings``
and ``select(table, settings, exposure=None, compatibility="fixed")``, which returns a boolean array over the
rows of the table.  Adding a choice touches no other file.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from finalchar.errors import ConfigError

__all__ = ["get", "names"]

_NOT_A_CHOICE = {"limits"}


def names() -> tuple[str, ...]:
    """Names of all source selectors, as the configuration writes them."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_A_CHOICE))


def get(name: str) -> ModuleType:
    """Return the module of a source selector.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in names():
        raise ConfigError(f"source_selector.name {name!r} is not known; there are: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
