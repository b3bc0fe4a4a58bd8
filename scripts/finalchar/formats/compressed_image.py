"""Compressed FITS images.

Lossless GZIP tiles are decoded here: CFITSIO never returns from a damaged one.  Other compressions are left
to CFITSIO, after a look at the gzipped tiles that they may contain.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.afw_table import read_table
from finalchar.formats.fits_file import Hdu

__all__ = ["read_compressed_image"]

_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_GZIP_HEADER = 31
"""Window bits of zlib for data with a gzip header."""


def read_compressed_image(unit: Hdu) -> npt.NDArray[Any]:
    """Read the pixels of a compressed image HDU, shape (ny, nx).

    Raises
    ------
    InputError
        If the tiles cannot be decompressed.
    """
    if _is_plain_gzip(unit):
        return _read_gzip(unit)
    _check_gzip_tiles(unit)
    import fitsio

    try:
        with fitsio.FITS(str(unit.file.path)) as fits:
            values: npt.NDArray[Any] = fits[unit.number].read()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{unit.file.path}: the compressed HDU {unit.number} cannot be read ({error})"
        ) from error
    return values


def _is_plain_gzip(unit: Hdu) -> bool:
    """Whether the tiles are gzipped numbers, neither quantised nor scaled."""
    header = unit.header
    columns = [card.value for card in header if card.keyword.startswith("TTYPE")]
    scaled = any(card in header for card in ("BSCALE", "BZERO", "BLANK", "ZBLANK", "ZSCALE", "ZZERO"))
    return header.text("ZCMPTYPE") in ("GZIP_1", "GZIP_2") and columns == ["COMPRESSED_DATA"] and not scaled


def _check_gzip_tiles(unit: Hdu) -> None:
    """Inflate the tiles of a lossy image that could not be quantised and are stored gzipped."""
    for cell in read_table(unit, names=["GZIP_COMPRESSED_DATA"]).columns.get("GZIP_COMPRESSED_DATA", ()):
        if len(cell):
            try:
                zlib.decompress(cell.tobytes(), _GZIP_HEADER)
            except zlib.error as error:
                raise _broken(unit, str(error)) from error


def _read_gzip(unit: Hdu) -> npt.NDArray[Any]:
    header = unit.header
    width, height = header.integer("ZNAXIS1"), header.integer("ZNAXIS2")
    tile_width, tile_height = header.integer("ZTILE1", width), header.integer("ZTILE2", 1)
    dtype = np.dtype(_DTYPES[header.integer("ZBITPIX")])
    shuffled = header.text("ZCMPTYPE") == "GZIP_2"
    cells = read_table(unit)["COMPRESSED_DATA"]
    corners = [(y, x) for y in range(0, height, tile_height) for x in range(0, width, tile_width)]
    if header.integer("ZNAXIS") != 2 or len(cells) != len(corners):
        raise _broken(unit, f"{len(cells)} tiles where {len(corners)} are needed")
    image = np.empty((height, width), dtype=dtype.newbyteorder("="))
    for (y, x), cell in zip(corners, cells, strict=True):
        target = image[y : y + tile_height, x : x + tile_width]
        raw = _inflate(unit, cell.tobytes(), target.size * dtype.itemsize)
        if shuffled:
            raw = np.ascontiguousarray(raw.reshape(dtype.itemsize, -1).T).reshape(-1)
        target[:] = raw.view(dtype).reshape(target.shape)
    return image


def _inflate(unit: Hdu, packed: bytes, size: int) -> npt.NDArray[np.uint8]:
    try:
        content = zlib.decompressobj(_GZIP_HEADER).decompress(packed, size + 1)
    except zlib.error as error:
        raise _broken(unit, str(error)) from error
    if len(content) != size:
        raise _broken(unit, f"a tile has {len(content)} bytes, {size} are needed")
    return np.frombuffer(content, dtype=np.uint8)


def _broken(unit: Hdu, what: str) -> InputError:
    return InputError(f"{unit.file.path}: the compressed HDU {unit.number} cannot be read ({what})")
