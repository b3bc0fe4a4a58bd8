"""The full list of measurements on the reference detectors, and on 150 stars of one, plugin by plugin.

    python tests/benchmarks/bench_measurement.py [REFERENCE]

CPU time of `run_measurement` with one thread, the PSF made before; next to the reference's own time.
Limits: 1.2 s on the reference's detectors (its own time; goal 0.9), 4 s for 150 stars (those of the largest
detector, repeated).  The limit of the whole detector job, 1.5 s, is a row of bench_jobs.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_rows import Row, below, best_cpu_seconds, cpu_seconds, print_table

ROOT = Path(__file__).resolve().parents[2]
LIMIT, GOAL = 1.2, 0.9
"""What the reference takes on its detectors, CPU seconds, and what we would like."""
MANY_STARS, MANY_STARS_LIMIT = 150, 4.0
DEAREST = 3


@dataclass
class Times:
    """CPU time of each detector (stars, ours, reference), of 150 stars, and of each plugin, summed."""

    detectors: list[tuple[int, float, float]] = field(default_factory=list)
    many: float = 0.0
    plugins: dict[str, float] = field(default_factory=dict)


def measurement_rows(reference: Path) -> Iterator[Row]:
    """Rows of the full list; the three dearest plugins are named with their share."""
    times = measure_times(reference)
    number = len(times.detectors)
    stars, ours, theirs = (sum(each[k] for each in times.detectors) / number for k in range(3))
    mean = below(f"all plugins, mean of {number} detectors, {stars:.0f} stars", ours, LIMIT, "CPU s", theirs)
    yield replace(mean, goal=f"{mean.goal} (goal {GOAL:g}{': reached' if ours <= GOAL else ''})")
    yield below(f"all plugins, {MANY_STARS} stars", times.many, MANY_STARS_LIMIT, "CPU s")
    dearest = sorted(times.plugins, key=lambda name: -times.plugins[name])[:DEAREST]
    for place, name in enumerate(dearest, 1):
        yield Row(f"dearest {place}: {name}", None, times.plugins[name] / number, "CPU s", "reported", None)


def measure_times(reference: Path) -> Times:
    """Run all detectors of the reference survey that the reference could fit."""
    import csv

    from finalchar.config import Config

    times, config = Times(), Config()
    with (reference / "golden_timing.csv").open(encoding="utf-8") as file:
        entries = [
            row for row in csv.DictReader(file) if row["config"] == "default" and row["outcome"] == "PiffPsf"
        ]
    largest = max(entries, key=lambda row: int(row["n_rows"]))
    _run(reference, entries[0], config, _plain)  # imports and first calls
    for entry in entries:

        def timed(entry: dict[str, str] = entry, **inputs: Any) -> Any:
            seconds, table = _timed(inputs, times)
            times.detectors.append((len(table), seconds, float(entry["cpu_measurement"])))
            if entry is largest:
                rows = np.resize(np.arange(len(table)), MANY_STARS)
                many = {**inputs, "table": inputs["table"].select(rows)}
                times.many, _ = best_cpu_seconds(lambda: _plain(**many), 2)
            return table

        _run(reference, entry, config, timed)
    return times


def _plain(**inputs: Any) -> Any:
    """Measure a copy of the table."""
    from finalchar.measure.run import run_measurement

    table = inputs["table"]
    return run_measurement(**{**inputs, "table": table.select(np.arange(len(table)))})


def _timed(inputs: dict[str, Any], times: Times) -> tuple[float, Any]:
    """Measure once as a whole, and once with a watch on every plugin."""
    from finalchar.measure import run

    seconds, table = best_cpu_seconds(lambda: _plain(**inputs), 2)
    original = run.active_plugins

    def watched(*arguments: Any) -> list[Any]:
        plugins = original(*arguments)
        for plugin in plugins:
            plugin.measure = _watch(plugin, times)
        return plugins

    run.active_plugins = watched
    try:
        _plain(**inputs)
    finally:
        run.active_plugins = original
    return seconds, table


def _watch(plugin: Any, times: Times) -> Any:
    measure = plugin.measure

    def timed(context: Any, table: Any) -> None:
        seconds, _ = cpu_seconds(lambda: measure(context, table))
        times.plugins[plugin.name] = times.plugins.get(plugin.name, 0.0) + seconds

    return timed


def _run(reference: Path, entry: dict[str, str], config: Any, measurement: Any) -> None:
    from finalchar import characterize
    from finalchar.parity.survey import isolated_stars, paths_of

    visit, detector = int(entry["visit"]), int(entry["detector"])
    exposure, src, band = paths_of(reference, visit, detector)
    isolated = isolated_stars(reference, visit, detector, band, config)
    inputs = characterize.read_detector(
        visit=visit, detector=detector, band=band, exposure=exposure, src=src, isolated=isolated
    )
    subtasks = characterize.Subtasks(measurement=measurement)
    result = characterize.characterize_detector(inputs=inputs, config=config, subtasks=subtasks)
    if result.table is None:
        raise RuntimeError(result.status.sentence)


def main() -> int:
    """Measure and print."""
    import warnings

    from threadpoolctl import threadpool_limits

    reference = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "golden"
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(measurement_rows(reference))
    print_table("Measurement: LSST task | ours", rows)
    return 1 if any(row.ok is False for row in rows) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    sys.exit(main())
