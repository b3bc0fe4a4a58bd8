"""Stamps of stars for looking at later: what was seen, what the PSF says, and how it was weighted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["StampSet"]

FloatStamps = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StampSet:
    """The best and the worst fitted stars of a detector, used and reserved.

    Attributes
    ----------
    source_id : ndarray, int64, shape (n,)
        Source ids.
    reserved : ndarray, bool, shape (n,)
        True for stars that the fit never saw.
    rank : ndarray, int32, shape (n,)
        1, 2, ... from the best, -1, -2, ... from the worst, separately for used and reserved stars.
    reduced_chi_squared : ndarray, float32, shape (n,)
        Of data minus model over the pixels with weight.
    flux : ndarray, float32, shape (n,)
        Factor by which the PSF was multiplied, counts.
    x0, y0 : ndarray, int32, shape (n,)
        Parent pixel of the first element of each stamp.
    data, model, weight : ndarray, float32, shape (n, size, size)
        Counts, counts, inverse variance (0 where a pixel was not used).
    """

    source_id: npt.NDArray[np.int64]
    reserved: npt.NDArray[np.bool_]
    rank: npt.NDArray[np.int32]
    reduced_chi_squared: npt.NDArray[np.float32]
    flux: npt.NDArray[np.float32]
    x0: npt.NDArray[np.int32]
    y0: npt.NDArray[np.int32]
    data: FloatStamps
    model: FloatStamps
    weight: FloatStamps

    def __len__(self) -> int:
        return len(self.source_id)
