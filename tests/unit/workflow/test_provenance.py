from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from finalchar import provenance
from finalchar.layout import Layout, group_name
from finalchar.plan import tracts_of_visit
from finalchar.provenance import FileDigests, Inputs

LIBRARY = provenance.LIBRARY


def meaning(text: str) -> str:
    return provenance.digest(provenance._meaning(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        '"""Module."""\n\n\ndef f(x: int) -> int:\n    # why\n    return x + 1\n',
        'def f(x: int) -> int:\n    """Say."""\n    return (x + 1)\n',
        "def f(\n    x: int,\n) -> int:\n\n    return x + 1\n",
    ],
)
def test_comments_docstrings_and_formatting_have_no_meaning(text: str) -> None:
    assert meaning(text) == meaning("def f(x: int) -> int:\n    return x + 1\n")


@pytest.mark.parametrize(
    "text", ["def f(x: int) -> int:\n    return x + 2\n", "def f(x, y=1):\n    return x + 1\n"]
)
def test_other_code_has_another_meaning(text: str) -> None:
    assert meaning(text) != meaning("def f(x: int) -> int:\n    return x + 1\n")


def test_code_of_the_detector_stage() -> None:
    found = provenance.closure("detector")
    for module in (
        "characterize",
        "formats.lsst_exposure",
        "psf.determiners.piff",
        "measure.plugins.base_psf_flux",
        "stars.selectors.science",
        "apcorr.measure",
        "stars",
    ):
        assert module in found
    for module in (
        "config",
        "config_base",
        "plan",
        "provenance",
        "work",
        "commands",
        "consolidate",
        "simulate",
        "stars.visit_list",
        "stars.tract",
        "stars.reserve",
    ):
        assert module not in found


def test_only_whole_names_are_outside() -> None:
    """A science module may be called `plane` without being taken for `plan`."""
    for module in ("plan", "work", "work.detector", "config", "config_base"):
        assert provenance.is_outside(module)
    for module in ("plane", "worklist", "psf.plan", "characterize"):
        assert not provenance.is_outside(module)


def test_consolidation_does_not_depend_on_the_science_of_detectors() -> None:
    found = provenance.closure("visit")
    assert "consolidate" in found
    assert not [name for name in found if name.startswith(("measure.plugins", "stars.selectors", "apcorr"))]


def test_association_depends_on_its_own_science_only() -> None:
    found = provenance.closure("association")
    assert {"stars.greedy_groups", "stars.selectors.science", "formats.parquet_groups"} <= set(found)
    assert not [name for name in found if name.startswith(("measure", "psf", "stars.reserve", "tract_reg"))]


def test_modules_found_by_name_are_in_a_registry() -> None:
    """Imports by name are seen in registries, which count as a whole, and as texts ``module:function``."""
    allowed = {"__init__.py", *(f"{name.replace('.', '/')}/__init__.py" for name in provenance.REGISTRIES)}
    allowed.add("formats/archive.py")
    assert {"formats.ast_text", "formats.detector"} <= set(provenance.closure("detector"))
    for path in LIBRARY.rglob("*.py"):
        name = str(path.relative_to(LIBRARY))
        module = name.removesuffix(".py").replace("/", ".")
        if provenance.is_outside(module) or name in allowed or name.startswith(("parity", "schemas")):
            continue
        assert "import_module(" not in path.read_text(), f"{name}: the closure does not see what it imports"


def test_imports_are_found_wherever_they_stand() -> None:
    text = (
        "import finalchar.status\nfrom finalchar.psf import model\n"
        "def f():\n    from finalchar.formats.sources import SourceTable\n    import numpy\n"
    )
    assert provenance._imports(ast.parse(text), "characterize", False) == {
        "status",
        "psf",
        "psf.model",
        "formats.sources",
    }


def test_digests_of_code_are_remembered_by_content(tmp_path: Path) -> None:
    cache = str(tmp_path / "code.json")
    first = provenance.CodeReader(cache)
    found = first.closure(["status"])
    first.save()
    assert provenance.CodeReader(cache).closure(["status"]) == found
    assert json.loads(Path(cache).read_text())


def test_file_of_same_content_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"12345")
    known = provenance.entry(str(tmp_path), "a.fits", provenance.hash_file(str(path)))
    digests = FileDigests(str(tmp_path / "cache.jsonl"))
    assert provenance.file_reason(str(tmp_path), "a.fits", known, digests) is None
    assert digests.hashed == 0
    os.utime(path, (1, 1))
    assert provenance.file_reason(str(tmp_path), "a.fits", known, digests) is None
    assert digests.hashed == 1
    digests.save()
    again = FileDigests(str(tmp_path / "cache.jsonl"))
    assert provenance.file_reason(str(tmp_path), "a.fits", known, again) is None
    assert again.hashed == 0
    path.write_bytes(b"12346")
    assert provenance.file_reason(str(tmp_path), "a.fits", known, again) == "has other content"
    path.write_bytes(b"123456")
    assert provenance.file_reason(str(tmp_path), "a.fits", known, again) == "has another size"
    path.unlink()
    assert provenance.file_reason(str(tmp_path), "a.fits", known, again) == "is missing"
    assert provenance.file_reason(str(tmp_path), "a.fits", provenance.absent("a.fits"), again) is None


def test_nothing_is_hashed_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"12345")
    known = provenance.entry(str(tmp_path), "a.fits", provenance.hash_file(str(path)))
    os.utime(path, (1, 1))
    why = provenance.file_reason(str(tmp_path), "a.fits", known, FileDigests(limit=3))
    assert why is not None
    assert "hash_limit_gb" in why


def test_without_trust_every_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"12345")
    known = provenance.entry(str(tmp_path), "a.fits", provenance.hash_file(str(path)))
    stamp = path.stat()
    path.write_bytes(b"54321")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert provenance.file_reason(str(tmp_path), "a.fits", known, FileDigests()) is None
    suspicious = FileDigests(trust_stat=False)
    assert provenance.file_reason(str(tmp_path), "a.fits", known, suspicious) == "has other content"


def test_reasons_name_what_changed(tmp_path: Path) -> None:
    record = {
        "wanted": {"code": "a", "config": "b"},
        "inputs": {"tract 1": "x"},
        "outputs": {"list": ["list.parquet", 1, 1, "s"]},
    }
    found = provenance.reasons(
        record,
        {"code": "a", "config": "c"},
        Inputs(upstream={"tract 1": "y"}),
        str(tmp_path),
        FileDigests(),
    )
    assert found == ["config changed", "tract 1 changed", "product list.parquet is missing"]
    assert provenance.reasons(None, {}, Inputs(), "", FileDigests()) == ["there is no sound record"]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "record.json")
    provenance.save(path, {"a": 1})
    assert provenance.load(path) == {"a": 1}
    Path(path).write_text('{"a": ')
    assert provenance.load(path) is None
    assert provenance.load(str(tmp_path / "absent.json")) is None


def test_groups_are_blocks_of_the_detector_number() -> None:
    assert [group_name(number, 9) for number in (0, 8, 9, 188)] == [
        "d000-008",
        "d000-008",
        "d009-017",
        "d180-188",
    ]
    assert group_name(7, 1) == "d007-007"


def test_layout_of_products() -> None:
    layout = Layout("out")
    assert layout.detector_products(42, 7) == ("psf_ap_corr_42_007.fits", "finalized_src_42_007.parquet")
    assert layout.piff_files(42, [7], "none") == ()
    assert layout.piff_files(42, [7], "visit") == ("psf_42.piff",)
    assert layout.piff_files(42, [7, 8], "detector") == ("psf_42_007.piff", "psf_42_008.piff")


def test_tracts_of_a_visit() -> None:
    tracts = {1: {"tract": 1}, 2: {"tract": 2}, 3: {"tract": 3}}
    assert tracts_of_visit([{"detector": 0}], tracts) == tracts
    rows = [{"detector": 0, "tracts": "1"}, {"detector": 1, "tracts": "1 3"}]
    assert list(tracts_of_visit(rows, tracts)) == [1, 3]
    assert tracts_of_visit([*rows, {"detector": 2, "tracts": ""}], tracts) == tracts


def test_spoilt_lines_of_the_cache_are_skipped(tmp_path: Path) -> None:
    """After a crash of the machine anything may stand at the end of an appended file."""
    file, cache = tmp_path / "data", tmp_path / "digests.jsonl"
    file.write_bytes(b"content")
    first = FileDigests(str(cache))
    found = first.of(str(file))
    first.save()
    with open(cache, "ab") as opened:
        opened.write(b'\xff\xfe\x00\n5\n["one"]\n["cut')
    again = FileDigests(str(cache))
    assert again.of(str(file)) == found
    assert again.hashed == 0
