"""What died while a group of detectors was made: jobs, and processes of single detectors.

A job can be killed at a detector: by the system for its memory, by a time limit, by a fault of a library.
The next attempt then makes what is left one detector at a time, each in a process of its own (`alone`), so
that a detector that kills its process costs itself only; after `MOST_DEATHS` it gets a status instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Attempts"]

MOST_DEATHS = 2
"""Deaths at one detector in one run after which it is recorded as an error."""
MOST_JOBS = 2
"""Dead jobs of one run after which nothing suspicious is tried again: Snakemake starts one more, the last."""


@dataclass
class Attempts:
    """Deaths in one group.

    Attributes
    ----------
    jobs : int
        Jobs of this run that died as a whole.
    deaths : dict of str to int
        Deaths of this run by detector, of jobs and of processes of their own.
    suspects : set of str
        Detectors at which something died in an earlier run that did not finish the group.
    """

    jobs: int = 0
    deaths: dict[str, int] = field(default_factory=dict)
    suspects: set[str] = field(default_factory=set)

    @classmethod
    def of_earlier_jobs(cls, record: Mapping[str, Any] | None, run: str) -> Attempts:
        """Return what the unfinished record of a group tells; the detector it was working on has died."""
        found = (record or {}).get("attempts")
        if not found:
            return cls()
        read = cls(found["jobs"], dict(found["deaths"]), set(found["suspects"]))
        if found["at"] is not None:
            read.jobs += 1
            read.count(found["at"])
        return read if found["run"] == run else cls(suspects=read.suspects | read.deaths.keys())

    @classmethod
    def of_this_job(cls, record: Mapping[str, Any]) -> Attempts:
        """Return what the record tells to a process of the job that is writing it."""
        found = record.get("attempts")
        return cls(found["jobs"], dict(found["deaths"]), set(found["suspects"])) if found else cls()

    def to_dict(self, run: str, at: str | None) -> dict[str, Any]:
        """Return the attempts for the record; `at` is the detector that starts now."""
        return {
            "run": run,
            "jobs": self.jobs,
            "deaths": self.deaths,
            "suspects": sorted(self.suspects),
            "at": at,
        }

    def count(self, detector: str) -> None:
        """Count one more death at a detector."""
        self.deaths[detector] = self.deaths.get(detector, 0) + 1

    @property
    def any(self) -> bool:
        """Whether anything died: then detectors are made one at a time, each in its own process."""
        return bool(self.jobs or self.deaths or self.suspects)

    def is_suspicious(self, detector: str) -> bool:
        """Whether something died at a detector; it is then made after the others."""
        return detector in self.deaths or detector in self.suspects

    def given_up(self, detector: str) -> str | None:
        """Return the sentence about a detector that is not tried again in this run."""
        deaths = self.deaths.get(detector, 0)
        is_last_job = self.jobs >= MOST_JOBS and self.is_suspicious(detector)
        if deaths < MOST_DEATHS and not is_last_job:
            return None
        times = {0: "in an earlier run", 1: "once"}.get(deaths, f"{deaths} times")
        return f"the job died {times} at this detector (out of memory, or killed)"
