"""A job that was replaced stops before it writes: the record of its group names another owner."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finalchar.errors import StaleRunError
from finalchar.work.attempts import Attempts
from finalchar.work.group import GroupRecord


@pytest.fixture(name="job")
def job_of_a_group(tmp_path: Path) -> Any:
    return SimpleNamespace(
        record_path=str(tmp_path / "d000-008.json"), run_digits="abcd", stop_if_left_over=lambda: None
    )


def test_a_replaced_job_stops(job: Any) -> None:
    first = GroupRecord(job, {}, Attempts())
    first.save()
    first.check_ownership()
    second = GroupRecord(job, {}, Attempts())
    second.save()
    second.check_ownership()
    with pytest.raises(StaleRunError, match="a later job has taken over"):
        first.check_ownership()
    with pytest.raises(StaleRunError, match="a later job has taken over"):
        first.take_from_process("0")


def test_a_deleted_record_stops_the_job(job: Any) -> None:
    record = GroupRecord(job, {}, Attempts())
    record.save()
    Path(job.record_path).unlink()
    with pytest.raises(StaleRunError):
        record.check_ownership()


def test_a_process_that_died_left_its_detector_in_the_record(job: Any) -> None:
    record = GroupRecord(job, {}, Attempts())
    record.save(working_on="3")
    assert record.take_from_process("3")
    assert not record.take_from_process("4")
    record.save()
    assert not record.take_from_process("3")
