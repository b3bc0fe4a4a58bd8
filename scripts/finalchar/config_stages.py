"""Which settings the products of a stage depend on.

A setting that no stage depends on changes no product; `WITHOUT_EFFECT_ON_PRODUCTS` lists those, each with its
reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finalchar.config_base import Section, is_unordered
from finalchar.config_choices import ChoiceSection, PluginSection

if TYPE_CHECKING:
    from finalchar.config import Config

__all__ = ["WITHOUT_EFFECT_ON_PRODUCTS", "active_values", "stage_settings"]

WITHOUT_EFFECT_ON_PRODUCTS: dict[str, str] = {
    "survey": "says where the inputs are, which are compared by content",
    "sheets.detectors": "says where the sheet is, which is compared by content",
    "sheets.tracts": "says where the sheet is, which is compared by content",
    "output.folder": "says where the products go",
    "detectors_per_job": "divides the work; products do not depend on it",
    "visits_per_run": "divides the work; products do not depend on it",
    "input.preset": "what a preset says stands in the settings themselves",
    "full_graph": "shows jobs that have nothing to do; products do not depend on it",
    "staleness.software": "decides what is made again, not what it looks like",
    "staleness.trust_stat": "decides how files are compared",
    "staleness.hash_limit_gb": "decides where files are hashed",
}


def active_values(section: Section) -> dict[str, Any]:
    """Plain values of a section; of a choice only the active one, of plugins only those that are run."""
    values: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(section, ChoiceSection) and name not in ("name", section.name):  # type: ignore[attr-defined]
            continue
        kept = ("names", "external", *section.active) if isinstance(section, PluginSection) else ()
        if isinstance(section, PluginSection) and name not in kept and not _own(name):
            continue
        plain = _plain(value)
        values[name] = sorted(plain) if is_unordered(type(section), name) else plain
    return values


def _own(plugin: str) -> bool:
    """Whether a plugin is one of our checks, which are run without being named."""
    return plugin.startswith("finalchar_")


def _plain(value: Any) -> Any:
    """A value as JSON knows it; whole floats stay floats, and there is one zero."""
    if isinstance(value, Section):
        return active_values(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return 0.0 if isinstance(value, float) and value == 0.0 else value


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """Plain values that the stage's products depend on; see `Config.stage_settings`."""
    return _STAGES[stage](config.checked())


def _association(config: Config) -> dict[str, Any]:
    section = active_values(config.isolated_star_association)
    return {
        "isolated_star_association": section,
        "compatibility": config.compatibility,
    }


def _tract(config: Config) -> dict[str, Any]:
    reserve = active_values(config.reserve_selection)
    if reserve["method"] == "lsst":
        del reserve["cell_size_arcsec"]
    return {"id_column": config.id_column, "reserve_selection": reserve}


def _list(config: Config) -> dict[str, Any]:
    fgcm: dict[str, Any] = {"bands": None, "colors": None}
    if config.do_add_fgcm_photometry:
        fgcm["bands"] = sorted(config.fgcmPhotometryBands)
    determiner = config.psf_determiner.active
    if getattr(determiner, "useColor", False):
        fgcm["colors"] = _plain(determiner.color)
    return {
        "compatibility": config.compatibility,
        "id_column": config.id_column,
        "fgcm": fgcm,
    }


def _detector(config: Config) -> dict[str, Any]:
    sections = (
        "source_selector",
        "make_psf_candidates",
        "psf_determiner",
        "psf_acceptance",
        "measurement",
        "measure_ap_corr",
        "ap_corr_acceptance",
        "apply_ap_corr",
        "do_add_sky_moments",
        "do_add_fgcm_photometry",
        "id_column",
        "compatibility",
    )
    settings = {name: _plain(getattr(config, name)) for name in sections}
    settings["input"] = _input(config)
    if config.do_add_fgcm_photometry:
        settings["fgcmPhotometryBands"] = list(config.fgcmPhotometryBands)
    settings["output"] = {
        "record_time": config.output.record_time,
        "alias_columns": config.output.alias_columns,
    }
    settings |= _lent_settings(config)
    files = _plugin_files(config)
    if files:
        settings["plugin_files"] = files
    return settings


def _input(config: Config) -> dict[str, Any]:
    """What the input files are; how plain images are read only where they are."""
    values = active_values(config.input)
    kept = ("kind", "images", "catalogue") if config.input.kind == "images" else ("kind",)
    return {name: values[name] for name in kept}


def _lent_settings(config: Config) -> dict[str, Any]:
    """What an inactive choice lends: the flux of the selection where the selector names none [S-Q8]."""
    selector = config.source_selector
    if hasattr(selector.active, "signalToNoise"):
        return {}
    lent = selector.science.signalToNoise
    return {"selection_flux": [lent.fluxField, lent.errField]}


def _plugin_files(config: Config) -> dict[str, str]:
    """Digests of the source of plugins ``module:Class``: what they measure depends on what stands there."""
    names = [name for name in config.measurement.plugins.names if ":" in name]
    return {name: _source_digest(name) for name in names}


def _source_digest(name: str) -> str:
    """Digest of the whole package that the module of a plugin lies in, and of the file of its class.

    Of the package all modules count, compiled ones too.
    """
    import hashlib
    import sys
    from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
    from pathlib import Path

    from finalchar.measure import plugins

    module = plugins.get(name)
    files = {Path(module.__file__), Path(str(sys.modules[module.Plugin.__module__].__file__))}
    for folder in getattr(sys.modules[name.partition(":")[0].split(".")[0]], "__path__", ()):
        for suffix in {*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES}:
            files.update(Path(folder).rglob(f"*{suffix}"))
    contents = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256(" ".join(contents).encode()).hexdigest()


def _visit(config: Config) -> dict[str, Any]:
    return {"compatibility": config.compatibility, "output": {"piff": config.output.piff}}


_STAGES = {
    "association": _association,
    "tract": _tract,
    "list": _list,
    "detector": _detector,
    "visit": _visit,
}
