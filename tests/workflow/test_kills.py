"""SIGKILL of Snakemake, of a job, of both, then the same command (the campaign is `make test-staleness`)."""

from __future__ import annotations

import pytest
from kills import WHO, rounds
from trial import Trial


@pytest.mark.parametrize("who", WHO)
def test_killed_runs_are_taken_up(fresh: Trial, who: str) -> None:
    first = fresh.run()
    assert first.status == 0, first.text[-3000:]
    for found in rounds(fresh, 2, who=who, seed=1):
        assert found.good, str(found)
