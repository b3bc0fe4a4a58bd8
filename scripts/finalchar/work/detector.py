"""What the job of a group of detectors does."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import ConfigError, FinalcharError, StaleRunError
from finalchar.frozen import Row
from finalchar.provenance import tally
from finalchar.status import Status
from finalchar.work.alone import run_alone
from finalchar.work.attempts import Attempts
from finalchar.work.files import InputFiles, product_entries, remove, remove_halves
from finalchar.work.garbage import rare_collection
from finalchar.work.group import Comparison, DetectorGroup, GroupRecord
from finalchar.work.job import Job
from finalchar.work.screen import progress, say

__all__ = ["characterize", "naming_files"]


def characterize(stamp: str, run_folder: str) -> None:
    """Make the detectors of one group that are due."""
    job = Job("detector", stamp, run_folder)
    group = DetectorGroup(job)
    job.settle(group.wanted)
    record = records.group_record(job.record_path)
    found = group.compare(group.known(record))
    attempts = Attempts.of_earlier_jobs(record, job.run_digits)
    if found.due or found.back:
        job.check_settled()
        job.remove_other_stamps()
        job.stop_if_left_over()
    made = GroupRecord(job, group.take(found), attempts)
    if found.due or found.back:
        made.save()
        make_detectors(DetectorWork(job, made, group, found.finished), found)
        made.check_ownership()
    job.finish({"owner": made.owner, "detectors": made.detectors})


def make_detectors(work: DetectorWork, found: Comparison) -> None:
    """Make what is due, one detector after the other; what something died at comes last."""
    for number in found.back:
        work.tell(work.group.detectors[number]["status"], "its files are back, its products were kept")
    attempts = work.group.attempts
    make = work.make_alone if attempts.any else work.make
    for place, row in enumerate(
        sorted(found.due, key=lambda row: attempts.is_suspicious(str(row["detector"])))
    ):
        with rare_collection() if place == 0 else nullcontext():
            make(row)


class DetectorWork:
    """Computes detectors one after the other; an exception ends one detector, not the job.

    `finished` has records of products that are put aside if the detector turns out to lack a file.
    """

    def __init__(
        self, job: Job, made: GroupRecord, group: DetectorGroup, finished: Mapping[str, Any]
    ) -> None:
        self.job = job
        self.group = made
        self.shelf = group.shelf
        self.finished = finished
        self.visit = group.visit
        self.list_record = group.list_record()
        self.wanted = group.wanted()
        self.folder = group.folder
        self._config: Any = None

    def make(self, row: Row) -> None:
        """Make one detector; an exception that ends the job is told by it and is no death at the detector."""
        try:
            self._make(row)
        except StaleRunError:
            raise
        except Exception:
            with suppress(OSError):  # a full disk
                self.group.save()
            raise

    def make_alone(self, row: Row) -> None:
        """Make one detector in a process of its own, again if that dies, until the detector is given up."""
        number = str(row["detector"])
        while self._without_science(row, self._look(row)) is None:
            self.group.save()
            status = run_alone(self.job, self.group.owner, number)
            has_died = self.group.take_from_process(number)
            if status == 0:
                return
            if status > 0 and not has_died:
                sys.exit(status)  # it has said why
            self.group.attempts.count(number)
            self.group.save()
        self.make(row)

    def _make(self, row: Row) -> None:
        """Compute one detector, write its products and save the group's record."""
        number = str(row["detector"])
        files = self._look(row)
        self.group.save(working_on=number)
        status, written = self._compute(row, files)
        self.group.check_ownership()
        os.makedirs(self.folder, exist_ok=True)
        aside = self._put_aside(row, status)
        outputs = self._write(row, written)
        tally("did", "detector", str(self.visit), number)
        made = {
            "wanted": {**self.job.noted, **self.wanted[number]},
            "inputs": files.entries,
            "outputs": outputs,
            "status": status,
            "run": self.job.run_digits,
        }
        self.group.detectors[number] = {**provenance.with_product_digest(made), **aside}
        self.group.save()
        self.tell(status)

    def tell(self, status: Mapping[str, Any], more: str = "") -> None:
        """Show one more detector of the run on the screen."""
        say("  ".join([f"{progress(self.job.layout)} {line_of(status)}", *filter(None, [more])]))

    def _put_aside(self, row: Row, status: Mapping[str, Any]) -> dict[str, Any]:
        """Put finished products aside if only a file is missing; return what the record keeps of them."""
        names = self.job.layout.detector_products(self.visit, int(row["detector"]))
        kept = self.finished.get(str(row["detector"]))
        if kept is None or status["status"] != Status.INPUT_MISSING:
            self.shelf.clear(names)
            return {}
        self.shelf.put(names)
        return {"aside": kept}

    def _look(self, row: Row) -> InputFiles:
        return InputFiles.look(plan.detector_inputs(self.job.run.survey_folder, row))

    def _without_science(self, row: Row, files: InputFiles) -> dict[str, Any] | None:
        """Return the status of a detector that cannot be computed, None if it can be tried."""
        if blocked := self.list_record.get("blocked"):
            return self._status(row, blocked["status"], blocked["sentence"])
        if files.missing:
            sentence = f"the file {files.missing[0]} is missing: correct detectors.csv or bring it back"
            return self._status(row, "input_missing", sentence)
        if files.unreadable:
            sentence = (
                f"the file {files.unreadable[0]} cannot be read: is it a file, with the right to read it?"
            )
            return self._status(row, "input_broken", sentence)
        if sentence := self.group.attempts.given_up(str(row["detector"])) or "":
            return self._status(row, "internal_error", sentence)
        return None

    def _compute(self, row: Row, files: InputFiles) -> tuple[dict[str, Any], Callable[[], None] | None]:
        """Return the status as a dictionary and the function that writes the products."""
        if status := self._without_science(row, files):
            return status, None
        try:
            return self._science(row, files)
        except (StaleRunError, ConfigError):
            raise
        except FinalcharError as error:
            traceback.print_exc()
            return self._status(row, "input_broken", str(error)), None
        except Exception as error:
            traceback.print_exc()
            return self._status(row, "internal_error", f"{type(error).__name__}: {error} (see the log)"), None

    def _science(self, row: Row, files: InputFiles) -> tuple[dict[str, Any], Callable[[], None]]:
        from finalchar import characterize as science
        from finalchar.formats import products

        detector = int(row["detector"])
        survey = self.job.run.survey_folder
        inputs = science.load_detector_inputs(
            visit=self.visit,
            detector=detector,
            band=str(row["band"]),
            exposure=Path(survey, row["exposure"]),
            src=Path(survey, row["src"]),
            visit_list=Path(self.job.layout.visit_folder(self.visit), self.job.layout.visit_list),
            config=self.config,
            survey=Path(survey),
            row=row,
        )
        result = science.characterize_detector(inputs=inputs, config=self.config)
        files.check_unchanged()
        psf_path, table_path = self.job.layout.detector_products(self.visit, detector)
        status = result.status.to_dict()
        if status["status"] == "input_broken":
            status["sentence"] = naming_files(status["sentence"], row)
        return status, lambda: products.write_detector_products(
            result, Path(self.folder, psf_path), Path(self.folder, table_path)
        )

    @property
    def config(self) -> Any:
        """The typed configuration, made once per job."""
        if self._config is None:
            from finalchar.config import Config

            self._config = Config(**self.job.run.config)
        return self._config

    def _write(self, row: Row, write: Callable[[], None] | None) -> dict[str, Any]:
        """Remove what an earlier status left behind, write the products, return their entries."""
        names = self.job.layout.detector_products(self.visit, int(row["detector"]))
        for name in names:
            remove(f"{self.folder}/{name}")
        remove_halves(self.folder, names)
        if write:
            write()
        return product_entries(self.folder, dict(zip(("psf_ap_corr", "finalized_src"), names, strict=True)))

    def _status(self, row: Row, status: str, sentence: str) -> dict[str, Any]:
        from finalchar.status import DetectorStatus

        return DetectorStatus(
            visit=self.visit,
            detector=int(row["detector"]),
            band=str(row["band"]),
            status=Status(status),
            sentence=sentence,
        ).to_dict()


def naming_files(sentence: str, row: Row) -> str:
    """Return a sentence about the inputs of a detector that names one of them, or both at its end."""
    paths = str(row["exposure"]), str(row["src"])
    return sentence if any(path in sentence for path in paths) else f"{sentence} ({paths[0]}, {paths[1]})"


def line_of(status: Mapping[str, Any]) -> str:
    """One line for the progress display."""
    from finalchar.status import DetectorStatus

    return DetectorStatus.from_dict(status).line
