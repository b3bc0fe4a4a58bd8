"""Source selectors: which sources of a catalogue are looked at, one module per choice.

Each module of this package that defines ``NAME`` is a choice: its name in the configuration, its ``Settings``
and ``select(table, settings, exposure=None, compatibility="fixed")``, which returns a boolean array over the
rows of the table.  A choice ``objectSize`` stands in the module ``object_size``.  Adding a choice touches no
other file.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from types import ModuleType

from finalchar.config_base import no_such_choice
from finalchar.errors import ConfigError

__all__ = ["get", "names"]

_BUILDING_BLOCKS = {"limits"}


def names() -> tuple[str, ...]:
    """Names of all source selectors, as the configuration writes them."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)} - _BUILDING_BLOCKS
    return tuple(sorted(re.sub("_([a-z])", lambda found: found[1].upper(), name) for name in modules))


def get(name: str) -> ModuleType:
    """Return the module of a source selector.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in names():
        raise ConfigError(no_such_choice("source selector", name, names()))
    return importlib.import_module(
        f"{__name__}.{re.sub('([A-Z])', lambda found: '_' + found[1].lower(), name)}"
    )
