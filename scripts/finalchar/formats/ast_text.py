"""World coordinates and transforms that the LSST stack stores as AST text (specification 4).

Objects keep their text and build the AST objects when needed, so they pickle and can be sent to other
processes.  Pixel positions are 0-based parent coordinates.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError

if TYPE_CHECKING:
    from finalchar.formats.afw_table import AfwTable
    from finalchar.formats.archive import Archive

__all__ = [
    "AstTransform",
    "SkyWcs",
    "TransformChain",
    "dump_ast",
    "parse_ast",
    "sky_wcs_from_cards",
    "sky_wcs_from_frames",
]

FloatArray = npt.NDArray[np.float64]

BAD = -float(np.finfo(np.float64).max)
"""What AST says where there is no value."""

_LOG = logging.getLogger(__name__)
RADIAN_PER_ARCSEC = np.pi / (180.0 * 3600.0)


def parse_ast(text: str) -> Any:
    """Return the AST object of a dump (``Begin ...``); what stands before is skipped.

    Raises
    ------
    InputError
        If the text is not an AST dump.
    """
    import starlink.Ast as Ast

    start = text.find("Begin")
    try:
        made = Ast.Channel(text[start:].splitlines()).read() if start >= 0 else None
    except (Ast.AstError, UnicodeDecodeError) as error:
        raise InputError(f"a stored transform is not an AST dump that can be read: {error}") from error
    if made is None:
        raise InputError(f"a stored transform is not an AST dump: {text[:60]!r}")
    return made


def dump_ast(thing: Any) -> str:
    """Return the text of an AST object, as the LSST stack stores it (without prefix)."""
    import starlink.Ast as Ast

    class Sink:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def astsink(self, line: str) -> None:
            self.lines.append(line)

    sink = Sink()
    Ast.Channel(None, sink, "Comment=0").write(thing)
    return "\n".join(sink.lines) + "\n"


def _tran(mapping: Any, x: npt.ArrayLike, y: npt.ArrayLike, forward: bool) -> tuple[FloatArray, FloatArray]:
    """Transform two coordinates of any common shape."""
    first, second = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    if not first.size:  # AST refuses to transform nothing
        return first.copy(), second.copy()
    out = mapping.tran(np.array([first.ravel(), second.ravel()]), forward)
    known = np.isfinite(first.ravel()) & np.isfinite(second.ravel())
    out = np.where((out == BAD) | ~known, np.nan, out)
    return out[0].reshape(first.shape), out[1].reshape(first.shape)


class _WithoutAst:
    """Leaves the AST objects behind when pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_ast_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


@dataclass(frozen=True)
class AstTransform(_WithoutAst):
    """A plane-to-plane AST mapping, optionally used backwards.

    Attributes
    ----------
    text : str
        The stored text, with or without the two leading tokens of the stack.
    forward : bool
        Direction of `apply`.
    """

    text: str
    forward: bool = True

    @cached_property
    def _ast_mapping(self) -> Any:
        return parse_ast(self.text)

    @cached_property
    def _ast_directed(self) -> Any:
        mapping = parse_ast(self.text)
        if not self.forward:
            mapping.invert()
        return mapping

    def apply(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Transform positions; arrays of the common shape of `x` and `y`."""
        return _tran(self._ast_mapping, x, y, self.forward)

    def inverse(self) -> AstTransform:
        """Return the same mapping in the other direction."""
        return AstTransform(self.text, not self.forward)

    def jacobian(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Jacobian of `apply`, shape (..., 2, 2)."""
        return _rates(self._ast_directed, x, y)


@dataclass(frozen=True)
class TransformChain:
    """Several transforms one after the other, the result times `scale`; a `PixelTransform`."""

    steps: tuple[AstTransform, ...]
    scale: float = 1.0

    def apply(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Transform positions; arrays of the common shape of `x` and `y`."""
        u, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        for step in self.steps:
            u, v = step.apply(x=u, y=v)
        return u * self.scale, v * self.scale

    def jacobian(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Jacobian of `apply`, shape (..., 2, 2): the product of the Jacobians of the steps."""
        u, v = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        product: FloatArray = np.broadcast_to(np.eye(2), (*u.shape, 2, 2))
        for step in self.steps:
            product = step.jacobian(x=u, y=v) @ product
            u, v = step.apply(x=u, y=v)
        return product * self.scale


def _rates(mapping: Any, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
    """Jacobian of an AST mapping as AST estimates it, shape (..., 2, 2); the stack takes the same."""
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    rates = [
        mapping.rate([u, v], output, axis)
        for u, v in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
        for output in (1, 2)
        for axis in (1, 2)
    ]
    return np.array(rates, dtype=np.float64).reshape(*x.shape, 2, 2)


@dataclass(frozen=True)
class SkyWcs(_WithoutAst):
    """Astrometry of an exposure: the `SkyProjection` behind an AST frame set PIXELS -> IWC -> SKY.

    Attributes
    ----------
    text : str
        The frame set as text.
    """

    text: str

    @cached_property
    def _ast_frames(self) -> Any:
        frames = parse_ast(self.text)
        if "FrameSet" not in frames.Class:
            raise InputError("a stored SkyWcs is not an AST frame set")
        return frames

    @cached_property
    def _ast_to_iwc(self) -> Any:
        frames = self._ast_frames
        number = next((k for k in range(1, frames.Nframe + 1) if frames.getframe(k).Domain == "IWC"), None)
        if number is None:
            raise InputError("a stored SkyWcs lacks the frame IWC")
        return frames.getmapping(frames.Base, number)

    @cached_property
    def sky_origin(self) -> tuple[float, float]:
        """RA, Dec of the tangent point (CRVAL), radians."""
        sky = self._ast_frames.getframe(self._ast_frames.Current)
        return float(sky.get("SkyRef(1)")), float(sky.get("SkyRef(2)"))

    @cached_property
    def pixel_origin(self) -> tuple[float, float]:
        """Pixel position (x, y) of the tangent point."""
        x, y = self.sky_to_pixel(ra=self.sky_origin[0], dec=self.sky_origin[1])
        return float(x), float(y)

    def pixel_to_sky(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return RA in [0, 2 pi) and Dec, radians, of 0-based parent pixel positions."""
        ra, dec = _tran(self._ast_frames, x, y, True)
        return np.where(ra < 0.0, ra + 2.0 * np.pi, ra), dec

    def sky_to_pixel(self, *, ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the 0-based parent pixel position (x, y) of RA, Dec in radians."""
        return _tran(self._ast_frames, ra, dec, False)

    def pixel_to_intermediate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return intermediate world coordinates, degrees on the tangent plane at `sky_origin`."""
        return _tran(self._ast_to_iwc, x, y, True)

    def intermediate_text(self) -> str:
        """Return the AST text of the mapping from pixels to intermediate world coordinates (degrees)."""
        return dump_ast(self._ast_to_iwc)

    def pixel_scale(self, *, x: float, y: float) -> float:
        """Square root of the pixel area at a position, arcsec (specification 4.2)."""
        ra, dec = self.pixel_to_sky(x=np.array([x, x + 1.0, x]), y=np.array([y, y, y + 1.0]))
        unit = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
        area = np.linalg.norm(np.cross(unit[1] - unit[0], unit[2] - unit[0]))
        return float(np.sqrt(area) / RADIAN_PER_ARCSEC)  # divided: the last bit decides S-Q27

    def local_cd_matrix(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Jacobian pixel -> intermediate world coordinates, degrees per pixel, shape (..., 2, 2)."""
        return _rates(self._ast_to_iwc, x, y)


def read_sky_wcs(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> SkyWcs:
    """Make a `SkyWcs` from its archive row (specification 4.2)."""
    text = bytes(catalogues[0].one("wcs")).decode("ascii")
    version, stored_name = text.split(None, 2)[:2]
    if version != "1" or stored_name != "SkyWcs":
        raise InputError(f"a stored SkyWcs begins with {text[:20]!r}; version 1 is supported")
    return SkyWcs(text[text.index("Begin") :])


def read_transform(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> AstTransform:
    """Make an `AstTransform` from its archive row (specification 4.3)."""
    return AstTransform(bytes(catalogues[0].one("bytes")).decode("ascii"))


# ------------------------------------------------------------------------------------------- making


def sky_wcs_from_cards(cards: Sequence[str], *, x0: int = 0, y0: int = 0) -> SkyWcs:
    """Return the `SkyWcs` of FITS-WCS header cards (specification 9.3).

    Parameters
    ----------
    cards : sequence of str
        80-character card images of the celestial WCS (without the alternate WCS "A" and LTVn).
    x0, y0 : int
        Parent coordinates of the first pixel.

    Raises
    ------
    InputError
        If AST finds no celestial WCS in the cards, they hold two kinds of distortion, or they are not RA, Dec
        (ICRS or J2000, in degrees).

    Notes
    -----
    Headers of SCAMP call a projection with PVi_j distortion terms TAN; libraries differ in what they make of
    them.  Here they mean TPV whatever terms there are, and a line in the log says so.
    """
    import starlink.Ast as Ast

    cards = _without_second_meaning(_with_system(cards))
    channel = Ast.FitsChan([*cards], None, "Encoding=FITS-WCS,IWC=1,SipReplace=0")
    try:
        frames = channel.read()
    except (Ast.AstError, UnicodeDecodeError) as error:  # pyast stumbles over its own messages
        raise InputError(f"the world coordinates in the header cannot be used: {error}") from error
    if frames is None:
        raise InputError("the header has no celestial world coordinates that AST understands")
    numbers = {frames.getframe(k).Domain: k for k in range(1, frames.Nframe + 1)}
    if not {"GRID", "IWC", "SKY"} <= numbers.keys():
        raise InputError("the header has no celestial world coordinates (RA, Dec)")
    _refuse_other_sky(frames.getframe(numbers["SKY"]))
    to_iwc = Ast.CmpMap(
        Ast.ShiftMap([1.0 - x0, 1.0 - y0]), frames.getmapping(numbers["GRID"], numbers["IWC"]), True
    ).simplify()
    to_sky = frames.getmapping(numbers["IWC"], numbers["SKY"])
    if any(_TPV.match(card) for card in cards):
        to_iwc, to_sky = _with_distortion_first(to_iwc, to_sky, cards)
    return sky_wcs_from_frames(to_iwc, to_sky, _crval(cards))


def _with_system(cards: Sequence[str]) -> list[str]:
    """Return cards with the old name of RADESYS made the present one; AST passes it over, and other units."""
    for card in cards:
        if re.match(r"CUNIT[12]\s*=\s*'(?!deg(ree)?s?\s*').*\S", card):
            raise InputError(
                f"the header has {card.split('/')[0].strip()}; the world coordinates must be in deg"
            )
    known = any(card.startswith("RADESYS") for card in cards)
    return [
        card.replace("RADECSYS=", "RADESYS =")
        for card in cards
        if not (known and card.startswith("RADECSYS"))
    ]


def _refuse_other_sky(sky: Any) -> None:
    """Refuse coordinates that are not RA, Dec of ICRS or, which is the same to 0.03 arcsec, J2000."""
    system, equinox = str(sky.System), float(sky.Equinox)
    if not (system == "ICRS" or (system == "FK5" and equinox == 2000.0)):
        of = f"{system} of the equinox {equinox:g}" if system.startswith("FK") else system
        raise InputError(
            f"the world coordinates in the header are {of}; convert them to ICRS (RADESYS), or to J2000"
        )
    if int(sky.LonAxis) != 1:
        raise InputError("the header has Dec before RA (CTYPE1, CTYPE2); exchange the two axes of the sky")


_TPV = re.compile(r"CTYPE[12]\s*=\s*'.{4}-TPV")


def _with_distortion_first(to_iwc: Any, to_sky: Any, cards: Sequence[str]) -> tuple[Any, Any]:
    """Return mappings PIXELS -> IWC -> SKY of a TPV header whose second one is the plain projection.

    AST counts the terms PVi_j to the projection; intermediate world coordinates are then those before the
    distortion, and no positions on the tangent plane.
    """
    import starlink.Ast as Ast

    plain = [
        re.sub(r"-TPV", "-TAN", card) if _TPV.match(card) else card
        for card in cards
        if not re.match(r"PV[12]_\d+\s*=", card)
    ]
    frames = Ast.FitsChan(plain, None, "Encoding=FITS-WCS,IWC=1").read()
    numbers = {frames.getframe(k).Domain: k for k in range(1, frames.Nframe + 1)}
    projection = frames.getmapping(numbers["IWC"], numbers["SKY"])
    deprojection = projection.copy()
    deprojection.invert()
    return Ast.CmpMap(Ast.CmpMap(to_iwc, to_sky, True), deprojection, True).simplify(), projection


def _without_second_meaning(cards: Sequence[str]) -> list[str]:
    """Return cards in which PVi_j terms of a TAN projection are declared as what they are."""
    kinds = [card for card in cards if re.match(r"CTYPE[12]\s*=", card)]
    distorted = any(re.match(r"PV[12]_\d+\s*=", card) for card in cards)
    if not distorted or not any(re.search(r"--TAN\b", card) for card in kinds):
        return [*cards]
    if any("-SIP" in card for card in kinds):
        raise InputError("the header has SIP and PVi_j distortion terms; remove the cards that do not apply")
    _LOG.info("the header says TAN and has PVi_j terms, as SCAMP writes them: they are read as TPV")
    return [
        card.replace("--TAN'", "--TPV'").replace("--TAN ", "--TPV ") if card in kinds else card
        for card in cards
    ]


def _crval(cards: Sequence[str]) -> tuple[float, float]:
    values = {card[:8].strip(): float(card[10:].split("/")[0]) for card in cards if card.startswith("CRVAL")}
    return float(np.deg2rad(values["CRVAL1"])), float(np.deg2rad(values["CRVAL2"]))


def sky_wcs_from_frames(to_iwc: Any, to_sky: Any, sky_origin: tuple[float, float]) -> SkyWcs:
    """Return a `SkyWcs` of the AST mappings PIXELS -> IWC (degrees) -> SKY (radians, ICRS).

    Parameters
    ----------
    to_iwc, to_sky : AST mappings
        From 0-based parent pixels, and from intermediate world coordinates.
    sky_origin : tuple of float
        RA, Dec of the tangent point, radians.
    """
    import starlink.Ast as Ast

    frames = Ast.FrameSet(Ast.Frame(2, "Domain=PIXELS"))
    frames.addframe(1, to_iwc, Ast.Frame(2, "Domain=IWC"))
    sky = Ast.SkyFrame("System=ICRS")
    sky.set("SkyRefIs=Ignored")
    sky.set(f"SkyRef(1)={sky_origin[0]!r}")
    sky.set(f"SkyRef(2)={sky_origin[1]!r}")
    frames.addframe(2, to_sky, sky)
    return SkyWcs(dump_ast(frames))


def stored_sky_wcs(wcs: SkyWcs) -> bytes:
    """Return the bytes of the archive column ``wcs``."""
    return f"1 SkyWcs 0 {wcs.text}".encode("ascii")


def stored_transform(mapping: Any) -> bytes:
    """Return the bytes of an archived TransformPoint2ToPoint2 with this AST mapping."""
    return f"1 TransformPoint2ToPoint2 {dump_ast(mapping)}".encode("ascii")
