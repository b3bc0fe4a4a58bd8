"""Pixels of the HEALPix tessellation, nested numbering, and sources in or beside a pixel.

The sphere is unfolded into a plane in which the twelve base pixels are squares of side 1 (Gorski et al. 2005,
ApJ 622, 759, section 5; Calabretta and Roukema 2007, MNRAS 381, 865): with ``t`` the right ascension in
quarters of a circle and ``z`` the sine of the declination, in the equatorial zone ``u = t``, ``v = 3 z / 4``;
in the polar caps ``u = k + 1/2 + (t - k - 1/2) s`` with ``k = floor(t)``, ``s = sqrt(3 (1 - |z|))`` and
``v = sign(z) (1 - s / 2)``.  The axes of the squares are ``a = u + v + 1/2`` and ``b = u - v + 1/2``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["in_or_beside", "nested_pixel", "pixel_size_arcsec"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

POLAR_Z = 2.0 / 3.0
"""Sine of the declination beyond which the polar caps lie."""


def pixel_size_arcsec(nside: int) -> float:
    """Square root of the area of a pixel, in arcsec."""
    return float(np.degrees(np.sqrt(4.0 * np.pi / (12.0 * nside**2))) * 3600.0)


def nested_pixel(nside: int, *, ra: FloatArray, dec: FloatArray) -> IntArray:
    """Nested pixel numbers of positions in degrees; `nside` is a power of two."""
    face, x, y = _cells(nside, *_unfold(ra, dec))
    return face * nside**2 + _spread(x) + 2 * _spread(y)


def in_or_beside(
    pixel: int, nside: int, fine_nside: int, *, ra: FloatArray, dec: FloatArray
) -> npt.NDArray[np.bool_]:
    """Whether positions lie in a pixel or in the ring of finer pixels that touch it.

    Parameters
    ----------
    pixel : int
        Nested number.
    nside, fine_nside : int
        Of the pixel, and of the finer pixels; powers of two.
    ra, dec : ndarray of float64, shape (n,)
        Degrees.
    """
    face, within = divmod(int(pixel), nside**2)
    size = fine_nside // nside
    x, y = _gather(within) * size, _gather(within >> 1) * size
    result = np.zeros(len(ra), dtype=bool)
    for image_a, image_b in _images(*_unfold(ra, dec)):
        along, across = _from_corner(face, image_a, image_b)
        column, row = np.floor(along * fine_nside), np.floor(across * fine_nside)
        near = (column >= x - 1) & (column <= x + size) & (row >= y - 1) & (row <= y + size)
        result |= near
    return result


def _unfold(ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates along the two axes of the squares."""
    quarter = (np.asarray(ra) % 360.0) / 90.0
    z = np.sin(np.radians(dec))
    middle = np.minimum(np.floor(quarter), 3.0) + 0.5
    shrink = (
        np.sqrt(3.0) * np.cos(np.radians(dec)) / np.sqrt(1.0 + np.abs(z))
    )  # sqrt(3 (1 - |z|)), exact at poles
    polar = np.abs(z) > POLAR_Z
    u = np.where(polar, middle + (quarter - middle) * shrink, quarter)
    v = np.where(polar, np.sign(z) * (1.0 - shrink / 2.0), 0.75 * z)
    return u + v + 0.5, u - v + 0.5


def _cells(nside: int, a: FloatArray, b: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
    """Base pixel, and column and row in it."""
    column, row = np.floor(a).astype(np.int64), np.floor(b).astype(np.int64)
    pole = np.abs(column - row) > 1  # rounded onto the pole itself: the corner of the square before it
    column, row = np.where(pole & (a > b), column - 1, column), np.where(pole & (a < b), row - 1, row)
    face = np.where(column == row, 4 + column % 4, np.where(column > row, row % 4, 8 + column % 4))
    x = np.clip(np.floor((a - column) * nside), 0, nside - 1).astype(np.int64)
    y = nside - 1 - np.clip(np.floor((b - row) * nside), 0, nside - 1).astype(np.int64)
    return face, x, y


def _from_corner(face: int, a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coordinates from the southern corner of a base pixel, in units of its side, unbounded."""
    zone, number = divmod(face, 4)
    column, row = {0: (number + 1, number), 1: (number, number), 2: (number, number + 1)}[zone]
    turns = 4.0 * np.round(((a - column - 0.5) + (b - row - 0.5)) / 8.0)
    return a - turns - column, 1.0 - (b - turns - row)


def _images(a: FloatArray, b: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
    """Coordinates, and in the polar caps also those seen from the three other quarters.

    The quarters of a cap touch along meridians that are cuts in the plane; a quarter is joined to the next
    one by a quarter turn about the pole.
    """
    images = [(a, b)]
    v = (a - b) / 2.0
    quarter = np.floor((a + b - 1.0) / 2.0)
    for sign in (1.0, -1.0):
        cap = np.where(sign * v > 0.5, 0.0, np.nan)
        pole_a, pole_b = (quarter + 2.0, quarter) if sign > 0 else (quarter, quarter + 2.0)
        from_a, from_b = a - pole_a + cap, b - pole_b + cap
        for turns in (1, 2, 3):
            from_a, from_b = -sign * from_b, sign * from_a
            images.append((pole_a + turns + from_a, pole_b + turns + from_b))
    return images


def _spread(values: IntArray) -> IntArray:
    """Numbers whose even bits are the bits of `values`."""
    result = np.zeros_like(values)
    for bit in range(30):
        result |= ((values >> bit) & 1) << (2 * bit)
    return result


def _gather(value: int) -> int:
    """The number whose bits are the even bits of `value`."""
    return sum(((value >> (2 * bit)) & 1) << bit for bit in range(30))
