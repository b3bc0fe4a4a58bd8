"""K03, K04: nothing the user writes is dropped, and no value changes its type or its digits."""

import json
import re
from typing import get_origin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finalchar import strict_yaml
from finalchar.config import Config, load_config
from finalchar.config_text import all_keys, command_line_overrides, section_in
from finalchar.errors import ConfigError, NotYetImplementedError
from finalchar.provenance import digest


@pytest.fixture
def load(tmp_path):
    """Load a configuration from text, as the user's file."""

    def load(text, *overrides):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load


# --- K03: unknown, misspelt, misplaced keys


@pytest.mark.parametrize(
    ("text", "line", "key", "remedy"),
    [
        ("survei: a", 1, "survei", "did you mean 'survey'"),
        (
            "source_selector:\n  science:\n    signalToNoise: {minimun: 60}",
            3,
            "source_selector.science.signalToNoise.minimun",
            "did you mean 'minimum'",
        ),
        (
            "psf_determiner:\n  spatialOrder: 4",
            2,
            "psf_determiner.spatialOrder",
            "'psf_determiner.piff.spatialOrder'",
        ),
        (
            "psf_determiner:\n  spatialOrderr: 4",
            2,
            "psf_determiner.spatialOrderr",
            "'psf_determiner.piff.spatialOrder'",
        ),
        (
            "reserve_fraction: 0.2",
            1,
            "reserve_fraction",
            "it belongs to 'reserve_selection.reserve_fraction'",
        ),
        ("RESERVE_SELECTION: {}", 1, "RESERVE_SELECTION", "did you mean 'reserve_selection'"),
        ("measurement:\n  slots:\n    shap: a", 3, "measurement.slots.shap", "did you mean 'shape'"),
        ("connections: {src: a}", 1, "connections", "detectors.csv"),
        ("zzz: 1", 1, "zzz", "known here: survey"),
    ],
)
def test_unknown_key_is_refused_with_place_path_and_nearest_key(load, text, line, key, remedy):
    with pytest.raises(ConfigError, match=re.escape(remedy)) as caught:
        load(text)
    message = str(caught.value)
    assert f"config.yaml, line {line}: " in message
    assert f"Unknown configuration key '{key}'" in message
    assert "\n" not in message


def test_wrong_key_in_an_inactive_choice_is_refused(load):
    with pytest.raises(ConfigError, match=r"source_selector\.flagged\.feild'; did you mean 'field'"):
        load("source_selector: {name: science, flagged: {feild: a}}")


def test_every_misspelt_leaf_is_refused(load):
    """The kind, not the example: one changed letter in any leaf of the model is an error naming its path."""
    for path in all_keys(Config):
        wrong = [*path[:-1], path[-1] + "x"]
        with pytest.raises(ConfigError, match=re.escape(f"Unknown configuration key '{'.'.join(wrong)}'")):
            load("", ".".join(wrong) + "=1")


def test_attribute_assignment_raises_at_once():
    config = Config()
    with pytest.raises(
        ConfigError, match=r"'psf_determiner\.piff\.spatialOrderr'; did you mean 'spatialOrder'"
    ):
        config.psf_determiner.piff.spatialOrderr = 4
    with pytest.raises(
        ConfigError, match=r"'reserve_selection\.reserve_fraction' must be a number, not 'abc'"
    ):
        config.reserve_selection.reserve_fraction = "abc"
    with pytest.raises(
        ConfigError, match=r"'reserve_selection\.reserve_fraction' must be at most 1\.0, not 1\.5"
    ):
        config.reserve_selection.reserve_fraction = 1.5
    with pytest.raises(ConfigError, match=r"must be a whole number, not True"):
        config.measure_ap_corr.fitConfig.orderX = True
    config.reserve_selection.reserve_fraction = 0.25
    assert config.reserve_selection.reserve_fraction == 0.25


def test_numbers_of_numpy_are_numbers():
    config = Config()
    config.measure_ap_corr.fitConfig.orderX = np.int64(3)
    config.reserve_selection.reserve_fraction = np.float64(0.25)
    config.do_add_sky_moments = np.bool_(True)
    assert type(config.measure_ap_corr.fitConfig.orderX) is int
    assert type(config.do_add_sky_moments) is bool
    json.dumps(config.to_plain())
    with pytest.raises(ConfigError, match=r"orderX' must be a whole number, not 3\.5"):
        config.measure_ap_corr.fitConfig.orderX = np.float64(3.5)


def test_an_assigned_section_is_checked_and_keeps_its_path():
    config = Config()
    config.reserve_selection = {"reserve_fraction": 0.3}
    with pytest.raises(ConfigError, match=r"'reserve_selection\.reserve_fraction' must be at least 0"):
        config.reserve_selection.reserve_fraction = -1.0
    with pytest.raises(ConfigError, match=r"'reserve_selection\.fraction'; did you mean 'reserve_fraction'"):
        config.reserve_selection = {"fraction": 0.3}


def test_a_list_changed_in_place_is_checked_before_it_is_used():
    config = Config()
    config.fgcmPhotometryBands.append(3)
    with pytest.raises(ConfigError, match=r"'fgcmPhotometryBands\.5' must be text, not 3"):
        config.stage_settings("detector")


def test_python_dictionary_with_unknown_key_is_refused():
    with pytest.raises(
        ConfigError, match=r"'reserve_selection\.reserve_fractoin'; did you mean 'reserve_fraction'"
    ):
        Config(reserve_selection={"reserve_fractoin": 0.1})


# --- choices


def test_unknown_choice_says_what_there_is(load):
    with pytest.raises(ConfigError, match=r"there is no PSF determiner 'pif'; did you mean 'piff'\?"):
        load("psf_determiner: {name: pif}")
    with pytest.raises(
        ConfigError, match=r"line 1: .*no measurement plugin 'base_PsfFlx'; did you mean 'base_PsfFlux'"
    ):
        load("measurement: {plugins: {names: [base_PsfFlx]}}")
    config = Config()
    with pytest.raises(ConfigError, match="no PSF determiner 'pif'"):
        config.psf_determiner.name = "pif"
    with pytest.raises(ConfigError, match="must not have 'base_PsfFlux' twice"):
        config.measurement.plugins.names = ["base_PsfFlux", "base_PsfFlux"]


def test_choice_of_lsst_that_is_still_to_come_is_told_from_an_unknown_one():
    from finalchar.config_choices import compose_choice

    section = compose_choice(
        "Determiner",
        "finalchar.psf.determiners",
        kind="PSF determiner",
        known=("piff", "later"),
        default="piff",
    )
    with pytest.raises(
        NotYetImplementedError, match=r"'later' is known, but not implemented yet; there are: .*piff"
    ):
        section(name="later")
    with pytest.raises(NotYetImplementedError, match="'later' is known"):
        section(later={"a": 1})


@pytest.mark.parametrize(
    ("text", "line", "choice"),
    [
        (
            "measurement:\n  plugins:\n    names:\n    - base_PsfFlux\n    - base_Blendedness",
            3,
            "base_Blendedness",
        ),
        ("measurement:\n  plugins:\n    base_Blendedness: {doOld: true}", 3, "base_Blendedness"),
        ("compatibility: fixed\nmeasurement: {plugins: {names: [base_SdssShape]}}", 2, "base_SdssShape"),
    ],
)
def test_choice_that_is_still_to_come_is_named_with_its_line(load, text, line, choice):
    with pytest.raises(NotYetImplementedError, match=rf"config\.yaml, line {line}: .*'{choice}' is known"):
        load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "psf_determiner:\n  name: pif",
            r"line 2: .*no PSF determiner 'pif'; did you mean 'piff'\? There are: ",
        ),
        (
            "source_selector:\n  name: Science",
            r"line 2: .*'Science'; did you mean 'science'\? There are: flagged",
        ),
        (
            "measure_ap_corr:\n  sourceSelector:\n    name: x",
            r"line 3: .*source selector 'x'; there are: flagged",
        ),
        (
            "measurement:\n  plugins:\n    names: [PsfFlux]",
            r"line 3: .*'PsfFlux'; did you mean 'base_PsfFlux'\?",
        ),
        (
            "measurement:\n  plugins:\n    names: [no_module_here:Plugin]",
            r"line 3: .*module 'no_module_here' cannot be imported",
        ),
    ],
)
def test_choice_that_does_not_exist_is_named_with_line_choices_and_the_nearest(load, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(text)
    assert "\n" not in str(caught.value)


# --- anything anywhere


@pytest.mark.parametrize(
    "value",
    ["3", "-1", "text", "''", "[a]", "[[a], 1]", "{a: 1}", "{a: {b: [c]}}", "{'': 1}", "null", "[null]"],
)
def test_whatever_is_written_is_taken_or_refused_with_its_key(load, value):
    """No value of any kind at any key ends in a traceback, in several lines, or without naming the key."""
    refused = {}
    for path in map(".".join, all_keys(Config)):
        try:
            load("", f"{path}={value}")
        except ConfigError as error:
            refused[path] = str(error)
    assert refused
    for path, message in refused.items():
        where, _, sentence = message.removeprefix(f"{path}={value}").partition(": ")
        assert where in ("", ", line 1"), message
        assert path.rpartition(".")[2] in sentence, message
        assert "\n" not in sentence


def test_unknown_keys_below_names_that_the_user_gives_have_their_full_path(load):
    text = "source_selector:\n  references:\n    colorLimits:\n      blue: {primary: g, secondry: r}"
    with pytest.raises(
        ConfigError,
        match=r"line 4: .*'source_selector\.references\.colorLimits\.blue\.secondry'; did you mean",
    ):
        load(text)
    with pytest.raises(ConfigError, match=r"line 1: .*references\.colorLimits\.blue\.secondary' is missing"):
        load("source_selector: {references: {colorLimits: {blue: {primary: g}}}}")
    with pytest.raises(ConfigError, match=r"colorLimits\.blue' must be a section of keys, not '3'"):
        load("source_selector: {references: {colorLimits: {blue: 3}}}")


def test_default_list_of_plugins_holds_the_plugins_of_lsst_that_exist():
    from finalchar.config_sites import LSST_DEFAULT_PLUGINS

    plugins = Config().measurement.plugins
    assert plugins.names
    assert plugins.names == [name for name in LSST_DEFAULT_PLUGINS if name in type(plugins).NAMES]


# --- K04: types


@pytest.mark.parametrize(
    ("leaf", "value", "wanted"),
    [
        ("nIterForRadius", True, "1"),
        ("nIterForRadius", 1.0, "1"),
        ("nIterForRadius", "1", "1"),
        ("fixed", 0, "false"),
        ("fixed", 0.0, "false"),
    ],
)
def test_a_value_that_only_equals_the_legal_one_is_refused(leaf, value, wanted):
    """Python says True == 1 == 1.0; the setting has one type."""
    kron = Config().measurement.plugins.ext_photometryKron_KronFlux
    with pytest.raises(ConfigError, match=rf"KronFlux\.{leaf}' must be one of {wanted}, not {value!r}"):
        setattr(kron, leaf, value)
    with pytest.raises(ConfigError, match=rf"KronFlux\.{leaf}' must be one of {wanted}, not {value!r}"):
        Config(measurement={"plugins": {"ext_photometryKron_KronFlux": {leaf: value}}})


@pytest.mark.parametrize("value", ["true", "1.0", '"true"', "01"])
def test_a_file_can_only_spell_the_legal_value(load, value):
    with pytest.raises(ConfigError, match=r"line 1: .*nIterForRadius' can only be 1, not"):
        load(f"measurement: {{plugins: {{ext_photometryKron_KronFlux: {{nIterForRadius: {value}}}}}}}")


# --- values that cannot be meant


def text_leaves():
    """Dotted path and annotation of every setting that is text or a list."""
    for path in all_keys(Config):
        model = Config
        for part in path[:-1]:
            model = section_in(model.model_fields[part].annotation)
        annotation = model.model_fields[path[-1]].annotation
        if annotation is str or get_origin(annotation) is list:
            yield ".".join(path), annotation


@pytest.mark.parametrize(("path", "annotation"), list(text_leaves()), ids=str)
def test_empty_text_and_doubled_entries_are_refused_where_they_stand(load, path, annotation):
    """The kind: no text is empty, no list has an entry twice or an empty one."""
    values = ['""', '"  "'] if annotation is str else ["[a, a]", '[a, ""]']
    if annotation in (list[float], list[int]):
        values = ["[3, 4, 3]"]
    for value in values:
        with pytest.raises(ConfigError, match=r"^\S+=.*: .*'" + re.escape(path)) as caught:
            load("", f"{path}={value}")
        assert "must" in str(caught.value)


def test_empty_entries_of_a_section_of_keys_are_refused(load):
    with pytest.raises(ConfigError, match=r"line 1: .*'apply_ap_corr.proxies' must not have the empty entry"):
        load('apply_ap_corr: {proxies: {base_PsfFlux: ""}}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "source_selector:\n  science:\n    signalToNoise:\n      minimum: 2000",
            r"line 3: .*science\.signalToNoise': minimum \(2000\.0\) must be less than maximum \(1000\.0\)",
        ),
        (
            "source_selector: {references: {magLimit: {minimum: 3, maximum: 3}}}",
            r"line 1: .*magLimit': minimum \(3\.0\) must be less than maximum \(3\.0\), or no source passes",
        ),
        (
            "source_selector: {references: {colorLimits: {a:\n  {primary: g, "
            "secondary: r, minimum: 1, maximum: 0}}}}",
            r"line 1: .*colorLimits\.a': minimum \(1\.0\) must be less than maximum",
        ),
        ("source_selector: {objectSize: {widthMin: 11}}", r"line 1: .*widthMin \(11\.0\) must be less than"),
        ("source_selector: {objectSize: {fluxMax: 11}}", r"line 1: .*fluxMin \(12500\.0\) must be less than"),
        (
            "source_selector: {objectSize: {signalToNoiseMax: 11}}",
            r"line 1: .*signalToNoiseMin \(50\.0\) must be less than signalToNoiseMax",
        ),
        (
            "source_selector: {science: {flags: {good: [slot_Centroid_flag]}}}",
            r"line 1: .*science\.flags': 'slot_Centroid_flag' is both in good and in bad",
        ),
    ],
)
def test_limits_that_nothing_can_pass_are_refused(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{SAT: [99]}", r"line 1: .*'input\.images\.flags\.SAT': there is no bit 99, .* from 0 to 62"),
        ("{BADD: [0]}", r"line 1: .*'input\.images\.flags\.BADD': did you mean 'BAD'\?"),
        ("{sat: [1]}", r"'input\.images\.flags\.sat': did you mean 'SAT'\?"),
        ("{NODATA: [1]}", r"did you mean 'NO_DATA'\?"),
    ],
)
def test_mask_planes_that_nothing_would_look_at_are_refused(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(f"input: {{images: {{flags: {text}}}}}")


def test_mask_planes_of_other_names_are_taken(load):
    names = ["REJECTED", "STREAK", "CROSSTALK", "SENSOR_EDGE", "VIGNETTED"]
    flags = ", ".join(f"{name}: [{bit}]" for bit, name in enumerate(names))
    assert list(load(f"input: {{images: {{flags: {{{flags}}}}}}}").input.images.flags) == names
    load("input: {images: {flag_kind: values, flags: {BAD: [99]}}}")


def test_colours_that_are_not_two_bands_are_refused_before_the_first_job(load):
    with pytest.raises(ConfigError, match=r"line 1: .*colour of band 'r' must read like 'g-i', not 'g_i'"):
        load("psf_determiner: {piff: {color: {r: g_i}}}")


def test_a_slot_that_nothing_fills_is_refused(load):
    with pytest.raises(
        ConfigError, match=r"line 1: .*slots\.psfFlux': no plugin that is run writes 'base_PsfFlx'"
    ):
        load("measurement: {slots: {psfFlux: base_PsfFlx}}")
    load("measurement: {slots: {modelFlux: ext_photometryKron_KronFlux, apFlux: base_OfTheCatalogue}}")
    load("measurement: {plugins: {names: [base_PsfFlux]}}")  # default slots without their plugins are empty


@pytest.mark.parametrize("value", ["ignoreList: [base_PsfFlx]", "proxies: {base_PsfFlx: base_PsfFlux}"])
def test_exceptions_for_a_flux_that_is_not_corrected_are_refused(load, value):
    with pytest.raises(
        ConfigError, match=r"line 1: .*apply_ap_corr\.\w+': no flux 'base_PsfFlx' is corrected; did you mean"
    ):
        load(f"apply_ap_corr: {{{value}}}")
    load("apply_ap_corr: {ignoreList: [base_PsfFlux], proxies: {modelfit_CModel: of_the_exposure}}")


def test_assignments_may_pass_through_a_contradiction_but_none_is_used():
    config = Config()
    limits = config.source_selector.science.signalToNoise
    limits.minimum = 2000
    with pytest.raises(ConfigError, match=r"science\.signalToNoise': minimum \(2000\.0\) must be less"):
        config.stage_settings("detector")
    limits.maximum = 3000
    config.checked()


def test_exponent_without_point_is_a_number(load):
    assert load("staleness: {hash_limit_gb: 1e-3}").staleness.hash_limit_gb == 0.001


@pytest.mark.parametrize(
    "folder", ["2026_01_15", "no", "010", "1e3", "12:30:00", "2026-01-15", "0x10", "true"]
)
def test_text_stays_the_text_that_was_written(load, folder):
    assert load(f"output: {folder}").output.folder == folder
    assert load(f"output: {{folder: {folder}}}").output.folder == folder
    assert load("", f"output={folder}").output.folder == folder
    assert load("", f"output.folder={folder}").output.folder == folder


@pytest.mark.parametrize(
    "value", ["true", "no", ".nan", "nan", ".inf", "-.inf", "1_0", "0x1", "1:30", "abc", "[1]", "~"]
)
def test_what_is_no_finite_number_is_refused_for_a_fraction(load, value):
    with pytest.raises(ConfigError, match=r"line 1: .*reserve_selection\.reserve_fraction"):
        load(f"reserve_selection: {{reserve_fraction: {value}}}")


@pytest.mark.parametrize("value", ["010", "1.0", "1e1", "true", "0b1", "0o7", "1_000", "1.5", "''"])
def test_what_is_no_whole_number_is_refused_for_an_order(load, value):
    with pytest.raises(ConfigError, match=r"orderX' must (be a whole number|have a value)"):
        load(f"measure_ap_corr: {{fitConfig: {{orderX: {value}}}}}")


@pytest.mark.parametrize("value", ["yes", "on", "1", "no", '"true"'])
def test_only_true_and_false_are_truth_values(load, value):
    with pytest.raises(ConfigError, match="do_add_sky_moments' must be true or false"):
        load(f"do_add_sky_moments: {value}")


def test_quoted_and_unquoted_numbers_are_the_same_settings(load):
    quoted = load('reserve_selection: {reserve_fraction: "0.1"}')
    plain = load("reserve_selection: {reserve_fraction: 0.1}")
    assert quoted.to_plain() == plain.to_plain()
    assert digest(quoted.stage_settings("tract")) == digest(plain.stage_settings("tract"))


def test_whole_number_for_a_float_has_the_same_digest(load):
    whole, decimal = (load(f"measure_ap_corr: {{numSigmaClip: {text}}}") for text in ("3", "3.0"))
    assert digest(whole.stage_settings("detector")) == digest(decimal.stage_settings("detector"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reserve_selection: 3", "'reserve_selection' must be a section of keys, not '3'"),
        ("fgcmPhotometryBands: g", r"'fgcmPhotometryBands' must be a list such as \[a, b\], not 'g'"),
        ("compatibility: lst", "'compatibility' must be one of fixed, lsst, not 'lst'; did you mean 'lsst'"),
        ("input: {preset: hsc}", "'input.preset' must name a preset, not 'hsc'; there are lsst, sextractor"),
        (
            "measurement: {plugins: {ext_shapeHSM_HsmPsfMoments: {subtractCenter: false}}}",
            "subtractCenter' can only be true, not 'false'",
        ),
        ("survey: [a]", "'survey' must be a single value, not a list"),
        ("survey:", "'survey' must have a value; remove the line for the default"),
        ("apply_ap_corr: {proxies: [a]}", "'apply_ap_corr.proxies' must be a section of keys, not a list"),
        ("reserve_selection: {reserve_fraction: 2}", "must be at most 1.0, not 2"),
        ("detectors_per_job: 0", "'detectors_per_job' must be at least 1, not 0"),
        ("reserve_selection: {cell_size_arcsec: 0}", "must be more than 0"),
        ("measurement: {undeblended: {names: [a]}}", "'measurement.undeblended.names' must be empty, not"),
        ("- a", "must be a section of keys"),
        ("a: [", "line 1, column 5: not valid YAML"),
        ("survey: !!python/name:os.system a", "tag 'tag:yaml.org,2002:python/name:os.system' is not allowed"),
    ],
)
def test_messages_for_wrong_values(load, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(text)
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stamps_that_cannot_hold_the_model_are_refused_before_the_first_job(load):
    """K14; the sizes stand in two sections, and either may be too small."""
    with pytest.raises(
        ConfigError, match=r"config\.yaml, line 1: psf_determiner\.piff\.stampSize is 21, but a model of"
    ):
        load("psf_determiner: {piff: {stampSize: 21}}")
    with pytest.raises(
        ConfigError, match=r"config\.yaml, line 1: Stamps of 21 pixels \(make_psf_candidates\) cannot hold"
    ):
        load("make_psf_candidates: {kernelSize: 21}")
    load("make_psf_candidates: {kernelSize: 21, borderWidth: 2}")
    load("psf_determiner: {piff: {modelSize: 15}}\nmake_psf_candidates: {kernelSize: 21}")
    load(
        "compatibility: lsst\nmake_psf_candidates: {kernelSize: 21}"
    )  # the reference runs, and loses all stars
    config = Config()
    config.make_psf_candidates.kernelSize = 21
    with pytest.raises(ConfigError, match="Stamps of 21 pixels"):
        config.stage_settings("detector")


def test_key_written_twice_is_refused_with_both_lines(load):
    with pytest.raises(ConfigError, match=r"line 2: the key 'name' stands there and again in line 4"):
        load("psf_determiner:\n  name: piff\n  piff: {}\n  name: piff\n")


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml' does not exist"):
        load_config(tmp_path / "none.yaml")


def test_empty_file_and_empty_sections_mean_the_defaults(load):
    assert load("").to_plain() == Config().to_plain()
    assert load("# nothing\n").to_plain() == Config().to_plain()
    assert load("reserve_selection:\n  # reserve_fraction: 0.2\noutput:\n").to_plain() == Config().to_plain()


def test_anchors_and_merge_keys(load):
    config = load(
        "source_selector: {science: {signalToNoise: &cut {minimum: 60}}}\n"
        "measure_ap_corr: {sourceSelector: {science: {signalToNoise: {<<: *cut, maximum: 900}}}}\n"
    )
    limits = config.measure_ap_corr.sourceSelector.science.signalToNoise
    assert (limits.minimum, limits.maximum) == (60, 900)
    assert config.source_selector.science.signalToNoise.maximum == 1000.0
    with pytest.raises(ConfigError, match="an anchor contains itself"):
        load("output: &a {folder: *a}")


# --- overrides of the command line


def test_overrides_follow_the_rules_of_the_file(load):
    config = load(
        "reserve_selection: {reserve_name: a, reserve_fraction: 0.3}",
        "reserve_selection.reserve_fraction=1e-1",
        "fgcmPhotometryBands=[g, y]",
        "output=2026_01_15",
        "compatibility=fixed",
        "compatibility=lsst",
    )
    assert config.reserve_selection.reserve_name == "a"
    assert config.reserve_selection.reserve_fraction == 0.1
    assert config.fgcmPhotometryBands == ["g", "y"]
    assert config.output.folder == "2026_01_15"
    assert config.compatibility == "lsst"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cores", "2", "--config", "output=2026_01_15", "survey=010", "--quiet"],
        ["-C", "output=2026_01_15", "survey=010", "-n", "all"],
        ["--config=output=2026_01_15", "survey=010"],
        ["--config", "output=2026_01_15", "--configfile", "a=b", "--config", "survey=010"],
    ],
)
def test_overrides_are_taken_from_the_command_line_as_they_were_typed(load, arguments):
    texts = command_line_overrides(arguments)
    assert texts == ["output=2026_01_15", "survey=010"]
    assert load("", *texts).output.folder == "2026_01_15"


def test_snakemake_itself_loses_what_was_typed():
    """Why we read the command line ourselves; when this fails, Snakemake has become exact."""
    from snakemake.cli import parse_config

    assert parse_config(["output=2026_01_15"]) == {"output": 20260115}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("survey", "write it as key=value"),
        ("reserve_selection.reserve_fraction=abc", r"^reserve_selection\.reserve_fraction=abc: "),
        ("reserve_selection.fraction=0.1", "Unknown configuration key 'reserve_selection.fraction'"),
        (
            "reserve_selection.reserve_fraction=1.5",
            r"^reserve_selection\.reserve_fraction=1\.5: Configuration key .* must be at most 1\.0",
        ),
    ],
)
def test_wrong_override_is_named(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load("survey: a", override)


# --- properties of the number grammar and of the round trip


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_python_writes_is_read_exactly(number):
    assert strict_yaml.as_number(repr(number)) == number


@given(st.integers())
def test_every_whole_number_is_read_exactly(number):
    read = strict_yaml.as_number(str(number))
    assert type(read) is int
    assert read == number


@given(st.text())
def test_number_grammar_gives_nothing_for_other_text(text):
    number = strict_yaml.as_number(text)
    if number is not None:
        assert re.fullmatch(r"[-+0-9.eE]+", text, re.ASCII)
        assert number == (int(text) if isinstance(number, int) else float(text))


def test_round_trip_through_json_is_exact():
    config = Config(reserve_selection={"reserve_fraction": 1 / 3}, visits_per_run=3)
    again = Config(**json.loads(json.dumps(config.to_plain())))
    assert again == config
    assert digest(again.stage_settings("tract")) == digest(config.stage_settings("tract"))
