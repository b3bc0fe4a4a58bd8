"""What every job does around the science: compare, compute what is due, write, record.

One job is known by its stamp and the frozen run folder.  It redoes only what its own comparison finds due,
writes products (temporary name and rename), then the record, then the stamp.  Standard library only at the
top: a job that finds nothing due imports no science.  docs/staleness.md has the rules.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finalchar import plan, provenance
from finalchar.errors import ConfigError, FinalcharError, InputError, StaleRunError
from finalchar.frozen import FrozenRun, Row
from finalchar.layout import GROUP_PREFIX, Layout
from finalchar.provenance import UNREADABLE, Inputs, tally

__all__ = ["main"]

SETTLE_SECONDS = float(os.environ.get("FINALCHAR_SETTLE_SECONDS", "10"))
"""How long a job waits until the records of upstream jobs are seen (network file systems)."""
DEATHS_BEFORE_ERROR = 2
"""Attempts of one run that may die, at the same detector or at two, before it is recorded as an error."""
AGAIN = "`finalchar run --set staleness.trust_stat=false` finds and makes again what is damaged"
"""Remedy for products whose bytes changed while size and time stamp did not: otherwise no run reads them."""


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
        self.noted = provenance.wanted(full, compare_software=True)
        self.wanted = self.wanted_of(full)
        tally("job", stage, self.unit, self.name)

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
        planned = (provenance.load(self.layout.run_record) or {}).get("wanted", {})
        return self.stage in planned and planned[self.stage] != self.wanted

    def is_left_over(self) -> bool:
        """Whether a later run has begun (a full graph asks for current units under their old tokens)."""
        if self.run.config["full_graph"]:
            return False
        record = provenance.load(self.layout.run_record) or {}
        return bool(self.run_digits != record.get("id"))

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
            raise StaleRunError(
                f"{self}: code, software or upstream records are not those that were planned: start again"
            )

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


# -- files that are read -------------------------------------------------------------------------------
@dataclass
class InputFiles:
    """Input files of one piece of work: digests of the bytes that are there before and after reading."""

    inputs: Inputs
    entries: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def look(cls, inputs: Inputs) -> InputFiles:
        """Hash the files; absent ones get the entry of an absent file."""
        entries: dict[str, Any] = dict(inputs.upstream)
        for role, path in inputs.files.items():
            full = f"{inputs.folder}/{path}"
            if not os.path.exists(full):
                entries[role] = provenance.absent(path)
                continue
            before = os.stat(full)
            try:
                content = provenance.hash_file(full)
            except OSError:
                content = provenance.UNREADABLE
            entries[role] = [path, before.st_size, before.st_mtime_ns, content]
        return cls(inputs, entries)

    @property
    def missing(self) -> list[str]:
        """Paths of absent files."""
        return [self.entries[role][0] for role in self.inputs.files if self.entries[role][1] is None]

    @property
    def unreadable(self) -> list[str]:
        """Paths of files that cannot be read."""
        return [self.entries[role][0] for role in self.inputs.files if self.entries[role][3] == UNREADABLE]

    def check_unchanged(self) -> None:
        """Refuse what was read while a file was being replaced.

        Raises
        ------
        InputError
        """
        for role, path in self.inputs.files.items():
            full = f"{self.inputs.folder}/{path}"
            known = self.entries[role]
            status = os.stat(full) if os.path.exists(full) else None
            found = [status.st_size, status.st_mtime_ns] if status else [None, None]
            if found != known[1:3]:
                raise InputError(f"{full} changed while it was read: run again when it is complete")


def renewed_entries(folder: str, files: Mapping[str, str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of files that are sound, with today's paths and time stamps."""
    fresh = {}
    for role, path in files.items():
        if known[role][1] is None:
            fresh[role] = provenance.absent(path)
        else:
            status = os.stat(f"{folder}/{path}")
            fresh[role] = [path, status.st_size, status.st_mtime_ns, known[role][3]]
    return fresh


def renewed(record: Mapping[str, Any], inputs: Inputs, product_folder: str) -> dict[str, Any]:
    """Return a record that still holds, with today's paths and time stamps."""
    products = {name: item[0] for name, item in record["outputs"].items()}
    return {
        **record,
        "inputs": {**record["inputs"], **renewed_entries(inputs.folder, inputs.files, record["inputs"])},
        "outputs": renewed_entries(product_folder, products, record["outputs"]),
    }


def product_entries(folder: str, products: Mapping[str, str]) -> dict[str, Any]:
    """Return entries of the products that are there, by name."""
    return {
        name: provenance.entry(folder, file, provenance.hash_file(f"{folder}/{file}"))
        for name, file in products.items()
        if os.path.exists(f"{folder}/{file}")
    }


def remove(path: str) -> None:
    """Remove a file that something earlier left behind, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_halves(folder: str, names: Sequence[str]) -> None:
    """Remove what killed jobs left of products that they were writing: ``.<name>.<anything>``."""
    beginnings = tuple(f".{name}." for name in names)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith(beginnings):
            remove(f"{folder}/{name}")


# -- units of one product set ----------------------------------------------------------------------------
Compute = Callable[[], Mapping[str, Any]]


def make_unit(
    job: Job,
    want: Mapping[str, str],
    inputs: Inputs,
    product_folder: str,
    products: Mapping[str, str],
    compute: Compute,
) -> None:
    """Make a unit that has one set of products, unless its record holds.

    `compute` writes the products and returns what the record keeps beside them.
    """
    record = provenance.load(job.record_path)
    if provenance.reasons(record, want, inputs, product_folder, job.digests):
        job.check_settled()
        files = InputFiles.look(inputs)
        job.remove_other_stamps()
        job.stop_if_left_over()
        if record:
            os.unlink(job.record_path)
        os.makedirs(product_folder, exist_ok=True)
        remove_halves(product_folder, list(products.values()))
        kept = compute()
        files.check_unchanged()
        job.stop_if_left_over()
        tally("did", job.stage, job.unit, job.name)
        made = {
            "wanted": {**job.noted, **want},
            "inputs": files.entries,
            "outputs": product_entries(product_folder, products),
        }
        record = {**provenance.with_product_digest(made), **kept}
    else:
        record = renewed(record, inputs, product_folder)
    job.finish(record)


def reserve_stars(stamp: str, run_folder: str) -> None:
    """Make one tract: its reserve draws in all bands of the survey."""
    job = Job("tract", stamp, run_folder)
    tract = int(job.name.removeprefix("tract_"))
    want = {**job.wanted, "sheet": provenance.digest(job.run.bands)}
    job.settle(lambda: want)
    folder = job.layout.reserve_folder
    product = job.layout.reserved_stars(tract)
    inputs = Inputs(job.run.survey_folder, plan.tract_files(job.run.tracts[tract]))

    def compute() -> Mapping[str, Any]:
        from finalchar.config import Config
        from finalchar.stars import tract as science

        config = Config(**job.run.config)
        try:
            figures = science.reserve_stars(
                tract=tract,
                star_table=Path(inputs.folder, inputs.files["isolated_star_cat"]),
                source_table=Path(inputs.folder, inputs.files["isolated_star_sources"]),
                bands=job.run.bands,
                settings=config.reserve_selection,
                id_column=config.id_column,
                output=Path(folder, product),
            )
        except InputError as error:  # damage is local: its visits get a status, the others run
            traceback.print_exc()
            say(f"error: tract {tract}: {error}")
            remove(f"{folder}/{product}")
            return {"bands": {}, "broken": f"tract {tract}: {error}"}
        say(figures["sentence"])
        return {key: figures[key] for key in ("bands", "visits", "sentence") if key in figures}

    make_unit(job, want, inputs, folder, {"reserved_stars": product}, compute)


def list_visit(stamp: str, run_folder: str) -> None:
    """Make one visit's reserve list: the only thing of the tracts that its detectors read."""
    job = Job("list", stamp, run_folder)
    work = ListWork(job)
    job.settle(work.promise)
    folder = job.layout.visit_folder(work.visit)
    if sentence := work.missing():
        inputs = plan.blocked_inputs(sentence)
        make_unit(job, work.wanted, inputs, folder, {}, lambda: work.blocked("missing", sentence))
    else:
        products = {"list": job.layout.visit_list}
        make_unit(job, work.wanted, work.inputs(), folder, products, work.compute)


class ListWork:
    """The list of one visit: what it is made from, and the making."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.visit = int(job.unit)
        self.rows = job.run.rows(self.visit)
        self.band = str(self.rows[0]["band"])
        self.tracts = plan.tracts_of_visit(self.rows, job.run.tracts)
        self.wanted = plan.list_wanted(job.wanted, self.rows)
        self.fgcm_bands = plan.fgcm_bands(job.run.settings("list"), self.band)

    def record_of(self, tract: int) -> Any:
        """Record of a tract."""
        return provenance.load(self.job.layout.record("reserve", f"tract_{tract}"))

    def missing(self) -> str | None:
        """A sentence about a missing tract file, if one keeps the list from being made."""
        return plan.blocked_by_files(self.job.run.survey_folder, self.visit, self.tracts, self.record_of)

    def promise(self) -> object:
        """What the token stands for: see `Plan.visit_list`."""
        missing = self.missing()
        tokens = {
            str(tract): self.record_of(tract)["token"]
            for tract, row in self.tracts.items()
            if not missing and not plan.missing_tract_files(self.job.run.survey_folder, row)
        }
        return [self.wanted, tokens, missing]

    def inputs(self) -> Inputs:
        """What the list is made from."""
        return plan.list_inputs(
            self.job.run.survey_folder,
            self.visit,
            self.tracts,
            self.record_of,
            with_fgcm=bool(self.fgcm_bands),
        )

    def blocked(self, kind: str, sentence: str) -> Mapping[str, Any]:
        """Keep in the record why there is no list; every detector of the visit gets it as its status."""
        remove(f"{self.job.layout.visit_folder(self.visit)}/{self.job.layout.visit_list}")
        say(f"error: visit {self.visit}: {sentence}")
        return {"rows": {}, "blocked": {"status": f"input_{kind}", "sentence": sentence}}

    def compute(self) -> Mapping[str, Any]:
        """Write the list; return the digests of the rows of its detectors."""
        from finalchar.stars import visit_list as science

        try:
            digests = science.make_visit_list(
                visit=self.visit,
                band=self.band,
                tracts=[
                    science.TractInputs(tract=tract, reserved=path, fgcm=fgcm)
                    for tract, path, fgcm in self._tract_products()
                ],
                output=Path(self.job.layout.visit_folder(self.visit), self.job.layout.visit_list),
                fgcm_bands=self.fgcm_bands,
            )
        except InputError as error:  # damage is local: the detectors get a status
            traceback.print_exc()
            return self.blocked("broken", str(error))
        rows = {str(detector): value for detector, value in digests.items()}
        return {"rows": rows, "draws": self.draws()}

    def draws(self) -> dict[str, str]:
        """Digests, by tract, of the reserve draws of the visit's band."""
        found = {}
        for tract in self.tracts:
            record = self.record_of(tract)
            if plan.tract_digest(record, self.visit) != plan.NO_ROWS and self.band in record["bands"]:
                found[str(tract)] = str(record["bands"][self.band]["digest"])
        return found

    def _tract_products(self) -> Iterator[tuple[int, Path, Path | None]]:
        """Tract, reserve product and standard stars of the tracts that concern the visit."""
        for tract, row in self.tracts.items():
            record = self.record_of(tract)
            if plan.tract_digest(record, self.visit) == plan.NO_ROWS:
                continue
            if "broken" in record:
                raise InputError(record["broken"])
            product = os.path.join(self.job.layout.reserve_folder, record["outputs"]["reserved_stars"][0])
            if provenance.hash_file(product) != record["outputs"]["reserved_stars"][3]:
                raise StaleRunError(f"{product} is not what its record describes: {AGAIN}")
            fgcm = row.get("fgcm_standard_star")
            yield tract, Path(product), Path(self.job.run.survey_folder, fgcm) if fgcm else None


# -- detectors -------------------------------------------------------------------------------------------
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
        record = provenance.load(self.job.record_path)
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
        record = provenance.load(self.job.layout.record(self.visit, "list"))
        if record is None:
            raise StaleRunError(f"visit {self.visit}: there is no list: start again")
        return record

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
            for other in plan.group_records(self.job.folder).values():
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


def characterize(stamp: str, run_folder: str) -> None:
    """Make the detectors of one group that are due."""
    job = Job("detector", stamp, run_folder)
    group = DetectorGroup(job)
    job.settle(group.wanted)
    record = provenance.load(job.record_path)
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


# -- visits and the survey -------------------------------------------------------------------------------
def consolidate(stamp: str, run_folder: str) -> None:
    """Make one visit from all its detectors, those without products included."""
    job = Job("visit", stamp, run_folder)
    visit = int(job.unit)
    rows = job.run.rows(visit)
    groups = list(plan.groups_of(rows, int(job.run.config["detectors_per_job"])))

    def promise() -> object:
        return [job.wanted, {name: provenance.load(f"{job.folder}/{name}.json")["token"] for name in groups}]

    job.settle(promise)
    detectors = sound_detectors(job, visit, rows, groups)
    made = {number: provenance.product_digest(record) for number, record in detectors.items()}
    draws = (provenance.load(job.layout.record(visit, "list")) or {}).get("draws", {})
    folder = job.layout.visit_folder(visit)

    def compute() -> Mapping[str, Any]:
        check_products(job, visit, detectors)
        return write_visit(job, visit, rows, detectors, draws)

    piff = job.layout.piff_files(visit, [row["detector"] for row in rows], job.run.config["output"]["piff"])
    products = {name.split(".")[0]: name for name in (*job.layout.visit_products, *piff)}
    make_unit(job, job.wanted, plan.visit_inputs(made, draws), folder, products, compute)
    remove_other_groupings(job.folder, groups)
    remove_other_groupings(job.layout.log_folder(visit), groups)


def remove_other_groupings(folder: str, groups: Sequence[str]) -> None:
    """Remove records, stamps and logs of groups that no job has any more."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith(GROUP_PREFIX) and name.split(".")[0] not in groups:
            remove(f"{folder}/{name}")


def sound_detectors(job: Job, visit: int, rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Any]:
    """Return the records of all detectors of a visit, each made with what this run wants.

    Raises
    ------
    StaleRunError
        If one was made with other code, configuration or rows.
    """
    reader = provenance.CodeReader(job.layout.code_cache)
    stage = job.wanted_of(provenance.ingredients("detector", job.run.settings("detector"), reader))
    list_record = provenance.load(job.layout.record(visit, "list"))
    records: dict[str, Any] = {}
    for name in groups:
        records.update((provenance.load(f"{job.folder}/{name}.json") or {"detectors": {}})["detectors"])
    wrong = []
    for row in rows:
        number = str(row["detector"])
        want = plan.detector_wanted(stage, list_record, row)
        if number not in records or not want.items() <= records[number]["wanted"].items():
            wrong.append(number)
    if wrong:
        raise StaleRunError(
            f"visit {visit}: detectors {', '.join(wrong)} were made with other code, configuration or rows: "
            "run again"
        )
    return {str(row["detector"]): records[str(row["detector"])] for row in rows}


def check_products(job: Job, visit: int, detectors: Mapping[str, Any]) -> None:
    """Check that every detector product has the recorded bytes.

    Raises
    ------
    StaleRunError
    """
    folder = job.layout.detector_folder(visit)
    for number, record in detectors.items():
        for item in record["outputs"].values():
            path = f"{folder}/{item[0]}"
            if not os.path.exists(path) or provenance.hash_file(path) != item[3]:
                raise StaleRunError(
                    f"visit {visit} detector {number}: {item[0]} is not what its record describes: {AGAIN}"
                )


def write_visit(
    job: Job, visit: int, rows: Sequence[Row], detectors: Mapping[str, Any], draws: Mapping[str, str]
) -> Mapping[str, Any]:
    """Consolidate a visit; return what its record keeps."""
    from finalchar import consolidate as science
    from finalchar.config import Config
    from finalchar.status import DetectorStatus

    config = Config(**job.run.config)
    folder = Path(job.layout.detector_folder(visit))
    inputs = [
        science.DetectorProducts(
            status=DetectorStatus.from_dict(record["status"]),
            psf_ap_corr=product_path(folder, record, "psf_ap_corr"),
            table=product_path(folder, record, "finalized_src"),
        )
        for record in detectors.values()
    ]
    summary = science.consolidate_visit(
        visit=visit,
        band=str(rows[0]["band"]),
        detectors=inputs,
        reserve_digests={int(tract): value for tract, value in draws.items()},
        config=config,
        output=Path(job.layout.visit_folder(visit)),
    )
    say(summary.sentence)
    return {"sentence": summary.sentence}


def product_path(folder: Path, record: Mapping[str, Any], name: str) -> Path | None:
    """Path of a product of a detector, None if it has none."""
    return folder / record["outputs"][name][0] if name in record["outputs"] else None


def summarize_survey(stamp: str, run_folder: str) -> None:
    """Make the table of all detectors of the survey and check that the visits' reserve lists agree."""
    job = Job("survey", stamp, run_folder)
    visits = job.run.visits

    def record_of(visit: int) -> Any:
        return provenance.load(job.layout.record(visit, "visit"))

    job.settle(lambda: [job.wanted, {str(visit): record_of(visit)["token"] for visit in visits}])
    made = {str(visit): provenance.product_digest(record_of(visit)) for visit in visits}
    product = job.layout.survey_summary

    def compute() -> Mapping[str, Any]:
        from finalchar import consolidate as science

        paths = [Path(job.layout.visit_folder(visit), job.layout.visit_products[2]) for visit in visits]
        sentences = science.summarize_survey(summaries=paths, output=Path(job.layout.output, product))
        for sentence in sentences:
            say(f"warning: {sentence}")
        return {"sentences": sentences}

    make_unit(job, job.wanted, plan.survey_inputs(made), job.layout.output, {"summary": product}, compute)


# -- what the user sees ----------------------------------------------------------------------------------
def say(sentence: str) -> None:
    """Print one line on the screen (standard output; standard error goes to the log)."""
    print(sentence, flush=True)


def progress(layout: Layout) -> str:
    """Count one more finished detector of this run; return '[done/due]'."""
    with open(layout.progress, "ab") as file:
        file.write(b".")
        file.flush()
        done = file.tell()
    due = (provenance.load(layout.run_record) or {}).get("due", 0)
    return f"[{done}/{max(done, due)}]"


def remedy(error: OSError) -> str:
    """Say what to do about a folder that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; make room for the output folder, then start again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "; get the right to write there or choose another `output.folder`, then start again"
    return ""


@contextmanager
def one_sentence(log: Callable[[], None]) -> Iterator[None]:
    """Turn errors into one sentence on the screen, the traceback in the log and exit status 1."""
    try:
        yield
    except FinalcharError as error:
        log()
        say(f"error: {error}")
        sys.exit(1)
    except OSError as error:
        log()
        where = f": {error.filename}" if error.filename else ""
        say(f"error: {error.strerror or error}{where}{remedy(error)}")
        sys.exit(1)


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for garbage rarely within a block that imports libraries, and never again at what they made.

    Importing makes a million objects that stay; looking through them again and again costs 0.3 CPU s.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()


def main(function: Callable[[str, str], None]) -> None:
    """Run the function of a script on its two arguments: stamp and run folder."""
    stamp, run_folder = sys.argv[1:3]
    with one_sentence(traceback.print_exc):
        function(stamp, run_folder)
