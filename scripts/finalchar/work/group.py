"""The detectors of one job: which are due, and the record that is kept while they are made."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import StaleRunError
from finalchar.frozen import Row
from finalchar.layout import GROUP_PREFIX
from finalchar.status import Status
from finalchar.work.attempts import Attempts
from finalchar.work.files import renewed
from finalchar.work.job import Job
from finalchar.work.shelf import Shelf, finished

__all__ = ["Comparison", "DetectorGroup", "GroupRecord"]


class GroupRecord:
    """The record of a group of detectors while its job works: saved after every detector.

    ``owner`` names the job that writes; a job that finds another owner has been replaced and stops.
    """

    def __init__(
        self, job: Job, detectors: dict[str, Any], attempts: Attempts, owner: str | None = None
    ) -> None:
        self.job = job
        self.detectors = detectors
        self.attempts = attempts
        self.owner = owner or f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"

    def save(self, working_on: str | None = None) -> None:
        """Write the unfinished record; `working_on` is the detector that starts now."""
        content: dict[str, Any] = {"token": None, "owner": self.owner, "detectors": self.detectors}
        if working_on is not None or self.attempts.any:
            content["attempts"] = self.attempts.to_dict(self.job.run_digits, working_on)
        provenance.save(self.job.record_path, content)

    def check_ownership(self) -> None:
        """Stop if a later job has taken over this group.

        Raises
        ------
        StaleRunError
        """
        self.job.stop_if_left_over()
        self._read()

    @classmethod
    def of_owner(cls, job: Job, owner: str) -> GroupRecord:
        """Return the record that `owner` keeps, for a process of its own.

        Raises
        ------
        StaleRunError
            If a later job has taken over this group.
        """
        record = _read_owned(job, owner)
        return cls(job, record["detectors"], Attempts.of_this_job(record), owner)

    def _read(self) -> records.Record:
        return _read_owned(self.job, self.owner)

    def take_from_process(self, detector: str) -> bool:
        """Take over what a process of its own has written; return whether it has died at its detector.

        Raises
        ------
        StaleRunError
            If a later job has taken over this group.
        """
        self.job.stop_if_left_over()
        record = self._read()
        self.detectors = record["detectors"]
        return bool(record.get("attempts") and record["attempts"]["at"] == detector)


def _read_owned(job: Job, owner: str) -> records.Record:
    """Return the record of a group on disk if it is still `owner`'s."""
    record = records.group_record(job.record_path)
    if not record or record["owner"] != owner:
        raise StaleRunError(f"{job}: a later job has taken over, this one stops")
    return record


@dataclass
class Comparison:
    """What comparing the detectors of a group has found.

    Attributes
    ----------
    due : list of rows
        Detectors that must be made.
    sound : dict of str to record
        Records that hold, also of detectors that are not in the sheet.
    back : dict of str to record
        Records of products that were put aside and hold again, because the input files are back.
    finished : dict of str to record
        Of detectors that are due: products that are worth keeping aside if it is for a missing file.
    """

    due: list[Row] = field(default_factory=list)
    sound: dict[str, Any] = field(default_factory=dict)
    back: dict[str, Any] = field(default_factory=dict)
    finished: dict[str, Any] = field(default_factory=dict)


class DetectorGroup:
    """The detectors of one job: their rows of the sheet, what is known of them, which are due."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.visit = int(job.unit)
        first, last = (int(number) for number in job.name.removeprefix(GROUP_PREFIX).split("-"))
        self.rows = [row for row in job.run.rows(self.visit) if first <= row["detector"] <= last]
        self.folder = job.layout.detector_folder(self.visit)
        self.shelf = Shelf(job.layout, self.visit)

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

    def compare(self, known: dict[str, Any]) -> Comparison:
        """Compare the records of all detectors with what is wanted; nothing is written."""
        wanted = self.wanted()
        found = Comparison(sound={number: item for number, item in known.items() if number not in wanted})
        for row in self.rows:
            number = str(row["detector"])
            item = known.get(number)
            if item and self._holds(item, wanted[number], row) and not is_retried(item, self.job):
                found.sound[number] = item
                continue
            kept = finished(item)
            if kept and item and "aside" in item and self._holds_aside(kept, wanted[number], row):
                found.back[number] = kept
                continue
            found.due.append(row)
            if kept:
                found.finished[number] = kept
        return found

    def _holds(
        self, item: Mapping[str, Any], want: Mapping[str, str], row: Row, folder: str | None = None
    ) -> bool:
        inputs = plan.detector_inputs(self.job.run.survey_folder, row)
        return not provenance.reasons(item, want, inputs, folder or self.folder, self.job.digests)

    def _holds_aside(self, kept: Mapping[str, Any], want: Mapping[str, str], row: Row) -> bool:
        """Whether products that were put aside hold; a job that died may have brought them back already."""
        return any(self._holds(kept, want, row, folder) for folder in (self.shelf.aside, self.folder))

    def take(self, found: Comparison) -> dict[str, Any]:
        """Bring back what holds again; return the records that are kept until the due detectors are made."""
        rows = {str(row["detector"]): row for row in self.rows}
        for kept in found.back.values():
            self.shelf.bring_back([item[0] for item in kept["outputs"].values()])
        held = {
            number: renewed(item, plan.detector_inputs(self.job.run.survey_folder, rows[number]), self.folder)
            if number in rows
            else item
            for number, item in (found.sound | found.back).items()
        }
        waiting = {
            number: item
            for number, item in found.finished.items()
            if self.lacks_input(rows[number])  # its products are put aside, not written again
        }
        return {**held, **waiting}

    def lacks_input(self, row: Row) -> bool:
        """Whether a file is absent without which a detector cannot be made."""
        blocked = self.list_record().get("blocked")
        inputs = plan.detector_inputs(self.job.run.survey_folder, row)
        return bool((blocked and blocked["status"] == Status.INPUT_MISSING) or inputs.missing)


def is_retried(record: Mapping[str, Any], job: Job) -> bool:
    """Whether a detector ended, in an earlier run, in something that every run tries again."""
    return record["status"]["status"] in plan.RETRIED_STATUSES and record.get("run") != job.run_digits
