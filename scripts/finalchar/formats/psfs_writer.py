"""Stored PSFs to archives, in the layout that the LSST stack checks (file-format specification 7, 8.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.afw_table import AfwTable, Field
from finalchar.formats.archive import ArchiveWriter
from finalchar.formats.psfs import (
    ChebyshevFunction,
    FixedKernel,
    GaussianPsf,
    KernelPsf,
    LinearCombinationKernel,
    PiffPsf,
    PolynomialFunction,
    PsfexPsf,
    StoredPsf,
)

__all__ = ["add_psf"]

_ALGORITHMS = "lsst.meas.algorithms"
_MATH = "lsst.afw.math"
_TERMS = "polynomial coefficients, ordered (x,y) [0,0; 1,0; 0,1; 2,0; 1,1; 0,2; ...]"


def add_psf(writer: ArchiveWriter, psf: StoredPsf) -> int:
    """Add a PSF and its parts to an archive and return its id; the bytes of a Piff PSF stay as they are.

    Raises
    ------
    TypeError
        If the PSF has parts of a class that is only read.
    """
    if isinstance(psf, PiffPsf):
        return _add_piff(writer, psf)
    if isinstance(psf, PsfexPsf):
        return _add_psfex(writer, psf)
    if isinstance(psf, KernelPsf):
        return _add_kernel_psf(writer, psf)
    if isinstance(psf, GaussianPsf):
        return _add_gaussian_psf(writer, psf)
    raise TypeError(f"a PSF of type {type(psf).__name__} cannot be stored")


def _row(*columns: tuple[Field, Any]) -> AfwTable:
    """Return a table with one row."""
    dtypes = {"J": np.int32, "E": np.float32, "D": np.float64}
    return AfwTable(
        tuple(field for field, _ in columns),
        {field.name: np.array([value], dtype=dtypes[field.code]) for field, value in columns},
    )


def _array(name: str, code: str, values: npt.ArrayLike, doc: str) -> tuple[Field, npt.NDArray[Any]]:
    flat = np.asarray(values).ravel()
    return Field(name, code, "Array", flat.size, doc=doc), flat


def _integer(name: str, value: int, doc: str, unit: str = "") -> tuple[Field, int]:
    return Field(name, "J", unit=unit, doc=doc), value


def _average(position: tuple[float, float]) -> tuple[tuple[Field, float], tuple[Field, float]]:
    doc = "average position of stars used to make the PSF"
    return (
        (Field("averagePosition_x", "D", unit="pixel", doc=doc), position[0]),
        (Field("averagePosition_y", "D", unit="pixel", doc=doc), position[1]),
    )


def _add_piff(writer: ArchiveWriter, psf: PiffPsf) -> int:
    cell = np.empty(1, dtype=object)
    cell[0] = np.frombuffer(psf.pickle, dtype=np.uint8)
    field = Field("bytes", "B", "Array", 0, doc="an opaque bytestring representation of a Storable")
    return writer.add("PiffPsf", "lsst.meas.extensions.piff.piffPsf", [AfwTable((field,), {"bytes": cell})])


def _add_psfex(writer: ArchiveWriter, psf: PsfexPsf) -> int:
    terms, height, width = psf.components.shape
    # The number of terms is stored as the length of scratch arrays that the stack fills itself.
    basis = np.zeros(terms)
    basis[0] = 1.0
    head = _row(
        _integer("ndim", psf.group.size, "Number of elements in group"),
        _integer("ngroup", psf.degree.size, "Number of elements in degree"),
        _integer("ncoeff", terms, "Number of coefficients"),
        _integer("_size_size", 3, "Size of _size array"),
        _integer("_comp_size", psf.components.size, "Size of _comp array"),
        _integer("_context_size", psf.context_first.size, "Size of _context array"),
        *_average(psf.average_position),
        (Field("_pixstep", "E", unit="pixel", doc="oversampling"), psf.pixel_step),
    )
    arrays = _row(
        _array("group", "J", psf.group, "Groups (of coefficients?)"),
        _array("degree", "J", psf.degree, "Degree in each group"),
        _array("basis", "D", basis, "Values of the basis functions"),
        _array("coeff", "D", np.zeros(terms), "Polynomial coefficients"),
        _array("_size", "J", (width, height, terms), "PSF dimensions"),
        _array("_comp", "E", psf.components, "Complete pixel data"),
        _array("_context_first", "D", psf.context_first, "Offset to apply to context data"),
        _array("_context_second", "D", psf.context_second, "Scale to apply to context data"),
    )
    return writer.add("PsfexPsf", "lsst.meas.extensions.psfex", [head, arrays])


def _add_kernel_psf(writer: ArchiveWriter, psf: KernelPsf) -> int:
    columns = (_integer("kernel", 0, "archive ID of nested kernel object"), *_average(psf.average_position))
    writer.open_table(_row(*columns).fields)
    psf_id = writer.new_id()
    kernel_id = _add_kernel(writer, psf.kernel)
    row = _row((columns[0][0], kernel_id), *columns[1:])
    return writer.add(psf.persisted_class, _ALGORITHMS, [row], psf_id)


def _common(width: int, height: int, centre: tuple[int, int]) -> list[tuple[Field, int]]:
    dimensions, origin = "dimensions of a Kernel's images", "center point in a Kernel image"
    return [
        _integer("dimensions_x", width, dimensions, "pixel"),
        _integer("dimensions_y", height, dimensions, "pixel"),
        _integer("center_x", centre[0], origin, "pixel"),
        _integer("center_y", centre[1], origin, "pixel"),
    ]


def _add_kernel(writer: ArchiveWriter, kernel: object) -> int:
    if isinstance(kernel, FixedKernel):
        height, width = kernel.image.shape
        pixels = _array("image", "D", kernel.image, "pixel values (row-major)")
        return writer.add("FixedKernel", _MATH, [_row(*_common(width, height, kernel.centre), pixels)])
    if isinstance(kernel, LinearCombinationKernel):
        return _add_linear_combination(writer, kernel)
    raise TypeError(f"a kernel of type {type(kernel).__name__} cannot be stored")


def _add_linear_combination(writer: ArchiveWriter, kernel: LinearCombinationKernel) -> int:
    blank = np.zeros(len(kernel.components), dtype=np.int32)
    components, functions = (
        "archive IDs of component kernel",
        "archive IDs for the Kernel's spatial functions",
    )
    columns: list[tuple[Field, Any]] = [*_common(*kernel.dimensions, kernel.centre)]
    if kernel.functions is not None:
        columns.append(_array("spatialfunctions", "J", blank, functions))
    columns.append(_array("components", "J", blank, components))
    if kernel.functions is None:
        columns.append(_array("amplitudes", "D", np.asarray(kernel.amplitudes), "amplitudes of components"))
    writer.open_table(_row(*columns).fields)
    kernel_id = writer.new_id()
    ids: dict[str, list[int]] = {}
    if kernel.functions is not None:
        ids["spatialfunctions"] = [_add_function(writer, function) for function in kernel.functions]
    ids["components"] = [_add_kernel(writer, part) for part in kernel.components]
    filled = [(field, ids.get(field.name, value)) for field, value in columns]
    return writer.add("LinearCombinationKernel", _MATH, [_row(*filled)], kernel_id)


def _add_function(writer: ArchiveWriter, function: object) -> int:
    if isinstance(function, PolynomialFunction):
        pixels = _array("coefficients", "D", function.coefficients, _TERMS)
        return writer.add("PolynomialFunction2D", _MATH, [_row(pixels)])
    if isinstance(function, ChebyshevFunction):
        limits = [
            (
                Field(f"{end}_{axis}", "D", unit="pixel", doc=f"{end}imum point for function's bbox"),
                getattr(function, f"{end}_{axis}"),
            )
            for end in ("min", "max")
            for axis in ("x", "y")
        ]
        pixels = _array("coefficients", "D", function.coefficients, _TERMS)
        return writer.add("Chebyshev1Function2D", _MATH, [_row(pixels, *limits)])
    raise TypeError(f"a function of type {type(function).__name__} cannot be stored")


def _add_gaussian_psf(writer: ArchiveWriter, psf: GaussianPsf) -> int:
    columns: list[tuple[Field, Any]] = [
        _integer("dimensions_x", psf.dimensions[0], "width/height of kernel", "pixel"),
        _integer("dimensions_y", psf.dimensions[1], "width/height of kernel", "pixel"),
    ]
    function = psf.function
    if psf.persisted_class == "DoubleGaussianPsf":
        widths = {"sigma1": function.sigma1, "sigma2": function.sigma2, "b": function.ratio}
    else:
        widths = {"sigma": function.sigma1}
    columns += [(Field(name, "D", doc="parameter of the profile"), value) for name, value in widths.items()]
    module = "lsst.afw.detection" if psf.persisted_class == "GaussianPsf" else _ALGORITHMS
    return writer.add(psf.persisted_class, module, [_row(*columns)])
