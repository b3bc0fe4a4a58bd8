"""K05: every setting changes a product, a status or a figure, is refused, or is listed with its reason.

That a setting reaches the digest of a stage is tested with the configuration; here each is set far from its
value, or to several values until one acts, and the cheapest run of `setting_probes` is compared with the run
without it.  A setting that acts only beside others is tried with those (`BESIDE`) in both runs.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Literal, get_args, get_origin

import pytest
import setting_probes as probes
from gaussian_psf import quick_config

from finalchar.config import Config
from finalchar.config_choices import ChoiceSection
from finalchar.config_stages import WITHOUT_EFFECT_ON_PRODUCTS
from finalchar.config_text import all_keys, section_in
from finalchar.errors import ConfigError

CMODEL = "measurement.plugins.modelfit_CModel"
SHAPELETS = "measurement.plugins.modelfit_DoubleShapeletPsfApprox"
PIFF = "psf_determiner.piff"
PCA = "psf_determiner.pca"
PSFEX = "psf_determiner.psfex"
SELECTORS = ("source_selector", "measure_ap_corr.sourceSelector")

# Settings of the reference that finalchar does not support: other values are refused when they are set.
REFUSED = (
    "*.shiftKernel",
    "*.maxRadius",
    "*.priorSource",
    "*.priorName",
    "*.linearPriorConfig.*",
    "*.doSaveIterations",
    f"{SHAPELETS}.optimizer.numDiff*",
    "*.addFlux",
    "*.subtractCenter",
    "*.useSourceCentroidOffset",
    "*.deblendNChild",
    "measurement.plugins.base_GaussianFlux.background",
    "measurement.plugins.ext_photometryKron_KronFlux.fixed",
    "measurement.plugins.ext_photometryKron_KronFlux.nIterForRadius",
    "measurement.plugins.ext_photometryKron_KronFlux.useFootprintRadius",
    "measurement.plugins.ext_photometryKron_KronFlux.refRadiusName",
    "measurement.plugins.ext_photometryKron_KronFlux.smoothingSigma",
    "measurement.noiseReplacer.noiseSource",
    "measurement.undeblended.names",
    f"{PSFEX}.sizeCell?",
    f"{PSFEX}.tolerance",
    f"{PSFEX}.lam",
    f"{PSFEX}.reducedChi2ForPsfCandidates",
    f"{PSFEX}.spatialReject",
)

# Settings whose effect this detector cannot show, each with its reason.
NOT_SHOWN_HERE: dict[str, str] = {
    f"{PIFF}.piffLoggingLevel": "decides what is logged, no product",
}
# Settings that other tests show at work.
SHOWN_ELSEWHERE = {
    "measurement.plugins.external": "tests/unit/measure/test_external_plugins.py",
    "isolated_star_association.*": "tests/unit/stars/test_association_settings.py",
    "input.*": "tests/unit/characterize/test_other_surveys.py",
}
# Settings that let something pass that fails without them.
LET_PASS = (
    f"{PIFF}.zerothOrderInterpNotEnoughStars",
    "psf_acceptance.require_convergence",
    "measure_ap_corr.allowFailure",
)

_ALL_CUTS = {
    "science": {
        **{f"do{cut}": True for cut in ("FluxLimit", "Flags", "Unresolved", "SignalToNoise", "Isolated")},
        **{f"do{cut}": True for cut in ("RequireFiniteRaDec", "RequirePrimary", "SkySources")},
        "doCentroidErrorLimit": True,
        "fluxLimit.minimum": 15000.0,
        "unresolved.maximum": 0.7,
        "signalToNoise.minimum": 120.0,
    },
    "references": {
        **{f"do{cut}": True for cut in ("MagLimit", "Flags", "Unresolved", "SignalToNoise", "MagError")},
        "doCullFromMaskedRegion": True,
        "magLimit.maximum": 23.5,
        "flags.bad": ["base_PixelFlags_flag_edge"],
        "unresolved.maximum": 0.7,
        "signalToNoise.minimum": 50.0,
        "magError.maximum": 0.19,
    },
    "objectSize": {"doFluxLimit": True, "fluxMin": 60000.0, "signalToNoiseMin": 150.0},
    "flagged": {"field": "detect_isPrimary"},
}
_SMALL_FIT = {f"{PIFF}.modelSize": 5, f"{PIFF}.stampSize": 9, f"{PIFF}.spatialOrder": 0}
# What is set beside a setting in both runs; the last pattern that fits decides.
BESIDE = {
    **{
        f"{selector}.{name}.*": {f"{selector}.{name}.{leaf}": value for leaf, value in cuts.items()}
        for selector in SELECTORS
        for name, cuts in _ALL_CUTS.items()
    },
    **{
        f"{at}.objectSize.doSignalToNoiseLimit": {f"{at}.objectSize.signalToNoiseMin": 300.0}
        for at in SELECTORS
    },
    **{f"{at}.science.doFluxLimit": {f"{at}.science.fluxLimit.minimum": 1e5} for at in SELECTORS},
    "reserve_selection.cell_size_arcsec": {"reserve_selection.method": "stable"},
    "fgcmPhotometryBands": {"do_add_fgcm_photometry": True},
    f"{PIFF}.*": {f"{PIFF}.modelSize": 9, f"{PIFF}.stampSize": 15, f"{PIFF}.spatialOrder": 1},
    f"{PIFF}.piffBasisPolynomialSolver": {**_SMALL_FIT, f"{PIFF}.solver": None},
    f"{PIFF}.solver": _SMALL_FIT,
    f"{PIFF}.downsampleRandomSeed": {f"{PIFF}.maxCandidates": 20},
    f"{PIFF}.zerothOrderInterpNotEnoughStars": {f"{PIFF}.spatialOrder": 8},
    f"{PIFF}.outlierMaxRemove": {f"{PIFF}.outlierNSigma": 0.5},
    f"{PIFF}.color": {f"{PIFF}.useColor": True},
    f"{PIFF}.colorOrder": {f"{PIFF}.useColor": True, f"{PIFF}.color": {"g": "g-i"}},
    f"{PIFF}.useColor": {f"{PIFF}.color": {"g": "g-i"}},
    f"{PCA}.downsampleRandomSeed": {f"{PCA}.maxCandidates": 28, f"{PCA}.spatialOrder": 0},
    f"{PCA}.doMaskBlends": {f"{PCA}.nIterForPsf": 0, f"{PCA}.nStarPerCell": 0},
    f"{PCA}.tolerance": {f"{PCA}.nonLinearSpatialFit": True},
    f"{PSFEX}.downsampleRandomSeed": {f"{PSFEX}.maxCandidates": 24, f"{PSFEX}.spatialOrder": 1},
    f"{PSFEX}.rejectFlaggedCentroids": {f"{PSFEX}.photometricFluxField": "planted_flux"},
    "psf_acceptance.require_convergence": {"psf_acceptance.min_stars_per_term": 0.0},
    "measure_ap_corr.allowFailure": {"measure_ap_corr.minDegreesOfFreedom": 100},
    "ap_corr_acceptance.on_suspect": {"ap_corr_acceptance.maximum_range": 1e-4},
    "apply_ap_corr.doFlagApCorrFailures": {"apply_ap_corr.xColumn": "x_with_nan"},
    "measurement.plugins.ext_photometryKron_KronFlux.enforceMinimumRadius": {
        "measurement.plugins.ext_photometryKron_KronFlux.minimumRadius": 20.0
    },
    f"{SHAPELETS}.optimizer.noSR1Term": {f"{SHAPELETS}.optimizer.skipSR1UpdateThreshold": -1e12},
    f"{SHAPELETS}.optimizer.trustRegionShrinkReductionRatio": {
        f"{SHAPELETS}.optimizer.trustRegionInitialSize": 0.05,
        f"{SHAPELETS}.optimizer.trustRegionGrowReductionRatio": 1e7,
    },
    f"{CMODEL}.*.doRecordTime": {"output.record_time": True},
}
# Values to be tried, instead of those that the type suggests.
VALUES = {
    "*.colorLimits": [{"a": {"primary": "flux", "secondary": "base_PsfFlux_instFlux", "maximum": 0.0}}],
    "*.flags.good": [["sky_source"]],
    "*.flags.bad": [["detect_isPrimary"]],
    "*.skyFlag.bad": [["sky_source"]],
    "*.badMaskNames": [[]],
    "*.gradientThreshold": [1e4],
    f"{CMODEL}.region.nFitRadiiMin": [1e3],
    "*.skipSR1UpdateThreshold": [1e12, -1e12],
    f"{SHAPELETS}.optimizer.trustRegionShrinkReductionRatio": [1e6],
    "source_selector.name": ["null"],
    "psf_determiner.name": ["pca"],
    "measure_ap_corr.sourceSelector.name": ["null"],
    "psf_acceptance.max_size_ratio": [1.0001],
    "psf_acceptance.unit_sum_tolerance": [1e-18],
    "psf_acceptance.grid_points": [4],
    "measurement.slots.modelFlux": ["base_GaussianFlux"],
    f"{PIFF}.interpolant": ["Lanczos(3)"],
    f"{PSFEX}.stampSize": [31],
    f"{PSFEX}.samplingSize": [1.0],
    f"{PSFEX}.badMaskBits": [["BAD"]],
    f"{PSFEX}.photometricFluxField": ["base_CircularApertureFlux_12_0_instFlux"],
    f"{PIFF}.stampSize": [21],
    f"{PIFF}.modelSize": [11],
    f"{PIFF}.piffPsfConfigYaml": ["{model: {type: Gaussian}, interp: {type: Mean}}"],
    f"{PIFF}.color": [{"g": "g-i"}],
    f"{PIFF}.spatialOrderPerBand": [{"g": 0}],
    f"{PIFF}.piffBasisPolynomialSolver": ["qr"],
    f"{PIFF}.solver": ["qr"],
    f"{PIFF}.minimumUnmaskedFraction": [0.99],
    f"{PIFF}.zeroWeightMaskBits": [[]],
    "measurement.plugins.base_PsfFlux.badMaskPlanes": [["BAD"]],
    "measurement.slots.centroid": ["ext_shapeHSM_HsmSourceMoments"],
    "measurement.slots.apFlux": ["base_CircularApertureFlux_9_0"],
    "measurement.slots.calibFlux": ["base_CircularApertureFlux_9_0"],
    "measurement.slots.*": [None, "base_SdssShape"],
    "measure_ap_corr.allowFailure": [["base_GaussianFlux", "base_PsfFlux"]],
    "measure_ap_corr.refFluxName": ["base_CircularApertureFlux_9_0"],
    "apply_ap_corr.ignoreList": [["base_PsfFlux"]],
    "apply_ap_corr.proxies": [{"base_PsfFlux": "base_GaussianFlux"}],
    "apply_ap_corr.?Column": ["base_PsfFlux_chi2"],
}


# ------------------------------------------------------------------------------------------- enumeration


def leaves():
    """Dotted path and annotation of every setting that products depend on."""
    for path in all_keys(Config):
        model = Config
        for part in path[:-1]:
            model = section_in(model.model_fields[part].annotation)
        name, annotation = ".".join(path), model.model_fields[path[-1]].annotation
        is_shown = any(fnmatchcase(name, pattern) for pattern in SHOWN_ELSEWHERE)
        if section_in(annotation) is None and name not in WITHOUT_EFFECT_ON_PRODUCTS and not is_shown:
            yield name, annotation


LEAVES = list(leaves())


def fitting(table, path, default):
    """The value of the first pattern that fits a path, in the order of exact ones first."""
    if path in table:
        return table[path]
    return next((value for pattern, value in table.items() if fnmatchcase(path, pattern)), default)


def is_refused(path):
    return any(fnmatchcase(path, pattern) for pattern in REFUSED)


def values_to_try(path, annotation, value):
    """Legal and other values that are not `value`."""
    given = fitting(VALUES, path, None)
    if given is not None:
        return given
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if get_origin(annotation) is Literal:
        return [kind for kind in kinds if kind != value] or ["other"]
    if get_origin(annotation) is list:
        return [[], value[:-1]] if value else [[{str: "other", int: 3, float: 3.0}[kinds[0]]]]
    kind = kinds[0] if kinds else annotation
    if kind is bool:
        return [not value]
    if kind is str:
        return [f"{value}_other"]
    if kind is int:
        return [number for number in (1, 0, 3, 2, 5, 10 * (value or 1)) if number != value]
    scale = abs(value) if value else 1.0
    return [scale * factor for factor in (0.1, 10.0, 1.5, 0.5, 1e-3, 1e3, 1e5, 1e-6, -5.0)]


def assign(config, path, value):
    *above, leaf = path.split(".")
    section = config
    for part in above:
        section = getattr(section, part)
    setattr(section, leaf, value)


def value_of(config, path):
    for part in path.split("."):
        config = getattr(config, part)
    return config


def base_config(path):
    """The configuration that a setting is compared with: its choice active, what it needs beside it set."""
    config = Config()
    if probe_of(path, None)[0] in ("whole", "corrections"):
        config = quick_config()
    section = config
    for part in path.split(".")[:-1]:
        if isinstance(section, ChoiceSection) and part in type(section).NAMES:
            section.name = part
        section = getattr(section, part)
    for name, value in fitting(BESIDE, path, {}).items():
        assign(config, name, value)
    return config


def probe_of(path, folder):
    """Name and function of the run that can show what a setting does."""
    plugin = path.split(".")[2] if path.startswith("measurement.plugins.") else ""
    if path.endswith((".doRecordTime", ".record_time")):
        return "times", probes.times_filled
    if plugin not in ("", "names"):
        fallback = path.endswith(".fallbackInitialMomentsPsfFactor")
        return f"plugin {plugin} {fallback}", probes.plugin_alone(plugin, without_moments=fallback)
    for beginning, name, probe in (
        ("reserve_selection", "list", probes.tract_and_list),
        ("id_column", "list", probes.tract_and_list),
        ("source_selector", "selection", probes.selection),
        ("make_psf_candidates", "candidates", probes.candidates),
        ("psf_determiner", "psf", probes.psf),
        ("psf_acceptance", "acceptance", probes.accepted),
        ("measure_ap_corr", "corrections", probes.corrections),
        ("ap_corr_acceptance", "corrections", probes.corrections),
        ("apply_ap_corr", "corrections", probes.corrections),
        ("measurement.segmentation", "segmentation", probes.segmentation),
        ("output.piff", "visit", probes.consolidated(folder)),
    ):
        if path.startswith(beginning):
            return name, probe
    return "whole", probes.whole


# ------------------------------------------------------------------------------------------------- tests

BASE_OUTCOMES: dict[tuple[str, str], dict] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("visit")


def base_outcome(name, probe, config):
    key = (name, json.dumps(config.to_plain(), sort_keys=True))
    if key not in BASE_OUTCOMES:
        BASE_OUTCOMES[key] = probes.outcome(probe, config)
    return BASE_OUTCOMES[key]


@pytest.mark.parametrize(
    ("path", "annotation"),
    [(path, annotation) for path, annotation in LEAVES if not is_refused(path)],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_setting_acts_on_a_product_or_is_listed(path, annotation, folder, request):
    if path.startswith(PSFEX):
        request.getfixturevalue("psfex")
    config = base_config(path)
    name, probe = probe_of(path, folder)
    base = base_outcome(name, probe, config)
    assert probes.refused(base) == (path in LET_PASS), base
    value = value_of(config, path)
    for other in values_to_try(path, annotation, value):
        changed = config.model_copy(deep=True)
        try:
            assign(changed, path, other)
        except ConfigError:
            continue
        if probes.differences(base, probes.outcome(probe, changed)):
            assert path not in NOT_SHOWN_HERE, "it acts: take it off the list"
            return
    assert path in NOT_SHOWN_HERE


@pytest.mark.parametrize("path", [path for path, _ in LEAVES if is_refused(path)])
def test_setting_that_is_not_supported_is_refused(path):
    config = Config()
    annotation = dict(LEAVES)[path]
    values = values_to_try(path, annotation, value_of(config, path))
    for other in values:
        with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
            assign(config, path, other)


@pytest.mark.parametrize("path", list({probe_of(path, None)[0]: path for path, _ in LEAVES[::-1]}.values()))
@pytest.mark.filterwarnings("ignore")
def test_without_a_change_there_is_no_difference(path, tmp_path):
    """A run that differs from itself would show an effect of everything."""
    config = base_config(path)
    _, probe = probe_of(path, tmp_path)
    assert probes.differences(probes.outcome(probe, config), probes.outcome(probe, config)) == []


def test_lists_name_existing_settings():
    names = [path for path, _ in LEAVES]
    for table in (REFUSED, NOT_SHOWN_HERE, BESIDE, VALUES):
        for pattern in table:
            assert any(fnmatchcase(name, pattern) for name in names), pattern
    assert all(NOT_SHOWN_HERE.values())
