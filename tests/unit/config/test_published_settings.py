"""What a user reads of a setting: meaning, unit, allowed values, in the page and in the schema."""

import json
import re
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, get_args, get_origin

import pytest

from finalchar.config import Config
from finalchar.config_base import EachPositive, Field, Section, only
from finalchar.config_text import all_keys, section_in
from finalchar.errors import ConfigError
from finalchar.schemas import schemas, settings_tables

# Numbers that may have any value, each with its reason.
ANY_NUMBER = {
    "*.minimum": "limits of any quantity",
    "*.maximum": "limits of any quantity",
    "*.logRadius*": "logarithms",
    "*.optimizer.*": "ratios and thresholds of the optimiser, negative ones switch a test off",
    "*.nComponents": "goes with profileName, and is checked with it",
    "*.noiseOffset": "counts of either sign",
    "*.offset": "counts of either sign",
}


def fields():
    for path in all_keys(Config):
        model = Config
        for part in path[:-1]:
            model = section_in(model.model_fields[part].annotation)
        field = model.model_fields[path[-1]]
        if section_in(field.annotation) is None:
            yield ".".join(path), field


@cache
def rows():
    """Cells of the table of all settings by name of the setting."""
    lines = [line for line in settings_tables().splitlines() if line.startswith("| `")]
    cells = [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |")) for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_every_setting_is_published_with_default_allowed_values_and_meaning():
    published = rows()
    assert set(published) == {path for path, _ in fields()}
    for path, (default, allowed, meaning) in published.items():
        json.loads(default.strip("`").replace("\\|", "|"))
        assert allowed, path
        assert len(meaning.split()) >= 1, path


@pytest.mark.parametrize(
    ("path", "field"), list(fields()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_every_number_has_a_range_or_a_reason(path, field):
    kinds = {field.annotation, *get_args(field.annotation)}
    if not kinds & {int, float} or get_origin(field.annotation) is dict:
        return
    reason = next((why for pattern, why in ANY_NUMBER.items() if fnmatchcase(path, pattern)), None)
    assert field.metadata or reason, path
    text = rows()[path][1]
    assert re.search("[≥>≤<]|only", text) or reason, (path, text)


def test_patterns_of_numbers_without_range_are_needed():
    for pattern in ANY_NUMBER:
        assert any(fnmatchcase(path, pattern) for path, _ in fields()), pattern


class Example(Section):
    """A section."""

    fixed: Annotated[float, only(2.0)] = Field(2.0, description="a")
    sizes: Annotated[list[float], EachPositive()] = Field([1.0], description="b")


def test_the_schema_knows_the_only_value_and_positive_entries():
    properties = Example.model_json_schema()["properties"]
    assert properties["fixed"]["const"] == 2.0
    assert properties["sizes"]["items"]["exclusiveMinimum"] == 0
    example = Example()
    with pytest.raises(ConfigError, match=r"'fixed': 3\.0 is not supported; it must be 2\.0"):
        example.fixed = 3.0
    for wrong in ([0.0], [2.0, -1.0]):
        with pytest.raises(ConfigError, match="'sizes' must have positive entries only"):
            example.sizes = wrong


def test_the_published_schema_has_ranges_of_nested_sections():
    text = json.dumps(schemas()["config.schema.json"])
    assert '"maximum": 4294967294' in text
    assert '"const": -1.0' in text
