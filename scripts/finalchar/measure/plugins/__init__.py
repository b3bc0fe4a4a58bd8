"""Registry of the measurement plugins: every module of this package is one.

A module defines ``NAME``, ``ORDER``, ``Settings`` and ``Plugin`` (see `finalchar.measure.plugin`); adding one
touches no other file.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from finalchar.errors import ConfigError
from finalchar.measure.plugin import MeasurementPlugin, PluginSettings

__all__ = ["PluginModule", "get", "names"]


class PluginModule(Protocol):
    """What a plugin module defines."""

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
    """Return the module of a plugin.

    Raises
    ------
    ConfigError
        If there is no such plugin.
    """
    if name not in _modules():
        raise ConfigError(
            f"measurement.plugins.names lists {name!r}, which is not a measurement plugin"
            f" (there are: {', '.join(names())})"
        )
    return _modules()[name]
