"""Do corrected fluxes agree with the reference flux: bias or noise?

    python tests/benchmarks/flux_agreement.py [SURVEYS]

Simulates the demo survey with other seeds (5 by default), reserves a third of the stars, and prints for each
of the 31 corrected fluxes the median ratio to the reference flux less one, and its standard error, for used
and for reserved stars of all surveys together: first of the bright ones that corrections are measured from
(S/N above 200), then of all.  A bias stays when surveys are added; noise goes down.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "workflow")]

FIRST_SEED = 101
SIGNAL_TO_NOISE = 200
"""Of the stars that the corrections are measured from."""


def main() -> int:
    """Simulate, measure, print."""
    import pandas as pd
    from test_demo_fluxes import LARGEST, measured_stars, median_ratio
    from threadpoolctl import threadpool_limits

    number = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    parts = []
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(FIRST_SEED, FIRST_SEED + number):
            with tempfile.TemporaryDirectory() as folder:
                stars, names = measured_stars(Path(folder), seed)
            parts.append(stars)
    stars = pd.concat(parts, ignore_index=True)
    bright = stars["base_PsfFlux_instFlux"] > SIGNAL_TO_NOISE * stars["base_PsfFlux_instFluxErr"]
    print(f"{number} surveys; median ratio - 1 (+- standard error, number of stars), * above {LARGEST}")
    print("used: bright, all; reserved: bright, all")
    for name in names:
        cells = []
        for kind in ("used", "reserved"):
            for sample in (stars[bright], stars):
                middle, error, count = median_ratio(sample, name, f"calib_psf_{kind}")
                mark = "*" if abs(middle) > LARGEST else " "
                cells.append(f"{middle:+.5f} +- {error:.5f} ({count}){mark}")
        print(f"{name:38s} {'  '.join(cells)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
