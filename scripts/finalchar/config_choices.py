"""Sections of the configuration that offer a choice: source selectors, PSF determiners, measurement plugins.

A choice is one module of a registry package with a ``NAME`` and a ``Settings`` section.  The sections here
are composed of whatever modules the package has, so that a new choice is one new file.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, create_model, model_validator
from pydantic.fields import FieldInfo

from finalchar.config_base import Field, NameSet, Section, no_such_choice
from finalchar.errors import ConfigError, NotYetImplementedError

__all__ = [
    "ChoiceSection",
    "PluginSection",
    "choice",
    "choices_of",
    "compose_choice",
    "compose_plugins",
    "with_defaults",
]


def choice(package: str, name: str) -> ModuleType:
    """The module of a choice of a registry package."""
    return importlib.import_module(package).get(name)  # type: ignore[no-any-return]


def choices_of(package: str) -> dict[str, type[Section]]:
    """Settings class of every choice of a registry package, by the name used in the configuration."""
    found: dict[str, type[Section]] = {}
    path = importlib.import_module(package).__path__
    for module in sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")):
        imported = importlib.import_module(f"{package}.{module}")
        if hasattr(imported, "NAME"):  # other modules are building blocks
            found[imported.NAME] = _settings_of(imported)
    return found


def settings_in(module: str) -> type[Section]:
    """The `Settings` of a module, for sections that live with the code that applies them."""
    return importlib.import_module(module).Settings  # type: ignore[no-any-return]


def _settings_of(module: ModuleType) -> type[Section]:
    settings = getattr(module, "Settings", None)
    if settings is None:
        return create_model("Settings", __base__=Section, __doc__=f"{module.NAME} has no settings.")
    return settings  # type: ignore[no-any-return]


def with_defaults(model: type[Section], defaults: Mapping[str, Any]) -> type[Section]:
    """Subclass of a settings class with other default values.

    Parameters
    ----------
    model : type
        The settings class.
    defaults : mapping of str to object
        Dotted name of a field to its default here, such as ``{"flags.bad": [...]}``.
    """
    own = {name: value for name, value in defaults.items() if "." not in name}
    below: dict[str, dict[str, Any]] = {}
    for name, value in defaults.items():
        if "." in name:
            head, tail = name.split(".", 1)
            below.setdefault(head, {})[tail] = value
    fields: dict[str, Any] = {name: _field_with_default(model, name, value) for name, value in own.items()}
    for name, values in below.items():
        section = with_defaults(model.model_fields[name].annotation, values)  # type: ignore[arg-type]
        fields[name] = _section_field(section, model.model_fields[name].description or "")
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def _field_with_default(model: type[Section], name: str, value: Any) -> tuple[Any, FieldInfo]:
    field = copy.copy(model.model_fields[name])
    field.default, field.default_factory = (value, None)
    if isinstance(value, (list, dict)):
        field = _with_factory(field, value)
    return model.model_fields[name].annotation, field


def _with_factory(field: FieldInfo, value: Any) -> FieldInfo:
    """A field whose default is a fresh copy of a list or dictionary."""
    info = Field(default_factory=lambda: copy.deepcopy(value), description=field.description)
    info.metadata = list(field.metadata)
    return info  # type: ignore[no-any-return]


def _section_field(section: type[Section], description: str) -> tuple[Any, Any]:
    return section, Field(default_factory=section, description=description)


class Choices(Section):
    """What sections of choices have in common: they know their choices, and those still to come."""

    KIND: ClassVar[str] = "choice"
    NAMES: ClassVar[tuple[str, ...]] = ()
    KNOWN: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _refuse_sections_of_unimplemented(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            refuse_unimplemented(cls, name)
        return data


class ChoiceSection(Choices):
    """A section with `name`, the active choice, and one section of settings for every choice."""

    @property
    def active(self) -> Section:
        """Settings of the active choice."""
        return getattr(self, self.name)  # type: ignore[attr-defined, no-any-return]


class PluginSection(Choices):
    """A section with `names`, the active plugins, and one section of settings for every plugin."""

    PACKAGE: ClassVar[str] = ""

    @property
    def active(self) -> dict[str, Section]:
        """Settings of the active plugins by name; of those named ``module:Class`` see `external`."""
        return {name: getattr(self, name) for name in self.names if ":" not in name}  # type: ignore[attr-defined]

    @classmethod
    def settings_of(cls, name: str) -> type[Section]:
        """Settings class of a plugin ``module:Class``.

        Raises
        ------
        ConfigError
            If it cannot be imported or is none.
        """
        if ":" not in name:
            raise ConfigError(
                f"Configuration key 'measurement.plugins.external.{name}': write module:Class; the settings "
                f"of a plugin of finalchar stand in measurement.plugins.{name}."
            )
        return choice(cls.PACKAGE, name).Settings  # type: ignore[no-any-return]


def refuse_unimplemented(section: type[Choices], name: str) -> None:
    """Raise `NotYetImplementedError` for a choice that LSST has and the registry has not."""
    if name in section.KNOWN and name not in section.NAMES:
        there_are = ", ".join(section.NAMES)
        sentence = f"The {section.KIND} '{name}' is known, but not implemented yet; there are: {there_are}."
        raise NotYetImplementedError(name, sentence)


def _check_choice(section: type[Choices], name: str) -> str:
    """Return the name of an existing choice; ValueError with the sentence otherwise."""
    refuse_unimplemented(section, name)
    if name not in section.NAMES:
        raise ValueError(no_such_choice(section.KIND, name, section.NAMES))
    return name


def _check_plugins(section: type[Choices], package: str, names: list[str]) -> list[str]:
    """Return a list of existing plugins; ValueError with the sentence otherwise."""
    for name in names:
        if ":" in name:
            _check_external(package, name)
        else:
            _check_choice(section, name)
    return names


def _check_external(package: str, name: str) -> None:
    """Raise ValueError with the sentence if there is no plugin ``module:Class``."""
    try:
        choice(package, name)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def compose_choice(
    title: str,
    package: str,
    *,
    kind: str,
    known: Iterable[str],
    default: str,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> type[ChoiceSection]:
    """Section of a choice, composed of the modules of a registry package.

    Parameters
    ----------
    title : str
        Name of the class.
    package : str
        Registry package, such as ``finalchar.psf.determiners``.
    kind : str
        What is chosen, in words, for messages.
    known : iterable of str
        The choices of LSST, implemented or not.
    default : str
        The active choice unless the user says otherwise.
    defaults : mapping of str to mapping, optional
        For a choice, the defaults that differ in this place from those of its class (see `with_defaults`).
    """
    choices = choices_of(package)
    base = _base(ChoiceSection, kind=kind, names=choices, known=known)
    fields: dict[str, Any] = {}
    for name, settings in choices.items():
        here = with_defaults(settings, (defaults or {}).get(name, {}))
        fields[name] = _section_field(here, f"settings of the {kind} '{name}'")
    checked = Annotated[str, AfterValidator(lambda name: _check_choice(base, name))]
    name_field = Field(
        default, description=f"the active {kind}", json_schema_extra={"enum": list[Any](choices)}
    )
    return create_model(  # type: ignore[no-any-return]
        title, __base__=base, __doc__=f"Which {kind}, and its settings.", name=(checked, name_field), **fields
    )


def _base(base: type[Choices], *, kind: str, names: Iterable[str], known: Iterable[str]) -> Any:
    """Subclass of a section of choices that knows its choices."""
    return type(
        base.__name__,
        (base,),
        {
            "__module__": __name__,
            "KIND": kind,
            "NAMES": tuple(names),
            "KNOWN": tuple(known),
            "__annotations__": {},
        },
    )


def compose_plugins(
    title: str, package: str, *, known: Iterable[str], default: Iterable[str]
) -> type[PluginSection]:
    """Section of the measurement plugins, composed of the modules of their registry package.

    The default list holds those plugins of `default` that the registry has.
    """
    choices = choices_of(package)
    base = _base(PluginSection, kind="measurement plugin", names=choices, known=known)
    base.PACKAGE = package
    run = [name for name in default if name in choices]
    checked = Annotated[NameSet, AfterValidator(lambda names: _check_plugins(base, package, names))]
    fields: dict[str, Any] = {"names": (checked, _names_field(run, choices)), "external": _external_field()}
    for name, settings in choices.items():
        fields[name] = _section_field(settings, f"settings of the plugin {name}")
    doc = "Which measurement plugins, and their settings."
    return create_model(title, __base__=base, __doc__=doc, **fields)  # type: ignore[no-any-return]


def _names_field(run: list[str], choices: Iterable[str]) -> Any:
    known = [{"enum": list(choices)}, {"pattern": r"^[\w.]+:\w+$"}]
    schema: dict[str, Any] = {"items": {"anyOf": known, "type": "string"}, "default": run}
    return Field(
        default_factory=lambda: list(run),
        description="the plugins that are run; module:Class names one outside this package",
        json_schema_extra=schema,
    )


def _external_field() -> tuple[Any, Any]:
    return dict[str, dict[str, Any]], Field(
        default_factory=dict, description="settings of plugins module:Class, by that name"
    )
