"""Which of too many candidates enter a PSF fit (selection specification 6.1)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import PsfError

__all__ = ["down_sample"]

log = logging.getLogger(__name__)


def down_sample(number: int, settings: Any) -> npt.NDArray[np.int64]:
    """Return the rows of the stars that enter the fit, ascending (selection specification 6.1).

    Parameters
    ----------
    number : int
        Of candidates.
    settings : object
        Of a determiner: ``maxCandidates``, ``downsampleRandomSeed``.

    Raises
    ------
    PsfError
        If there is no candidate.
    """
    if not number:
        raise PsfError("There is no candidate star for the PSF.")
    if number <= settings.maxCandidates:
        return np.arange(number)
    log.info("Down-sampling from %d to %d psf candidates.", number, settings.maxCandidates)
    generator = np.random.RandomState(settings.downsampleRandomSeed)
    return np.sort(generator.choice(number, size=settings.maxCandidates, replace=False))
