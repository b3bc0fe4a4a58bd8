"""The figure of docs/performance.md from the curves that ``make bench`` measured.

python tests/benchmarks/draw_figure.py [build/bench.json] [docs/performance.png]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Draw CPU time per star by number of stars, and of a fit by order and by stamp."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "bench.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "performance.png"
    measured = json.loads(source.read_text(encoding="utf-8"))
    stars, order, stamp = (measured[f"_{name}"] for name in ("stars", "order", "stamp"))
    figure, axes = pyplot.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    axes[0].semilogx(stars["stars"], [1e3 * value for value in stars["cpu_per_star"]], "o-")
    axes[0].set(xlabel="stars", ylabel="CPU ms per star", title="order 2, stamps of 29", ylim=(0, None))
    axes[1].plot(order["order"], order["cpu"], "o-")
    axes[1].set(xlabel="order", ylabel="CPU s", title="300 stars, stamps of 29", ylim=(0, None))
    axes[2].plot(stamp["stamp"], stamp["cpu"], "o-")
    axes[2].set(xlabel="stamp, pixels", ylabel="CPU s", title="100 stars, order 2", ylim=(0, None))
    for each in axes:
        each.grid(alpha=0.3)
    figure.savefig(target, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
