"""One job: its stamp, its run, what it is compared by, and when it must not write."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from finalchar import provenance, records
from finalchar.errors import StaleRunError
from finalchar.frozen import FrozenRun
from finalchar.layout import Layout
from finalchar.provenance import tally
from finalchar.work.files import remove

__all__ = ["Job"]

SETTLE_SECONDS = float(os.environ.get("FINALCHAR_SETTLE_SECONDS", "10"))
"""How long a job waits until the records of upstream jobs are seen (network file systems)."""


class Job:
    """One job: its stamp ``OUTPUT/state/<folder>/<name>.<token>``, its run, and what it is compared by."""

    def __init__(self, stage: str, stamp: str, run_folder: str) -> None:
        self.stage = stage
        self.stamp = stamp
        self.folder = os.path.dirname(stamp)
        self.name, self.token = os.path.basename(stamp).rsplit(".", 1)
        self.unit = os.path.basename(self.folder)
        self.layout = Layout(os.path.dirname(os.path.dirname(self.folder)))
        self.run = FrozenRun.load(run_folder)
        self.digests = provenance.FileDigests(trust_stat=bool(self.run.config["staleness"]["trust_stat"]))
        reader = provenance.CodeReader(self.layout.code_cache)
        full = provenance.ingredients(stage, self.run.settings(stage), reader)
        self.software: Mapping[str, str] = full["software"]
        self.noted = provenance.wanted(full, compare_software=True)
        self.wanted = self.wanted_of(full)

    def wanted_of(self, full: Mapping[str, Any]) -> dict[str, str]:
        """Return the digests that this run compares."""
        return provenance.wanted(full, compare_software=self.run.config["staleness"]["software"] == "rerun")

    def __str__(self) -> str:
        return f"{self.stage} {self.unit} {self.name}"

    @property
    def record_path(self) -> str:
        """Path of the record of this unit."""
        return f"{self.folder}/{self.name}.json"

    @property
    def run_digits(self) -> str:
        """The part of the token that names the run."""
        return self.token[8:12]

    # -- is this still the planned world? --------------------------------------------------------------
    def settle(self, promise: Callable[[], object]) -> None:
        """Wait a little until the promise agrees with the first digits of the token; note whether it does."""
        tally("job", self.stage, self.unit, self.name)
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            self.settled = self._keeps(promise)
            if (self.settled and not self.is_left_over()) or time.monotonic() > end:
                break
            if self._code_differs():
                break
            time.sleep(0.2)
        self.stop_if_left_over()

    def _keeps(self, promise: Callable[[], object]) -> bool:
        try:
            return provenance.digest(promise())[:8] == self.token[:8]
        except (TypeError, KeyError, StaleRunError):  # an upstream record is not visible yet
            return False

    def _code_differs(self) -> bool:
        planned = records.run_record(self.layout.run_record)["wanted"]
        return self.stage in planned and planned[self.stage] != self.wanted

    def is_left_over(self) -> bool:
        """Whether a later run has begun (a full graph asks for current units under their old tokens)."""
        if self.run.config["full_graph"]:
            return False
        return bool(self.run_digits != records.run_record(self.layout.run_record)["id"])

    def stop_if_left_over(self) -> None:
        """Stop before anything is written if this job belongs to an earlier run.

        Raises
        ------
        StaleRunError
        """
        if self.is_left_over():
            raise StaleRunError(f"{self}: left over from an earlier run, nothing was written")

    def check_settled(self) -> None:
        """Refuse to compute in another world than the planned one.

        Raises
        ------
        StaleRunError
        """
        if not self.settled:
            raise StaleRunError(f"{self}: {self._what_differs()}")

    def _what_differs(self) -> str:
        """Say what is not as planned, and what to do: starting again helps no node of other software."""
        planned = records.run_record(self.layout.run_record)["wanted"].get(self.stage, self.wanted)
        parts = [part for part, value in self.wanted.items() if planned.get(part) != value]
        if "software" in parts:
            path = f"{self.layout.ingredients}/{planned.get('software')}.json"
            before = records.ingredients_record(path) or {}
            versions = ", ".join(
                f"{name} {version} instead of {before.get(name, 'none')}"
                for name, version in self.software.items()
                if before.get(name) != version
            )
            return (
                f"{socket.gethostname()} has other software than the run was planned with ({versions}): "
                "install the same on all nodes"
            )
        if parts:
            return f"{' and '.join(parts)} changed during the run: start again"
        return "upstream records are not those that were planned: start again"

    # -- stamps and logs ---------------------------------------------------------------------------------
    def remove_other_stamps(self) -> None:
        """Remove other stamps of this unit, before a product is rewritten, and halves of killed writes."""
        keep = {f"{self.name}.json", os.path.basename(self.stamp)}
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else []:
            if name.startswith(f"{self.name}.") and name not in keep:
                remove(f"{self.folder}/{name}")

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record with this job's token, then the stamp; remove the unit's older logs."""
        provenance.save(self.record_path, {**record, "token": self.token})
        self.remove_other_stamps()
        provenance.save(self.stamp, b"")
        folder = self.layout.log_folder(self.unit)
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name.startswith(f"{self.name}.") and not name.startswith(f"{self.name}.{self.token}"):
                remove(f"{folder}/{name}")
