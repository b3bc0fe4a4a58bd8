"""From the flat names of the LSST task's configuration to ours.

``psf_determiner['piff'].spatialOrder`` is ``psf_determiner.piff.spatialOrder`` here; everything else has the
same name.  Settings of the LSST framework itself (connections, logs, undeblended plugins) fall away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finalchar import config_text
from finalchar.config_base import Section
from finalchar.config_choices import Choices, PluginSection
from finalchar.config_fixed import FIXED_VALUES
from finalchar.errors import ConfigError, NotYetImplementedError

__all__ = ["FRAMEWORK", "nested", "path_of"]

# settings of the framework or of parts that are never run, with the reason why they have no counterpart here
FRAMEWORK = {
    "connections": "inputs are named in the sheets",
    "saveLogOutput": "logs are always kept",
    "measurement.undeblended": "plugins that LSST never runs here (their list is empty)",
    "measurement.undeblendedPrefix": "prefix of columns that are never made",
}


def path_of(flat: str) -> tuple[str, ...]:
    """Path of our key for a flat LSST name."""
    return tuple(re.sub(r"\[['\"]([^'\"]*)['\"]\]", r".\1", flat).split("."))


def nested(overrides: Mapping[str, Any], *, drop_unimplemented: bool = False) -> dict[str, Any]:
    """Nested plain values for `Config` from flat LSST names.

    Parameters
    ----------
    overrides : mapping of str to object
        Flat names to values as JSON gives them.
    drop_unimplemented : bool, optional
        Leave out settings of choices that finalchar does not have yet and that are not the active one, and
        such plugins in the list of plugins.

    Raises
    ------
    NotYetImplementedError
        An active choice that is not there yet (always), or any other (unless dropped).
    ConfigError
        A name that neither LSST nor finalchar knows.
    """
    from finalchar.config import Config

    values: dict[str, Any] = {}
    for flat, value in overrides.items():
        path = path_of(flat)
        if any(path[: len(own.split("."))] == tuple(own.split(".")) for own in FRAMEWORK):
            continue
        if _has_fixed_value(".".join(path), value):
            continue
        place = _place_in_model(Config, path, flat, drop_unimplemented)
        if place is None:
            continue
        section, field = place
        if issubclass(section, PluginSection) and field == "names" and drop_unimplemented:
            value = [name for name in value if name in section.NAMES or name not in section.KNOWN]
        _put(values, path, _as_wanted(section, field, value))
    return values


def _place_in_model(
    root: type[Section], path: tuple[str, ...], flat: str, drop: bool
) -> tuple[type[Section], str] | None:
    """Section class and field of a path; None when it belongs to a choice that is left out."""
    section = root
    for part in path[:-1]:
        if issubclass(section, Choices) and part in section.KNOWN and part not in section.NAMES:
            if drop:
                return None
            sentence = f"'{flat}': the {section.KIND} '{part}' is known, but not implemented yet."
            raise NotYetImplementedError(part, sentence)
        below = section.model_fields.get(part)
        found = config_text.section_in(below.annotation) if below is not None else None
        if found is None:
            raise ConfigError(f"'{flat}' is no setting of the LSST task that finalchar knows.")
        section = found
    if path[-1] not in section.model_fields:
        raise ConfigError(f"'{flat}' is no setting of the LSST task that finalchar knows.")
    return section, path[-1]


def _has_fixed_value(name: str, value: Any) -> bool:
    """Whether a setting is offered with one value only, which it has here."""
    if name not in FIXED_VALUES:
        return False
    if value != FIXED_VALUES[name]:
        sentence = f"'{name}' can only be {FIXED_VALUES[name]!r} yet, not {value!r}."
        raise NotYetImplementedError(name, sentence)
    return True


def _as_wanted(section: type[Section], field: str, value: Any) -> Any:
    """A JSON value as the field wants it; whole numbers for floats are what LSST writes too."""
    annotation = section.model_fields[field].annotation
    return float(value) if annotation is float and type(value) is int else value


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value
