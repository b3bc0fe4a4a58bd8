"""What a benchmark gives: one row per figure, a printed table and a JSON file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One figure.

    `reference` and `ours` are in `unit`; `ratio` is reference / ours (None where there is no reference);
    `goal` says what is asked for and `ok` whether it is met (None: not measured in this run).
    """

    name: str
    reference: float | None
    ours: float | None
    unit: str
    goal: str
    ok: bool | None

    @property
    def ratio(self) -> float | None:
        """How many times less than the reference."""
        if self.reference is None or not self.ours:
            return None
        return self.reference / self.ours


def faster(name: str, reference: float, ours: float, goal: float, unit: str = "CPU s") -> Row:
    """A row whose goal is a ratio."""
    return Row(name, reference, ours, unit, f">= {goal:g}x less", reference >= goal * ours)


def below(name: str, ours: float, goal: float, unit: str, reference: float | None = None) -> Row:
    """A row whose goal is an absolute limit."""
    return Row(name, reference, ours, unit, f"<= {goal:g} {unit}", ours <= goal)


def skipped(name: str, why: str) -> Row:
    """A row that this run leaves out."""
    return Row(name, None, None, "", why, None)


def cpu_seconds(function: Callable[[], T]) -> tuple[float, T]:
    """CPU time of the process during a call, and what the call gives."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def best_cpu_seconds(function: Callable[[], T], repeat: int) -> tuple[float, T]:
    """Smallest CPU time of several calls: other work on the machine only adds to it."""
    times = []
    for _ in range(repeat):
        seconds, result = cpu_seconds(function)
        times.append(seconds)
    return min(times), result


def print_table(title: str, rows: Iterable[Row]) -> None:
    """Print rows under a title."""
    print(f"\n{title}\n{'':50s}{'reference':>12s}{'ours':>12s}{'ratio':>9s}  unit    goal")
    for row in rows:
        numbers = f"{_number(row.reference):>12s}{_number(row.ours):>12s}{_number(row.ratio, 3):>9s}"
        verdict = {True: ": ok", False: ": MISSED", None: ""}[row.ok]
        print(f"{row.name:50s}{numbers}  {row.unit:7s} {row.goal}{verdict}", flush=True)


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def save(path: Path, rows: Iterable[Row], more: dict[str, Any]) -> None:
    """Write {name: {reference, ours, ratio, goal, ok, unit}}; under names with an underscore stands more."""
    content: dict[str, Any] = {
        row.name: {
            "reference": row.reference,
            "ours": row.ours,
            "ratio": row.ratio,
            "goal": row.goal,
            "ok": row.ok,
            "unit": row.unit,
        }
        for row in rows
    }
    content |= {f"_{name}": value for name, value in more.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """The numerical kernels in use and the load of the machine."""
    import numpy as np
    import scipy.linalg  # noqa: F401  (its BLAS is listed too)
    from threadpoolctl import threadpool_info

    features = np._core._multiarray_umath.__cpu_features__
    return {
        "numpy": np.__version__,
        "blas": sorted(
            {f"{p['internal_api']} {p['version']} {p.get('architecture')}" for p in threadpool_info()}
        ),
        "simd": [name for name in ("AVX2", "FMA3", "AVX512F", "AVX512_SKX", "NEON") if features.get(name)],
        "threads": max((pool["num_threads"] for pool in threadpool_info()), default=1),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
