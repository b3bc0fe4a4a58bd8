"""Second moments on the sky and in alt/az (selection specification 4.9, measurement specification 15.3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import ARCSEC_PER_RADIAN, SkyProjection
from finalchar.formats.sources import SourceTable

__all__ = ["COLUMNS", "add_sky_moments"]

FloatArray = npt.NDArray[np.float64]

SLOTS = {"shape": "slot_Shape", "psfShape": "slot_PsfShape"}
COLUMNS = tuple(f"{kind}_I{axes}" for kind in SLOTS for axes in ("uu", "vv", "uv")) + tuple(
    f"{kind}_I{axes}" for kind in SLOTS for axes in ("altalt", "azaz", "altaz")
)
"""The twelve columns, float32, arcsec^2, in the order of the output table."""

ARCSEC2_PER_DEGREE2 = np.float32(3600.0**2)


def add_sky_moments(
    table: SourceTable, wcs: SkyProjection, parallactic_angle: float, *, compatibility: str = "fixed"
) -> SourceTable:
    """Rotate the pixel moments of source and PSF to the sky and to alt/az.

    Parameters
    ----------
    table : SourceTable
        With ``slot_Shape``, ``slot_PsfShape`` and ``slot_Centroid``, pixels.
    wcs : SkyProjection
        The exposure's astrometry.
    parallactic_angle : float
        Parallactic angle at the boresight, radians; one angle for the whole visit.
    compatibility : {'fixed', 'lsst'}
        `lsst`: axes of the tangent plane at the WCS origin and rounding to float32 in square degrees;
        `fixed`: axes east and north at the star itself, one rounding [S-Q11].

    Returns
    -------
    SourceTable
        With the columns `COLUMNS`; NaN where a moment is not finite.

    Notes
    -----
    u points east and v north.  The rotated u axis is called altitude, as in the reference [M-Q25].
    """
    x = np.asarray(table["slot_Centroid_x"], dtype=np.float64)
    y = np.asarray(table["slot_Centroid_y"], dtype=np.float64)
    jacobian = _jacobian(wcs, x, y, compatibility)
    columns: dict[str, npt.NDArray[np.float32]] = {}
    for kind, slot in SLOTS.items():
        if f"{slot}_xx" in table:
            columns |= _moments_of(kind, slot, table, jacobian, parallactic_angle, compatibility)
    return table.with_columns({name: columns[name] for name in COLUMNS if name in columns})


def _moments_of(
    kind: str,
    slot: str,
    table: SourceTable,
    jacobian: FloatArray,
    angle: float,
    compatibility: str,
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Return the six columns of the source or of the PSF."""
    pixel = _matrices(table[f"{slot}_xx"], table[f"{slot}_yy"], table[f"{slot}_xy"])
    sky = jacobian @ pixel @ np.swapaxes(jacobian, -1, -2)
    sky[~np.isfinite(pixel).all(axis=(1, 2))] = np.nan
    stored = sky.astype(np.float32)
    if compatibility == "lsst":
        stored = stored * ARCSEC2_PER_DEGREE2  # two float32 roundings [S-Q11]
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin], [sin, cos]])
    horizon = (rotation @ stored.astype(np.float64) @ rotation.T).astype(np.float32)
    names = {"uu": stored[:, 0, 0], "vv": stored[:, 1, 1], "uv": stored[:, 0, 1]}
    names |= {"altalt": horizon[:, 0, 0], "azaz": horizon[:, 1, 1], "altaz": horizon[:, 0, 1]}
    return {f"{kind}_I{axes}": values for axes, values in names.items()}


def _matrices(
    xx: npt.NDArray[np.floating], yy: npt.NDArray[np.floating], xy: npt.NDArray[np.floating]
) -> FloatArray:
    """Return moments as symmetric matrices, shape (n, 2, 2)."""
    rows = np.stack([xx, xy, xy, yy], axis=-1).astype(np.float64)
    return rows.reshape(-1, 2, 2)


def _jacobian(wcs: SkyProjection, x: FloatArray, y: FloatArray, compatibility: str) -> FloatArray:
    """Return d(east, north)/d(x, y): degrees (`lsst`) or arcsec (`fixed`) per pixel, shape (n, 2, 2)."""
    if compatibility == "lsst":
        return wcs.local_cd_matrix(x=x, y=y)
    return _local_jacobian(wcs, x, y)


def _local_jacobian(wcs: SkyProjection, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the Jacobian to east and north at each star by central differences over one pixel.

    Differences of unit vectors, so that right ascension zero and the poles are places like any other.
    """
    ra, dec = wcs.pixel_to_sky(x=x, y=y)
    zero = np.zeros_like(ra)
    east = np.stack([-np.sin(ra), np.cos(ra), zero])
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    columns = []
    for step_x, step_y in ((0.5, 0.0), (0.0, 0.5)):
        after = _unit_vectors(*wcs.pixel_to_sky(x=x + step_x, y=y + step_y))
        before = _unit_vectors(*wcs.pixel_to_sky(x=x - step_x, y=y - step_y))
        step = [np.sum((after - before) * axis, axis=0) for axis in (east, north)]
        columns.append(np.stack(step, axis=-1) * ARCSEC_PER_RADIAN)
    return np.stack(columns, axis=-1)


def _unit_vectors(ra: FloatArray, dec: FloatArray) -> FloatArray:
    """Return unit vectors of positions in radians, shape (3, n)."""
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
