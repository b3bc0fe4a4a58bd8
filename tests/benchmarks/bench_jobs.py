"""A whole detector job split by stage, what its start costs, and the memory of a large detector.

Every detector of the reference survey is run as a job runs it: its inputs hashed and read, all steps, the
products written and hashed.  Times are exclusive: drawing the PSF counts as drawing wherever it is asked for.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench_rows import Row, below, skipped

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("record", "read", "select", "stamps", "fit", "draw", "measure", "apcorr", "write")
FIRST_PLUGINS = (
    "base_FPPosition",
    "base_PsfFlux",
    "base_GaussianFlux",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HigherOrderMomentsPSF",
)
"""The measurements of the first release: positions, PSF and Gaussian fluxes, moments."""
METHODS = {
    "select_sources": "select",
    "match_isolated_stars": "select",
    "start_table": "select",
    "add_colors": "select",
    "make_candidates": "stamps",
    "determine_psf": "fit",
    "measure_stars": "measure",
    "add_sky_moments": "measure",
    "measure_ap_corr": "apcorr",
    "apply_ap_corr": "apcorr",
    "result": "write",
}


@dataclass
class Stopwatch:
    """Exclusive CPU and wall time of nested stages."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: tuple[float, float] = (0.0, 0.0)

    def _book(self) -> None:
        now = time.process_time(), time.perf_counter()
        if self._open:
            name = self._open[-1]
            self.cpu[name] = self.cpu.get(name, 0.0) + now[0] - self._since[0]
            self.wall[name] = self.wall.get(name, 0.0) + now[1] - self._since[1]
        self._since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the time of a block."""
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """A function whose time is booked."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Book the steps of the detector stage and the drawing of PSFs."""
    from finalchar.characterize import _Characterization
    from finalchar.psf.piff_model import PiffModel

    places = [(_Characterization, name, stage) for name, stage in METHODS.items()]
    places.append((PiffModel, "_draw", "draw"))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, stage in places:
        setattr(owner, name, watch.wrap(getattr(owner, name), stage))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def run_detector(
    reference: Path, visit: int, detector: int, config: Any, folder: Path, watch: Stopwatch
) -> Any:
    """Run one detector from its files to its products."""
    from finalchar import characterize, provenance
    from finalchar.formats.products import write_detector_products
    from finalchar.parity.survey import isolated_stars, paths_of

    exposure, src, band = paths_of(reference, visit, detector)
    isolated = isolated_stars(reference, visit, detector, band, config)
    with watched(watch):
        with watch.stage("record"):
            for path in (exposure, src):
                provenance.hash_file(str(path))
        with watch.stage("read"):
            inputs = characterize.read_detector(
                visit=visit, detector=detector, band=band, exposure=exposure, src=src, isolated=isolated
            )
        result = characterize.characterize_detector(inputs=inputs, config=config)
        paths = folder / f"{visit}_{detector}.fits", folder / f"{visit}_{detector}.parquet"
        with watch.stage("write"):
            write_detector_products(result, *paths)
        with watch.stage("record"):
            for path in paths:
                if path.exists():
                    provenance.hash_file(str(path))
    return result


# ------------------------------------------------------------------------------------ reference survey


@dataclass(frozen=True)
class Job:
    """Times of one detector."""

    visit: int
    detector: int
    rows: int
    cpu: dict[str, float]
    wall: dict[str, float]
    reference: float


def survey_jobs(reference: Path, **settings: Any) -> list[Job]:
    """Run all detectors of the reference survey that the reference could fit."""
    from finalchar.config import Config

    jobs = []
    with tempfile.TemporaryDirectory() as folder:
        for entry in _reference_times(reference):
            config = Config()
            _change(config, settings)
            place = int(entry["visit"]), int(entry["detector"])
            if not jobs:
                run_detector(reference, *place, config, Path(folder), Stopwatch())  # imports, first calls
            watch = Stopwatch()
            result = run_detector(reference, *place, config, Path(folder), watch)
            rows = 0 if result.table is None else len(result.table)
            jobs.append(Job(*place, rows, watch.cpu, watch.wall, float(entry["cpu_s"])))
    return jobs


def _change(config: Any, settings: dict[str, Any]) -> None:
    """Set the solver and the measurements."""
    config.psf_determiner.piff.solver = settings.get("solver", "separable")
    if "plugins" in settings:
        config.measurement.plugins.names = list(settings["plugins"])


def _reference_times(reference: Path) -> list[dict[str, str]]:
    """Rows of the reference's own times with a fitted PSF, default configuration."""
    with (reference / "golden_timing.csv").open(encoding="utf-8") as file:
        return [
            row
            for row in csv.DictReader(file)
            if row["config"] == "default"
            and row["task"].startswith("Finalize")
            and row["outcome"] == "PiffPsf"
        ]


def mean_of(jobs: list[Job], stage: str | None = None, kind: str = "cpu") -> float:
    """Mean time of a stage, or of their sum."""
    total = sum(
        value for job in jobs for name, value in getattr(job, kind).items() if stage is None or name == stage
    )
    return total / len(jobs)


def print_jobs(title: str, jobs: list[Job]) -> None:
    """Print the split by stage: CPU time of every detector, means of CPU and wall time."""
    print(
        f"\n{title}: CPU ms by stage\n{'visit':>14s} det rows" + "".join(f"{s:>9s}" for s in STAGES), end=""
    )
    print(f"{'sum':>9s}{'reference':>11s}")
    for job in jobs:
        cells = "".join(f"{1e3 * job.cpu.get(stage, 0):9.1f}" for stage in STAGES)
        total = 1e3 * sum(job.cpu.values())
        print(
            f"{job.visit:14d} {job.detector:3d} {job.rows:4d}{cells}{total:9.1f}{1e3 * job.reference:11.0f}"
        )
    for kind in ("cpu", "wall"):
        cells = "".join(f"{1e3 * mean_of(jobs, stage, kind):9.1f}" for stage in STAGES)
        print(f"{'mean ' + kind:>23s}{cells}{1e3 * mean_of(jobs, kind=kind):9.1f}", flush=True)


def job_rows(reference: Path, *, quick: bool) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Rows of the detector job, and the means by stage for the JSON file."""
    variants: list[tuple[str, float | None, dict[str, Any]]] = [
        ("detector job, first measurements", 0.7, {"plugins": FIRST_PLUGINS}),
        ("detector job, all measurements of the default", 1.5, {}),
    ]
    if not quick:
        variants.append(
            ("the same, first measurements, Piff's fit", None, {"plugins": FIRST_PLUGINS, "solver": "scipy"})
        )
    for name, goal, settings in variants:
        jobs = survey_jobs(reference, **settings)
        print_jobs(name, jobs)
        ours = mean_of(jobs)
        theirs = sum(job.reference for job in jobs) / len(jobs)
        split = {kind: {stage: mean_of(jobs, stage, kind) for stage in STAGES} for kind in ("cpu", "wall")}
        row = Row(name, theirs, ours, "CPU s", "reported", None)
        if goal is not None:
            row = below(name, ours, goal, "CPU s", theirs)
        yield replace(row), {name: split}


# -------------------------------------------------------------------------------------- start and memory


def start_row(reference: Path) -> Row:
    """CPU time of interpreter and imports of a job: first detector minus the same detector again."""
    found = [_in_process("start", str(reference))["start"] for _ in range(4)]
    return below("interpreter and imports of a job process", min(found), 2.0, "CPU s")


def nothing_row(reference: Path) -> Row:
    """CPU time of a process that characterises a detector without isolated stars."""
    found = _in_process("nothing", str(reference))
    return below("process of a detector without stars", found["start"], 1.0, "CPU s")


def memory_row(*, quick: bool) -> Row:
    """Peak memory of a job on a 4096 x 4096 detector, 300 stars, order 4."""
    name = "peak memory, 4k x 4k, 300 stars, order 4"
    if quick:
        return skipped(name, "left out (--quick)")
    with tempfile.TemporaryDirectory() as folder:
        _in_process("simulate", folder)
        found = _in_process("large", folder)
    print(f"\n4k x 4k detector: {found}")
    return below(name, found["memory"], 1200, "MB")


def _in_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=_with_bytecode())
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def _with_bytecode() -> dict[str, str]:
    """The environment of a process that finds compiled modules, as in a normal installation."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(ROOT / "build" / "pycache")}


def _start(reference: str) -> dict[str, Any]:
    """In a process of its own: the time of everything but the work on the detector."""
    from finalchar.work.garbage import rare_collection

    entry = _reference_times(Path(reference))[0]
    times = []
    with tempfile.TemporaryDirectory() as folder, rare_collection():
        from finalchar.config import Config

        config = Config()
        for _ in range(2):
            before = time.process_time()
            run_detector(
                Path(reference),
                int(entry["visit"]),
                int(entry["detector"]),
                config,
                Path(folder),
                Stopwatch(),
            )
            times.append(time.process_time() - before)
    return {"start": time.process_time() - 2 * times[1]}


def _nothing(reference: str) -> dict[str, Any]:
    """In a process of its own: a detector on which no isolated star lies."""
    import numpy as np

    from finalchar import characterize
    from finalchar.config import Config
    from finalchar.stars.isolated_sources import IsolatedSources

    config, none = Config(), np.zeros(0, np.int64)
    small = none.astype(np.int32)
    isolated = IsolatedSources(small, none, none, none, none.astype(bool), small)
    path = Path(reference, "not_read.fits")
    inputs = characterize.read_detector(
        visit=1, detector=1, band="i", exposure=path, src=path, isolated=isolated
    )
    result = characterize.characterize_detector(inputs=inputs, config=config)
    heavy = sorted({"piff", "galsim", "astropy", "scipy", "pandas", "pyarrow"} & set(sys.modules))
    return {"start": time.process_time(), "status": result.status.status.value, "heavy": heavy}


def _simulate(folder: str) -> dict[str, Any]:
    """Write a survey of one large detector."""
    from finalchar.simulate.survey import write_survey
    from finalchar.simulate.surveys import DEMO, CameraPlan

    sky = replace(
        DEMO.sky,
        radius=0.125,
        stars_per_arcmin2=7.0,
        galaxies_per_arcmin2=2.0,
        pair_fraction=0.0,
        faint_limit=20.5,
        minimum_separation=8.0,
    )
    camera = CameraPlan(columns=1, rows=1, width=4096, height=4096)
    plan = replace(DEMO, name="large", sky=sky, camera=camera, visits=DEMO.visits[:1], psf_order=4)
    write_survey(plan, Path(folder))
    return {}


def _large(folder: str) -> dict[str, Any]:
    """Run the large detector; memory, and figures that show what was done."""
    from finalchar import characterize
    from finalchar.config import Config
    from finalchar.formats.products import write_detector_products
    from finalchar.stars.visit_list import concatenate_isolated_stars

    survey = Path(folder)
    (exposure,) = survey.glob("calexp_*.fits")
    visit, detector = map(int, exposure.stem.split("_")[1:])
    config = Config()
    config.psf_determiner.piff.spatialOrder = 4
    tables = {
        name: {int(path.stem.rsplit("_", 1)[1]): path for path in survey.glob(f"{name}_*.parquet")}
        for name in ("isolated_star_cat", "isolated_star_sources")
    }
    isolated = concatenate_isolated_stars(
        tables["isolated_star_cat"], tables["isolated_star_sources"], band="r", visit=visit,
        detector=detector, settings=config.reserve_selection, id_column=config.id_column,
    )  # fmt: skip
    before = time.process_time()
    inputs = characterize.read_detector(
        visit=visit, detector=detector, band="r", exposure=exposure,
        src=exposure.with_name(exposure.name.replace("calexp", "src")), isolated=isolated,
    )  # fmt: skip
    result = characterize.characterize_detector(inputs=inputs, config=config)
    write_detector_products(result, survey / "product.fits", survey / "product.parquet")
    counts = result.status.counts
    return {
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cpu": time.process_time() - before,
        "status": result.status.status.value,
        "sentence": result.status.sentence,
        "measured": counts.get("measured"),
        "used": counts.get("used"),
        "terms": result.status.figures.get("terms"),
        "image_megabytes": os.path.getsize(exposure) / 1e6,
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        action = {"start": _start, "nothing": _nothing, "simulate": _simulate, "large": _large}[sys.argv[1]]
        print(json.dumps(action(*sys.argv[2:])))
