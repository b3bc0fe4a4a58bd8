"""The table of measured stars: its columns, slots and aliases (measurement specification 0.2-0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from finalchar.config_base import tell_paths
from finalchar.errors import ConfigError, InputError
from finalchar.formats.sources import ColumnInfo, SourceTable, demand_column
from finalchar.measure import plugins
from finalchar.measure.plugin import INVALID_PSF_FLAG, Field, MeasurementPlugin, default_column, flag

__all__ = [
    "active_plugins",
    "aliases_of",
    "check_columns",
    "correctable_fluxes",
    "empty_slots",
    "expand_aliases",
    "external_settings",
    "make_output_table",
    "plugin_settings",
]

MINIMAL = ("id", "coord_ra", "coord_dec", "parent")
COPIED_GLOBS = ("base_CircularApertureFlux_*", "slot_ApFlux_*", "slot_CalibFlux_*")
COPIED_SLOTS = {"slot_Centroid": "centroid", "slot_ApFlux": "apFlux", "slot_CalibFlux": "calibFlux"}
"""Slots taken over from the input, with the settings that may name another measurement of it."""
OWN_SLOTS = {
    "slot_Shape": "shape",
    "slot_PsfShape": "psfShape",
    "slot_ModelFlux": "modelFlux",
    "slot_PsfFlux": "psfFlux",
    "slot_GaussianFlux": "gaussianFlux",
}
CHECK_PLUGIN = "finalchar_Plausibility"
"""Our own diagnostics of every star; absent when the reference is reproduced."""

_TASK = "FinalizeCharacterizationTask"
PSF_FIELDS = (
    flag(
        "calib_psf_candidate",
        f"set if the source was a candidate for PSF determination, as determined from {_TASK}.",
    ),
    flag("calib_psf_reserved", f"set if source was reserved from PSF determination by {_TASK}."),
    flag("calib_psf_used", f"set if source was used in the PSF determination by {_TASK}."),
    Field("visit", "int64", "", "Visit number for the sources."),
    Field("detector", "int32", "", "Detector number for the sources."),
    Field("psf_color_value", "float32", "", "Color used in PSF fit."),
    Field("psf_color_type", "U10", "", "Color used in PSF fit."),
    Field("psf_max_value", "float32", "", "Maximum value in the star image used to train PSF."),
)


def plugin_settings(settings: Any, name: str) -> Any:
    """Return the section of a plugin inside section ``measurement``; its defaults if there is none.

    Raises
    ------
    ConfigError
        If the settings of a plugin ``module:Class`` do not fit its section.
    """
    if plugins.is_external(name):
        given = getattr(settings.plugins, "external", {}).get(name, {})
        return external_settings(name, given)
    own = getattr(settings.plugins, name, None)
    return own if own is not None else plugins.get(name).Settings()


def external_settings(name: str, given: Mapping[str, Any]) -> Any:
    """Return the section of a plugin ``module:Class`` with the settings given for it."""
    section = plugins.get(name).Settings()
    tell_paths(section, f"measurement.plugins.external.{name}")
    for key, value in given.items():
        setattr(section, key, value)  # checked one by one, in a sentence that names the setting
    return section


def active_plugins(settings: Any, compatibility: str) -> list[MeasurementPlugin[Any]]:
    """Return the configured plugins in execution order: by (order, name).

    Parameters
    ----------
    settings : section
        Configuration section ``measurement``.
    compatibility : {"fixed", "lsst"}
        With "fixed" the plausibility checks run after all others.
    """
    wanted = set(settings.plugins.names)
    if compatibility != "lsst":
        wanted.add(CHECK_PLUGIN)
    chosen = [(plugins.get(name), name) for name in wanted]
    chosen.sort(key=lambda each: (each[0].ORDER, each[0].NAME, each[1]))
    return [module.Plugin(module.NAME, plugin_settings(settings, name)) for module, name in chosen]


def correctable_fluxes(settings: Any, compatibility: str) -> list[str]:
    """Return the sorted names of the measured fluxes that want an aperture correction (13.1)."""
    return sorted(flux for plugin in active_plugins(settings, compatibility) for flux in plugin.fluxes())


def check_columns(
    settings: Any,
    *,
    sky_moments: bool = False,
    fgcm_bands: Sequence[str] = (),
    compatibility: str = "fixed",
) -> None:
    """Check that no column is written twice; parameters as those of `make_output_table`.

    Raises
    ------
    ConfigError
        If two plugins write the same column, or one writes a column of the table itself, or one does not
        tell its columns.
    """
    active = active_plugins(settings, compatibility)
    for plugin in active:
        _demand_fields(plugin)
    fields = _new_fields(active, sky_moments=sky_moments, fgcm_bands=fgcm_bands)
    column, count = Counter(field.name for field in fields).most_common(1)[0]
    if count == 1:
        return
    writers = [_title(plugin) for plugin in active if column in (field.name for field in plugin.fields())]
    if len(writers) < count:
        writers.append("the star table itself")
    raise ConfigError(
        f"the column {column!r} is written by {' and by '.join(writers)}; take one of these plugins out of"
        " measurement.plugins.names"
    )


def empty_slots(settings: Any, compatibility: str = "fixed") -> dict[str, str]:
    """Return the settings of slots that name what no plugin writes, with the name (0.3).

    Only slots that this measurement fills; the others are taken over from the catalogue.
    """
    columns = [field.name for plugin in active_plugins(settings, compatibility) for field in plugin.fields()]
    named = {field: getattr(settings.slots, field, None) for field in OWN_SLOTS.values()}
    return {
        field: target
        for field, target in named.items()
        if target is not None and not any(column.startswith(f"{target}_") for column in columns)
    }


def _demand_fields(plugin: MeasurementPlugin[Any]) -> None:
    """Refuse a plugin whose columns cannot be told or have types that do not exist."""
    try:
        for each in plugin.fields():
            np.dtype(each.dtype)
    except Exception as error:  # whatever a foreign class does
        raise ConfigError(
            f"the plugin {_title(plugin)} does not tell its columns ({type(error).__name__}: {error}); its "
            "method fields() must return a list of Field with numpy's names of types"
        ) from error


def _title(plugin: MeasurementPlugin[Any]) -> str:
    """How the configuration names a plugin."""
    kind = type(plugin)
    inside = kind.__module__.startswith(f"{plugins.__name__}.")
    return plugin.name if inside else f"{kind.__module__}:{kind.__name__}"


def make_output_table(
    *,
    selected: SourceTable,
    settings: Any,
    selection_flux_field: str = "base_GaussianFlux_instFlux",
    selection_flux_err_field: str = "base_GaussianFlux_instFluxErr",
    sky_moments: bool = False,
    fgcm_bands: Sequence[str] = (),
    compatibility: str = "fixed",
) -> SourceTable:
    """Return the table to be measured: copied columns filled, all others at their defaults.

    Parameters
    ----------
    selected : SourceTable
        Rows of the candidates in the input catalogue, with its full schema and aliases.
    settings : section
        Configuration section ``measurement``.
    selection_flux_field, selection_flux_err_field : str
        Flux and error of the source selector's signal-to-noise cut.
    sky_moments : bool
        Add the columns of sky and alt/az moments (``do_add_sky_moments``).
    fgcm_bands : sequence of str
        Bands of the FGCM magnitudes to add; empty for none (``do_add_fgcm_photometry``).
    compatibility : {"fixed", "lsst"}

    Raises
    ------
    InputError
        If the input catalogue lacks a slot or a column.
    """
    active = active_plugins(settings, compatibility)
    aliases = aliases_of(selected, settings, compatibility)
    columns, info = _copied_columns(selected, aliases)
    for name, source in (
        ("calib_psf_selection_flux", selection_flux_field),
        ("calib_psf_selection_flux_err", selection_flux_err_field),
    ):
        true_name = _require(selected, source, "the signalToNoise section of source_selector")
        columns[name] = np.array(selected[source], dtype=np.float64)
        info[name] = ColumnInfo("ct", selected.info.get(true_name, ColumnInfo()).description)
    for field in _new_fields(active, sky_moments=sky_moments, fgcm_bands=fgcm_bands):
        if field.name in columns:
            raise InputError(
                f"{selected.origin}: the column {field.name!r} is copied from there and measured as well; "
                "take the plugin that writes it out of measurement.plugins.names"
            )
        columns[field.name] = default_column(field.dtype, len(selected))
        info[field.name] = ColumnInfo(field.unit, field.description)
    return SourceTable(columns, info, aliases, selected.origin)


def aliases_of(selected: SourceTable, settings: Any, compatibility: str) -> dict[str, str]:
    """Return slots and aliases of the output (0.3); all other aliases of the input are dropped."""
    aliases = {
        slot: getattr(settings.slots, field, None) or _slot_target(selected, slot)
        for slot, field in COPIED_SLOTS.items()
    }
    for slot, field in OWN_SLOTS.items():
        target = getattr(settings.slots, field, None)
        if target is not None:
            aliases[slot] = target
    shape = aliases.get("slot_Shape", "")
    for plugin in active_plugins(settings, compatibility):
        aliases |= plugin.aliases(centroid=aliases["slot_Centroid"], shape=shape)
    return aliases


def expand_aliases(table: SourceTable, *, alias_columns: bool = True) -> SourceTable:
    """Return the table for export: each column followed by a duplicate per alias (0.4) [M-Q2].

    An alias applies to every column whose name *starts* with its target, component boundary or not; aliases
    are visited in ASCII order.  Duplicates share their arrays with the true columns.

    Parameters
    ----------
    table : SourceTable
        The measured table.
    alias_columns : bool
        ``output.alias_columns``; if False the table is returned as it is, with its aliases.
    """
    if not alias_columns:
        return table
    columns: dict[str, Any] = {}
    info: dict[str, ColumnInfo] = {}
    for name, values in table.columns.items():
        for shown in (name, *_aliased_names(name, table.aliases)):
            columns[shown] = values
            if name in table.info:
                info[shown] = table.info[name]
    return SourceTable(columns, info, {})


def _aliased_names(name: str, aliases: Mapping[str, str]) -> list[str]:
    """Return the names under which aliases show a column, in ASCII order of the aliases."""
    return [
        alias + name[len(target) :] for alias, target in sorted(aliases.items()) if name.startswith(target)
    ]


def _copied_columns(
    selected: SourceTable, slots: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, ColumnInfo]]:
    """Return the columns taken over from the input (0.2 steps 1-4), in output order.

    The centroid's flags come along only through an alias of the aperture fluxes that points to them [M-Q1].
    """
    names = [_require(selected, name) for name in MINIMAL]
    centroid = slots["slot_Centroid"]
    names += [_require(selected, f"{centroid}_{axis}", "measurement.slots.centroid") for axis in ("x", "y")]
    aliases = {**selected.aliases, **{slot: slots[slot] for slot in COPIED_SLOTS}}
    for pattern in COPIED_GLOBS:
        names += [name for name in selected if _matches(name, aliases, pattern)]
    names = list(dict.fromkeys(names))
    return (
        {name: selected.columns[name].copy() for name in names},
        {name: selected.info[name] for name in names if name in selected.info},
    )


def _matches(name: str, aliases: Mapping[str, str], pattern: str) -> bool:
    return any(fnmatchcase(shown, pattern) for shown in (name, *_aliased_names(name, aliases)))


def _slot_target(selected: SourceTable, slot: str) -> str:
    if slot not in selected.aliases:
        raise InputError(
            f"{selected.origin}: the slot {slot!r} is missing, and measurement.slots."
            f"{COPIED_SLOTS[slot]} names nothing in its place; name a measurement of the catalogue there"
        )
    return selected.aliases[slot]


def _require(selected: SourceTable, name: str, asked_by: str = "the star table") -> str:
    """Return the true name of a column that must be there."""
    demand_column(selected, name, asked_by=asked_by)
    return selected.resolve(name)


def _new_fields(
    active: Sequence[MeasurementPlugin[Any]], *, sky_moments: bool, fgcm_bands: Sequence[str]
) -> list[Field]:
    """Return the fields that are not copied (0.2 steps 6-10)."""
    fluxes = sorted(flux for plugin in active for flux in plugin.fluxes())
    return [
        *PSF_FIELDS,
        *(_sky_moment_fields() if sky_moments else ()),
        *_fgcm_fields(fgcm_bands),
        *(field for plugin in active if plugin.name != CHECK_PLUGIN for field in plugin.fields()),
        flag(INVALID_PSF_FLAG, "Invalid PSF at this location."),
        *_ap_corr_fields(fluxes),
        *(field for plugin in active if plugin.name == CHECK_PLUGIN for field in plugin.fields()),
    ]


def _ap_corr_fields(fluxes: Sequence[str]) -> list[Field]:
    """Return the columns of measuring and applying aperture corrections."""
    used = "Set if source was used in measuring aperture correction."
    fields = [flag(f"apcorr_{name}_used", used) for name in ("slot_CalibFlux", *fluxes)]
    for name in fluxes:
        fields += [
            Field(f"{name}_apCorr", "float64", "", f"aperture correction applied to {name}"),
            Field(
                f"{name}_apCorrErr",
                "float64",
                "",
                f"standard deviation of aperture correction applied to {name}",
            ),
            flag(f"{name}_flag_apCorr", f"set if unable to aperture correct {name}"),
        ]
    return fields


def _sky_moment_fields() -> list[Field]:
    """Return the columns of moments on the sky and in altitude and azimuth (0.2 step 7)."""
    second = "Second moment of {0} shape along "
    cross = "Cross-term of {0} shape second moments in "
    sky = {
        "Iuu": second + "RA axis in sky coordinates (arcsec^2).",
        "Ivv": second + "Dec axis in sky coordinates (arcsec^2).",
        "Iuv": cross + "sky coordinates (arcsec^2).",
    }
    alt_az = {
        "Ialtalt": second + "altitude axis (arcsec^2).",
        "Iazaz": second + "azimuth axis (arcsec^2).",
        "Ialtaz": cross + "alt/az coordinates (arcsec^2).",
    }
    return [
        Field(f"{prefix}_{element}", "float32", "", sentence.format(subject))
        for elements in (sky, alt_az)
        for prefix, subject in (("shape", "source"), ("psfShape", "PSF"))
        for element, sentence in elements.items()
    ]


def _fgcm_fields(bands: Sequence[str]) -> list[Field]:
    return [
        Field(f"fgcm_mag_{band}", "float32", "", f"FGCM standard star magnitude in {band} band (mag).")
        for band in bands
    ]
