"""Errors a user can act on: one sentence that says what, where and what to do.

Every exception below is turned into its sentence at the one boundary of a job or command; anything else
is an internal error, whose traceback goes to the log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ApCorrError",
    "ConfigError",
    "FinalcharError",
    "InputError",
    "MeasurementError",
    "MissingColumnError",
    "MissingProgramError",
    "NoWorkError",
    "NotYetImplementedError",
    "PsfError",
    "ReproducibilityError",
    "SheetError",
    "StaleRunError",
    "nearest",
]

COLUMNS_SHOWN = 10
"""Names in a sentence that stands in the summary for every detector that it concerns."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, upper and lower case ignored, or None."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


class FinalcharError(Exception):
    """Base of all errors whose text is meant for the user."""


class ConfigError(FinalcharError):
    """The configuration has an unknown key, a wrong type or an impossible value.

    Attributes
    ----------
    location : tuple of str
        Keys that lead to the setting, where they are known; who read the file can tell the line.
    """

    def __init__(self, sentence: str, location: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.location = location


class MissingProgramError(ConfigError):
    """A program outside Python that the configuration asks for is not there."""


class NotYetImplementedError(ConfigError):
    """The configuration names a choice that LSST has and finalchar does not have yet; see `choice`."""

    def __init__(self, choice: str, sentence: str) -> None:
        super().__init__(sentence)
        self.choice = choice


class SheetError(FinalcharError):
    """A sheet (detectors.csv, tracts.csv) cannot be read exactly."""


class InputError(FinalcharError):
    """An input file is missing, broken, or lacks something that is needed."""


class MissingColumnError(InputError):
    """A table lacks a column; the sentence names table, column, who asks for it, and what to do.

    Parameters
    ----------
    column : str
        Name of the column.
    table : str
        Path of the table, or how it is called.
    asked_by : str, optional
        The setting, or the step, that needs the column.
    remedy : str, optional
        What to do; by default to correct the setting or to add the column.
    there : iterable of str, optional
        The columns that the table has.
    """

    def __init__(
        self, column: str, *, table: str, asked_by: str = "", remedy: str = "", there: Iterable[str] = ()
    ) -> None:
        there = list(there)
        asked = f", which {asked_by} asks for" if asked_by else ""
        remedy = remedy or ("correct the setting or add the column" if asked_by else "")
        similar = nearest(column, there)
        if similar is not None:
            hint = f" (similar: {similar!r})"
        else:
            more = f" and {len(there) - COLUMNS_SHOWN} more" if len(there) > COLUMNS_SHOWN else ""
            hint = f" (columns there: {', '.join(there[:COLUMNS_SHOWN])}{more})" if there else ""
        super().__init__(
            f"{table}: the column {column!r} is missing{asked}{'; ' if remedy else ''}{remedy}{hint}"
        )
        self.column = column


class StaleRunError(FinalcharError):
    """A job finds another world than the one it was planned for."""


class ReproducibilityError(FinalcharError):
    """A library no longer gives a known answer that results rest on."""


class NoWorkError(FinalcharError):
    """A detector has nothing to characterise; `status` names the outcome."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class PsfError(FinalcharError):
    """The PSF could not be determined, or was not accepted."""


class MeasurementError(FinalcharError):
    """The measurement of a detector failed as a whole."""


class ApCorrError(FinalcharError):
    """A required aperture correction could not be measured."""
