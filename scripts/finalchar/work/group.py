"""The detectors of one job: which are due, and the record that is kept while they are made."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import StaleRunError
from finalchar.frozen import Row
from finalchar.layout import GROUP_PREFIX
from finalchar.work.files import renewed
from finalchar.work.job import Job

__all__ = ["DetectorGroup", "GroupRecord", "earlier_deaths"]

DEATHS_BEFORE_ERROR = 2
"""Attempts of one run that may die, at the same detector or at two, before it is recorded as an error."""


class GroupRecord:
    """The record of a group of detectors while its job works: saved after every detector.

    ``owner`` names the job that writes; a job that finds another owner has been replaced and stops.
    """

    def __init__(self, job: Job, detectors: dict[str, Any], deaths: Mapping[str, int]) -> None:
        self.job = job
        self.detectors = detectors
        self.deaths = dict(deaths)
        self.owner = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"

    @property
    def is_last_attempt(self) -> bool:
        """Whether nothing that killed a job is tried again.

        Otherwise two detectors that are too much for the machine would keep their visit from being complete.
        """
        return sum(self.deaths.values()) >= DEATHS_BEFORE_ERROR

    def save(self, working_on: str | None = None) -> None:
        """Write the unfinished record; `working_on` is the detector that starts now."""
        content: dict[str, Any] = {"token": None, "owner": self.owner, "detectors": self.detectors}
        if working_on is not None or self.deaths:
            content["attempts"] = {"run": self.job.run_digits, "deaths": self.deaths, "at": working_on}
        provenance.save(self.job.record_path, content)

    def check_ownership(self) -> None:
        """Stop if a later job has taken over this group.

        Raises
        ------
        StaleRunError
        """
        self.job.stop_if_left_over()
        record = records.group_record(self.job.record_path)
        if not record or record.get("owner") != self.owner:
            raise StaleRunError(f"{self.job}: a later job has taken over, this one stops")


def earlier_deaths(job: Job, record: Mapping[str, Any] | None) -> dict[str, int]:
    """Return how often jobs of this run died at which detector of this group."""
    attempts = (record or {}).get("attempts") or {}
    if attempts.get("run") != job.run_digits:
        return {}
    deaths = dict(attempts["deaths"])
    if attempts["at"] is not None:
        deaths[attempts["at"]] = deaths.get(attempts["at"], 0) + 1
    return deaths


class DetectorGroup:
    """The detectors of one job: their rows of the sheet, what is known of them, which are due."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.visit = int(job.unit)
        first, last = (int(number) for number in job.name.removeprefix(GROUP_PREFIX).split("-"))
        self.rows = [row for row in job.run.rows(self.visit) if first <= row["detector"] <= last]
        self.folder = job.layout.detector_folder(self.visit)

    def list_record(self) -> Any:
        """Record of the visit's list."""
        path = self.job.layout.record(self.visit, "list")
        return records.known(records.list_record(path), f"list of visit {self.visit}")

    def wanted(self) -> dict[str, dict[str, str]]:
        """What the detectors are compared by; also what the token stands for."""
        list_record = self.list_record()
        return {
            str(row["detector"]): plan.detector_wanted(self.job.wanted, list_record, row) for row in self.rows
        }

    def known(self, record: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return records of the detectors, also those made under other groupings."""
        known = dict((record or {}).get("detectors", {}))
        numbers = {str(row["detector"]) for row in self.rows}
        if not numbers <= set(known):
            for other in records.group_records(self.job.folder).values():
                for number, item in other.get("detectors", {}).items():
                    if number in numbers:
                        known.setdefault(number, item)
        return known

    def compare(self, known: dict[str, Any]) -> tuple[list[Row], dict[str, Any]]:
        """Return the rows that are due, and the records that hold (of detectors not in the sheet, too)."""
        due, wanted = [], self.wanted()
        sound = {number: item for number, item in known.items() if number not in wanted}
        for row in self.rows:
            number = str(row["detector"])
            inputs = plan.detector_inputs(self.job.run.survey_folder, row)
            item = known.get(number)
            why = provenance.reasons(item, wanted[number], inputs, self.folder, self.job.digests)
            if item is None or why or is_retried(item, self.job):
                due.append(row)
            else:
                sound[number] = renewed(item, inputs, self.folder)
        return due, sound


def is_retried(record: Mapping[str, Any], job: Job) -> bool:
    """Whether a detector ended, in an earlier run, in something that every run tries again."""
    return record["status"]["status"] in plan.RETRIED_STATUSES and record.get("run") != job.run_digits
