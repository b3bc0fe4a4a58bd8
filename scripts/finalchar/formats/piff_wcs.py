"""World coordinates of Piff models in field and sky coordinates, under the names the LSST stack knows.

A Piff PSF that was fitted in `field` or `sky` coordinates carries a WCS object of the stack in its pickle.
The classes here stand in for those objects (file specification 7.1.1): they evaluate the same stored AST
text, they are what our own fits use, and inside `foreign_names` they pickle under the stack's names, so that
the stack opens our PSFs (8.4).  Outside of it they refuse to be pickled.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import galsim
import numpy as np

from finalchar.errors import InputError
from finalchar.formats.ast_text import AstTransform, SkyWcs, TransformChain, dump_ast
from finalchar.formats.exposure import ARCSEC_PER_RADIAN

__all__ = [
    "FOREIGN_NAMES",
    "CelestialWcsWrapper",
    "UVWcsWrapper",
    "field_wcs",
    "foreign_names",
    "sky_wcs",
]

WRAPPER_MODULE = "lsst.meas.extensions.piff.wcs_wrapper"
TRANSFORM_MODULE = "lsst.afw.geom._python._transform"
GEOM_MODULE = "lsst.afw.geom"
AST_MODULE = "astshim"


class _TransformPoint2ToPoint2:
    """Stands for the class of a stored plane-to-plane transform; never instantiated."""


class _SkyWcs:
    """Stands for the class of a stored sky WCS; never instantiated."""


_TransformPoint2ToPoint2.__module__ = _SkyWcs.__module__ = GEOM_MODULE
_TransformPoint2ToPoint2.__name__ = _TransformPoint2ToPoint2.__qualname__ = "TransformPoint2ToPoint2"
_SkyWcs.__name__ = _SkyWcs.__qualname__ = "SkyWcs"


class _Immutable:
    """Copies are the object itself (Piff copies stars, and with them their WCS, deeply)."""

    def __copy__(self) -> _Immutable:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Immutable:
        return self


class StoredTransform(_Immutable):
    """A transform or sky WCS of the stack: its class and its text."""

    def __init__(self, kind: type, text: str) -> None:
        self.kind = kind
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickleTransform, (self.kind, self.text)

    @cached_property
    def sky(self) -> SkyWcs:
        """The sky WCS of the text."""
        return SkyWcs(self.text[self.text.index("Begin") :])


def unpickleTransform(kind: type, text: str) -> StoredTransform:
    """Make a stored transform, as a pickle of the stack asks for."""
    return StoredTransform(kind, text)


unpickleTransform.__module__ = TRANSFORM_MODULE


class StoredMapping(_Immutable):
    """An AST mapping of the stack: its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectMaker(), (self.text,)

    @cached_property
    def transform(self) -> AstTransform:
        """The mapping, able to evaluate."""
        return AstTransform(self.text)


class ObjectMaker(_Immutable):
    """Makes AST objects of their text, as a pickle of the stack asks for."""

    __module__ = AST_MODULE

    def __call__(self, text: str) -> StoredMapping:
        return StoredMapping(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectMaker, ()


class UVWcsWrapper(galsim.wcs.EuclideanWCS):  # type: ignore[misc]
    """Pixels to field angles (u, v) in arcsec."""

    __module__ = WRAPPER_MODULE
    _pix_to_field: StoredTransform
    _mapping: StoredMapping
    _origin: Any
    _world_origin: Any
    _color: Any

    @classmethod
    def of(
        cls,
        pix_to_field: StoredTransform,
        mapping: StoredMapping,
        origin: Any = None,
        world_origin: Any = None,
    ) -> UVWcsWrapper:
        """Make one of its stored parts; the origins are zero by default."""
        wcs = cls.__new__(cls)
        wcs._pix_to_field = pix_to_field
        wcs._mapping = mapping
        wcs._origin = galsim.PositionD(0.0, 0.0) if origin is None else origin
        wcs._world_origin = galsim.PositionD(0.0, 0.0) if world_origin is None else world_origin
        wcs._color = None
        return wcs

    @property
    def origin(self) -> Any:
        """Image position of the origin."""
        return self._origin

    @property
    def world_origin(self) -> Any:
        """World position of the origin."""
        return self._world_origin

    def _uv(self, x: Any, y: Any) -> tuple[Any, Any]:
        u, v = self._mapping.transform.apply(x=x, y=y)
        return _as_given(u * ARCSEC_PER_RADIAN, x), _as_given(v * ARCSEC_PER_RADIAN, x)

    def _u(self, x: Any, y: Any, color: Any = None) -> Any:
        return self._uv(x, y)[0]

    def _v(self, x: Any, y: Any, color: Any = None) -> Any:
        return self._uv(x, y)[1]

    def _xy(self, u: Any, v: Any) -> tuple[Any, Any]:
        inverse = self._mapping.transform.inverse()
        x, y = inverse.apply(x=np.asarray(u) / ARCSEC_PER_RADIAN, y=np.asarray(v) / ARCSEC_PER_RADIAN)
        return _as_given(x, u), _as_given(y, u)

    def _x(self, u: Any, v: Any, color: Any = None) -> Any:
        return self._xy(u, v)[0]

    def _y(self, u: Any, v: Any, color: Any = None) -> Any:
        return self._xy(u, v)[1]

    def _local(self, image_pos: Any, color: Any = None) -> Any:
        if image_pos is None:
            raise TypeError("the local form of a field WCS needs an image position")
        x, y = image_pos.x - self.x0, image_pos.y - self.y0
        jacobian = self._mapping.transform.jacobian(x=x, y=y) * ARCSEC_PER_RADIAN
        return galsim.JacobianWCS(*(float(value) for value in jacobian.ravel()))

    def _newOrigin(self, origin: Any, world_origin: Any) -> UVWcsWrapper:
        return UVWcsWrapper.of(self._pix_to_field, self._mapping, origin, world_origin)

    def copy(self) -> UVWcsWrapper:
        """Return the object itself: it never changes."""
        return self

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UVWcsWrapper)
            and self._mapping.text == other._mapping.text
            and self._origin == other._origin
            and self._world_origin == other._world_origin
        )

    def __hash__(self) -> int:
        return hash((self._mapping.text, self._origin, self._world_origin))

    def __repr__(self) -> str:
        return f"<UVWcsWrapper with origin {self._origin} -> {self._world_origin}>"


class CelestialWcsWrapper(galsim.wcs.CelestialWCS):  # type: ignore[misc]
    """Pixels to the sky; GalSim's own finite differences give the local form, as in the reference."""

    __module__ = WRAPPER_MODULE
    _pix_to_sky: StoredTransform
    _origin: Any
    _color: Any

    @classmethod
    def of(cls, pix_to_sky: StoredTransform, origin: Any = None) -> CelestialWcsWrapper:
        """Make one of its stored parts; the origin is zero by default."""
        wcs = cls.__new__(cls)
        wcs._pix_to_sky = pix_to_sky
        wcs._origin = galsim.PositionD(0.0, 0.0) if origin is None else origin
        wcs._color = None
        return wcs

    @property
    def origin(self) -> Any:
        """Image position of the origin."""
        return self._origin

    def _radec(self, x: Any, y: Any, color: Any = None) -> tuple[Any, Any]:
        ra, dec = self._pix_to_sky.sky.pixel_to_sky(x=x, y=y)
        return _as_given(ra, x), _as_given(dec, x)

    def _xy(self, ra: Any, dec: Any, color: Any = None) -> tuple[Any, Any]:
        x, y = self._pix_to_sky.sky.sky_to_pixel(ra=ra, dec=dec)
        return _as_given(x, ra), _as_given(y, ra)

    def _newOrigin(self, origin: Any) -> CelestialWcsWrapper:
        return CelestialWcsWrapper.of(self._pix_to_sky, origin)

    def copy(self) -> CelestialWcsWrapper:
        """Return the object itself: it never changes."""
        return self

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, CelestialWcsWrapper)
            and self._pix_to_sky.text == other._pix_to_sky.text
            and self._origin == other._origin
        )

    def __hash__(self) -> int:
        return hash((self._pix_to_sky.text, self._origin))

    def __repr__(self) -> str:
        return f"<CelestialWcsWrapper with origin {self._origin}>"


def _as_given(values: Any, like: Any) -> Any:
    """Return a number for numbers and an array for arrays (GalSim asks with both)."""
    return float(values) if np.ndim(like) == 0 else np.array(values, dtype=np.float64)


def field_wcs(transform: object) -> UVWcsWrapper:
    """Return the WCS of field angles of an exposure's pixel -> field angle transform.

    Parameters
    ----------
    transform : AstTransform or TransformChain
        Pixels to field angles in arcsec, as an exposure carries it.

    Raises
    ------
    InputError
        If there is no such transform, or it is not stored as AST text.
    """
    if transform is None:
        raise InputError(
            "the exposure has no transform to field angles; use useCoordinates 'pixel' or 'sky' instead"
        )
    text = _text_in_radians(transform)
    prefixed = f"1 TransformPoint2ToPoint2 {text}"
    return UVWcsWrapper.of(StoredTransform(_TransformPoint2ToPoint2, prefixed), StoredMapping(text))


def _text_in_radians(transform: object) -> str:
    """AST text of a transform from pixels to field angles in radians."""
    import starlink.Ast as Ast

    if isinstance(transform, AstTransform):
        chain = TransformChain((transform,), 1.0)
    elif isinstance(transform, TransformChain):
        chain = transform
    else:
        raise InputError("field coordinates need a transform that is stored as AST text")
    mapping = Ast.UnitMap(2)
    for step in chain.steps:
        part = step._ast_mapping.copy()
        if not step.forward:
            part.invert()
        mapping = Ast.CmpMap(mapping, part, True)
    factor = chain.scale / ARCSEC_PER_RADIAN
    if factor != 1.0:
        mapping = Ast.CmpMap(mapping, Ast.ZoomMap(2, factor), True)
    return dump_ast(mapping.simplify())


def sky_wcs(wcs: object) -> tuple[CelestialWcsWrapper, Any]:
    """Return the celestial WCS of an exposure's astrometry and the pointing, its tangent point.

    Raises
    ------
    InputError
        If the astrometry is not stored as AST text.
    """
    if not isinstance(wcs, SkyWcs):
        raise InputError("sky coordinates need astrometry that is stored as AST text")
    ra, dec = wcs.sky_origin
    pointing = galsim.CelestialCoord(ra * galsim.radians, dec * galsim.radians)
    return CelestialWcsWrapper.of(StoredTransform(_SkyWcs, f"1 SkyWcs 0 {wcs.text}")), pointing


FOREIGN_NAMES: dict[tuple[str, str], Any] = {
    (WRAPPER_MODULE, "UVWcsWrapper"): UVWcsWrapper,
    (WRAPPER_MODULE, "CelestialWcsWrapper"): CelestialWcsWrapper,
    (TRANSFORM_MODULE, "unpickleTransform"): unpickleTransform,
    (GEOM_MODULE, "TransformPoint2ToPoint2"): _TransformPoint2ToPoint2,
    (GEOM_MODULE, "SkyWcs"): _SkyWcs,
    (AST_MODULE, "ObjectMaker"): ObjectMaker,
}
"""What a restricted unpickler hands out for the names of the stack."""


@contextmanager
def foreign_names() -> Iterator[None]:
    """Let the stand-ins be pickled under the stack's names for the duration of the context."""
    modules: dict[str, types.ModuleType] = {}
    for (module, name), thing in FOREIGN_NAMES.items():
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            modules.setdefault(prefix, types.ModuleType(prefix))
        setattr(modules[module], name, thing)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before
