"""YAML without guesses: what a reader of the file sees is what the program gets.

The loader gives only sections (`Mapping`), lists and text (`Scalar`); it never decides that a
piece of text is a number, a date or a truth value.  What a value is, is said by the configuration model, and
`as_number`, `as_truth` and `is_null` are the one set of rules: decimal whole numbers, decimal numbers with an
optional exponent, ``true``/``false``, and ``null`` or nothing.  So ``1e-3`` is a number where a number is
wanted, ``010`` never is one, ``no`` and ``2026_01_15`` stay text, and a key that is written twice is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml

from finalchar.errors import ConfigError

__all__ = ["Mapping", "Scalar", "as_number", "as_truth", "is_null", "load_file", "load_text"]

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|(?=\.[0-9]))(\.[0-9]*)?([eE][-+]?[0-9]+)?\Z")


class Scalar(str):
    """Text of the file; `quoted` tells whether it stood in quotes."""

    quoted: bool

    def __new__(cls, text: str, *, quoted: bool) -> Scalar:
        """Make the text."""
        scalar = super().__new__(cls, text)
        scalar.quoted = quoted
        return scalar


class Mapping(dict[str, Any]):
    """Section of the file; `where` says for each key where it stands ("config.yaml, line 3")."""

    def __init__(self) -> None:
        super().__init__()
        self.where: dict[str, str] = {}

    def put(self, key: str, value: Any, where: str) -> None:
        """Set a key and where it stands."""
        self[key] = value
        self.where[key] = where

    def overlay(self, other: Mapping) -> None:
        """Let the keys of `other` win, section by section; lists and values are replaced whole."""
        for key, value in other.items():
            mine = self.get(key)
            if isinstance(mine, Mapping) and isinstance(value, Mapping):
                mine.overlay(value)
            else:
                self.put(key, value, other.where[key])


def as_number(text: str) -> int | float | None:
    """Return the number that `text` spells, or None; see the module's docstring for the rules."""
    if _WHOLE.match(text):
        return int(text)
    if _DECIMAL.match(text):
        return float(text)
    return None


def as_truth(text: str) -> bool | None:
    """Return True or False for ``true`` and ``false`` (also True, TRUE, ...), else None."""
    return {"true": True, "false": False}.get(text.lower())


def is_null(text: str) -> bool:
    """Tell whether a plain scalar says "nothing": empty, ``~`` or ``null``; quoted text never does."""
    return not getattr(text, "quoted", False) and text in ("", "~", "null", "Null", "NULL")


def load_file(path: str | Path) -> Mapping:
    """Read a YAML file whose top level is a section; `ConfigError` with file and line otherwise."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"Configuration file '{path}' does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Configuration file '{path}' cannot be read: {error}.") from None
    tree = load_text(text, source=str(path))
    if isinstance(tree, Scalar) and is_null(tree):
        return Mapping()
    if not isinstance(tree, Mapping):
        raise ConfigError(f"Configuration file '{path}' must be a section of keys ('key: value').")
    return tree


def load_text(text: str, *, source: str) -> Mapping | list[Any] | Scalar:
    """Parse YAML text; `source` (file name, option) is named in errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}{_where(error)}: {_problem(error)}.") from None
    if node is None:
        return Scalar("", quoted=False)
    return _convert(node, source, ())


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""


def _problem(error: yaml.YAMLError) -> str:
    return "not valid YAML, " + (getattr(error, "problem", None) or str(error).splitlines()[0])


def _convert(node: yaml.Node, source: str, above: tuple[int, ...]) -> Mapping | list[Any] | Scalar:
    """Turn a node of the YAML graph into Mapping, list or Scalar; `above` holds the nodes around it."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ConfigError(f"{source}, line {line}: an anchor contains itself.")
    standard = ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge", "value")
    if node.tag.removeprefix("tag:yaml.org,2002:") not in standard:
        raise ConfigError(f"{source}, line {line}: the tag '{node.tag}' is not allowed; write a plain value.")
    if isinstance(node, yaml.ScalarNode):
        return Scalar(node.value, quoted=node.style is not None)
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_convert(item, source, above) for item in node.value]
    return _convert_mapping(cast(yaml.MappingNode, node), source, above)


def _convert_mapping(node: yaml.MappingNode, source: str, above: tuple[int, ...]) -> Mapping:
    mapping = Mapping()
    merged: list[Mapping] = []
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        value = _convert(value_node, source, above)
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{source}, line {line}: a key must be text.")
        if key_node.tag == "tag:yaml.org,2002:merge":
            merged.extend(_merged_sections(value, source, line))
            continue
        key = str(key_node.value)
        if key in mapping:
            raise ConfigError(
                f"{mapping.where[key]}: the key '{key}' stands there and again in line {line}; remove one."
            )
        mapping.put(key, value, f"{source}, line {line}")
    for section in merged:
        for key in section:
            if key not in mapping:
                mapping.put(key, section[key], section.where[key])
    return mapping


def _merged_sections(value: Any, source: str, line: int) -> list[Mapping]:
    """Sections that a merge key ``<<`` brings in, the first one first."""
    sections = value if isinstance(value, list) else [value]
    if not all(isinstance(section, Mapping) for section in sections):
        raise ConfigError(f"{source}, line {line}: '<<' needs sections of keys.")
    return cast(list[Mapping], sections)
