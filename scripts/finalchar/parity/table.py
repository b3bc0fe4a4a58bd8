"""The parity table as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from finalchar.parity.deviations import Verdict
from finalchar.parity.run import Outcome

__all__ = ["outcome_lines", "summary_line"]

HEAD = f"{'column or quantity':<58} {'compared':>8} {'median':>9} {'max':>9} {'tolerance':>9}  verdict  cause"


def outcome_lines(outcome: Outcome, *, every: bool = False) -> Iterator[str]:
    """Yield the table of a configuration; exact agreement of many columns is told in one line each kind.

    Parameters
    ----------
    outcome : Outcome
        What came out.
    every : bool
        Print every quantity on a line of its own.
    """
    yield f"\n== {outcome.configuration} =="
    if outcome.not_implemented:
        yield f"not_implemented: {outcome.not_implemented}"
        return
    absent = [verdict for verdict in outcome.verdicts if verdict.cause.startswith("not_implemented")]
    exact = [
        v for v in outcome.verdicts if v.ok and v not in absent and not v.cause and v.maximum in (0.0, None)
    ]
    yield HEAD
    doubles = [
        v for v in outcome.verdicts if v.name.startswith("slot_") and (v.ok or v.cause) and v not in exact
    ]
    for verdict in outcome.verdicts:
        if every or (verdict not in absent and verdict not in exact and verdict not in doubles):
            yield _line(verdict)
    if not every:
        values = sum(verdict.n for verdict in exact)
        yield f"{len(doubles)} columns of slots repeat these"
        yield f"{len(exact)} further quantities agree exactly ({values} values)"
        yield from _absent_lines(absent)
    yield from outcome.tally.lines()


def _absent_lines(absent: Sequence[Verdict]) -> Iterator[str]:
    """Yield one line per plugin that is not implemented."""
    by_cause: dict[str, int] = {}
    for verdict in absent:
        by_cause[verdict.cause] = by_cause.get(verdict.cause, 0) + 1
    for cause, number in by_cause.items():
        yield f"{cause} ({number} columns and quantities not compared)"


def _line(verdict: Verdict) -> str:
    word = "ok" if verdict.ok else ("OUT" if not verdict.cause else "explained")
    figures = " ".join(
        f"{_number(value):>9}" for value in (verdict.median, verdict.maximum, verdict.tolerance)
    )
    said = verdict.cause or verdict.detail
    return f"{verdict.name:<58} {verdict.n:>8} {figures}  {word:<9} {said}".rstrip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def summary_line(outcomes: Sequence[Outcome], path: Path) -> str:
    """Return the last line: configurations run, quantities, what is out, where the figures are."""
    run = [outcome for outcome in outcomes if not outcome.not_implemented]
    quantities = [verdict for outcome in run for verdict in outcome.verdicts]
    out = [verdict for verdict in quantities if not verdict.ok]
    return (
        f"\n{len(run)} configurations compared, {len(outcomes) - len(run)} not_implemented; "
        f"{len(quantities)} quantities, {len(out)} out of tolerance "
        f"({sum(1 for verdict in out if verdict.cause)} explained); figures in {path}"
    )
