"""What planning costs: CPU seconds and memory of the main Snakemake process for 1k, 10k and 60k detectors.

Records and sheets are written as a finished run would leave them; no image exists (planning opens none): all
detectors of the sheet share two small files, and those of the records share two more, so that every detector
still costs four looks at the file system.  ``fresh`` plans a graph in which every detector is due, ``nothing
to do`` one in which none is.  Usage: scale.py [DETECTORS ...] [--jobs K ...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DETECTORS_PER_VISIT = 189
LIMITS = {(10_000, 10): (5.0, 3.0), (10_000, 1): (20.0, 5.0)}
MEMORY_LIMIT_GB = 0.4

sys.path.insert(0, str(REPOSITORY / "scripts"))


def write_survey(folder: Path, detectors: int) -> None:
    """Write the sheets of a large survey and the few files that it consists of."""
    folder.mkdir()
    for name in ("exposure.fits", "src.fits", "stars.parquet", "sources.parquet"):
        (folder / name).write_text(name)
    visits = -(-detectors // DETECTORS_PER_VISIT)
    rows = [
        f"{2026_0000_00000 + visit},{detector},{'griz'[visit % 4]},exposure.fits,src.fits\n"
        for visit in range(visits)
        for detector in range(DETECTORS_PER_VISIT)
    ][:detectors]
    (folder / "detectors.csv").write_text("visit,detector,band,exposure,src\n" + "".join(rows))
    tracts = "tract,isolated_star_cat,isolated_star_sources\n1,stars.parquet,sources.parquet\n"
    (folder / "tracts.csv").write_text(tracts)


def write_records(config: Path) -> None:
    """Write tract and list records of a finished run."""
    from finalchar import plan, provenance
    from finalchar.frozen import Configured

    planned = plan.Plan(Configured.read(config).survey())
    survey, layout = planned.survey, planned.layout
    os.makedirs(layout.reserve_folder)
    for tract, row in survey.tracts.items():
        inputs = {
            role: provenance.entry(survey.folder, path, provenance.hash_file(f"{survey.folder}/{path}"))
            for role, path in plan.tract_files(row).items()
        }
        Path(layout.reserve_folder, layout.reserved_stars(tract)).write_text("x")
        outputs = {"reserved_stars": shared(layout.reserve_folder, layout.reserved_stars(tract))}
        want = {**planned.wanted["tract"], "sheet": provenance.digest(survey.bands)}
        record = {"wanted": want, "inputs": inputs, "outputs": outputs, "bands": {}, "token": "0" * 12}
        provenance.save(layout.record("reserve", f"tract_{tract}"), provenance.with_product_digest(record))
    planned = plan.Plan(survey)
    for visit, rows in survey.visits.items():
        folder = layout.visit_folder(visit)
        os.makedirs(folder)
        Path(folder, layout.visit_list).write_text("x")
        upstream = plan.list_inputs(
            survey.folder, visit, survey.tracts, planned.tract_record, with_fgcm=False
        )
        record = {
            "wanted": plan.list_wanted(planned.wanted["list"], rows),
            "inputs": dict(upstream.upstream),
            "outputs": {"list": shared(folder, layout.visit_list)},
            "rows": {str(row["detector"]): "0" * 64 for row in rows},
            "token": "0" * 12,
        }
        provenance.save(layout.record(visit, "list"), provenance.with_product_digest(record))


def write_detector_records(config: Path) -> None:
    """Write the records of detectors, visits and survey of a finished run."""
    from finalchar import plan, provenance
    from finalchar.frozen import Configured

    planned = plan.Plan(Configured.read(config).survey())
    survey, layout = planned.survey, planned.layout
    made = {}
    noted = provenance.wanted(planned.ingredients["detector"], compare_software=True)
    status = example_status()
    for visit, rows in survey.visits.items():
        folder = layout.detector_folder(visit)
        os.makedirs(folder)
        for name in ("psf", "table"):
            Path(folder, name).write_text("x")
        outputs = {name: shared(folder, name) for name in ("psf", "table")}
        inputs = {
            role: provenance.entry(survey.folder, path, provenance.hash_file(f"{survey.folder}/{path}"))
            for role, path in plan.detector_inputs(survey.folder, rows[0]).files.items()
        }
        list_record = planned.list_record(visit)
        digests = {}
        for name, members in planned.groups(visit).items():
            detectors = {}
            for row in members:
                want = plan.detector_wanted(planned.wanted["detector"], list_record, row)
                record = {"wanted": {**noted, **want}, "inputs": inputs, "outputs": outputs, "status": status}
                detectors[str(row["detector"])] = provenance.with_product_digest(record)
                digests[str(row["detector"])] = detectors[str(row["detector"])]["product"]
            record = {"owner": "scale", "detectors": detectors, "token": "0" * 12}
            provenance.save(layout.record(visit, name), record)
        record = {
            "wanted": planned.wanted["visit"],
            "inputs": dict(plan.visit_inputs(digests, {}).upstream),
            "outputs": {},
            "token": "0" * 12,
        }
        record = provenance.with_product_digest(record)
        provenance.save(layout.record(visit, "visit"), record)
        made[str(visit)] = provenance.product_digest(record)
    record = {
        "wanted": planned.wanted["survey"],
        "inputs": dict(plan.survey_inputs(made).upstream),
        "outputs": {},
        "token": "0" * 12,
    }
    provenance.save(layout.record("survey", "survey"), provenance.with_product_digest(record))


def shared(folder: str, name: str) -> list[object]:
    """Entry of a small file that stands for many."""
    from finalchar import provenance

    return provenance.entry(folder, name, provenance.hash_file(f"{folder}/{name}"))


def example_status() -> dict[str, object]:
    """A status of ordinary size: 9 counts and 40 figures."""
    from finalchar.status import DetectorStatus, Status

    counts = {f"count_{number}": number for number in range(9)}
    figures = {f"figure_{number}": 1.234567890123 * number for number in range(40)}
    return DetectorStatus(1, 1, "r", Status.OK, "", counts, figures).to_dict()


def plan_once(config: Path) -> tuple[float, float, str]:
    """CPU seconds, peak memory in GB, and last words of one planning."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.stdout + done.stderr)\n"
        "print('peak', used.ru_maxrss, done.returncode)\n"
    )
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", "--workflow-profile", "none"]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--configfile", str(config)]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=config.parent
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *text, last = done.stdout.strip().splitlines()
    _, peak, status = last.split()
    if status != "0":
        raise SystemExit("\n".join(text[-20:]))
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, int(peak) / 1e6, "\n".join(text)


def measure(detectors: int, detectors_per_job: int) -> dict[str, float]:
    """Figures of one survey size and grouping."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_survey(root / "survey", detectors)
        config = root / "config.yaml"
        config.write_text(f"survey: survey\noutput: output\ndetectors_per_job: {detectors_per_job}\n")
        here = Path.cwd()
        os.chdir(root)
        try:
            first, _, _ = plan_once(config)
            write_records(config)
            fresh, fresh_memory, _ = plan_once(config)
            write_detector_records(config)
            idle, idle_memory, _ = plan_once(config)
        finally:
            os.chdir(here)
    return {
        "detectors": detectors,
        "detectors_per_job": detectors_per_job,
        "lists_due_cpu_s": round(first, 2),
        "fresh_cpu_s": round(fresh, 2),
        "fresh_gb": round(fresh_memory, 3),
        "nothing_to_do_cpu_s": round(idle, 2),
        "nothing_to_do_gb": round(idle_memory, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("detectors", type=int, nargs="*", default=[1_000, 10_000, 60_000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 10, 21], help="detectors per job")
    given = parser.parse_args()
    print("detectors  per job |  lists due |  all detectors due   |  nothing to do   (CPU s, GB)")
    results, failed = [], False
    for detectors in given.detectors:
        for number in given.jobs:
            found = measure(detectors, number)
            results.append(found)
            fresh, idle = LIMITS.get((detectors, number), (float("inf"), float("inf")))
            bad = found["fresh_cpu_s"] > fresh or found["nothing_to_do_cpu_s"] > idle
            bad |= (detectors, number) in LIMITS and found["fresh_gb"] > MEMORY_LIMIT_GB
            failed |= bad
            print(
                f"{detectors:9d}  {number:7d} | {found['lists_due_cpu_s']:8.1f} s |"
                f" {found['fresh_cpu_s']:8.1f} s {found['fresh_gb']:6.2f} GB |"
                f" {found['nothing_to_do_cpu_s']:8.1f} s {found['nothing_to_do_gb']:6.2f} GB"
                f"{'   over the limit' if bad else ''}",
                flush=True,
            )
    build = REPOSITORY / "build"
    build.mkdir(exist_ok=True)
    (build / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
