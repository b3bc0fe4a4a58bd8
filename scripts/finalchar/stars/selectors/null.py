"""Selector ``null``: every source (selection specification 3.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Section
from finalchar.stars.selectors import limits

__all__ = ["NAME", "Settings", "select"]

NAME = "null"


class Settings(Section):
    """The selector ``null`` has no settings."""


def select(
    table: Any, settings: Any, exposure: Any = None, compatibility: str = "fixed"
) -> npt.NDArray[np.bool_]:
    """Select every source.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    return limits.every_row(table)
