"""A clone of the workflow beside a survey, run as a user runs it, with its jobs counted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOW_FILES = ("Snakefile", "workflow", "scripts", "profiles")
STATE_FOLDERS = ("state", "logs")
# few measurements: the workflow is tried here, and a detector then costs 0.1 s beside the imports
CONFIG = """survey: {survey}
output: {output}
detectors_per_job: {detectors_per_job}
psf_determiner:
  piff:
    spatialOrder: 1
measurement:
  plugins:
    names:
      - base_FPPosition
      - base_GaussianFlux
      - base_PsfFlux
      - ext_shapeHSM_HsmPsfMoments
      - ext_shapeHSM_HsmSourceMoments
  slots:
    modelFlux: null
measure_ap_corr:
  fitConfig:
    orderX: 1
    orderY: 1
"""


@dataclass(frozen=True)
class Outcome:
    """One run of Snakemake: its exit status, its words, how many jobs started and units were computed."""

    status: int
    text: str
    jobs: dict[str, int] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    hashed: int = 0

    @property
    def says_nothing_to_do(self) -> bool:
        return "Nothing to be done" in self.text


@dataclass
class Trial:
    """A clone, a survey and an output folder below `root`.

    Attributes
    ----------
    root : Path
        Everything is below this folder.
    variant : str
        ``plain``; ``nometa``: ``.snakemake`` is deleted before every run; ``clone``: every run is made from
        a new copy of the workflow with new time stamps.
    """

    root: Path
    variant: str = "plain"
    detectors_per_job: int = 3
    references: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("--cores", "2", "--workflow-profile", "none")
    runs: int = 0
    broken: bool = False

    @classmethod
    def make(cls, root: Path, survey: Path, **options: object) -> Trial:
        trial = cls(root, **options)  # type: ignore[arg-type]
        shutil.copytree(survey, trial.survey)
        copy_workflow(REPOSITORY, trial.clone)
        trial.write_config()
        make_distribution(trial.clone / "packages", "1.0")
        return trial

    # -- places ------------------------------------------------------------------------------------
    @property
    def clone(self) -> Path:
        return self.root / "clone"

    @property
    def survey(self) -> Path:
        return self.root / "survey"

    @property
    def sheets(self) -> tuple[Path, Path]:
        return self.survey / "detectors.csv", self.survey / "tracts.csv"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def tally(self) -> Path:
        return self.root / "tally"

    def write_config(self) -> None:
        text = CONFIG.format(survey=self.survey, output=self.output, detectors_per_job=self.detectors_per_job)
        (self.clone / "config.yaml").write_text(text)

    @property
    def groups_per_visit(self) -> int:
        return -(-3 // self.detectors_per_job)

    def state(self, name: str) -> Path:
        return self.output / "state" / name

    def group(self, detector: int) -> str:
        """Name of the group of a detector."""
        first = detector // self.detectors_per_job * self.detectors_per_job
        return f"d{first:03d}-{first + self.detectors_per_job - 1:03d}"

    def product(self, visit: int, detector: int) -> Path:
        return self.output / str(visit) / "detectors" / f"psf_ap_corr_{visit}_{detector:03d}.fits"

    def stamps(self) -> list[Path]:
        files = self.state("").rglob("*.*")
        return [path for path in files if re.search(r"\.[0-9a-f]{12}(-\d+)?$", path.name)]

    # -- changes -----------------------------------------------------------------------------------
    def configure(self, old: str, new: str) -> None:
        edit(self.clone / "config.yaml", old, new)

    def add_config(self, text: str) -> None:
        with open(self.clone / "config.yaml", "a") as file:
            file.write(text)

    def library(self, name: str) -> Path:
        return self.clone / "scripts" / "finalchar" / name

    # -- running -----------------------------------------------------------------------------------
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "FINALCHAR_TALLY": str(self.tally),
            "PYTHONPATH": str(self.clone / "packages"),
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }

    def place(self) -> Path:
        """The folder in which this run is made."""
        self.runs += 1
        if self.variant == "nometa":
            shutil.rmtree(self.clone / ".snakemake", ignore_errors=True)
        if self.variant != "clone":
            return self.clone
        for old in self.root.glob("copy*"):
            shutil.rmtree(old)
        copy = self.root / f"copy{self.runs}"
        copy_workflow(self.clone, copy)
        shutil.copy(self.clone / "config.yaml", copy)
        return copy

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", *self.arguments, *arguments]

    def run(self, *arguments: str) -> Outcome:
        self.tally.write_text("")
        done = subprocess.run(
            self.command(*arguments), cwd=self.place(), capture_output=True, text=True, env=self.environ()
        )
        return self.outcome(done.returncode, done.stdout + done.stderr)

    def start(self) -> subprocess.Popen[bytes]:
        """Start a run that will be killed."""
        self.tally.write_text("")
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            self.command(),
            cwd=self.place(),
            stdout=quiet,
            stderr=quiet,
            env=self.environ(),
            start_new_session=True,
        )

    def outcome(self, status: int = 0, text: str = "") -> Outcome:
        """Read the tally."""
        words = [line.split() for line in self.tally.read_text().splitlines()]
        jobs = Counter(word[1] for word in words if word[0] == "job")
        computed = Counter(word[1] for word in words if word[0] == "did")
        hashed = sum(int(word[1]) for word in words if word[0] == "hashed")
        return Outcome(status, text, dict(jobs), dict(computed), hashed)

    def finalchar(self, *words: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.clone / "scripts"), str(self.clone / "packages")])
        environment = {**self.environ(), "PYTHONPATH": path}
        command = [sys.executable, "-m", "finalchar", *words]
        return subprocess.run(command, cwd=self.clone, capture_output=True, text=True, env=environment)

    # -- products ----------------------------------------------------------------------------------
    def reference(self) -> Path:
        """Products of a plain run in one process of the same world; made once per world."""
        assert self.references is not None
        folder = self.references / self.world()
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            script = Path(__file__).with_name("plain_run.py")
            subprocess.run(
                [sys.executable, str(script), str(self.clone), str(self.clone), str(folder)],
                check=True,
                env={**self.environ(), "FINALCHAR_TALLY": ""},
            )
            (folder / "complete").touch()
        return folder

    def world(self) -> str:
        """Digest of survey, library and configuration, names of the folders aside."""
        digest = hashlib.sha256()
        config = (self.clone / "config.yaml").read_text().replace(str(self.root), "")
        digest.update(re.sub(r"(survey|output|detectors_per_job): .*", "", config).encode())
        for folder in (self.survey, self.clone / "scripts", self.clone / "packages"):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix != ".pyc":
                    digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
        return digest.hexdigest()[:20]

    def differences(self) -> list[str]:
        """Products that are not, byte for byte, those of the plain run."""
        expected = dict(products(self.reference()))
        found = dict(products(self.output))
        del expected["complete"]
        visits = {path.split("/")[0] for path in expected}
        extra = [path for path in found if path not in expected and path.split("/")[0] in visits]
        wrong = [path for path, digest in expected.items() if found.get(path) != digest]
        return sorted([*wrong, *(f"extra: {path}" for path in extra)])


def copy_workflow(source: Path, target: Path) -> None:
    """Copy the workflow with new time stamps, without what Snakemake or Python left there."""
    target.mkdir(parents=True)
    for name in (*WORKFLOW_FILES, "packages"):
        if (source / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", ".snakemake")
            shutil.copytree(source / name, target / name, ignore=ignore, copy_function=shutil.copy)
        elif (source / name).exists():
            shutil.copy(source / name, target / name)


def make_distribution(folder: Path, version: str, name: str = "galsim") -> None:
    """Make Python believe that another version of a package is installed."""
    info = folder / f"{name}-{version}.dist-info"
    for old in folder.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def products(folder: Path) -> Iterator[tuple[str, str]]:
    """Path below the folder and digest of every product."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name.split("/")[0] not in STATE_FOLDERS:
            yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that must be there, once."""
    text = path.read_text()
    if old not in text:
        raise ValueError(f"{path.name} does not contain {old!r}")
    path.write_text(text.replace(old, new, 1))


def edit_bytes(path: Path, change: Callable[[bytearray], None], *, older_by_seconds: int = 0) -> None:
    """Change bytes of a file in place; its time stamp may become an older one."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))
    if older_by_seconds:
        stamp = before.st_mtime_ns - older_by_seconds * 10**9
        os.utime(path, ns=(stamp, stamp))


# -- what a run must do --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Expected:
    """Jobs that must be started, by stage, and detectors that must be computed."""

    jobs: dict[str, int]
    detectors: int = 0


def nothing() -> Expected:
    return Expected({})


def survey_only() -> Expected:
    return Expected({"survey": 1})


def visits(number: int, **jobs: int) -> Expected:
    return Expected({**jobs, "visit": number, "survey": 1})


def lists_only(tracts: int, lists: int) -> Expected:
    return Expected({"tract": tracts, "list": lists})


def one_detector(**jobs: int) -> Expected:
    return Expected({**jobs, "detector": 1, "visit": 1, "survey": 1}, 1)


def one_group(trial: Trial) -> Expected:
    return Expected({"detector": 1, "visit": 1, "survey": 1}, trial.detectors_per_job)


def all_detectors(trial: Trial, **jobs: int) -> Expected:
    number = 2 * trial.groups_per_visit
    return Expected({**jobs, "detector": number, "visit": 2, "survey": 1}, 6)


def everything(trial: Trial) -> Expected:
    return all_detectors(trial, tract=2, list=2)


def expect(
    trial: Trial,
    expected: Expected,
    *arguments: str,
    hashed: int | None = None,
    status: int = 0,
    compare: bool = True,
) -> Outcome:
    """Run once; check the jobs, the computed detectors, and every product byte for byte."""
    trial.broken = True
    outcome = trial.run(*arguments)
    assert outcome.status == status, outcome.text[-3000:]
    assert outcome.jobs == expected.jobs, outcome.text[-3000:]
    assert outcome.computed.get("detector", 0) == expected.detectors
    if expected == nothing():
        assert outcome.says_nothing_to_do
    if hashed is not None:
        assert outcome.hashed == hashed
    if compare:
        assert trial.differences() == []
    trial.broken = False
    return outcome
