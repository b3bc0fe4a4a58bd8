"""What every section of the configuration is made of.

A `Section` knows its fields and nothing else: an unknown name, a value of the wrong type and a value out of
range are refused at once, when a file is read and when an attribute is set in Python.  Text is never turned
into a number, a truth value never into a number, and numbers are finite; text is not empty, and a list names
nothing twice, unless the type of the field says otherwise.

A choice of a registry (a source selector, a PSF determiner, a measurement plugin) writes its settings so::

    class Settings(Section):
        'Settings of the choice.'

        spatialOrder: int = Field(2, ge=0, description="order of the spatial polynomial")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from finalchar.errors import ConfigError, nearest

__all__ = [
    "EachPositive",
    "Field",
    "NameSet",
    "Only",
    "Section",
    "explain",
    "is_unordered",
    "nearest",
    "no_such_choice",
    "only",
    "subsection",
    "tell_paths",
]


class _Unordered:
    """Marks a list whose order means nothing."""


NameSet: TypeAlias = Annotated[list[str], _Unordered()]
"""Type of a list of names whose order means nothing, so that it decides no product."""


class Section(BaseModel):
    """Base of all configuration sections; see the module's docstring."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        validate_assignment=True,
        validate_default=False,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    SHORT_FORM: ClassVar[str | None] = None  # the field that is meant when a file gives plain text here

    _path: str = PrivateAttr(default="")

    @field_validator("*", mode="before")
    @classmethod
    def _check_value(cls, value: Any, info: ValidationInfo) -> Any:
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            value = value.item()  # exactly the same number as Python knows it
        refuse_unfit(cls.__pydantic_fields__[str(info.field_name)].annotation, value)
        return value

    def model_post_init(self, context: Any, /) -> None:
        """Look at the values together, once all are there (pydantic's hook; not run by assignments)."""
        self.check_together()

    def check_together(self) -> None:
        """Raise ValueError, in one sentence, where values of the section contradict each other.

        Assignments go one by one and may pass through contradictions; `Config.checked`, before any use of the
        configuration, looks at the values again.
        """

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, checked; `ConfigError` in one sentence where that is impossible."""
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        if name not in type(self).model_fields:
            raise ConfigError(unknown_key(name, self._path, type(self).model_fields))
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self), prefix=self._path)) from None
        tell_paths(self, self._path)

    def path_of(self, name: str = "") -> str:
        """Dotted path of one of the fields, or of the section itself, from the root of the configuration."""
        return ".".join(part for part in (self._path, name) if part)

    def keys(self) -> list[str]:
        """Names of the fields, in the order of their definition."""
        return list(type(self).model_fields)


def tell_paths(section: Section, path: str = "") -> None:
    """Tell a section and all below their paths, so that messages about assignments name them."""
    section._path = path
    start = f"{path}." if path else ""
    for name, value in section.__dict__.items():
        below = value if isinstance(value, dict) else {}
        if isinstance(value, Section):
            tell_paths(value, f"{start}{name}")
        for key, entry in below.items():
            if isinstance(entry, Section):
                tell_paths(entry, f"{start}{name}.{key}")


def subsection(kind: type[Section], description: str) -> Any:
    """Field that holds a section, made with its defaults: ``limits: Limits = subsection(Limits, "...")``."""
    return Field(default_factory=kind, description=description)


def is_unordered(model: type[BaseModel], name: str) -> bool:
    """Whether a field of a section is a `NameSet`."""
    return any(isinstance(mark, _Unordered) for mark in model.model_fields[name].metadata)


@dataclass(frozen=True)
class Only:
    """Marks a setting of which one value is supported: ``x: Annotated[float, only(0.0)]``."""

    value: Any

    def check(self, given: Any) -> Any:
        """Return the value if it is the one that is supported."""
        if given != self.value:
            raise ValueError(f"{given!r} is not supported; it must be {self.value!r}.")
        return given

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Check the value after its type (pydantic's hook)."""
        return AfterValidator(self.check).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Publish the value (pydantic's hook)."""
        return {**handler(schema), "const": self.value}


def only(value: Any) -> Only:
    """Mark of a setting of which one value is supported, see `Only`."""
    return Only(value)


@dataclass(frozen=True)
class EachPositive:
    """Marks a list of positive numbers: ``radii: Annotated[list[float], EachPositive()]``."""

    def check(self, given: Any) -> Any:
        """Return the list if all entries are positive."""
        if any(number <= 0 for number in given):
            raise ValueError("must have positive entries only.")
        return given

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Check the entries after their types (pydantic's hook)."""
        return AfterValidator(self.check).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Publish the limit (pydantic's hook)."""
        published = handler(schema)
        return {**published, "items": {**published["items"], "exclusiveMinimum": 0}}


def no_such_choice(kind: str, name: str, names: Iterable[str]) -> str:
    """Sentence about the name of a choice that does not exist, with the nearest one and all that do."""
    names = list(names)
    close = nearest(name, names)
    hint = f"did you mean '{close}'? There are: " if close else "there are: "
    return f"there is no {kind} '{name}'; {hint}{', '.join(names)}."


def refuse_unfit(annotation: Any, value: Any) -> None:
    """Refuse what pydantic lets pass: another type that is equal, empty text, an entry that stands twice.

    Raises
    ------
    ValueError
        One sentence without the key, which the caller knows.
    """
    if value is None:
        return
    choices = _literals(annotation)
    if choices:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError(f"must be one of {_spelt(choices)}, not {value!r}.")
    elif isinstance(value, str):
        if not value.strip():
            raise ValueError("must not be empty; remove the line for the default.")
    elif isinstance(value, (list, tuple)):
        _refuse_unfit_entries(value)
    elif isinstance(value, dict) and get_origin(annotation) is dict:
        for key, entry in value.items():
            if not str(key).strip() or (isinstance(entry, str) and not entry.strip()):
                raise ValueError(f"must not have the empty entry '{key}: {entry}'; remove it.")


@cache
def _literals(annotation: Any) -> tuple[Any, ...]:
    """The values of a ``Literal``, also of one that may be None; nothing for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((get_args(kind) for kind in get_args(annotation) if get_origin(kind) is Literal), ())


def _spelt(choices: Iterable[Any]) -> str:
    """Values as the configuration file writes them."""
    return ", ".join(str(c).lower() if isinstance(c, bool) else repr(c) for c in choices)


def _refuse_unfit_entries(entries: Iterable[Any]) -> None:
    seen: list[Any] = []
    for entry in entries:
        if isinstance(entry, str) and not entry.strip():
            raise ValueError("must not have empty entries; remove them.")
        if entry in seen:
            raise ValueError(f"must not have {entry!r} twice; remove one of them.")
        seen.append(entry)


def unknown_key(name: str, path: str, known: Iterable[str]) -> str:
    """Sentence about the key `name` that the section at `path` does not have."""
    known = list(known)
    where = f"{path}.{name}" if path else name
    close = nearest(name, known)
    remedy = f"did you mean '{close}'?" if close is not None else "known here: " + ", ".join(known) + "."
    return f"Unknown configuration key '{where}'; {remedy}"


_WANTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "none_required": "nothing (null)",
    "finite_number": "a finite number",
}


def _wanted(problem: dict[str, Any]) -> str:
    """What a field wanted, in our words, from one of pydantic's error records."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _WANTED:
        return _WANTED[kind]
    if kind == "literal_error":
        return f"one of {context['expected']}"
    if kind == "greater_than_equal":
        return f"at least {context['ge']}"
    if kind == "greater_than":
        return f"more than {context['gt']}"
    if kind == "less_than_equal":
        return f"at most {context['le']}"
    if kind == "less_than":
        return f"less than {context['lt']}"
    if kind == "string_pattern_mismatch":
        return f"text of the form {context['pattern']}"
    if kind in ("too_short", "string_too_short"):
        return f"of length {context['min_length']} or more"
    if kind in ("too_long", "string_too_long"):
        return f"of length {context['max_length']} or less" if context["max_length"] else "empty"
    return str(problem["msg"])


def explain(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> str:
    """One sentence for the first problem of a pydantic error, with the full dotted path of the key.

    Parameters
    ----------
    error : ValidationError
        What pydantic raised.
    model : type
        The section that was validated; its fields give the nearest known key.
    prefix : str
        Path of that section from the root of the configuration, empty for the root itself.
    """
    problem = cast(dict[str, Any], error.errors(include_url=False)[0])
    location = [part for part in problem["loc"] if not _is_branch_of_union(part)]
    names = [prefix, *map(str, location)] if prefix else list(map(str, location))
    path = ".".join(names)
    if problem["type"] == "extra_forbidden":
        section = section_at(model, location[:-1])
        return unknown_key(names[-1], ".".join(names[:-1]), section.model_fields if section else ())
    if problem["type"] == "missing":
        return f"Configuration key '{path}' is missing."
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"]) if "error" in problem.get("ctx", {}) else problem["msg"]
        joined = " " if message.startswith("must ") else ": "
        return f"Configuration key '{path}'{joined}{message}" if path else message
    return f"Configuration key '{path}' must be {_wanted(problem)}, not {problem['input']!r}."


def _is_branch_of_union(part: object) -> bool:
    """Whether a part of pydantic's location names a branch of a union and no key of ours."""
    return isinstance(part, str) and (
        part in ("int", "float", "str", "bool", "none") or part.startswith(("list[", "dict[", "literal["))
    )


def section_at(model: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel] | None:
    """The section class found by following the keys `location` from `model`, or None."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return None
        model = field.annotation
    return model
