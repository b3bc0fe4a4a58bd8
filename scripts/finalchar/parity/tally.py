"""How many columns miss their target, and which may not.

Columns that the specification of the measurement marks "report only" or "never" (section 16) stand in a file,
each with its reason: they are printed and not counted.  Of the other columns of numbers at most a twentieth
should be out of tolerance, each with a stated cause, and none of those the users of the tables rely on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from finalchar.errors import InputError
from finalchar.parity.deviations import Verdict
from finalchar.parity.tolerances import true_name

__all__ = ["REPORT_ONLY", "ReportOnly", "Tally", "read_report_only", "tally"]

REPORT_ONLY = Path(__file__).resolve().parents[3] / "tests/parity/report_only.txt"
"""The list that belongs to the reference survey."""

LARGEST_FRACTION = 0.05
"""Part of the counted columns that may miss their target."""

NEVER_OUT = re.compile(
    r"base_(PsfFlux|GaussianFlux)_\w+"
    r"|ext_shapeHSM_\w+"
    r"|(ext_photometryKron_KronFlux|modelfit_CModel)\w*_flag\w*"
    r"|(ext_photometryKron_KronFlux|modelfit_CModel(_(initial|exp|dev))?)_instFlux(Err)?"
)
"""PSF and Gaussian flux, moments; flags of the fluxes that must be corrected, and these fluxes."""

CMODEL_FLUX = re.compile(r"modelfit_CModel(_(initial|exp|dev))?_instFlux(Err)?")
"""May be judged on bright stars in units of the error bar instead (the reference is limited by float32)."""


@dataclass(frozen=True)
class ReportOnly:
    """Patterns of column names, and why they are not counted."""

    reasons: tuple[tuple[re.Pattern[str], str], ...] = ()

    def reason(self, name: str) -> str:
        """Return why a column is not counted; empty if it is."""
        plain = true_name(name)
        return next((reason for pattern, reason in self.reasons if pattern.fullmatch(plain)), "")

    def apply(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """Return the verdicts, those of the list without judgement and with its reason."""
        return [
            replace(verdict, ok=True, kind="report", tolerance=None, cause=reason)
            if verdict.n and (reason := self.reason(verdict.name))
            else verdict
            for verdict in verdicts
        ]


def read_report_only(path: Path) -> ReportOnly:
    """Read a list: pattern, tab, reason on each line; lines that begin with # are comments.

    Raises
    ------
    InputError
        If the file is missing, or a line has no reason or a pattern that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name the list with --report-only"
        ) from error
    reasons = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = line.partition("\t")
        if not reason.strip():
            raise InputError(f"{path}:{number} gives no reason after a tab; add it")
        try:
            reasons.append((re.compile(pattern), reason.strip()))
        except re.error as error:
            raise InputError(f"{path}:{number}: {pattern!r} is no pattern ({error}); correct it") from error
    return ReportOnly(tuple(reasons))


@dataclass(frozen=True)
class Tally:
    """Columns of numbers: counted, only reported, out of tolerance; and columns that may never be out.

    Columns that are NaN throughout on both sides, such as the reference's ``_apCorr`` [M-Q23], agree but are
    `empty`: they are not counted.  `by_error_bars` are those of `missed` that are accepted because bright
    stars agree by their error bars.
    """

    counted: int
    reported: int
    missed: tuple[Verdict, ...]
    forbidden: tuple[str, ...]
    by_error_bars: tuple[str, ...]
    empty: int = 0

    @property
    def ok(self) -> bool:
        """Whether no column is out without a cause, and none of those that never may be."""
        return not self.forbidden and all(verdict.cause for verdict in self.missed)

    @property
    def few(self) -> bool:
        """Whether few enough columns are out."""
        return len(self.missed) <= LARGEST_FRACTION * self.counted

    def lines(self) -> Iterator[str]:
        """Yield what is said below the table of a configuration."""
        part = 100.0 * len(self.missed) / self.counted if self.counted else 0.0
        verdict_of_all = "reached" if self.few else "MISSED"
        yield (
            f"{self.counted} columns of numbers counted"
            f" ({self.reported} more only reported, {self.empty} empty): {len(self.missed)} miss their target"
            f" ({part:.1f} %, target {100 * LARGEST_FRACTION:g} %: {verdict_of_all})"
        )
        for verdict in self.missed:
            weight = "" if verdict.weight is None else f", at most {verdict.weight:.2g} error bars"
            yield (
                f"  {verdict.name}: median {verdict.median:.2g}, largest {verdict.maximum:.2g}{weight}:"
                f" {verdict.cause or 'no stated cause'}"
            )
        if self.by_error_bars:
            yield f"judged on bright stars, a tenth of the error bar: {', '.join(self.by_error_bars)}"
        yield f"out though they never may be: {', '.join(self.forbidden) or 'none'}"


def tally(verdicts: Iterable[Verdict]) -> Tally:
    """Count the columns of a configuration; `verdicts` are those after `ReportOnly.apply`."""
    everything = list(verdicts)
    known = {verdict.name: verdict for verdict in everything}
    columns = [verdict for verdict in everything if verdict.column and verdict.n]
    counted = [verdict for verdict in columns if verdict.kind != "report"]
    never = [v for v in everything if not v.ok and NEVER_OUT.fullmatch(true_name(v.name))]
    allowed = [v.name for v in never if _bright_stars_agree(true_name(v.name), known)]
    return Tally(
        counted=len(counted),
        reported=len(columns) - len(counted),
        missed=tuple(verdict for verdict in counted if not verdict.ok),
        forbidden=tuple(verdict.name for verdict in never if verdict.name not in allowed),
        by_error_bars=tuple(allowed),
        empty=sum(verdict.column and not verdict.n for verdict in everything),
    )


def _bright_stars_agree(name: str, known: dict[str, Verdict]) -> bool:
    if not CMODEL_FLUX.fullmatch(name):
        return False
    flux = name.removesuffix("Err")
    judged = [known.get(f"error_bars_of_bright_{one}") for one in (flux, f"{flux}Err")]
    return all(verdict is not None and verdict.n > 0 and verdict.ok for verdict in judged)
