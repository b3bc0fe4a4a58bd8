"""The outcome of a detector: an enumeration, one sentence, counts and figures.

Standard library only: planners and records read statuses without importing any science.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["DetectorStatus", "Status"]


class Status(StrEnum):
    """How the characterisation of a detector ended (selection specification 4.10)."""

    OK = "ok"
    INPUT_MISSING = "input_missing"
    INPUT_BROKEN = "input_broken"
    NO_ISOLATED_STARS = "no_isolated_stars"
    NO_SELECTED_SOURCES = "no_selected_sources"
    NO_MATCHED_SOURCES = "no_matched_sources"
    PSF_FAILED = "psf_failed"
    PSF_NOT_FINITE = "psf_not_finite"
    MEASUREMENT_FAILED = "measurement_failed"
    AP_CORR_FAILED = "ap_corr_failed"
    INTERNAL_ERROR = "internal_error"

    @property
    def has_rows(self) -> bool:
        """Whether the detector has rows in the star table and an entry in the exposure catalogue."""
        return self in _WITH_ROWS

    @property
    def is_error(self) -> bool:
        """Whether a command that met this status must not end with exit status 0."""
        return self in _ERRORS

    @property
    def meaning(self) -> str:
        """What the status means, one sentence."""
        return _MEANINGS[self]


_WITH_ROWS = frozenset(
    {
        Status.OK,
        Status.PSF_FAILED,
        Status.PSF_NOT_FINITE,
        Status.MEASUREMENT_FAILED,
        Status.AP_CORR_FAILED,
    }
)
_ERRORS = frozenset({Status.INPUT_MISSING, Status.INPUT_BROKEN, Status.INTERNAL_ERROR})
_MEANINGS = {
    Status.OK: "PSF, measurements and aperture corrections were made",
    Status.INPUT_MISSING: "an input file does not exist",
    Status.INPUT_BROKEN: "an input file cannot be read or lacks something that is needed",
    Status.NO_ISOLATED_STARS: "no tract has an isolated star with a source on this detector",
    Status.NO_SELECTED_SOURCES: "no source passed the source selector",
    Status.NO_MATCHED_SOURCES: "no selected source belongs to an isolated star",
    Status.PSF_FAILED: "no PSF could be determined or accepted; rows are there, nothing is measured",
    Status.PSF_NOT_FINITE: "the PSF has no finite size; rows are there, nothing is measured",
    Status.MEASUREMENT_FAILED: "the PSF stands, the measurement failed; rows may be partly filled",
    Status.AP_CORR_FAILED: "the PSF and measurements stand, the fluxes are not corrected",
    Status.INTERNAL_ERROR: "an unexpected error; the traceback is in the log",
}


LINE_COUNTS = ("sources", "selected", "candidates", "reserved", "used")
"""Counts on the line of the progress display; all others stand in record and summary."""


@dataclass(frozen=True)
class DetectorStatus:
    """Outcome of one detector.

    Attributes
    ----------
    visit, detector : int
        Which detector.
    band : str
        Band of the visit.
    status : Status
        How it ended.
    sentence : str
        One sentence for the user; empty for a plain `ok`.
    counts : mapping of str to int
        Numbers of stars on the way: ``sources``, ``selected``, ``isolated_sources``, ``candidates``,
        ``reserved``, ``good_stamps``, ``available``, ``used``, ``measured``, ``corrected``.
    figures : mapping of str to int, float, str or bool
        Figures of the PSF fit, its acceptance and the aperture corrections, plain numbers or words.
    warnings : tuple of str
        Sentences about things that did not stop the detector.
    software : mapping of str to str
        Versions of the libraries that made the numbers.
    """

    visit: int
    detector: int
    band: str
    status: Status
    sentence: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the status as a dictionary fit for strict JSON (non-finite figures become None)."""
        return {
            "visit": self.visit,
            "detector": self.detector,
            "band": self.band,
            "status": str(self.status),
            "sentence": self.sentence,
            "counts": {name: int(number) for name, number in self.counts.items()},
            "figures": {name: _plain(value) for name, value in self.figures.items()},
            "warnings": list(self.warnings),
            "software": dict(self.software),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DetectorStatus:
        """Return the status written by `to_dict` (None becomes NaN again)."""
        return cls(
            visit=int(data["visit"]),
            detector=int(data["detector"]),
            band=str(data["band"]),
            status=Status(data["status"]),
            sentence=str(data.get("sentence", "")),
            counts=dict(data.get("counts", {})),
            figures={name: _number(value) for name, value in data.get("figures", {}).items()},
            warnings=tuple(data.get("warnings", ())),
            software=dict(data.get("software", {})),
        )

    @property
    def line(self) -> str:
        """One line for the progress display: who, how it ended, main counts, the sentence."""
        counts = " ".join(f"{name}={self.counts[name]}" for name in LINE_COUNTS if name in self.counts)
        parts = [f"visit {self.visit} detector {self.detector} ({self.band})", str(self.status), counts]
        return "  ".join(part for part in [*parts, self.sentence] if part)


def _plain(value: Any) -> int | float | str | bool | None:
    """Return a figure as the plain Python value that JSON knows; numpy scalars come as `item`."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value  # type: ignore[no-any-return]


def _number(value: Any) -> int | float | str | bool:
    return math.nan if value is None else value
