"""PSFs as the LSST stack stores them (specification 7): frozen records, and Piff's pickle, read safely.

How a stored PSF is drawn stands in the psf room; here is only what is stored.  Pickles are read with an
allow-list of classes; there is no option that loads arbitrary ones.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, PsfError

if TYPE_CHECKING:
    from finalchar.formats.afw_table import AfwTable
    from finalchar.formats.archive import Archive

__all__ = [
    "AnalyticKernel",
    "ChebyshevFunction",
    "DeltaFunctionKernel",
    "DoubleGaussianFunction",
    "FixedKernel",
    "GaussianFunction",
    "GaussianPsf",
    "KernelPsf",
    "LinearCombinationKernel",
    "PiffPsf",
    "PolynomialFunction",
    "PsfexPsf",
    "StoredPsf",
    "dumps_piff",
    "loads_piff",
    "read_stored_psf",
]

FloatArray = npt.NDArray[np.float64]

# ------------------------------------------------------------------------------------ what can be stored


@dataclass(frozen=True)
class PiffPsf:
    """A Piff PSF as the bytes of its pickle ``(width, height, psf)``; `loads_piff` opens them."""

    pickle: bytes


@dataclass(frozen=True)
class PsfexPsf:
    """A PSFEx model (7.2): polynomial of sampled components.

    Attributes
    ----------
    components : ndarray, float32, shape (terms, h, w)
        Model images, in model pixels.
    degree : ndarray of int
        Polynomial degree per group.
    group : ndarray of int
        Group (from 0) of each context dimension.
    context_first, context_second : ndarray, float64, shape (2,)
        Offset and scale of x and y.
    pixel_step : float
        Size of a model pixel in image pixels.
    average_position : (float, float)
        Mean (x, y) of the used stars.
    """

    components: npt.NDArray[np.float32]
    degree: npt.NDArray[np.int32]
    group: npt.NDArray[np.int32]
    context_first: FloatArray
    context_second: FloatArray
    pixel_step: float
    average_position: tuple[float, float]


@dataclass(frozen=True)
class PolynomialFunction:
    """Two-dimensional polynomial, terms 1; x; y; x^2; x y; y^2; ..."""

    coefficients: FloatArray

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value at positions."""
        u, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        terms = [u ** (n - k) * v**k for n, k in _triangle(self.coefficients.size)]
        return np.asarray(np.tensordot(self.coefficients, np.stack(terms), axes=1))


@dataclass(frozen=True)
class ChebyshevFunction:
    """Two-dimensional Chebyshev polynomial over a range, terms in the order of `PolynomialFunction`."""

    coefficients: FloatArray
    min_x: float
    min_y: float
    max_x: float
    max_y: float

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value at positions."""
        u = (
            2.0
            * (np.asarray(x, dtype=np.float64) - 0.5 * (self.min_x + self.max_x))
            / (self.max_x - self.min_x)
        )
        v = (
            2.0
            * (np.asarray(y, dtype=np.float64) - 0.5 * (self.min_y + self.max_y))
            / (self.max_y - self.min_y)
        )
        order = max(n for n, _ in _triangle(self.coefficients.size))
        matrix = np.zeros((order + 1, order + 1))
        for value, (n, k) in zip(self.coefficients, _triangle(self.coefficients.size), strict=True):
            matrix[n - k, k] = value
        u, v = np.broadcast_arrays(u, v)
        return np.asarray(np.polynomial.chebyshev.chebval2d(u, v, matrix))


def _triangle(number: int) -> list[tuple[int, int]]:
    """Return (total power, power of y) of the first `number` terms."""
    order = round((float(np.sqrt(8.0 * number + 1.0)) - 3.0) / 2.0)
    terms = [(n, k) for n in range(order + 1) for k in range(n + 1)]
    if len(terms) != number:
        raise InputError(f"a stored polynomial has {number} coefficients, which fits no order")
    return terms


@dataclass(frozen=True)
class GaussianFunction:
    """Elliptical Gaussian; widths in pixels, angle in radians."""

    sigma1: float
    sigma2: float
    angle: float

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value at offsets from the centre."""
        u, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        along = np.cos(self.angle) * u + np.sin(self.angle) * v
        across = -np.sin(self.angle) * u + np.cos(self.angle) * v
        exponent = (along / self.sigma1) ** 2 + (across / self.sigma2) ** 2
        return np.asarray(np.exp(-0.5 * exponent) / (2.0 * np.pi * self.sigma1 * self.sigma2))


@dataclass(frozen=True)
class DoubleGaussianFunction:
    """Sum of two circular Gaussians, the second with relative peak `ratio`."""

    sigma1: float
    sigma2: float
    ratio: float

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value at offsets from the centre."""
        r2 = np.square(np.asarray(x, dtype=np.float64)) + np.square(np.asarray(y, dtype=np.float64))
        second = self.ratio * np.exp(-0.5 * r2 / self.sigma2**2) if self.ratio else 0.0
        norm = 2.0 * np.pi * (self.sigma1**2 + self.ratio * self.sigma2**2)
        return np.asarray((np.exp(-0.5 * r2 / self.sigma1**2) + second) / norm)


Function2D = PolynomialFunction | ChebyshevFunction | GaussianFunction | DoubleGaussianFunction


@dataclass(frozen=True)
class FixedKernel:
    """A kernel that is one image; `centre` is the (x, y) index of its origin pixel."""

    image: FloatArray
    centre: tuple[int, int]


@dataclass(frozen=True)
class LinearCombinationKernel:
    """Sum of kernels with fixed amplitudes, or with amplitudes that are functions of the position."""

    components: tuple[Kernel, ...]
    centre: tuple[int, int]
    dimensions: tuple[int, int]
    functions: tuple[Function2D, ...] | None = None
    amplitudes: FloatArray | None = None


@dataclass(frozen=True)
class AnalyticKernel:
    """A kernel that is a function of the offset from its centre; `dimensions` are (width, height)."""

    function: Function2D
    dimensions: tuple[int, int]
    centre: tuple[int, int]


@dataclass(frozen=True)
class DeltaFunctionKernel:
    """A kernel with one pixel of value 1 at index `pixel` (x, y)."""

    pixel: tuple[int, int]
    dimensions: tuple[int, int]
    centre: tuple[int, int]


Kernel = FixedKernel | LinearCombinationKernel | AnalyticKernel | DeltaFunctionKernel


@dataclass(frozen=True)
class KernelPsf:
    """A PSF that is a kernel (persisted class ``KernelPsf`` or ``PcaPsf``)."""

    kernel: Kernel
    average_position: tuple[float, float]
    persisted_class: str = "KernelPsf"


@dataclass(frozen=True)
class GaussianPsf:
    """A circular single or double Gaussian PSF on a grid of (width, height)."""

    dimensions: tuple[int, int]
    function: DoubleGaussianFunction
    persisted_class: str = "SingleGaussianPsf"


StoredPsf = PiffPsf | PsfexPsf | KernelPsf | GaussianPsf

# --------------------------------------------------------------------------------------------- reading


def read_stored_psf(archive: Archive, object_id: int) -> StoredPsf | None:
    """Return a PSF of an archive; None for id 0 and for classes without reader (which warn)."""
    stored = archive.get(object_id)
    return stored if isinstance(stored, StoredPsf) else None


def read_piff_psf(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> PiffPsf:
    """Make a `PiffPsf` from its archive row."""
    return PiffPsf(bytes(catalogues[0].one("bytes")))


def read_psfex_psf(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> PsfexPsf:
    """Make a `PsfexPsf` from its two catalogues."""
    head, arrays = catalogues
    width, height, terms = (int(n) for n in np.atleast_1d(arrays.one("_size")))
    return PsfexPsf(
        components=np.asarray(arrays.one("_comp"), dtype=np.float32).reshape(terms, height, width),
        degree=np.atleast_1d(arrays.one("degree")),
        group=np.atleast_1d(arrays.one("group")),
        context_first=np.atleast_1d(arrays.one("_context_first")),
        context_second=np.atleast_1d(arrays.one("_context_second")),
        pixel_step=float(head.one("_pixstep")),
        average_position=_average(head),
    )


def read_kernel_psf(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> KernelPsf:
    """Make a `KernelPsf` from its archive row."""
    kernel = archive.get(int(catalogues[0].one("kernel")))
    if not isinstance(kernel, Kernel):
        raise InputError(f"the kernel of a stored {name} is of an unknown class")
    if name == "PcaPsf" and not isinstance(kernel, LinearCombinationKernel):
        raise InputError("a stored PcaPsf has no linear combination of kernels")
    return KernelPsf(kernel, _average(catalogues[0]), name)


def _average(table: AfwTable) -> tuple[float, float]:
    return float(table.one("averagePosition_x")), float(table.one("averagePosition_y"))


def read_gaussian_psf(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> GaussianPsf:
    """Make a `GaussianPsf` from its archive row."""
    table = catalogues[0]
    if name == "DoubleGaussianPsf":
        function = DoubleGaussianFunction(*(float(table.one(n)) for n in ("sigma1", "sigma2", "b")))
    else:
        function = DoubleGaussianFunction(float(table.one("sigma")), 1.0, 0.0)
    return GaussianPsf(_pair(table, "dimensions"), function, name)


def _pair(table: AfwTable, name: str) -> tuple[int, int]:
    return int(table.one(f"{name}_x")), int(table.one(f"{name}_y"))


def read_fixed_kernel(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> FixedKernel:
    """Make a `FixedKernel` from its archive row."""
    width, height = _pair(catalogues[0], "dimensions")
    image = np.atleast_1d(catalogues[0].one("image")).reshape(height, width)
    return FixedKernel(image.astype(np.float64), _pair(catalogues[0], "center"))


def read_linear_combination_kernel(
    name: str, catalogues: Sequence[AfwTable], archive: Archive
) -> LinearCombinationKernel:
    """Make a `LinearCombinationKernel` from its archive row."""
    table = catalogues[0]
    varying = "spatialfunctions" in table
    parts = tuple(archive.get(int(n)) for n in np.atleast_1d(table.one("components")))
    functions = (
        tuple(archive.get(int(n)) for n in np.atleast_1d(table.one("spatialfunctions"))) if varying else None
    )
    amplitudes = None if varying else np.atleast_1d(table.one("amplitudes")).astype(np.float64)
    if not all(isinstance(part, Kernel) for part in parts):
        raise InputError("a stored linear combination has kernels of an unknown class")
    return LinearCombinationKernel(
        parts, _pair(table, "center"), _pair(table, "dimensions"), functions, amplitudes
    )


def read_analytic_kernel(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> AnalyticKernel:
    """Make an `AnalyticKernel` from its archive row."""
    table = catalogues[0]
    if "spatialfunctions" in table:
        raise InputError("a stored analytic kernel varies over the detector, which is not supported")
    function = archive.get(int(table.one("kernelfunction")))
    return AnalyticKernel(function, _pair(table, "dimensions"), _pair(table, "center"))


def read_delta_function_kernel(
    name: str, catalogues: Sequence[AfwTable], archive: Archive
) -> DeltaFunctionKernel:
    """Make a `DeltaFunctionKernel` from its archive row."""
    table = catalogues[0]
    return DeltaFunctionKernel(_pair(table, "pixel"), _pair(table, "dimensions"), _pair(table, "center"))


def read_polynomial_function(
    name: str, catalogues: Sequence[AfwTable], archive: Archive
) -> PolynomialFunction:
    """Make a `PolynomialFunction` from its archive row."""
    return PolynomialFunction(np.atleast_1d(catalogues[0].one("coefficients")).astype(np.float64))


def read_chebyshev_function(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> ChebyshevFunction:
    """Make a `ChebyshevFunction` from its archive row."""
    table = catalogues[0]
    limits = (float(table.one(n)) for n in ("min_x", "min_y", "max_x", "max_y"))
    return ChebyshevFunction(np.atleast_1d(table.one("coefficients")).astype(np.float64), *limits)


def read_gaussian_function(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> GaussianFunction:
    """Make a `GaussianFunction` from its archive row."""
    return GaussianFunction(*(float(catalogues[0].one(n)) for n in ("sigma1", "sigma2", "angle")))


def read_double_gaussian_function(
    name: str, catalogues: Sequence[AfwTable], archive: Archive
) -> DoubleGaussianFunction:
    """Make a `DoubleGaussianFunction` from its archive row."""
    return DoubleGaussianFunction(*(float(catalogues[0].one(n)) for n in ("sigma1", "sigma2", "ampl2")))


# ------------------------------------------------------------------------------------------- Piff pickle

_INTERPOLANTS = (
    "Interpolant",
    "Delta",
    "Nearest",
    "SincInterpolant",
    "Linear",
    "Cubic",
    "Quintic",
    "Lanczos",
)
_SCALARS = (
    "bool_",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "intc",
    "intp",
    "float16",
    "float32",
    "float64",
    "longdouble",
    "complex64",
    "complex128",
    "str_",
    "bytes_",
)
_ALLOWED: dict[str, tuple[str, ...]] = {
    "piff.simplepsf": ("SimplePSF",),
    "piff.pixelgrid": ("PixelGrid",),
    "piff.gsobject_model": ("GSObjectModel", "Gaussian", "Kolmogorov", "Moffat"),
    "piff.basis_interp": ("BasisPolynomial",),
    "piff.polynomial_interp": ("Polynomial",),
    "piff.mean_interp": ("Mean",),
    "piff.outliers": ("ChisqOutliers", "MADOutliers"),
    "piff.star": ("Star", "StarData", "StarFit"),
    "galsim.wcs": ("PixelScale", "JacobianWCS"),
    "coord.celestial": ("CelestialCoord",),
    "coord.angle": ("Angle",),
    "galsim.position": ("PositionD", "PositionI"),
    "galsim.bounds": ("BoundsI", "BoundsD"),
    "galsim.image": ("Image",),
    "galsim.gsparams": ("GSParams",),
    "galsim.interpolant": _INTERPOLANTS,
    "galsim.interpolatedimage": ("InterpolatedImage",),
    "numpy.polynomial.polynomial": ("polyval2d",),
    "galsim.gaussian": ("Gaussian",),
    "galsim.kolmogorov": ("Kolmogorov",),
    "galsim.moffat": ("Moffat",),
    "galsim.transform": ("Transformation",),
    "numpy": ("ndarray", "dtype", *_SCALARS),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.core.numeric": ("_frombuffer",),
}
"""Globals that a stored Piff PSF may name (7.1), numpy's in both spellings; the stack's are in `piff_wcs`."""

_STAR_DATA = ("image", "weight", "orig_weight")
_STAR_FIT = ("params", "params_var", "A", "b")


class _Unpickler(pickle.Unpickler):
    """Loads only the classes of the allow-list."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module.replace("numpy.core.", "numpy._core."), name)
        if module.startswith("lsst.") or module == "astshim":
            from finalchar.formats.piff_wcs import FOREIGN_NAMES

            if (module, name) in FOREIGN_NAMES:
                return FOREIGN_NAMES[module, name]
        raise pickle.UnpicklingError(f"the class {module}.{name} is not allowed in a stored PSF")


def loads_piff(stored: bytes) -> tuple[int, int, Any]:
    """Open a stored Piff PSF with the allow-list of 7.1.

    Parameters
    ----------
    stored : bytes
        The pickle of ``(width, height, psf)``.

    Returns
    -------
    width, height : int
        Side lengths of the drawn image, pixels.
    psf : piff.SimplePSF
        The PSF.

    Raises
    ------
    InputError
        If the bytes are not such a pickle, name a class that is not allowed, or do not fit this Piff.
    """
    try:
        width, height, psf = _Unpickler(io.BytesIO(stored)).load()
        _modernise(psf)
        return int(width), int(height), psf
    except Exception as error:  # a broken pickle can raise anything
        raise InputError(f"a stored Piff PSF cannot be read ({type(error).__name__}: {error})") from error


def _modernise(psf: Any) -> None:
    """Give PSFs of old Piff versions the attributes that newer ones look for (7.1.1)."""
    if not hasattr(psf, "_num"):
        psf._num = None
        psf.model._num = psf.model._fit_flux = None
        psf.interp._num = None


def dumps_piff(width: int, psf: Any, *, keep_images: bool = False) -> bytes:
    """Return the bytes under which the LSST stack opens a Piff PSF (8.4).

    The PSF is left as it is; its copy loses the star images.  The same object gives the same bytes.

    Parameters
    ----------
    width : int
        Side of the drawn image, pixels.
    psf : piff.SimplePSF
        A fitted PSF whose WCS is GalSim's or one of `piff_wcs`.
    keep_images : bool
        Keep the star images (`debugStarData`).

    Raises
    ------
    PsfError
        If the PSF contains objects of classes that the stack or this library would not open.
    """
    import contextlib

    context: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if _has_foreign_wcs(psf):
        from finalchar.formats.piff_wcs import foreign_names

        context = foreign_names()
    with context:
        lean = psf if keep_images else _without_images(psf)
        stored = pickle.dumps((int(width), int(width), lean), protocol=4)
    try:
        _Unpickler(io.BytesIO(stored)).load()
    except pickle.UnpicklingError as error:
        raise PsfError(f"the PSF cannot be stored: {error}") from error
    return stored


def _has_foreign_wcs(psf: Any) -> bool:
    wcs = getattr(psf, "wcs", None) or {}
    return any(type(one).__module__.startswith("lsst.") for one in wcs.values())


def _without_images(psf: Any) -> Any:
    """Return a shallow copy of a PSF whose stars have lost the attributes of 7.1."""
    import copy

    stripped = copy.copy(psf)
    stripped.stars = [_without_image(star) for star in psf.stars]
    return stripped


def _without_image(star: Any) -> Any:
    import copy

    new = copy.copy(star)
    new.data, new.fit = copy.copy(star.data), copy.copy(star.fit)
    for part, names in ((new.data, _STAR_DATA), (new.fit, _STAR_FIT)):
        for name in names:
            part.__dict__.pop(name, None)
    return new
