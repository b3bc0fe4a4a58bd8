"""Photometric calibration of an exposure (specification 6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.exposure import BoundedField

if TYPE_CHECKING:
    from finalchar.formats.afw_table import AfwTable
    from finalchar.formats.archive import Archive

__all__ = ["AB_ZERO_POINT_NANOJANSKY", "PhotoCalib"]

AB_ZERO_POINT_NANOJANSKY = 3.63078054770101342e12


@dataclass(frozen=True)
class PhotoCalib:
    """nJy per count; a `BoundedField`.

    Attributes
    ----------
    mean, error : float
        Mean calibration and its error, nJy per count.
    field : BoundedField or None
        The calibration over the detector (mean included), None if it is constant.
    """

    mean: float
    error: float = 0.0
    field: BoundedField | None = None

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the calibration at 0-based parent pixel positions, nJy per count."""
        if self.field is not None:
            return self.field.evaluate(x=x, y=y)
        return np.full(np.broadcast_shapes(np.shape(x), np.shape(y)), self.mean)


def read_photo_calib(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> PhotoCalib:
    """Make a `PhotoCalib` from its archive row."""
    table = catalogues[0]
    if "version" not in table:
        raise InputError("a stored PhotoCalib has version 0 (maggies), which is not supported")
    field = None if table.one("isConstant") else archive.get(int(table.one("field")))
    if field is not None and not hasattr(field, "evaluate"):
        raise InputError("the field of a stored PhotoCalib is of an unknown class")
    return PhotoCalib(float(table.one("calibrationMean")), float(table.one("calibrationErr")), field)


def read_old_calib(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> PhotoCalib:
    """Make a `PhotoCalib` from a row of the old class Calib."""
    return calib_from_zero_point(catalogues[0].one("fluxmag0"), catalogues[0].one("fluxmag0.err"))


def calib_from_zero_point(fluxmag0: float, error: float) -> PhotoCalib:
    """Return the calibration of an instrumental flux of magnitude zero and its error (1.1)."""
    if not fluxmag0 > 0.0:
        raise InputError(f"the photometric zero point FLUXMAG0 is {fluxmag0}, it must be positive")
    return PhotoCalib(AB_ZERO_POINT_NANOJANSKY / fluxmag0, AB_ZERO_POINT_NANOJANSKY * error / fluxmag0**2)
