"""What Piff says while it fits: kept for the figures of the fit, passed on to the log of the job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finalchar.psf.determiners.piff import Settings

__all__ = ["FitLogger", "Listener", "piff_logger"]

log = logging.getLogger(__name__)

VERBOSE = 15
"""Piff's own level between DEBUG and INFO."""
PIFF_LEVELS = (logging.CRITICAL, logging.WARNING, logging.INFO, logging.DEBUG)


class Listener(logging.Handler):
    """Keeps the texts of Piff's messages that say how the fit went."""

    def __init__(self) -> None:
        super().__init__(level=VERBOSE)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a message."""
        self.messages.append(record.getMessage())

    def count(self, text: str) -> int:
        """Return the number of messages that contain a text."""
        return sum(text in message for message in self.messages)


class FitLogger(logging.Logger):
    """Logger of one fit, with Piff's additional level."""

    def verbose(self, message: str, *args: object) -> None:
        """Log below information, above debugging."""
        self.log(VERBOSE, message, *args)


class _Forward(logging.Handler):
    """Passes messages on to the library's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a message on."""
        log.log(record.levelno, "Piff: %s", record.getMessage())


def piff_logger(settings: Settings, listener: Listener) -> FitLogger:
    """Logger of one fit: everything of interest to the listener, the wanted level to the job's log."""
    logger = FitLogger("finalchar.piff", level=min(VERBOSE, PIFF_LEVELS[settings.piffLoggingLevel]))
    logger.addHandler(listener)
    forward = _Forward(PIFF_LEVELS[settings.piffLoggingLevel])
    logger.addHandler(forward)
    return logger
