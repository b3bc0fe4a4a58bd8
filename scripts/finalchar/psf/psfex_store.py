"""PSFEx models as files of the program, which GalSim and others read (``.psf``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finalchar.formats.fits_file import BLOCK, Card, header_bytes, primary_hdu, write_atomically
from finalchar.formats.psfs import PsfexPsf

__all__ = ["export_psfex"]

FIRST_PIXEL = 1.0
"""Coordinate of the first pixel in these files."""


def export_psfex(stored: PsfexPsf, path: Path) -> Path:
    """Write a model as PSFEx itself does.

    Parameters
    ----------
    stored : PsfexPsf
    path : Path
        File to write.

    Returns
    -------
    Path
        The file.  Positions in it are X_IMAGE and Y_IMAGE: those of the parent frame, counted from 1.
    """
    terms, height, width = stored.components.shape
    values = stored.components.astype(">f4").tobytes()
    axes = zip(stored.context_first, stored.context_second, ("X_IMAGE", "Y_IMAGE"), strict=True)
    cards = [
        Card("XTENSION", "BINTABLE"),
        Card("BITPIX", 8),
        Card("NAXIS", 2),
        Card("NAXIS1", len(values)),
        Card("NAXIS2", 1),
        Card("PCOUNT", 0),
        Card("GCOUNT", 1),
        Card("TFIELDS", 1),
        Card("EXTNAME", "PSF_DATA"),
        Card("POLNAXIS", 2),
    ]
    for axis, (first, scale, name) in enumerate(axes, 1):
        cards += [
            Card(f"POLGRP{axis}", 1),
            Card(f"POLNAME{axis}", name),
            Card(f"POLZERO{axis}", float(first) + FIRST_PIXEL),
            Card(f"POLSCAL{axis}", float(scale)),
        ]
    cards += [
        Card("POLNGRP", 1),
        Card("POLDEG1", int(stored.degree[0])),
        Card("PSF_SAMP", float(stored.pixel_step)),
        Card("PSFNAXIS", 3),
        *(Card(f"PSFAXIS{axis}", size) for axis, size in enumerate((width, height, terms), 1)),
        Card("TTYPE1", "PSF_MASK"),
        Card("TFORM1", f"{np.prod(stored.components.shape)}E"),
        Card("TDIM1", f"({width},{height},{terms})"),
    ]
    data = values.ljust(-(-len(values) // BLOCK) * BLOCK, b"\0")
    write_atomically(path, (primary_hdu(), header_bytes(cards), data))
    return path
