"""Time and memory side by side with Piff, and of a whole detector job: ``make bench``.

    python tests/benchmarks/bench.py [--quick] [--reference DIR] [--only fits|jobs|curves] [--json FILE]

CPU time of this process with one thread.  Prints the numerical kernels in use and tables, and keeps
{name: {reference, ours, ratio, goal, ok, unit}} in build/bench.json; names with an underscore are what the
figure of docs/performance.md is made from.  ``--quick`` leaves out what takes minutes and gigabytes: Piff's
fit of 400 stars with order 4, Piff's fit of the reference survey, the large detector.  Exit status 1 if a
goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

import bench_fits  # noqa: E402
import bench_jobs  # noqa: E402
import bench_measurement  # noqa: E402
import bench_rows  # noqa: E402
from bench_rows import Row  # noqa: E402


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--reference", type=Path, default=ROOT.parent / "shared" / "golden")
    parser.add_argument("--only", choices=["fits", "jobs", "curves"], default=None)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    return parser.parse_args(arguments)


def shown(title: str, rows: Iterable[Row]) -> list[Row]:
    """Measure and print the rows of a table."""
    found = list(rows)
    bench_rows.print_table(title, found)
    return found


def measure(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """All rows that are asked for, and what the figure needs."""
    rows: list[Row] = []
    more: dict[str, Any] = {"machine": bench_rows.machine()}
    print("kernels:", ", ".join(f"{name} {value}" for name, value in more["machine"].items()))
    if options.only in (None, "fits"):
        rows += shown("PSF fit: Piff | ours", bench_fits.fit_rows(quick=options.quick))
    if options.only in (None, "curves"):
        curves = {
            "stars": bench_fits.star_curve(),
            "order": bench_fits.order_curve(),
            "stamp": bench_fits.stamp_curve(),
        }
        more |= curves
        rows += shown("Cost of the fit", [bench_fits.curve_row(curves["stars"])])
    if options.only in (None, "jobs") and not (options.reference / "survey").is_dir():
        print(f"\n{options.reference} holds no reference survey: the detector jobs are left out")
    elif options.only in (None, "jobs"):
        found = list(bench_jobs.job_rows(options.reference, quick=options.quick))
        for _, split in found:
            more |= split
        start = [bench_jobs.start_row(options.reference), bench_jobs.nothing_row(options.reference)]
        jobs = [row for row, _ in found] + start + [bench_jobs.memory_row(quick=options.quick)]
        rows += shown("Detector job, mean over the reference survey: LSST task | ours", jobs)
        rows += shown("Measurement: LSST task | ours", bench_measurement.measurement_rows(options.reference))
    return rows, more


def main() -> int:
    """Measure, print, save."""
    from threadpoolctl import threadpool_limits

    options = parse(sys.argv[1:])
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, more = measure(options)
    bench_rows.save(options.json, rows, more)
    missed = [row.name for row in rows if row.ok is False]
    print(f"\n{len(rows)} rows in {options.json}; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
