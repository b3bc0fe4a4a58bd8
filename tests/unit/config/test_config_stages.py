"""K05: no setting is decoration; every leaf reaches the digest of a stage, or is listed with its reason."""

import json
import os
import subprocess
import sys
from typing import Any, Literal, get_args, get_origin

import pytest

from finalchar.config import STAGES, Config
from finalchar.config_base import is_unordered
from finalchar.config_choices import ChoiceSection, PluginSection
from finalchar.config_stages import _STAGES, WITHOUT_EFFECT_ON_PRODUCTS
from finalchar.config_text import all_keys, section_in
from finalchar.errors import ConfigError
from finalchar.provenance import digest

# Settings that only one value is legal for, each with its reason.
ONE_VALUE = {
    "measurement.plugins.modelfit_CModel.initial.maxRadius": "only the truncation of the profile itself",
    "measurement.plugins.modelfit_CModel.exp.maxRadius": "only the truncation of the profile itself",
    "measurement.plugins.modelfit_CModel.dev.maxRadius": "only the truncation of the profile itself",
    "measurement.undeblended.names": "undeblended measurement is not supported, the list must be empty",
}
# Settings that act only beside another one, which is set with them.
BESIDE = {
    "reserve_selection.cell_size_arcsec": {"reserve_selection.method": "stable"},
    "fgcmPhotometryBands": {"do_add_fgcm_photometry": True},
}
# Legal values for text that is not free.
LEGAL = {
    "psf_determiner.piff.interpolant": "Lanczos(7)",
    "psf_determiner.piff.stampSize": 31,
    "psf_determiner.piff.piffPsfConfigYaml": "{model: {type: Gaussian}, interp: {type: Mean}}",
    "psf_determiner.piff.color": {"g": "g-i"},
    "input.images.flags": {"SAT": [1]},
    "input.catalogue.shape": ["X2WIN_IMAGE", "Y2WIN_IMAGE", "XYWIN_IMAGE"],
    "input.catalogue.flags": {"catalogue_flag": "FLAGS & 1"},
    "source_selector.references.colorLimits": {"a": {"primary": "g", "secondary": "i"}},
    "measure_ap_corr.sourceSelector.references.colorLimits": {"a": {"primary": "g", "secondary": "i"}},
}
# Whole numbers whose default is near the largest legal value.
AT_THE_UPPER_LIMIT = (
    "measurement.plugins.modelfit_DoubleShapeletPsfApprox.innerOrder",
    "measurement.plugins.modelfit_DoubleShapeletPsfApprox.outerOrder",
    "psf_determiner.piff.modelSize",
)
# Settings that are legal only together with a sibling: values of both.
TOGETHER = {
    f"measurement.plugins.modelfit_CModel.{stage}.{leaf}": {"profileName": profile, "nComponents": number}
    for stage, profile, number in (("initial", "luv", 8), ("exp", "luv", 8), ("dev", "lux", 6))
    for leaf in ("profileName", "nComponents")
} | {f"input.catalogue.{leaf}": {"ra": "ALPHA", "dec": "DELTA"} for leaf in ("ra", "dec")}


def leaves():
    """Dotted path and annotation of every leaf of the model."""
    for path in all_keys(Config):
        model = Config
        for part in path[:-1]:
            model = section_in(model.model_fields[part].annotation)
        annotation = model.model_fields[path[-1]].annotation
        if section_in(annotation) is None:
            yield ".".join(path), annotation


def other_value(path, annotation, value):
    """A legal value that differs from `value`."""
    if path in LEGAL:
        return LEGAL[path]
    kinds = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return next(choice for choice in get_args(annotation) if choice != value)
    if get_origin(annotation) is list:
        return [] if value else [{str: "other", int: 3, float: 3.0}[kinds[0]]]
    if get_origin(annotation) is dict:
        return {} if value else {"r": {str: "other", int: 1, float: 1.0}.get(kinds[1], {})}
    kind = kinds[0] if kinds else annotation
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if kind is bool:
        return not value
    if kind is str:
        return f"{value}_other"
    if kind is float:
        return value * 0.9 if value else 0.5
    start = value if value is not None else 1
    return start + 2 if path not in AT_THE_UPPER_LIMIT else start - 1


def activated(path):
    """A configuration in which the choice that a leaf belongs to is the active one."""
    config = Config()
    if path.startswith(("input.images.", "input.catalogue.")):
        config = Config(input={"preset": "sextractor", "images": {"weight_kind": "variance"}})
    section: Any = config
    for part in path.split(".")[:-1]:
        if isinstance(section, ChoiceSection) and part in type(section).NAMES:
            section.name = part
        if isinstance(section, PluginSection) and part in type(section).NAMES and part not in section.names:
            section.names = [*section.names, part]
        section = getattr(section, part)
    for name, value in BESIDE.get(path, {}).items():
        assign(config, name, value)
    return config


def all_settings(config):
    """Settings of every stage as text, validated once."""
    checked = config.checked()
    return {stage: json.dumps(settings_of(checked), sort_keys=True) for stage, settings_of in _STAGES.items()}


def assign(config, path, value):
    *above, leaf = path.split(".")
    section, parent = config, config
    for part in above:
        parent, section = section, getattr(section, part)
    if path in TOGETHER:
        setattr(parent, above[-1], section.model_copy(update=TOGETHER[path]))
    else:
        setattr(section, leaf, value)


@pytest.mark.parametrize(
    ("path", "annotation"), list(leaves()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_leaf_changes_the_digest_of_a_stage_or_has_a_reason(path, annotation):
    if path in ONE_VALUE or (get_origin(annotation) is Literal and len(get_args(annotation)) == 1):
        return  # one legal value: the description of the field says why
    config = activated(path)
    before = all_settings(config)
    section: Any = config
    for part in path.split("."):
        value, section = section, getattr(section, part)
    leaf = path.rsplit(".", 1)[-1]
    if isinstance(value, ChoiceSection) and leaf == "name":
        new = next((n for n in type(value).NAMES if n != section), None)
        if new is None:
            pytest.skip("one choice only yet")
    elif isinstance(value, PluginSection) and leaf == "names":
        new = section[:-1]
    else:
        new = other_value(path, annotation, section)
    try:
        assign(config, path, new)
        after = all_settings(config)
    except ConfigError as refused:  # no decoration either: the value is looked at, and the sentence names it
        named = path.rsplit(".", 1)[0] in str(refused)
        if path in LEGAL or not named:
            raise
        return
    changed = [stage for stage in STAGES if after[stage] != before[stage]]
    assert bool(changed) != (path in WITHOUT_EFFECT_ON_PRODUCTS), (path, new, changed)


def test_lists_of_exceptions_name_existing_leaves():
    names = {path for path, _ in leaves()}
    assert set(WITHOUT_EFFECT_ON_PRODUCTS) <= names
    assert set(ONE_VALUE) <= names
    assert set(LEGAL) <= names
    assert set(BESIDE) <= names
    assert set(TOGETHER) <= names
    assert set(AT_THE_UPPER_LIMIT) <= names
    assert all(WITHOUT_EFFECT_ON_PRODUCTS.values())


def sets_of_names():
    """Paths of all settings that are sets of names."""
    for path in all_keys(Config):
        model = Config
        for part in path[:-1]:
            model = section_in(model.model_fields[part].annotation)
        if is_unordered(model, path[-1]):
            yield ".".join(path)


@pytest.mark.parametrize("path", list(sets_of_names()))
def test_order_of_a_set_of_names_decides_nothing(path):
    names = ["base_PsfFlux", "base_GaussianFlux", "modelfit_CModel"]
    one, other = activated(path), activated(path)
    if path.endswith("plugins.names"):
        names = [*one.measurement.plugins.names]
    assign(one, path, names)
    assign(other, path, names[::-1])
    assert one.stage_settings("detector") == other.stage_settings("detector")


def test_only_the_bands_of_magnitudes_are_an_ordered_list_of_names():
    """A new list of names is a set, or it is named here because its order decides the columns."""
    lists = {path for path, annotation in leaves() if annotation == list[str]}
    assert lists - set(sets_of_names()) == {
        "fgcmPhotometryBands",
        "input.catalogue.error_ellipse",
        "input.catalogue.shape",
        "isolated_star_association.band_order",
        "isolated_star_association.extra_columns",
        "measurement.undeblended.names",
    }


def test_zeros_of_both_signs_are_the_same_settings():
    config, other = Config(), Config()
    other.measurement.noiseReplacer.noiseOffset = -0.0
    other.reserve_selection.reserve_fraction = config.reserve_selection.reserve_fraction = 0.0
    for stage in STAGES:
        assert digest(config.stage_settings(stage)) == digest(other.stage_settings(stage))
    other.reserve_selection.reserve_fraction = -0.0
    assert digest(config.stage_settings("tract")) == digest(other.stage_settings("tract"))


@pytest.mark.parametrize("value", [-2.0, -1.5, -0.5, 0.0, 1.0])
def test_no_smoothing_of_kron_fluxes_is_written_in_one_way(value):
    kron = Config().measurement.plugins.ext_photometryKron_KronFlux
    with pytest.raises(ConfigError, match=rf"smoothingSigma': {value} is not supported; it must be -1\.0"):
        kron.smoothingSigma = value
    kron.smoothingSigma = -1


@pytest.mark.parametrize("name", ["objectSize", "flagged", "null"])
def test_flux_that_the_selector_science_lends_decides_as_well(name):
    """[S-Q8]: the columns calib_psf_selection_flux come from a section that is not the active one."""
    config, other = Config(), Config()
    config.source_selector.name = other.source_selector.name = name
    other.source_selector.science.signalToNoise.fluxField = "base_PsfFlux_instFlux"
    assert digest(config.stage_settings("detector")) != digest(other.stage_settings("detector"))
    other.source_selector.science.signalToNoise.fluxField = "base_GaussianFlux_instFlux"
    other.source_selector.science.signalToNoise.minimum = 1.0
    assert digest(config.stage_settings("detector")) == digest(other.stage_settings("detector"))


def test_digest_does_not_depend_on_the_order_in_the_file_nor_on_inactive_choices():
    config, other = Config(), Config()
    other.source_selector.flagged.field = "other"
    other.measure_ap_corr.sourceSelector.objectSize.widthMin = 0.1
    assert digest(config.stage_settings("detector")) == digest(other.stage_settings("detector"))
    other.measure_ap_corr.sourceSelector.name = "objectSize"
    assert digest(config.stage_settings("detector")) != digest(other.stage_settings("detector"))


def test_tract_stage_knows_only_the_reserve_selection():
    config = Config()
    before = digest(config.stage_settings("tract"))
    config.measure_ap_corr.fitConfig.orderX = 1
    config.psf_determiner.piff.spatialOrder = 1
    assert digest(config.stage_settings("tract")) == before
    config.reserve_selection.reserve_fraction = 0.2
    assert digest(config.stage_settings("tract")) != before


def test_importing_the_configuration_is_cheap():
    """The planner imports it: no library that takes long to import may come along."""
    heavy = ["scipy", "astropy", "galsim", "piff", "pandas", "pyarrow", "fitsio", "matplotlib"]
    code = f"import sys, finalchar.config; print([m for m in {heavy!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
