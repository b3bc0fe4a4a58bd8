"""Scalar fields over a detector and aperture-correction maps (specification 6.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.exposure import BoundedField, Box

if TYPE_CHECKING:
    from finalchar.formats.afw_table import AfwTable
    from finalchar.formats.archive import Archive, ArchiveWriter

__all__ = ["ChebyshevField", "PixelAreaField", "ProductField", "TransformField", "add_ap_corr_map"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChebyshevField:
    """Sum of Chebyshev polynomials over a box; pixel edges of the box map to -1 and 1.

    Attributes
    ----------
    box : Box
        Where the field is defined (it extrapolates outside).
    coefficients : ndarray, float64, shape (y order + 1, x order + 1)
        ``coefficients[j, i]`` multiplies ``T_i(x') T_j(y')``.
    """

    box: Box
    coefficients: FloatArray

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value of the field at 0-based parent pixel positions."""
        centre_x, centre_y = self.box.centre
        u = 2.0 * (np.asarray(x, dtype=np.float64) - centre_x) / self.box.width
        v = 2.0 * (np.asarray(y, dtype=np.float64) - centre_y) / self.box.height
        u, v = np.broadcast_arrays(u, v)
        if self.coefficients.size == 1:
            return np.full(u.shape, self.coefficients[0, 0])
        return np.asarray(np.polynomial.chebyshev.chebval2d(u, v, self.coefficients.T), dtype=np.float64)

    def mean(self) -> float:
        """Mean over the box."""
        ny, nx = self.coefficients.shape
        return float(_integrals(ny) @ self.coefficients @ _integrals(nx)) / 4.0

    def scaled(self, factor: float) -> ChebyshevField:
        """Return the field times `factor`."""
        return ChebyshevField(self.box, self.coefficients * factor)


def _integrals(number: int) -> FloatArray:
    n = np.arange(number, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.where(n % 2 == 1, 0.0, 2.0 / (1.0 - n**2))


@dataclass(frozen=True)
class ProductField:
    """Product of fields."""

    factors: tuple[BoundedField, ...]

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value of the field at 0-based parent pixel positions."""
        return np.asarray(np.prod([factor.evaluate(x=x, y=y) for factor in self.factors], axis=0))


@dataclass(frozen=True)
class TransformField:
    """A field that is an AST mapping with one output."""

    box: Box
    text: str

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value of the field at 0-based parent pixel positions."""
        from finalchar.formats.ast_text import parse_ast

        u, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        return np.asarray(parse_ast(self.text).tran(np.array([u.ravel(), v.ravel()]))[0]).reshape(u.shape)


@dataclass(frozen=True)
class PixelAreaField:
    """Pixel area in steradian times `scaling`."""

    box: Box
    wcs: Any
    scaling: float

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value of the field at 0-based parent pixel positions."""
        u, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        ra, dec = self.wcs.pixel_to_sky(x=np.stack([u, u + 1.0, u]), y=np.stack([v, v, v + 1.0]))
        unit = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
        area = np.linalg.norm(np.cross(unit[1] - unit[0], unit[2] - unit[0]), axis=-1)
        return np.asarray(self.scaling * area, dtype=np.float64)


# --------------------------------------------------------------------------------------------- reading


def read_box(table: AfwTable) -> Box:
    """Return the inclusive box ``bbox_*`` of a one-row catalogue."""
    return Box(*(int(table.one(f"bbox_{name}")) for name in ("min_x", "min_y", "max_x", "max_y")))


def read_chebyshev_field(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> ChebyshevField:
    """Make a `ChebyshevField` from its archive row."""
    table = catalogues[0]
    coefficients = np.atleast_1d(table.one("coefficients"))
    columns = int(table.one("order_x")) + 1
    if columns < 1 or coefficients.size % columns:
        raise InputError(f"a stored field has {coefficients.size} coefficients for x order {columns - 1}")
    return ChebyshevField(read_box(table), coefficients.reshape(-1, columns).astype(np.float64))


def read_transform_field(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> TransformField:
    """Make a `TransformField` from its archive row."""
    return TransformField(read_box(catalogues[0]), bytes(catalogues[0].one("frameSet")).decode("ascii"))


def read_product_field(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> ProductField:
    """Make a `ProductField` from its archive rows."""
    return ProductField(tuple(archive.get(int(factor)) for factor in catalogues[0]["id"]))


def read_pixel_area_field(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> PixelAreaField:
    """Make a `PixelAreaField` from its archive row."""
    table = catalogues[0]
    return PixelAreaField(read_box(table), archive.get(int(table.one("wcs"))), float(table.one("scaling")))


def read_ap_corr_map(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> dict[str, BoundedField]:
    """Return flux-column name -> field; entries of unknown classes are left out."""
    table = catalogues[0]
    fields = {str(k): archive.get(int(n)) for k, n in zip(table["name"], table["field"], strict=True)}
    return {key: value for key, value in fields.items() if hasattr(value, "evaluate")}


# --------------------------------------------------------------------------------------------- writing


def add_ap_corr_map(writer: ArchiveWriter, ap_corr_map: Mapping[str, BoundedField]) -> int:
    """Add an aperture-correction map of Chebyshev fields to an archive and return its id (8.3)."""
    from finalchar.formats.afw_table import AfwTable, Field

    fields = (
        Field("name", "A", "String", 64, doc="name of the aperture correction"),
        Field("field", "J", doc="archive ID of the BoundedField object"),
    )
    writer.open_table(fields)
    map_id = writer.new_id()
    names = sorted(ap_corr_map)
    ids = [add_chebyshev_field(writer, ap_corr_map[name]) for name in names]
    columns = {"name": np.array(names, dtype="U64"), "field": np.array(ids, dtype=np.int32)}
    return writer.add("ApCorrMap", "lsst.afw.image", [AfwTable(fields, columns)], map_id)


def add_chebyshev_field(writer: ArchiveWriter, field: BoundedField) -> int:
    """Add one Chebyshev field to an archive and return its id."""
    from finalchar.formats.afw_table import AfwTable, Field

    if not isinstance(field, ChebyshevField):
        raise TypeError(f"a field of type {type(field).__name__} cannot be stored, only a ChebyshevField")
    number = field.coefficients.size
    fields = (
        Field("order_x", "J", doc="maximum Chebyshev function order in x"),
        Field("bbox_min_x", "J", unit="pixel", doc="bounding box (minimum)"),
        Field("bbox_min_y", "J", unit="pixel", doc="bounding box (minimum)"),
        Field("bbox_max_x", "J", unit="pixel", doc="bounding box (maximum)"),
        Field("bbox_max_y", "J", unit="pixel", doc="bounding box (maximum)"),
        Field(
            "coefficients", "D", "Array", number, doc="Chebyshev function coefficients, ordered by y then x"
        ),
    )
    box = field.box
    values = [field.coefficients.shape[1] - 1, box.min_x, box.min_y, box.max_x, box.max_y]
    columns: dict[str, npt.NDArray[Any]] = {
        f.name: np.array([value], dtype=np.int32) for f, value in zip(fields, values, strict=False)
    }
    columns["coefficients"] = np.asarray(field.coefficients, dtype=np.float64).reshape(1, number)
    return writer.add("ChebyshevBoundedField", "lsst.afw.math", [AfwTable(fields, columns)])
