"""Ids as signed 64-bit integers and nothing else (known failure K10)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError

__all__ = ["exact_ids"]


def exact_ids(source_id: npt.NDArray[Any], what: str = "the source catalogue") -> npt.NDArray[np.int64]:
    """Return ids as signed 64-bit integers: among signed and unsigned ones numpy searches as doubles (K10).

    Raises
    ------
    InputError
        If they are not integers, or do not fit.
    """
    if source_id.dtype.kind not in "iu":
        raise InputError(f"{what} has ids of the type {source_id.dtype}; they must be 64-bit integers")
    if source_id.dtype.kind == "u" and len(source_id) and int(source_id.max()) > np.iinfo(np.int64).max:
        raise InputError(
            f"{what} has the id {int(source_id.max())}, which does not fit a signed 64-bit integer"
        )
    return source_id.astype(np.int64, copy=False)
