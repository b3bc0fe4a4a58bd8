"""Records of another shape count as no record, whatever is wrong with them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finalchar import records

ENTRY = ["a.fits", 5, 6, "0" * 64]
UNIT = {
    "wanted": {"code": "c"},
    "inputs": {"exposure": ENTRY, "src": ["b.fits", None, None, None], "tract 1": "d"},
    "outputs": {"reserved_stars": ENTRY},
    "product": "p",
}
TRACT = {**UNIT, "bands": {"r": {"digest": "d", "drawn": 3}}, "visits": [1], "token": "t"}
STARS = {
    **UNIT,
    "outputs": {name: ["p", 1, 2, "h"] for name in ("isolated_star_cat", "isolated_star_sources")},
    "token": "t",
}
LIST = {**UNIT, "rows": {"0": "x"}, "draws": {"1": "y"}, "token": "t"}
BLOCKED = {**UNIT, "rows": {}, "blocked": {"status": "input_missing", "sentence": "gone"}, "token": "t"}
STATUS = {
    "visit": 1,
    "detector": 0,
    "band": "r",
    "status": "ok",
    "sentence": "",
    "counts": {"used": 3},
    "figures": {},
    "warnings": [],
    "software": {},
}
DETECTOR = {**UNIT, "status": STATUS, "run": "abcd"}
GROUP = {
    "token": None,
    "owner": "me",
    "detectors": {"0": DETECTOR, "1": {**DETECTOR, "aside": DETECTOR}},
    "attempts": {"run": "abcd", "jobs": 1, "deaths": {"1": 1}, "suspects": ["0"], "at": "1"},
}
WRONG = (None, 5, "text", [], {}, [5], {"a": None})


def variants(value: Any) -> Iterator[Any]:
    """All values that differ at one place: another kind there, or nothing."""
    yield from (wrong for wrong in WRONG if type(wrong) is not type(value) or wrong in ([5], {"a": None}))
    if isinstance(value, dict):
        for key, item in value.items():
            yield {name: copy.deepcopy(other) for name, other in value.items() if name != key}
            for variant in variants(item):
                yield {**value, key: variant}
    if isinstance(value, list):
        for place, item in enumerate(value):
            for variant in variants(item):
                yield [*value[:place], variant, *value[place + 1 :]]


def read(reader: Callable[[str], Any], folder: Path, content: Any) -> Any:
    path = folder / "record.json"
    path.write_text(json.dumps(content))
    return reader(str(path))


@pytest.mark.parametrize(
    ("reader", "sound"),
    [
        (records.tract_record, TRACT),
        (records.association_record, STARS),
        (records.list_record, LIST),
        (records.list_record, BLOCKED),
        (records.unit_record, {**UNIT, "token": "t"}),
        (records.group_record, GROUP),
    ],
)
def test_sound_records_are_read_as_they_are(reader: Callable[[str], Any], sound: Any, tmp_path: Path) -> None:
    assert read(reader, tmp_path, sound) == sound


def use_unit(record: Any) -> None:
    """What planner and jobs do with any record; each line needs its shape."""
    assert isinstance(record["product"] + "".join(record["wanted"].values()), str)
    for item in record["inputs"].values():
        assert isinstance(item, str) or isinstance(item[0], str)
    for name, size, stamp, digest in record["outputs"].values():
        assert isinstance(name + digest, str)
        assert size + stamp > 0


def test_tracts_of_another_shape(tmp_path: Path) -> None:
    for content in variants(TRACT):
        if (record := read(records.tract_record, tmp_path, content)) is not None:
            use_unit(record)
            assert isinstance(record["token"] + record["outputs"]["reserved_stars"][3], str)
            assert 1 not in record.get("visits", ())[1:]
            assert all(isinstance(band["digest"], str) for band in record["bands"].values())


def test_isolated_stars_of_another_shape(tmp_path: Path) -> None:
    for content in (*variants(STARS), *variants({**STARS, "outputs": {}, "broken": "gone"})):
        if (record := read(records.association_record, tmp_path, content)) is not None:
            use_unit(record)
            assert isinstance(record["token"] + record.get("broken", ""), str)
            assert "broken" in record or len(record["outputs"]) == 2


def test_lists_of_another_shape(tmp_path: Path) -> None:
    for content in (*variants(LIST), *variants(BLOCKED)):
        if (record := read(records.list_record, tmp_path, content)) is not None:
            use_unit(record)
            assert isinstance(record["token"] + record["rows"].get("0", ""), str)
            assert isinstance("".join(record.get("draws", {}).values()), str)
            if blocked := record.get("blocked"):
                assert isinstance(blocked["status"] + blocked["sentence"], str)


def test_groups_of_another_shape_keep_their_sound_detectors(tmp_path: Path) -> None:
    from finalchar.status import DetectorStatus

    for content in variants(GROUP):
        if (record := read(records.group_record, tmp_path, content)) is None:
            continue
        assert record["token"] in (None, "text")
        for item in record["detectors"].values():
            use_unit(item)
            assert DetectorStatus.from_dict(item["status"]).line
        if attempts := record.get("attempts"):
            assert sum(attempts["deaths"].values()) + attempts["jobs"] >= 0
            assert isinstance("".join(attempts["suspects"]), str)
    half = {**GROUP, "token": "t", "detectors": {"0": DETECTOR, "1": {**DETECTOR, "status": "ok"}}}
    record = read(records.group_record, tmp_path, half)
    assert list(record["detectors"]) == ["0"]
    assert record["token"] is None, "the group is not finished: a detector of it is lost"


def test_runs_of_another_shape(tmp_path: Path) -> None:
    sound = {"id": "abcd", "folder": "f", "wanted": {"detector": {"code": "c"}}, "due": 3}
    assert read(records.run_record, tmp_path, sound) == sound
    for content in variants(sound):
        record = read(records.run_record, tmp_path, content)
        assert record["due"] >= 0
        assert record["wanted"].get("detector") != "c"
        assert record["id"] in ("abcd", "text", None)
