"""Time and memory of the tract stage and of one visit's list, on a tract as large as they come.

    python tests/benchmarks/tract_stage.py [--stars 1000000] [--visits 1000] [--folder DIR]

Makes a star table and a source table in one row group in star order (ten sources a star), runs each stage
in its own process and prints CPU seconds and the greatest memory.  Goals: 2 GB for the tract, 1 GB for the
visit; exit status 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

BANDS = "ugrizy"
SOURCES_PER_STAR = 10
GOALS_GB = {"tract": 2.0, "visit": 1.0}


def make_tables(folder: Path, stars: int, visits: int) -> None:
    """Write the two tables of a tract; `visits` visits of 189 detectors share the sources."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    number = stars * SOURCES_PER_STAR
    visit = rng.integers(0, visits, number)
    nsource = np.zeros((len(BANDS), stars), np.int32)
    obj_index = np.repeat(np.arange(stars, dtype=np.int32), SOURCES_PER_STAR)
    np.add.at(nsource, (visit % len(BANDS), obj_index), 1)
    table = {
        "isolated_star_id": np.arange(1, stars + 1) * 100_000 + 4906,
        "ra": 150 + rng.random(stars),
        "dec": 2 + rng.random(stars),
        **{f"nsource_{band}": nsource[k] for k, band in enumerate(BANDS)},
    }
    pq.write_table(pa.table(table), folder / "stars.parquet", row_group_size=stars)
    sources = {
        "sourceId": (visit << 40) + np.arange(number),
        "visit": 2026011500000 + visit,
        "detector": rng.integers(0, 189, number).astype(np.int16),
        "band": pa.array(np.array(list(BANDS))[visit % len(BANDS)]),
        "normCompTophatFlux_instFlux": rng.random(number),
        "x": rng.random(number),
        "y": rng.random(number),
        "obj_index": obj_index,
    }
    pq.write_table(pa.table(sources), folder / "sources.parquet", row_group_size=number)


def run_tract(folder: Path) -> None:
    """Draw and sort the tract."""
    from finalchar.stars.tract import reserve_stars

    settings = SimpleNamespace(
        reserve_name="reserved",
        reserve_fraction=0.1,
        method="stable",
        cell_size_arcsec=6.0,
        same_in_all_bands=False,
    )
    reserve_stars(
        tract=4906,
        star_table=folder / "stars.parquet",
        source_table=folder / "sources.parquet",
        bands=list(BANDS),
        settings=settings,
        id_column="sourceId",
        output=folder / "reserved.parquet",
    )


def run_visit(folder: Path) -> None:
    """List one visit."""
    from finalchar.stars.visit_list import TractInputs, make_visit_list

    inputs = [TractInputs(4906, folder / "reserved.parquet")]
    make_visit_list(visit=2026011500006, band="u", tracts=inputs, output=folder / "list.parquet")


def measure(stage: str, folder: Path) -> dict[str, float]:
    """Run a stage in a process of its own and return its cost."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(answer)
    return figures


def main() -> None:
    """Run everything and print the figures; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stars", type=int, default=1_000_000)
    parser.add_argument("--visits", type=int, default=1000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stage", choices=["tables", "tract", "visit"])
    options = parser.parse_args()
    if options.stage:
        run = {"tract": run_tract, "visit": run_visit}.get(options.stage)
        start = time.perf_counter()
        if run is None:
            make_tables(options.folder, options.stars, options.visits)
        else:
            run(options.folder)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "wall_seconds": round(time.perf_counter() - start, 2),
            "memory_gb": round(usage.ru_maxrss / 1024**2, 3),
        }
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = ["--stars", str(options.stars), "--visits", str(options.visits)]
        command = [sys.executable, __file__, "--stage", "tables", "--folder", name, *size]
        subprocess.run(command, check=True, capture_output=True)
        missed = False
        for stage, goal in GOALS_GB.items():
            figures = measure(stage, folder)
            missed |= figures["memory_gb"] > goal
            print(f"{stage:6s} {figures} (goal: {goal} GB)", flush=True)
        sizes = {path.name: round(path.stat().st_size / 1e6, 1) for path in sorted(folder.iterdir())}
        print(f"MB on disk: {sizes}")
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
