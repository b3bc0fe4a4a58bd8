"""Piff models as bytes in the exposure catalogue, and as files of Piff itself.

What is stored is a genuine Piff object without the pixels of its stars (file specification 7.1, 8.4), built
anew from plain values each time, so that the same fit gives the same bytes.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from finalchar.errors import InputError

__all__ = ["export_piff", "export_piff_visit", "serialize_piff", "stripped"]


def serialize_piff(psf: Any, *, size: int, keep_stamps: bool = False) -> bytes:
    """Return the stored form of a fitted Piff object: the pickle of (size, size, psf).

    Parameters
    ----------
    psf : piff.SimplePSF
        The fit; it is not changed.
    size : int
        Side of drawn squares, pixels.
    keep_stamps : bool
        Keep images and weights of the stars (`debugStarData`).
    """
    from finalchar.formats.psfs import dumps_piff

    return dumps_piff(size, psf if keep_stamps else stripped(psf))


def stripped(psf: Any) -> Any:
    """Return a copy of a fitted Piff object without pixels, parameters and matrices of its stars."""
    lean = copy.copy(psf)
    lean.model = copy.copy(psf.model)
    for name in ("_basis_profile", "_basis_shifts"):
        lean.model.__dict__.pop(name, None)
    lean.interp = copy.copy(psf.interp)
    for name in ("chisq", "last_delta_chisq"):
        setattr(lean, name, float(getattr(psf, name)))
    for name in ("dof", "nremoved", "niter"):
        setattr(lean, name, int(getattr(psf, name)))
    lean.stars = [_stripped_star(star) for star in psf.stars]
    return lean


def _stripped_star(star: Any) -> Any:
    import galsim
    import piff

    data, fit = star.data, star.fit
    lean = piff.StarData.__new__(piff.StarData)
    lean.__dict__.update(
        image_pos=galsim.PositionD(data.image_pos.x, data.image_pos.y),
        local_wcs=_plain_local_wcs(data.local_wcs),
        pixel_area=float(data.pixel_area),
        properties={sys.intern(str(key)): _plain(value) for key, value in data.properties.items()},
        property_types={},
        pointing=data.pointing,
        bandpass=None,
        _sed_eff=None,
        field_pos=galsim.PositionD(data.field_pos.x, data.field_pos.y),
    )
    lean_fit = piff.star.StarFit.__new__(piff.star.StarFit)
    lean_fit.__dict__.update(
        flux=float(fit.flux),
        center=(float(fit.center[0]), float(fit.center[1])),
        chisq=_plain(fit.chisq),
        dof=_plain(fit.dof),
    )
    lean_star = piff.Star.__new__(piff.Star)
    lean_star.__dict__.update(data=lean, fit=lean_fit)
    return lean_star


def _plain_local_wcs(wcs: Any) -> Any:
    import galsim

    if type(wcs) is galsim.PixelScale:
        return galsim.PixelScale(float(wcs.scale))
    jacobian = wcs.jacobian()
    return galsim.JacobianWCS(*(float(value) for value in jacobian.getMatrix().ravel()))


def _plain(value: Any) -> Any:
    """Plain Python value of a property."""
    if isinstance(value, np.generic):
        value = value.item()
    return sys.intern(value) if isinstance(value, str) else value


def export_piff(psf: Any, path: str | os.PathLike[str]) -> Path:
    """Write a file that ``piff.read`` opens.

    Parameters
    ----------
    psf : bytes, PiffModel or piff.SimplePSF
        The stored bytes of a model, or the model.
    path : path-like
        Usually ``*.piff``.

    Returns
    -------
    Path
        The file.  It has the chip number 0, and no table of stars if their pixels are gone.

    Raises
    ------
    InputError
        If the WCS of the model is one of the LSST stack's (field and sky coordinates), which plain Piff
        cannot read.
    """
    return export_piff_visit({0: psf}, path)


def export_piff_visit(psfs: Mapping[int, Any], path: str | os.PathLike[str]) -> Path:
    """Write the models of several detectors into one file that ``piff.read`` opens; see `export_piff`."""
    raise NotImplementedError(InputError)
