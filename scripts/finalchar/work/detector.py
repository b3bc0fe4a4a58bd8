"""What the job of a group of detectors does."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import ConfigError, FinalcharError, StaleRunError
from finalchar.frozen import Row
from finalchar.provenance import tally
from finalchar.work.files import InputFiles, product_entries, remove, remove_halves
from finalchar.work.garbage import rare_collection
from finalchar.work.group import DetectorGroup, GroupRecord, earlier_deaths
from finalchar.work.job import Job
from finalchar.work.screen import progress, say

__all__ = ["characterize", "naming_files"]


def characterize(stamp: str, run_folder: str) -> None:
    """Make the detectors of one group that are due."""
    job = Job("detector", stamp, run_folder)
    group = DetectorGroup(job)
    job.settle(group.wanted)
    record = records.group_record(job.record_path)
    due, sound = group.compare(group.known(record))
    made = GroupRecord(job, sound, earlier_deaths(job, record))
    if due:
        job.check_settled()
        job.remove_other_stamps()
        job.stop_if_left_over()
        made.save()
        detectors = DetectorWork(job, made, group)
        due.sort(key=lambda row: str(row["detector"]) in made.deaths)  # what killed a job comes last
        for place, row in enumerate(due):
            with rare_collection() if place == 0 else nullcontext():
                detectors.make(row)
        made.check_ownership()
    job.finish({"owner": made.owner, "detectors": made.detectors})


class DetectorWork:
    """Computes detectors one after the other; an exception ends one detector, not the job."""

    def __init__(self, job: Job, made: GroupRecord, group: DetectorGroup) -> None:
        self.job = job
        self.group = made
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

    def _make(self, row: Row) -> None:
        """Compute one detector, write its products and save the group's record."""
        number = str(row["detector"])
        files = self._look(row)
        self.group.save(working_on=number)
        status, written = self._compute(row, files)
        self.group.check_ownership()
        os.makedirs(self.folder, exist_ok=True)
        outputs = self._write(row, written)
        tally("did", "detector", str(self.visit), number)
        self.group.detectors[number] = provenance.with_product_digest(
            {
                "wanted": {**self.job.noted, **self.wanted[number]},
                "inputs": files.entries,
                "outputs": outputs,
                "status": status,
                "run": self.job.run_digits,
            }
        )
        self.group.save()
        say(f"{progress(self.job.layout)} {line_of(status)}")

    def _look(self, row: Row) -> InputFiles:
        return InputFiles.look(plan.detector_inputs(self.job.run.survey_folder, row))

    def _compute(self, row: Row, files: InputFiles) -> tuple[dict[str, Any], Callable[[], None] | None]:
        """Return the status as a dictionary and the function that writes the products."""
        number = str(row["detector"])
        if blocked := self.list_record.get("blocked"):
            return self._status(row, blocked["status"], blocked["sentence"]), None
        if files.missing:
            sentence = f"the file {files.missing[0]} is missing: correct detectors.csv or bring it back"
            return self._status(row, "input_missing", sentence), None
        if files.unreadable:
            sentence = (
                f"the file {files.unreadable[0]} cannot be read: is it a file, with the right to read it?"
            )
            return self._status(row, "input_broken", sentence), None
        if (deaths := self.group.deaths.get(number, 0)) and self.group.is_last_attempt:
            times = "once" if deaths == 1 else f"{deaths} times"
            sentence = f"the job died {times} at this detector (out of memory, or killed)"
            return self._status(row, "internal_error", sentence), None
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
        from finalchar.status import DetectorStatus, Status

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
