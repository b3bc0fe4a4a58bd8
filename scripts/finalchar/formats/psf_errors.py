"""Predicted errors of a fitted PSF: what the product of a detector keeps of them, and how they are used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.afw_table import AfwTable, Field, read_table, table_hdu
from finalchar.formats.fits_file import Card, Hdu

__all__ = ["PSF_ERRORS", "PredictedErrors", "errors_from_hdu", "errors_hdu"]

FloatArray = npt.NDArray[np.float64]

PSF_ERRORS = "FINALCHAR_PSF_ERRORS"
"""EXTNAME of the table."""
QUANTITIES = ("size", "e1", "e2")


@dataclass(frozen=True)
class PredictedErrors:
    """What is kept of a fit to predict the error of the drawn PSF anywhere on the detector.

    Attributes
    ----------
    root : ndarray, float64, shape (3, nb, nb)
        For size (determinant radius, pixels), e1, e2 (distortion): a matrix F such that the variance at a
        place with the polynomial terms b is ``|b F|**2``; ``F F^T`` is the covariance of the quantity's
        coefficients in Piff's terms.
    size : float
        Size of the mean PSF, pixels.
    """

    root: FloatArray
    size: float

    def at(self, terms: npt.ArrayLike) -> FloatArray:
        """Standard errors of size (pixels), e1, e2 where the polynomial has the terms (m, nb), as (m, 3)."""
        terms = np.atleast_2d(np.asarray(terms, dtype=float))
        return np.asarray(np.sqrt(np.sum(np.matmul(terms, self.root) ** 2, axis=2)).T)


def errors_hdu(errors: PredictedErrors) -> bytes:
    """Return the table of predicted errors as an HDU, one row for each of size, e1, e2."""
    number, terms = errors.root.shape[:2]
    fields = (
        Field("mean", "D", doc="size of the mean PSF, pixels; 0 for e1 and e2, whose mean is not kept"),
        Field("root", "D", "Array", terms * terms, doc="F: the variance is |terms F|^2"),
    )
    columns = {
        "mean": np.array([errors.size, *[0.0] * (number - 1)]),
        "root": errors.root.reshape(number, terms * terms),
    }
    cards = (
        Card("EXTNAME", PSF_ERRORS),
        Card("TERMS", terms, "terms of the polynomial, in the order of the PSF"),
        *(Card(f"QUANT{row}", name) for row, name in enumerate(QUANTITIES, start=1)),
    )
    return table_hdu(AfwTable(fields, columns, metadata=cards))


def errors_from_hdu(unit: Hdu) -> PredictedErrors:
    """Read what `errors_hdu` wrote."""
    table, terms = read_table(unit), unit.header.integer("TERMS")
    root = np.ascontiguousarray(table["root"], dtype=np.float64).reshape(-1, terms, terms)
    return PredictedErrors(root, float(table["mean"][0]))
