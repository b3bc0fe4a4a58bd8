"""Time and memory of the association of isolated stars of one tract.

    python tests/benchmarks/bench_association.py [--sources 1000000] [--visits 50] [--bands irg]

Writes a source table per visit, of which the tract sees a third; makes the tables of the tract in a process
of its own and prints seconds and the greatest memory.  ``--bands i`` puts all visits in one band: the most
matches.  Goals on one core: 60 s, 2 GB; exit status 1 if one is missed.
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

GOAL_SECONDS, GOAL_GB = 60.0, 2.0
FIRST_VISIT = 2026011500001
CENTRE, HALF = (150.0, -29.0), 0.75
DETECTORS = 189


def visit_table(stars: np.ndarray, visit: int, band: str, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The source table of a visit: all stars with 0.05 arcsec of scatter, in order of detector."""
    number = len(stars)
    scatter = draw.normal(0.0, 0.05 / 3600.0, stars.shape)
    table = {
        "sourceId": (visit << 20) + np.arange(number),
        "visit": np.full(number, visit),
        "detector": np.sort(draw.integers(0, DETECTORS, number)).astype(np.int16),
        "ra": stars[:, 0] + scatter[:, 0] / np.cos(np.radians(stars[:, 1])),
        "dec": stars[:, 1] + scatter[:, 1],
        "physical_filter": np.full(number, f"{band}_synth"),
        "band": np.full(number, band),
        "parentSourceId": np.zeros(number, np.int64),
        "deblend_nChild": np.zeros(number, np.int32),
        "detect_isPrimary": np.ones(number, bool),
        "sizeExtendedness": np.zeros(number),
        "normCompTophatFlux_instFlux": draw.uniform(100.0, 9000.0, number),
        "normCompTophatFlux_instFluxErr": np.full(number, 10.0),
    }
    return table


def write_tables(folder: Path, sources: int, visits: int, bands: str) -> dict[int, Path]:
    """Write the source tables; the tract looks at about `sources` sources."""
    from finalchar.config import Config
    from finalchar.formats.parquet import write_table
    from finalchar.formats.sources import SourceTable
    from finalchar.stars.visit_sources import persisted_columns

    settings = Config().isolated_star_association
    flags = settings.source_selector.science.flags.bad
    draw = np.random.default_rng(1)
    number = sources // visits
    inside = np.stack(
        [draw.uniform(c - HALF / s, c + HALF / s, number) for c, s in zip(CENTRE, (0.87, 1), strict=True)], 1
    )
    paths = {}
    for index in range(visits):
        around = np.array(CENTRE) + draw.choice([-1.0, 1.0], (2 * number, 2)) * draw.uniform(
            0.9, 1.6, (2 * number, 2)
        )
        table = visit_table(
            np.concatenate([inside, around]), FIRST_VISIT + index, bands[index % len(bands)], draw
        )
        length = len(table["ra"])
        table |= {name: np.zeros(length, bool) for name in flags}
        for name in persisted_columns(settings):
            if name not in table:
                table[name] = np.zeros(length, bool) if name.endswith("flag") else draw.random(length)
        paths[FIRST_VISIT + index] = folder / f"source_table_visit_{FIRST_VISIT + index}.parquet"
        write_table(SourceTable(table), paths[FIRST_VISIT + index])
    return paths


def associate(folder: Path) -> None:
    """Make the tables of the tract; print figures, seconds and memory as JSON."""
    start = time.perf_counter(), time.process_time()
    from finalchar.config import Config
    from finalchar.formats.parquet import write_table
    from finalchar.stars.association import associate_isolated_stars
    from finalchar.stars.tract_geometry import TractGeometry

    tables = {int(path.stem.rsplit("_", 1)[1]): path for path in folder.glob("source_table_visit_*.parquet")}
    ra, dec = CENTRE
    geometry = TractGeometry(1, ra - HALF / 0.87, ra + HALF / 0.87, dec - HALF, dec + HALF)
    made = associate_isolated_stars(
        source_tables=tables, geometry=geometry, settings=Config().isolated_star_association
    )
    write_table(made.stars, folder / "isolated_star_cat.parquet")
    write_table(made.sources, folder / "isolated_star_sources.parquet")
    used = {
        "wall_s": time.perf_counter() - start[0],
        "cpu_s": time.process_time() - start[1],
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(
        json.dumps({**used, **{key: made.figures[key] for key in ("rows", "rows_read", "sources", "stars")}})
    )


def main() -> int:
    """Write, associate in a process of its own, compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--visits", type=int, default=50)
    parser.add_argument("--bands", default="irg")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--associate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.associate:
        associate(options.folder)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_tables(Path(folder), options.sources, options.visits, options.bands)
        command = [sys.executable, __file__, "--associate", "--folder", folder]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = SimpleNamespace(**json.loads(answer))
    print(
        f"{found.sources} sources of {found.stars} stars in {options.visits} visits ({found.rows} rows in "
        f"the tables): {found.wall_s:.1f} s ({found.cpu_s:.1f} s CPU), {found.gb:.2f} GB"
    )
    return int(found.wall_s > GOAL_SECONDS or found.gb > GOAL_GB)


if __name__ == "__main__":
    sys.exit(main())
