"""Errors a user can act on: one sentence that says what, where and what to do.

Every exception below is turned into its sentence at the one boundary of a job or command; anything else
is an internal error, whose traceback goes to the log.
"""

from __future__ import annotations

__all__ = [
    "ApCorrError",
    "ConfigError",
    "FinalcharError",
    "InputError",
    "MeasurementError",
    "NoWorkError",
    "NotYetImplementedError",
    "PsfError",
    "ReproducibilityError",
    "SheetError",
    "StaleRunError",
]


class FinalcharError(Exception):
    """Base of all errors whose text is meant for the user."""


class ConfigError(FinalcharError):
    """The configuration has an unknown key, a wrong type or an impossible value."""


class NotYetImplementedError(ConfigError):
    """The configuration names a choice that LSST has and finalchar does not have yet; see `choice`."""

    def __init__(self, choice: str, sentence: str) -> None:
        super().__init__(sentence)
        self.choice = choice


class SheetError(FinalcharError):
    """A sheet (detectors.csv, tracts.csv) cannot be read exactly."""


class InputError(FinalcharError):
    """An input file is missing, broken, or lacks something that is needed."""


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
