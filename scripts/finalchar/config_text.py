"""From the text of a configuration to plain values, led by the model.

The strict YAML loader gives sections, lists and text; here every piece of text becomes what the model wants
at its place (and nothing else), unknown keys are refused with the nearest known one, and each refusal says
where the key stands.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from finalchar import strict_yaml
from finalchar.config_base import Section, nearest
from finalchar.config_choices import Choices, PluginSection, refuse_unimplemented
from finalchar.errors import ConfigError
from finalchar.strict_yaml import Mapping, Scalar

__all__ = [
    "all_keys",
    "command_line_overrides",
    "first_path",
    "interpret",
    "place_of",
    "place_of_choice",
    "section_in",
    "tree_of_override",
]


def tree_of_override(assignment: str) -> Mapping:
    """Section tree of ``a.b.c=value``; the value follows the rules of the configuration file.

    Parameters
    ----------
    assignment : str
        Dotted key, ``=``, value; the value may be a YAML list ``[a, b]`` or section ``{a: 1}``.
    """
    key, equals, text = assignment.partition("=")
    where = assignment  # typed behind --set, or behind --config of Snakemake
    if not equals or not key.strip():
        raise ConfigError(f"{where}: write it as key=value, for instance psf_determiner.piff.spatialOrder=3.")
    value: Any = strict_yaml.load_text(text, source=where)
    for part in reversed(key.strip().split(".")):
        section = Mapping()
        section.put(part, value, where)
        value = section
    return value  # type: ignore[no-any-return]


def command_line_overrides(arguments: Sequence[str]) -> list[str]:
    """The ``key=value`` texts behind ``--config`` on a command line of Snakemake, as they were typed.

    Snakemake's own dictionary has lost information: ``output=2026_01_15`` has become the number 20260115.
    """
    texts: list[str] = []
    inside = False
    for argument in arguments:
        if argument in ("--config", "-C"):
            inside = True
        elif argument.startswith("--config="):
            texts.append(argument.removeprefix("--config="))
            inside = True
        elif argument.startswith("-"):
            inside = False
        elif inside:
            texts.append(argument)
    return texts


def interpret(model: type[Section], tree: Mapping) -> dict[str, Any]:
    """Plain values of a configuration tree, as the model wants them.

    Parameters
    ----------
    model : type
        The root model.
    tree : Mapping
        What the strict loader gave.

    Returns
    -------
    dict
        Nested dictionaries of numbers, truth values, text, lists: what is written, defaults not filled in.

    Raises
    ------
    ConfigError
        An unknown key, or a value of the wrong type: one sentence with place, dotted path and remedy.
    """
    return _section(model, tree, (), model)


def all_keys(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all sections and fields below a model, in the order of their definition."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        section = section_in(field.annotation)
        if section is not None:
            yield from all_keys(section, (*above, name))


def section_in(annotation: Any) -> type[Section] | None:
    """The section class that an annotation stands for, or None for a plain field."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _section(
    model: type[Section], tree: Mapping, path: tuple[str, ...], root: type[Section]
) -> dict[str, Any]:
    """Plain values of a section that is written as one."""
    values: dict[str, Any] = {}
    for key, raw in tree.items():
        where, here = tree.where[key], (*path, key)
        if key not in model.model_fields:
            _refuse_unknown(model, key, path, where, root)
        annotation = model.model_fields[key].annotation
        section, of_name = section_in(annotation), _named_sections_in(model, key)
        if section is not None:
            values[key] = _subsection(section, raw, here, where, root)
        elif of_name is not None:
            values[key] = _named_sections(of_name, raw, here, where)
        else:
            values[key] = _value(annotation, raw, f"{where}: '{'.'.join(here)}'")
    return values


def _subsection(
    section: type[Section], raw: Any, here: tuple[str, ...], where: str, root: type[Section]
) -> dict[str, Any]:
    """Plain values of a section, however it is written."""
    if isinstance(raw, Mapping):
        return _section(section, raw, here, root)
    if isinstance(raw, Scalar) and strict_yaml.is_null(raw):
        return {}  # all its keys are commented out
    if isinstance(raw, Scalar) and section.SHORT_FORM is not None:
        return {section.SHORT_FORM: str(raw)}
    raise ConfigError(f"{where}: '{'.'.join(here)}' must be a section of keys, not {_shown(raw)}.")


def _named_sections_in(model: type[Section], key: str) -> Callable[[str], type[Section]] | None:
    """For a field with sections under names that the user gives: from such a name to its section class."""
    if issubclass(model, PluginSection) and key == "external":
        return model.settings_of
    annotation = model.model_fields[key].annotation
    section = section_in(get_args(annotation)[1]) if get_origin(annotation) is dict else None
    return None if section is None else lambda name: section


def _named_sections(
    section_of: Callable[[str], type[Section]], raw: Any, here: tuple[str, ...], where: str
) -> dict[str, Any]:
    """Plain values of sections under names that the user gives."""
    if isinstance(raw, Scalar) and strict_yaml.is_null(raw):
        return {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: '{'.'.join(here)}' must be a section of keys, not {_shown(raw)}.")
    values = {}
    for name, item in raw.items():
        try:
            section = section_of(name)
        except ConfigError as error:
            raise ConfigError(f"{raw.where[name]}: {error}") from None
        values[name] = _subsection(section, item, (*here, name), raw.where[name], section)
    return values


def _refuse_unknown(
    model: type[Section], key: str, path: tuple[str, ...], where: str, root: type[Section]
) -> None:
    """Raise the sentence about an unknown key: the nearest known key, or where it belongs."""
    if issubclass(model, Choices):
        refuse_unimplemented(model, key)
    name = ".".join((*path, key))
    remedy = _not_a_setting(name) or _elsewhere(model, key, path, root)
    raise ConfigError(f"{where}: Unknown configuration key '{name}'; {remedy}")


def _not_a_setting(name: str) -> str | None:
    """Remedy for LSST settings that have no meaning outside its framework."""
    if name == "connections" or name.startswith("connections."):
        return "the inputs are named in the sheets detectors.csv and tracts.csv."
    if name == "saveLogOutput":
        return "logs are always kept."
    return None


def _elsewhere(model: type[Section], key: str, path: tuple[str, ...], root: type[Section]) -> str:
    """Remedy for an unknown key: exact name below, similar name here, then anywhere."""
    below = [(*path, *p) for p in all_keys(model)]
    anywhere = list(all_keys(root))
    exact = [p for p in below if p[-1] == key] or [p for p in anywhere if p[-1] == key]
    close = nearest(key, model.model_fields)
    in_choice = [p for p in exact if p[: len(path)] == path]
    if close is not None and not in_choice:
        return f"did you mean '{close}'?"
    if exact:
        return f"it belongs to {_places(exact)}."
    similar = nearest(key, [p[-1] for p in below])
    if similar is not None:
        return f"did you mean {_places([p for p in below if p[-1] == similar])}?"
    return "known here: " + ", ".join(model.model_fields) + "."


def _places(paths: Sequence[tuple[str, ...]]) -> str:
    """The first paths of a list, as a sentence names them."""
    return " or ".join(f"'{'.'.join(path)}'" for path in paths[:3])


def _shown(raw: Any) -> str:
    """A value as it is shown in a message."""
    if isinstance(raw, Mapping):
        return "a section"
    if isinstance(raw, list):
        return "a list"
    return f"'{raw}'" if raw or raw.quoted else "nothing"


def _value(annotation: Any, raw: Any, what: str) -> Any:
    """Value of a plain field; `what` names place and key in messages."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _value(arguments[0], raw, what)
    if origin in (Union, types.UnionType):
        return _optional(arguments, raw, what)
    if origin is list:
        if not isinstance(raw, list):
            raise ConfigError(f"{what} must be a list such as [a, b], not {_shown(raw)}.")
        return [_value(arguments[0], item, f"{what}, entry {i + 1},") for i, item in enumerate(raw)]
    if origin is dict:
        return _dictionary(arguments[1], raw, what)
    if not isinstance(raw, Scalar):
        raise ConfigError(f"{what} must be a single value, not {_shown(raw)}.")
    if origin is Literal:
        return _one_of(arguments, raw, what)
    return _scalar(annotation, raw, what)


def _optional(arguments: Sequence[Any], raw: Any, what: str) -> Any:
    if isinstance(raw, Scalar) and strict_yaml.is_null(raw):
        return None
    kinds = [a for a in arguments if a is not type(None)]
    for kind in kinds[:-1]:
        try:
            return _value(kind, raw, what)
        except ConfigError:
            continue
    return _value(kinds[-1], raw, what)


def _dictionary(kind: Any, raw: Any, what: str) -> dict[str, Any]:
    if isinstance(raw, Scalar) and strict_yaml.is_null(raw):
        return {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{what} must be a section of keys, not {_shown(raw)}.")
    return {key: _value(kind, item, f"{what}, key '{key}',") for key, item in raw.items()}


def _one_of(choices: Sequence[Any], raw: Scalar, what: str) -> Any:
    """The choice that is written; choices are text, or a single truth value."""
    spelling = {
        str(choice).lower() if isinstance(choice, bool) else str(choice): choice for choice in choices
    }
    if raw in spelling:
        return spelling[raw]
    if len(spelling) == 1:
        raise ConfigError(f"{what} can only be {next(iter(spelling)) or 'empty'}, not {_shown(raw)}.")
    close = nearest(raw, spelling)
    hint = f"; did you mean '{close}'?" if close else "."
    raise ConfigError(f"{what} must be one of {', '.join(spelling)}, not {_shown(raw)}{hint}")


def _scalar(kind: Any, raw: Scalar, what: str) -> Any:
    """Number, truth value or text, as the model wants."""
    if strict_yaml.is_null(raw):
        raise ConfigError(f"{what} must have a value; remove the line for the default.")
    if kind is str:
        return str(raw)
    if kind is bool:
        truth = None if raw.quoted else strict_yaml.as_truth(raw)
        if truth is None:
            raise ConfigError(f"{what} must be true or false, not {_shown(raw)}.")
        return truth
    number = strict_yaml.as_number(raw)
    if kind is int and not isinstance(number, int):
        raise ConfigError(f"{what} must be a whole number (without leading zeros), not {_shown(raw)}.")
    if number is None:
        raise ConfigError(f"{what} must be a finite number, not {_shown(raw)}.")
    return number


def place_of(tree: Mapping, location: Iterable[int | str]) -> str | None:
    """Where the key at `location` stands, or the innermost section around it that is written."""
    place: str | None = None
    node: Any = tree
    for part in location:
        if not isinstance(node, Mapping) or part not in node:
            break
        place, node = node.where[str(part)], node[str(part)]
    return place


def first_path(sentence: str) -> tuple[str, ...]:
    """Keys of the first dotted path that a sentence names."""
    found = re.search(r"\b\w+(\.\w+)+", sentence)
    return tuple(found[0].split(".")) if found else ()


def place_of_choice(tree: Mapping, choice: str) -> str | None:
    """Where the name of a choice stands, as a key, a value or an entry of a list."""
    for key, value in tree.items():
        if choice in (key, value) or (isinstance(value, list) and choice in value):
            return tree.where[key]
        below = place_of_choice(value, choice) if isinstance(value, Mapping) else None
        if below is not None:
            return below
    return None
