"""What lists and detectors are made from, as planner and jobs see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finalchar import provenance
from finalchar.plan import (
    association_wanted,
    blocked_by_files,
    detector_inputs,
    detector_wanted,
    missing_tract_files,
)
from finalchar.provenance import FileDigests
from finalchar.work.files import InputFiles, renewed

OLD, NEW = 101, 150
PREPARED = {"visits": [OLD]}
REGION: dict[str, Any] = {
    "tract": 7,
    "region": {"ra_min": 0.0, "ra_max": 1.0, "dec_min": 0.0, "dec_max": 1.0, "outer": []},
    "source_tables": {str(OLD): "old.parquet", str(NEW): "new.parquet"},
}
TABLES = {"tract": 7, "isolated_star_cat": "old.parquet", "isolated_star_sources": "new.parquet"}


@pytest.mark.parametrize("visit", [OLD, NEW])
def test_a_missing_source_table_is_told_by_the_visit_that_lacks_it_too(tmp_path: Path, visit: int) -> None:
    """The stars of a visit that is new were never looked for: it is not without isolated stars."""
    (tmp_path / "old.parquet").touch()
    found = blocked_by_files(str(tmp_path), visit, {7: REGION}, lambda tract: PREPARED)
    assert found is not None
    assert "new.parquet" in found
    assert "detectors.csv" in found


def test_a_missing_table_concerns_the_visits_that_are_in_it(tmp_path: Path) -> None:
    (tmp_path / "old.parquet").touch()
    blocked = {
        visit: blocked_by_files(str(tmp_path), visit, {7: TABLES}, lambda tract: PREPARED)
        for visit in (OLD, NEW)
    }
    assert "tracts.csv" in str(blocked[OLD])
    assert blocked[NEW] is None


@pytest.mark.parametrize(
    "change", [{"ra_min": 0.1}, {"ra_max": 1.1}, {"dec_min": 0.1}, {"dec_max": 1.1}, {"outer": [[0.0, 0.0]]}]
)
def test_another_region_is_another_ingredient_of_isolated_stars(change: dict[str, object]) -> None:
    other = {**REGION, "region": {**REGION["region"], **change}}
    assert association_wanted({"code": "c"}, other) != association_wanted({"code": "c"}, REGION)
    assert association_wanted({"code": "c"}, REGION) != association_wanted({"code": "d"}, REGION)


def sheet_digest(**values: str) -> str:
    row = {"detector": 1, "band": "r", "exposure": "image.fits", "weight": "weight.fits", **values}
    return detector_wanted({}, {"rows": {}}, row)["sheet"]


def test_a_number_of_plain_images_has_one_spelling() -> None:
    assert sheet_digest(gain="1") == sheet_digest(gain="1.0") == sheet_digest(gain="10e-1")
    assert sheet_digest(gain="1") != sheet_digest(gain="1.5") != sheet_digest()
    assert sheet_digest(gain="1") != sheet_digest(offset="1")


def test_paths_of_the_sheet_may_be_absolute(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "image.fits"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"image")
    (tmp_path / "cat.fits").write_bytes(b"catalogue")
    row = {"detector": 1, "band": "r", "exposure": str(elsewhere), "src": "cat.fits"}
    inputs = detector_inputs(str(tmp_path), row)
    assert inputs.missing == []
    files = InputFiles.look(inputs)
    assert files.missing == []
    files.check_unchanged()
    record = {"wanted": {}, "inputs": files.entries, "outputs": {}}
    assert provenance.reasons(record, {}, inputs, "", FileDigests()) == []
    assert renewed(record, inputs, "")["inputs"] == files.entries
    elsewhere.write_bytes(b"other")
    assert "exposure" in provenance.reasons(record, {}, inputs, "", FileDigests())[0]
    assert missing_tract_files(str(tmp_path), {**TABLES, "isolated_star_cat": str(elsewhere)}) == [
        "new.parquet"
    ]
