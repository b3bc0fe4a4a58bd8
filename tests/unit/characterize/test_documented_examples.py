"""The examples of docs/python_api.md, docs/products.md and docs/psf.md, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SURVEY = ROOT / "tests/data/golden_small/survey"
FILES = {
    "isolated_star_cat_4907.parquet": "isolated_star_cat_4907.parquet",
    "isolated_star_sources_4907.parquet": "isolated_star_sources_4907.parquet",
    "src.fits": "src_2026011500101_0.fits",
    "calexp.fits": "calexp_2026011500101_0.fits",
}


def examples(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, source in FILES.items():
        (tmp_path / name).symlink_to(SURVEY / source)
    names = {"visit": 2026011500101, "band": "g", "detector": 0}
    blocks = examples("python_api.md")
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "python_api.md", "exec"), names)
    assert names["result"].status.status == "ok"
    assert len(names["visit"].output_table) == len(names["result"].output_table) > 10
    (block,) = examples("products.md")
    exec(compile(block, "products.md", "exec"), names)
    assert names["image"].sum() == pytest.approx(1.0, abs=1e-12)
    assert 0.5 < names["correction"][0] < 2.0
    exec(compile(examples("psf.md")[0], "psf.md", "exec"), names)
    assert names["many"].shape == (2, *names["kernel"].array.shape)
