"""Deviations of one quantity, their tolerance, and the verdict over many detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Deviations", "Tolerance", "Verdict", "deviations_between", "verdicts"]

FloatArray = npt.NDArray[np.float64]
KnownCause = Callable[[str, float], str]
"""(quantity, median deviation) -> the stated cause of a deviation, or an empty text."""


@dataclass(frozen=True)
class Tolerance:
    """How a quantity is compared: `kind` exact, relative, absolute or report, and the largest deviation.

    A value of kind `relative` deviates by |a - b| / max(|b|, floor); `report` is printed and never judged.
    `outliers` is the fraction of values that may deviate by more, `median` a limit of its own for the median,
    `error_bars` one for the largest deviation in units of the error bar.
    """

    kind: str
    value: float = 0.0
    floor: float = 0.0
    reason: str = ""
    outliers: float = 0.0
    median: float = np.inf
    error_bars: float = np.inf

    def accepts(self, deviations: FloatArray, weights: FloatArray | None = None) -> bool:
        """Whether the deviations of a quantity are within the tolerance; `weights` are in error bars."""
        if self.kind == "report" or deviations.size == 0:
            return True
        beyond = float(np.mean(deviations > self.value))
        if weights is not None and weights.size and float(weights.max()) > self.error_bars:
            return False
        return beyond <= self.outliers and float(np.median(deviations)) <= self.median


@dataclass(frozen=True)
class Deviations:
    """Deviations of one quantity on one detector; inf where a value is absent on one side only.

    `cause` explains why a deviation is accepted; `detail` only says what differs.  `weights` are the same
    deviations in units of the error bar, where there is one.  `column`: a column of numbers of the table.
    """

    name: str
    values: FloatArray
    tolerance: Tolerance
    cause: str = ""
    detail: str = ""
    weights: FloatArray | None = None
    column: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the table shows of a quantity of a configuration."""

    name: str
    n: int
    median: float | None
    maximum: float | None
    tolerance: float | None
    ok: bool
    cause: str = ""
    kind: str = "exact"
    detail: str = ""
    weight: float | None = None
    column: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``parity.json``."""
        return {
            "n": self.n,
            "median": _plain(self.median),
            "max": _plain(self.maximum),
            "tolerance": _plain(self.tolerance),
            "ok": self.ok,
            "cause": self.cause,
            "detail": self.detail,
            "error_bars": _plain(self.weight),
        }


@dataclass
class _Collected:
    values: list[FloatArray] = field(default_factory=list)
    tolerance: Tolerance = field(default_factory=lambda: Tolerance("exact"))
    causes: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    weights: list[FloatArray] = field(default_factory=list)
    column: bool = False


def deviations_between(
    name: str,
    ours: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    tolerance: Tolerance,
    *,
    scale: npt.NDArray[Any] | None = None,
) -> Deviations:
    """Compare two arrays element by element; values that are NaN on both sides are left out.

    `scale` replaces |reference| in a relative deviation (for quantities that pass through zero).
    """
    if ours.shape != reference.shape:
        detail = f"shape {ours.shape}, not {reference.shape}"
        return Deviations(name, np.array([np.inf]), tolerance, detail=detail)
    if tolerance.kind == "exact" and ours.dtype.kind != "f":
        return Deviations(name, (ours != reference).astype(np.float64).ravel(), tolerance)
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    compared = ~(np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b))
        if tolerance.kind == "relative":
            unit = np.maximum(np.abs(b if scale is None else scale), tolerance.floor)
            difference = np.where(difference == 0.0, 0.0, difference / unit)
    difference[np.isnan(difference)] = np.inf
    return Deviations(name, difference[compared].ravel(), tolerance)


def verdicts(
    collected: Iterable[Deviations], known_cause: KnownCause = lambda name, median: ""
) -> list[Verdict]:
    """Return one verdict per quantity, in order of first appearance, over all detectors.

    `known_cause` is asked about every quantity that is out of tolerance.
    """
    by_name: dict[str, _Collected] = {}
    for deviations in collected:
        entry = by_name.setdefault(deviations.name, _Collected(tolerance=deviations.tolerance))
        entry.values.append(deviations.values)
        entry.column |= deviations.column
        if deviations.weights is not None:
            entry.weights.append(deviations.weights[np.isfinite(deviations.weights)])
        if deviations.cause and deviations.cause not in entry.causes:
            entry.causes.append(deviations.cause)
        if deviations.detail and deviations.detail not in entry.details:
            entry.details.append(deviations.detail)
    return [_verdict(name, entry, known_cause) for name, entry in by_name.items()]


def _verdict(name: str, entry: _Collected, known_cause: KnownCause) -> Verdict:
    values = np.concatenate(entry.values)
    maximum = float(values.max()) if values.size else None
    judged = entry.tolerance.kind != "report"
    weights = np.concatenate(entry.weights) if entry.weights else None
    ok = entry.tolerance.accepts(values, weights)
    return Verdict(
        name,
        int(values.size),
        float(np.median(values)) if values.size else None,
        maximum,
        entry.tolerance.value if judged else None,
        ok,
        "; ".join(entry.causes)
        or (
            ("" if ok else known_cause(name, float(np.median(values)))) if judged else entry.tolerance.reason
        ),
        entry.tolerance.kind,
        "; ".join(entry.details[:3]) + ("; ..." if len(entry.details) > 3 else ""),
        float(weights.max()) if weights is not None and weights.size else None,
        entry.column,
    )


def _plain(value: float | None) -> float | str | None:
    """Return a number that strict JSON knows."""
    if value is None or np.isfinite(value):
        return value
    return "inf"
