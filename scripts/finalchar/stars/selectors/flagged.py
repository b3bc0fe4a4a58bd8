"""Selector ``flagged``: sources with a flag set (selection specification 3.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, Section
from finalchar.stars.selectors import limits

__all__ = ["NAME", "Settings", "select"]

NAME = "flagged"


class Settings(Section):
    """Settings of the selector ``flagged``."""

    field: str = Field("calib_psf_used", description="the flag")


def select(
    table: Any, settings: Any, exposure: Any = None, compatibility: str = "fixed"
) -> npt.NDArray[np.bool_]:
    """Select sources with the flag set.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    InputError
        If the flag is missing.
    """
    return limits.as_flags(limits.column(table, settings, "field"))
