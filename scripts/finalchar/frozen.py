"""The run as it was planned: configuration and sheets as plain values, frozen for the jobs; the lock.

A job never reads the whole sheets and never sees an edited configuration: the main process writes a *run
folder* when a run starts, named by the digest of configuration and sheets.  Standard library only at the
top; the typed configuration is imported only by the process that reads it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from finalchar import provenance
from finalchar.errors import FinalcharError, InputError, StaleRunError
from finalchar.layout import Layout

__all__ = ["Configured", "FrozenRun", "Survey", "hold_lock", "lock_is_held", "write_run"]

Row = Mapping[str, Any]
"""One line of a sheet: ids as int, the rest as text."""


@dataclass(frozen=True)
class Survey:
    """Configuration and sheets as plain values; what planning needs to know of the world.

    Attributes
    ----------
    folder : str
        Folder that the paths of the sheets are relative to.
    layout : Layout
        Where everything of this survey's output lies.
    config : mapping
        The whole resolved configuration, fit for JSON.
    settings : mapping of str to mapping
        The resolved values each stage depends on.
    visits : mapping of int to list of rows
        Rows of detectors.csv by visit, sorted by detector.
    tracts : mapping of int to row
        Rows of tracts.csv by tract.
    run_folder : str
        Where configuration and sheets are frozen for the jobs.
    """

    folder: str
    layout: Layout
    config: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    visits: Mapping[int, list[Row]]
    tracts: Mapping[int, Row]
    run_folder: str

    @property
    def detectors_per_job(self) -> int:
        """Number of detector numbers that share a job."""
        return int(self.config["detectors_per_job"])

    @property
    def compare_software(self) -> bool:
        """Whether another version of a named package makes products stale."""
        return bool(self.config["staleness"]["software"] == "rerun")

    @property
    def full_graph(self) -> bool:
        """Whether current units are asked for as well."""
        return bool(self.config["full_graph"])

    @property
    def bands(self) -> list[str]:
        """All bands of the sheet, sorted."""
        return sorted({str(rows[0]["band"]) for rows in self.visits.values()})


@dataclass(frozen=True)
class Configured:
    """The typed configuration before the sheets are read: all that a Snakemake on a node needs."""

    path: Path
    config: Any

    @classmethod
    def read(cls, path: Path, overrides: Iterable[str] = ()) -> Configured:
        """Read and check a configuration file (`ConfigError` in one sentence)."""
        from finalchar.config import load_config

        return cls(path, load_config(path, tuple(overrides)))

    @property
    def layout(self) -> Layout:
        """Where everything lies."""
        return Layout(str(self.config.output.folder).rstrip("/") or "/")

    @property
    def sheets(self) -> tuple[Path, Path]:
        """Paths of detectors.csv and tracts.csv."""
        return self.config.detectors_sheet, self.config.tracts_sheet

    @property
    def run_folder(self) -> str:
        """Run folder of exactly this configuration and these sheets."""
        contents = [provenance.sha256(path.read_bytes()) if path.is_file() else "" for path in self.sheets]
        return self.layout.run_folder(provenance.digest([self.config.to_plain(), contents])[:12])

    def survey(self) -> Survey:
        """Read the sheets.

        Raises
        ------
        SheetError
            One sentence that names file, line and column.
        InputError
            If the survey folder does not exist.
        """
        from finalchar.config import STAGES
        from finalchar.sheets import check_images, check_tracts, read_detectors, read_tracts

        folder = str(self.config.survey)
        if not os.path.isdir(folder):
            raise InputError(
                f"the survey folder {folder} does not exist: correct `survey` in {self.path} or bring it back"
            )
        detectors, tracts = read_detectors(self.sheets[0]), read_tracts(self.sheets[1])
        check_tracts(self.sheets[0], detectors, tracts)
        check_images(self.sheets[0], detectors, self.config.input.kind)
        visits = by_visit(detectors)
        return Survey(
            folder=folder,
            layout=self.layout,
            config=self.config.to_plain(),
            settings={stage: self.config.stage_settings(stage) for stage in STAGES} | {"survey": {}},
            visits=visits,
            tracts={
                row.tract: plain_tract(row, visits, self.sheets[0])
                for row in sorted(tracts, key=lambda row: row.tract)
            },
            run_folder=self.run_folder,
        )


def plain_row(row: Any) -> dict[str, Any]:
    """Return a row of a sheet as a plain dictionary, optional columns included, without its line."""
    plain = row._asdict()
    plain.update(plain.pop("extra"))
    del plain["line"]
    return dict(plain)


def plain_tract(row: Any, visits: Mapping[int, list[Row]], sheet: Path) -> dict[str, Any]:
    """Return a row of tracts.csv as a plain dictionary, that of a region with its source tables."""
    from finalchar.tract_regions import source_tables

    plain = plain_row(row)
    if row.region is not None:
        plain["source_tables"] = source_tables(sheet, visits, row.tract)
    return plain


def by_visit(rows: Iterable[Any]) -> dict[int, list[Row]]:
    """Group the rows of detectors.csv by visit, sorted by visit and detector: the sheet's order is none."""
    visits: dict[int, list[Row]] = {}
    for row in rows:
        visits.setdefault(row.visit, []).append(plain_row(row))
    for members in visits.values():
        members.sort(key=lambda row: int(row["detector"]))
    return dict(sorted(visits.items()))


# -- the run folder ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FrozenRun:
    """What a job reads instead of configuration and sheets."""

    folder: str
    content: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str) -> FrozenRun:
        """Read the run folder.

        Raises
        ------
        StaleRunError
            If it is not there: configuration or sheets are not those that were planned.
        """
        content = provenance.load(f"{folder}/run.json")
        if content is None:
            raise StaleRunError("the configuration or a sheet changed during the run: start it again")
        return cls(folder, content)

    @property
    def survey_folder(self) -> str:
        """Folder that the paths of the sheets are relative to."""
        return str(self.content["survey"])

    @property
    def config(self) -> dict[str, Any]:
        """The whole resolved configuration."""
        return dict(self.content["config"])

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the resolved values a stage depends on."""
        return dict(self.content["settings"][stage])

    @property
    def visits(self) -> list[int]:
        """All visits of the sheet."""
        return [int(visit) for visit in self.content["visits"]]

    @property
    def tracts(self) -> dict[int, Row]:
        """Rows of tracts.csv by tract."""
        return {int(row["tract"]): row for row in self.content["tracts"]}

    @property
    def bands(self) -> list[str]:
        """All bands of the survey, sorted."""
        return list(self.content["bands"])

    def rows(self, visit: int) -> list[Row]:
        """Rows of a visit, sorted by detector."""
        rows = provenance.load(f"{self.folder}/visits/{visit}.json")
        if rows is None:
            raise StaleRunError(f"visit {visit} is not in the sheet of this run: start it again")
        return list(rows)


def write_run(survey: Survey, run_id: str, wanted: Mapping[str, Mapping[str, str]]) -> str:
    """Freeze configuration and sheets, and make this the run that counts; return the run folder.

    From now on jobs that carry another run's digits in their stamp stop before they write.
    """
    folder = survey.run_folder
    for visit, rows in survey.visits.items():
        _freeze(f"{folder}/visits/{visit}.json", rows)
    content = {
        "survey": survey.folder,
        "config": survey.config,
        "settings": survey.settings,
        "tracts": list(survey.tracts.values()),
        "visits": list(survey.visits),
        "bands": survey.bands,
    }
    _freeze(f"{folder}/run.json", content)
    provenance.save(survey.layout.progress, b"")
    provenance.save(survey.layout.run_record, {"id": run_id, "folder": folder, "wanted": wanted, "due": 0})
    _remove_other_runs(folder)
    return folder


def _freeze(path: str, content: object) -> None:
    """Write a value as JSON, unless it stands there: what was damaged is written again."""
    if not os.path.exists(path) or provenance.load(path) != json.loads(json.dumps(content)):
        provenance.save(path, content)


def _remove_other_runs(folder: str) -> None:
    parent, mine = os.path.split(folder)
    for name in os.listdir(parent):
        if name != mine:
            shutil.rmtree(f"{parent}/{name}", ignore_errors=True)


# -- the lock ------------------------------------------------------------------------------------------
def hold_lock(path: str) -> IO[str]:
    """Take the one lock of an output folder; it is held until the returned file is closed.

    The kernel lets go when the process dies, however it dies.
    """
    import fcntl

    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - kept open on purpose
    except OSError as error:
        raise FinalcharError(
            f"the output folder cannot be written ({error.strerror}: {error.filename}): "
            "choose another `output.folder` or free it"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip()
        file.close()
        raise FinalcharError(
            f"another run is working on this output ({owner}): wait for it or stop it"
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def lock_is_held(path: str) -> bool:
    """Whether a living process holds the lock of the output folder."""
    if not os.path.exists(path):
        return False
    import fcntl

    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
