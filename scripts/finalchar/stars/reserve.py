"""Which stars are reserved: held back from the PSF fit in every visit of a band.

Two methods.  ``lsst`` is the draw of the reference, bit for bit (selection specification 2.1): one shuffle
over all stars of a tract that have a source in the band, so that one star more changes the fate of others
[S-Q5].  ``stable`` hashes each star's own position, so that a star's fate depends on nothing but that
position, the band and the settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError, ReproducibilityError

__all__ = [
    "BandDraw",
    "ReserveSettings",
    "draw_digest",
    "draw_reserved",
    "draw_reserved_by_position",
    "draw_tract",
    "sky_cells",
]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
UintArray = npt.NDArray[np.uint64]

ARCSEC_PER_DEGREE = 3600.0

KNOWN_SHUFFLE = (2096399205, 128, "f0910bb1280e19162b442c124950f2581242da7d4fd5a22c8ca2135b45de94b5")
"""Seed, length and sha256 of a shuffled ``arange`` of bytes: sees the swap of any one pair."""

KNOWN_DRAW = ("r_9813", 100, 0.1, (12, 22, 27, 36, 37, 40, 44, 62, 87, 99))
"""Name, stars, fraction and reserved rows of one line of the vectors (selection specification 2.2)."""

KNOWN_HASHES = ((11, 37, 0xBF4BB13104AC7168), (107999, 0, 0x134FBD34CBEDEA94))
"""Ring, cell and their hash under the key of the name ``reserved_r``."""


class ReserveSettings(Protocol):
    """The section ``reserve_selection`` as far as the draw needs it."""

    @property
    def reserve_name(self) -> str:
        """Name of the draw; part of its seed."""

    @property
    def reserve_fraction(self) -> float:
        """Fraction of the stars to reserve, in [0, 1]."""

    @property
    def method(self) -> str:
        """``lsst`` or ``stable``."""

    @property
    def cell_size_arcsec(self) -> float:
        """Side of the cells of the method ``stable``, arcsec."""

    @property
    def same_in_all_bands(self) -> bool:
        """Whether a star has the same fate in all bands."""


@dataclass(frozen=True)
class BandDraw:
    """The draw of one band over the stars of one tract.

    Attributes
    ----------
    in_band, reserved : ndarray of bool, shape (n_star,)
        Stars with a source in the band, and the reserved ones among them.
    digest : str
        sha256 of the draw (`draw_digest`).
    """

    in_band: BoolArray
    reserved: BoolArray
    digest: str


def draw_reserved(number: int, extra: str, *, reserve_name: str, reserve_fraction: float) -> BoolArray:
    """Draw the reserved ones among `number` stars as the reference does (selection specification 2.1).

    Parameters
    ----------
    number : int
        Number of stars, in the order of their table.
    extra : str
        What the draw is for, ``{band}_{tract}``; with `reserve_name` it gives the seed.
    reserve_name : str
        Name of the draw.
    reserve_fraction : float
        Fraction in [0, 1]; ``int(number * reserve_fraction)`` stars are reserved [S-Q23].

    Returns
    -------
    ndarray of bool, shape (number,)

    Raises
    ------
    ReproducibilityError
        If numpy no longer gives the stored vectors.
    """
    check_lsst_draw()
    return _draw(number, f"{reserve_name}_{extra}", reserve_fraction)


def _draw(number: int, name: str, reserve_fraction: float) -> BoolArray:
    selection = np.zeros(number, dtype=bool)
    if reserve_fraction == 0.0:
        return selection
    selection[: int(number * reserve_fraction)] = True
    np.random.default_rng(_seed(name)).shuffle(selection)
    return selection


def _seed(name: str) -> int:
    """Last 32 bits of the sha256 of `name`."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest(), "big") & 0xFFFFFFFF


def check_lsst_draw() -> None:
    """Prove that numpy still gives the stored draw and the stored shuffle (known failure K13).

    Raises
    ------
    ReproducibilityError
        If it does not; the sentence holds the version of numpy.
    """
    name, number, fraction, expected = KNOWN_DRAW
    drawn = tuple(np.flatnonzero(_draw(number, f"reserved_{name}", fraction)).tolist())
    seed, length, digest = KNOWN_SHUFFLE
    shuffled = np.arange(length, dtype=np.uint8)
    np.random.default_rng(seed).shuffle(shuffled)
    if drawn != expected or hashlib.sha256(shuffled.tobytes()).hexdigest() != digest:
        raise ReproducibilityError(
            f"with numpy {np.__version__} the reserve draw gives other stars than the stored vectors: "
            "install the pinned numpy, or set reserve_selection.method to 'stable'"
        )


def draw_reserved_by_position(
    *, ra: npt.ArrayLike, dec: npt.ArrayLike, extra: str, settings: ReserveSettings
) -> BoolArray:
    """Reserve stars by a hash of the sky cell they lie in (method ``stable``).

    The sky is cut into rings of declination and each ring into cells, nearly squares of side
    ``cell_size_arcsec``; a cell's hash under a key made of ``reserve_name`` and `extra` is a number in
    [0, 1), and the stars of a cell are reserved when it is below ``reserve_fraction``.  No other star, visit
    or tract has any influence; the reserved part equals the fraction on average, not exactly.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Mean positions of the stars, degrees.
    extra : str
        The band, or ``all`` where the fate is the same in all bands.
    settings : ReserveSettings
        The section ``reserve_selection``.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    InputError
        If a position is not finite.
    """
    check_stable_hash()
    ring, cell = sky_cells(ra=ra, dec=dec, cell_size_arcsec=settings.cell_size_arcsec)
    hashed = _cell_hash(ring, cell, f"{settings.reserve_name}_{extra}")
    return np.asarray((hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < settings.reserve_fraction)


def sky_cells(
    *, ra: npt.ArrayLike, dec: npt.ArrayLike, cell_size_arcsec: float
) -> tuple[UintArray, UintArray]:
    """Ring of declination and cell within the ring of each position.

    Rings are `cell_size_arcsec` high and hold as many equal cells as fit round their middle line, so cells
    are never narrower than that; there is no seam at right ascension 0 and nothing special at the poles.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees.
    cell_size_arcsec : float
        Height of a ring and least width of a cell.

    Returns
    -------
    ring, cell : ndarray of uint64, shape (n,)

    Raises
    ------
    InputError
        If a position is not finite.
    """
    ra, dec = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    bad = ~(np.isfinite(ra) & np.isfinite(dec))
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} isolated stars have no finite ra, dec (first in row {int(np.argmax(bad))}): "
            "the method 'stable' of reserve_selection needs the position of every star"
        )
    height = cell_size_arcsec / ARCSEC_PER_DEGREE
    ring = np.floor((dec + 90.0) / height)
    middle = np.minimum((ring + 0.5) * height - 90.0, 90.0)
    number = np.maximum(np.floor(360.0 * np.cos(np.radians(middle)) / height), 1.0)
    turn = np.mod(ra, 360.0) / 360.0
    cell = np.minimum(np.floor(turn * number), number - 1.0)
    return ring.astype(np.uint64), cell.astype(np.uint64)


def _cell_hash(ring: UintArray, cell: UintArray, name: str) -> UintArray:
    """Return 64 bits of hash of each (ring, cell) under the key `name`, made with integers only."""
    key = np.uint64(int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big"))
    return _mix(_mix(ring ^ key) ^ cell)


def _mix(values: UintArray) -> UintArray:
    """Output function of the generator splitmix64 (Steele, Lea, Flood 2014) on unsigned 64-bit words."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def check_stable_hash() -> None:
    """Prove that the hash of the method ``stable`` still gives its stored numbers (known failure K13).

    Raises
    ------
    ReproducibilityError
        If it does not; the sentence holds the version of numpy.
    """
    rings, cells, expected = (np.array(column, dtype=np.uint64) for column in zip(*KNOWN_HASHES, strict=True))
    if not np.array_equal(_cell_hash(rings, cells, "reserved_r"), expected):
        raise ReproducibilityError(
            f"with numpy {np.__version__} the hash of star positions gives other numbers than stored: "
            "install the pinned numpy"
        )


def draw_tract(
    *,
    tract: int,
    nsource: Mapping[str, npt.NDArray[np.integer]],
    ra: FloatArray | None,
    dec: FloatArray | None,
    star_id: npt.NDArray[np.int64],
    bands: Sequence[str],
    settings: ReserveSettings,
) -> dict[str, BandDraw]:
    """Draw the reserved stars of a tract in each band (selection specification 2.3, items 3 and 5).

    Parameters
    ----------
    tract : int
        Tract number, part of the seed of the method ``lsst``.
    nsource : mapping of str to ndarray of int, shape (n_star,)
        Number of sources of each star by band, over all visits.
    ra, dec : ndarray of float64, shape (n_star,), or None
        Mean positions, degrees; only the method ``stable`` needs them.
    star_id : ndarray of int64, shape (n_star,)
        Identities of the stars, for the digest.
    bands : sequence of str
        Bands to draw.
    settings : ReserveSettings
        The section ``reserve_selection``.

    Returns
    -------
    dict of str to BandDraw
    """
    draws = {}
    for band in bands:
        in_band = nsource[band] > 0
        reserved = np.zeros(len(star_id), dtype=bool)
        pool = np.ones(len(star_id), dtype=bool) if settings.same_in_all_bands else in_band
        extra = "all" if settings.same_in_all_bands else band
        if settings.method == "lsst":
            reserved[pool] = draw_reserved(
                int(pool.sum()),
                f"{extra}_{tract}",
                reserve_name=settings.reserve_name,
                reserve_fraction=settings.reserve_fraction,
            )
        elif ra is not None and dec is not None:
            reserved[pool] = draw_reserved_by_position(
                ra=ra[pool], dec=dec[pool], extra=extra, settings=settings
            )
        else:
            raise ValueError("the method 'stable' needs ra and dec")
        reserved &= in_band
        draws[band] = BandDraw(in_band, reserved, draw_digest(star_id, in_band, reserved))
    return draws


def draw_digest(star_id: npt.NDArray[np.int64], in_band: BoolArray, reserved: BoolArray) -> str:
    """Digest of which stars of a band are reserved; the order of the stars does not matter.

    Parameters
    ----------
    star_id : ndarray of int64, shape (n,)
    in_band, reserved : ndarray of bool, shape (n,)

    Returns
    -------
    str
        sha256 over the ids and the fates of the stars in the band, sorted by id.
    """
    ids, fates = star_id[in_band], reserved[in_band]
    order = np.argsort(ids, kind="stable")
    digest = hashlib.sha256(ids[order].astype("<i8").tobytes())
    digest.update(np.packbits(fates[order]).tobytes())
    return digest.hexdigest()
