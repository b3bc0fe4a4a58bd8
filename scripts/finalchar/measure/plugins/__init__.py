"""Registry of the measurement plugins: every module of this package is one.

A module defines ``NAME``, ``ORDER``, ``Settings`` and ``Plugin`` (see `finalchar.measure.plugin`); adding one
touches no other file.  A plugin elsewhere is named ``module:Class``: a module that can be imported and
defines the same, and the class in it.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Protocol, cast

from finalchar.config_base import no_such_choice
from finalchar.errors import ConfigError
from finalchar.measure.plugin import MeasurementPlugin, PluginSettings

__all__ = ["PluginModule", "get", "is_external", "names"]


class PluginModule(Protocol):
    """What a plugin module defines."""

    __file__: str
    NAME: str
    ORDER: float
    Settings: type[PluginSettings]
    Plugin: type[MeasurementPlugin[Any]]


@cache
def _modules() -> dict[str, PluginModule]:
    found = [
        cast(PluginModule, import_module(f"{__name__}.{info.name}"))
        for info in pkgutil.iter_modules(__path__)
    ]
    return {module.NAME: module for module in found}


def names() -> list[str]:
    """Return the names of all plugins in execution order."""
    return sorted(_modules(), key=lambda name: (_modules()[name].ORDER, name))


def get(name: str) -> PluginModule:
    """Return the module of a plugin; of ``module:Class`` the same with that class as its plugin.

    Raises
    ------
    ConfigError
        If there is no such plugin.
    """
    if is_external(name):
        return _external(name)
    if name not in _modules():
        raise ConfigError(no_such_choice("measurement plugin", name, names()))
    return _modules()[name]


def is_external(name: str) -> bool:
    """Whether a name stands for a class outside the registry, ``module:Class``."""
    return ":" in name


def _external(name: str) -> PluginModule:
    """Import the module of ``module:Class`` and check that it defines a plugin."""
    path, _, kind = name.partition(":")
    try:
        module = import_module(path)
    except Exception as error:  # whatever a foreign module does while it is imported
        raise ConfigError(
            f"measurement.plugins.names lists {name!r}, but the module {path!r} cannot be imported"
            f" ({type(error).__name__}: {error}); install it or add its folder to PYTHONPATH"
        ) from error
    found = getattr(module, kind, None)
    if not (isinstance(found, type) and issubclass(found, MeasurementPlugin)):
        raise ConfigError(
            f"measurement.plugins.names lists {name!r}, but {kind!r} in {path!r} is no class that derives"
            " from MeasurementPlugin"
        )
    missing = [each for each in ("NAME", "ORDER", "Settings") if not hasattr(module, each)]
    if missing:
        raise ConfigError(
            f"the module of the measurement plugin {name!r} does not define {', '.join(missing)}; see"
            " docs/measurement_plugins.md"
        )
    return cast(
        PluginModule,
        SimpleNamespace(
            NAME=module.NAME,
            ORDER=module.ORDER,
            Settings=module.Settings,
            Plugin=found,
            __file__=module.__file__,
        ),
    )
