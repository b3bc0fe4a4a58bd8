"""What a job says that finds another world than the planned one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finalchar import provenance
from finalchar.errors import StaleRunError
from finalchar.layout import Layout
from finalchar.work.job import Job

PLANNED = {"code": "c", "config": "s", "software": provenance.digest({"psfex": "3.21.1", "numpy": "2.0"})}


def job(folder: Path, **found: Any) -> Job:
    """An unsettled job of the detector stage; `found`: what it finds instead of what was planned."""
    layout = Layout(str(folder))
    software = found.get("software", {"psfex": "3.21.1", "numpy": "2.0"})
    provenance.save(layout.run_record, {"id": "abcd", "wanted": {"detector": PLANNED}, "due": 1})
    path = f"{layout.ingredients}/{PLANNED['software']}.json"
    provenance.save(path, {"psfex": "3.21.1", "numpy": "2.0"})
    made = Job.__new__(Job)
    made.layout, made.stage, made.unit, made.name, made.settled = layout, "detector", "101", "d000-002", False
    made.software = software
    made.wanted = {**PLANNED, **found, "software": provenance.digest(software)}
    return made


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"software": {"psfex": "absent", "numpy": "2.0"}}, r"\(psfex absent instead of 3\.21\.1\): install"),
        ({"code": "edited"}, "code changed during the run: start again"),
        ({}, "upstream records are not those that were planned"),
    ],
)
def test_the_sentence_says_what_differs(tmp_path: Path, found: dict[str, Any], sentence: str) -> None:
    """`start again` helps no node that lacks a program: the same happens again."""
    with pytest.raises(StaleRunError, match=sentence) as caught:
        job(tmp_path, **found).check_settled()
    assert str(caught.value).startswith("detector 101 d000-002: ")
