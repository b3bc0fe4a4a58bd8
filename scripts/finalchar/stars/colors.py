"""Magnitudes of FGCM standard stars, and the colours that the PSF may depend on.

Sources are matched to standard stars on the sky within 1 arcsec (selection specification 4.5).  With
``compatibility: fixed`` the nearest standard star counts, and magnitudes that are not finite or are
placeholders (99, -999, ...) are missing; ``lsst`` takes the last match and the numbers as they are [S-Q9].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import ConfigError, InputError
from finalchar.stars.isolated_tables import ColumnTypes, column_names, read_columns

__all__ = [
    "CUT_RADIUS_ARCSEC",
    "MATCH_RADIUS_ARCSEC",
    "Colors",
    "FgcmStars",
    "assign_colors",
    "color_bands",
    "match_on_sky",
    "matched_magnitudes",
    "read_fgcm",
    "stack_fgcm",
    "usable_magnitude",
]

MATCH_RADIUS_ARCSEC = 1.0
"""Radius of the match, inclusive (selection specification 4.5)."""

CUT_RADIUS_ARCSEC = 3.0
"""Radius of the cut of the visit list: a source is within 1 arcsec of its isolated star's mean position."""

PLACEHOLDER_MAGNITUDE = 90.0
"""Magnitudes of this size and beyond, of either sign, are placeholders."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FgcmStars:
    """Standard stars of one or several tracts, ascending tract, rows in the order of their tables.

    Attributes
    ----------
    tract, row : ndarray of int64, shape (n,)
        Where each star stands.
    ra, dec : ndarray of float64, shape (n,)
        Degrees.
    magnitudes : dict of str to ndarray of float32, shape (n,)
        By band; NaN throughout for a band the tables do not have (see `has_band`).
    has_band : dict of str to bool
        Whether a table has the column ``mag_{band}``.
    """

    tract: IntArray
    row: IntArray
    ra: FloatArray
    dec: FloatArray
    magnitudes: dict[str, npt.NDArray[np.float32]]
    has_band: dict[str, bool]

    def __len__(self) -> int:
        return len(self.ra)

    def select(self, rows: npt.NDArray[Any]) -> FgcmStars:
        """Return the given rows (boolean mask or indices)."""
        magnitudes = {band: values[rows] for band, values in self.magnitudes.items()}
        return FgcmStars(
            self.tract[rows], self.row[rows], self.ra[rows], self.dec[rows], magnitudes, self.has_band
        )


@dataclass(frozen=True)
class Colors:
    """Colour of each source.

    Attributes
    ----------
    value : ndarray of float32, shape (n,)
        NaN where there is none.
    kind : ndarray of str, shape (n,)
        Such as ``g-i``; empty where no standard star was found.
    counts : dict of str to int
        ``colors`` and, by reason, the sources without one: ``no_standard_star``, ``placeholder_magnitude``.
    """

    value: npt.NDArray[np.float32]
    kind: npt.NDArray[np.str_]
    counts: dict[str, int]


def read_fgcm(table: Any, *, tract: int, bands: Sequence[str], name: str = "") -> FgcmStars:
    """Read the standard stars of one tract (selection specification 1.3).

    Parameters
    ----------
    table : path or table
        With ``ra``, ``dec`` (degrees) and ``mag_{band}``.
    tract : int
    bands : sequence of str
        Bands that are wanted; those the table lacks are NaN.
    name : str, optional
        How messages call the table.

    Raises
    ------
    InputError
        If the file cannot be read, or has no ``ra`` or ``dec``.
    """
    known = set(column_names(table))
    has_band = {band: f"mag_{band}" in known for band in bands}
    types: ColumnTypes = {"ra": np.float64, "dec": np.float64}
    types = {**types, **{f"mag_{band}": np.float32 for band in bands if has_band[band]}}
    columns = read_columns(table, types, name=name, null_is_nan=True)
    number = len(columns["ra"])
    missing = np.full(number, np.nan, dtype=np.float32)
    return FgcmStars(
        np.full(number, tract, dtype=np.int64),
        np.arange(number, dtype=np.int64),
        columns["ra"],
        columns["dec"],
        {band: columns.get(f"mag_{band}", missing) for band in bands},
        has_band,
    )


def stack_fgcm(tables: Mapping[int, Any], *, bands: Sequence[str]) -> FgcmStars:
    """Stack the standard stars of tracts in ascending tract order.

    Parameters
    ----------
    tables : mapping of int to path or table
        By tract.
    bands : sequence of str
    """
    return concatenate_fgcm(
        [
            read_fgcm(tables[tract], tract=tract, bands=bands, name=_table_name(tables[tract], tract))
            for tract in sorted(tables)
        ],
        bands=bands,
    )


def _table_name(table: Any, tract: int) -> str:
    return "" if isinstance(table, str | Path) else f"fgcm_standard_star of tract {tract}"


def concatenate_fgcm(parts: Sequence[FgcmStars], *, bands: Sequence[str]) -> FgcmStars:
    """Join standard stars of tracts that are given in ascending order."""
    floats = np.zeros(0, dtype=np.float64)
    return FgcmStars(
        np.concatenate([np.zeros(0, dtype=np.int64), *(part.tract for part in parts)]),
        np.concatenate([np.zeros(0, dtype=np.int64), *(part.row for part in parts)]),
        np.concatenate([floats, *(part.ra for part in parts)]),
        np.concatenate([floats, *(part.dec for part in parts)]),
        {
            band: np.concatenate([np.zeros(0, np.float32), *(part.magnitudes[band] for part in parts)])
            for band in bands
        },
        {band: any(part.has_band[band] for part in parts) for band in bands},
    )


def match_on_sky(
    *,
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    other_ra: npt.ArrayLike,
    other_dec: npt.ArrayLike,
    radius_arcsec: float,
) -> tuple[IntArray, IntArray, FloatArray]:
    """Find all pairs of positions within a radius, inclusive.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees; a position that is not finite matches nothing.
    other_ra, other_dec : array_like, shape (m,)
        Degrees.
    radius_arcsec : float

    Returns
    -------
    first, second : ndarray of int64, shape (n_pair,)
        Rows of the two lists, ordered by `first`, then `second`.
    distance : ndarray of float64, shape (n_pair,)
        Chord between the unit vectors.
    """
    from scipy.spatial import cKDTree

    points, rows = _unit_vectors(ra, dec)
    others, other_rows = _unit_vectors(other_ra, other_dec)
    if not len(rows) or not len(other_rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    radius = 2.0 * np.sin(0.5 * np.radians(radius_arcsec / 3600.0))
    found = cKDTree(others).query_ball_point(points, np.nextafter(radius, 1.0), return_sorted=True)
    number = np.array([len(matches) for matches in found], dtype=np.int64)
    near = np.concatenate([np.asarray(matches, dtype=np.int64) for matches in found])
    from_point = np.repeat(np.arange(len(rows)), number)
    distance = np.sqrt(((points[from_point] - others[near]) ** 2).sum(axis=1))
    return rows[from_point], other_rows[near], distance


def _unit_vectors(ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    """Unit vectors of the finite positions, and their rows."""
    ra, dec = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    rows = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    ra, dec = ra[rows], dec[rows]
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1), rows


def usable_magnitude(magnitude: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether magnitudes are finite numbers and no placeholders (known failure K12)."""
    magnitude = np.asarray(magnitude)
    usable: npt.NDArray[np.bool_] = np.isfinite(magnitude) & (np.abs(magnitude) < PLACEHOLDER_MAGNITUDE)
    return usable


def color_bands(expression: str, *, compatibility: str = "fixed") -> tuple[str, str]:
    """Return the two bands of a colour expression such as ``g-i``.

    With ``lsst`` only the characters 0 and 2 are looked at [S-Q9].

    Raises
    ------
    ConfigError
        If the expression does not name two bands.
    """
    parts = (expression[0:1], expression[2:3]) if compatibility == "lsst" else tuple(expression.split("-"))
    if len(parts) != 2 or not all(parts):
        raise ConfigError(
            f"psf_determiner.piff.color {expression!r} is not two bands and a '-', such as 'g-i'"
        )
    return parts[0].strip(), parts[1].strip()


def matched_magnitudes(
    *, ra: npt.ArrayLike, dec: npt.ArrayLike, stars: FgcmStars, compatibility: str = "fixed"
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
    """Magnitudes of the standard star of each source (selection specification 4.5).

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Positions of the sources, degrees.
    stars : FgcmStars
    compatibility : {'fixed', 'lsst'}
        Nearest match and placeholders as NaN, or last match and raw numbers.

    Returns
    -------
    magnitudes : dict of str to ndarray of float32, shape (n,)
        NaN where there is no standard star.
    matched : ndarray of bool, shape (n,)
    """
    ra = np.asarray(ra, dtype=np.float64)
    source, star, distance = match_on_sky(
        ra=ra, dec=dec, other_ra=stars.ra, other_dec=stars.dec, radius_arcsec=MATCH_RADIUS_ARCSEC
    )
    if compatibility != "lsst":  # the nearest is applied last
        order = np.lexsort((-star, -distance, source))
        source, star = source[order], star[order]
    matched = np.zeros(len(ra), dtype=bool)
    matched[source] = True
    magnitudes = {}
    for band, values in stars.magnitudes.items():
        found = np.full(len(ra), np.nan, dtype=np.float32)
        found[source] = values[star]
        if compatibility != "lsst":
            found[~usable_magnitude(found)] = np.nan
        magnitudes[band] = found
    return magnitudes, matched


def assign_colors(
    *,
    ra: npt.ArrayLike,
    dec: npt.ArrayLike,
    stars: FgcmStars,
    band: str,
    color: Mapping[str, str],
    compatibility: str = "fixed",
) -> Colors:
    """Colour of each source for the PSF of a band (selection specification 4.5).

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Positions of the sources, degrees.
    stars : FgcmStars
        With the magnitudes of the two bands of the colour.
    band : str
        Band of the exposure.
    color : mapping of str to str
        ``psf_determiner.piff.color``: colour expression by band.
    compatibility : {'fixed', 'lsst'}

    Returns
    -------
    Colors
        With ``fixed`` no source has a colour if `color` has no entry for the band, or if a magnitude is
        missing from the table; the PSF determiner decides what that means.

    Raises
    ------
    ConfigError, InputError
        With ``lsst``, in the same cases.
    """
    number = len(np.asarray(ra))
    if band not in color:
        if compatibility == "lsst":
            raise ConfigError(f"psf_determiner.piff.color has no entry for the band {band!r}")
        counts = {"colors": 0, "no_color_for_band": number}
        return Colors(np.full(number, np.nan, np.float32), np.zeros(number, "<U10"), counts)
    first, second = color_bands(color[band], compatibility=compatibility)
    if compatibility == "lsst" and not (stars.has_band.get(first) and stars.has_band.get(second)):
        raise InputError(
            f"the FGCM tables lack mag_{first} or mag_{second}, needed for the colour of {band!r}"
        )
    magnitudes, matched = matched_magnitudes(ra=ra, dec=dec, stars=stars, compatibility=compatibility)
    missing = np.full(number, np.nan, dtype=np.float32)
    value = magnitudes.get(first, missing) - magnitudes.get(second, missing)
    kind = np.where(matched, f"{first}-{second}", "").astype("<U10")
    counts = {
        "colors": int(np.isfinite(value).sum()),
        "no_standard_star": int((~matched).sum()),
        "placeholder_magnitude": int((matched & ~np.isfinite(value)).sum()),
    }
    return Colors(value, kind, counts)
