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

    if keep_stamps:
        return dumps_piff(size, psf, keep_images=True)
    return dumps_piff(size, stripped(psf))


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
    """Write a file that ``piff.read`` opens, with chip number 0.

    Parameters
    ----------
    psf : bytes, PiffModel or piff.SimplePSF
        The stored bytes of a model, or the model.
    path : path-like
        Usually ``*.piff``.

    Returns
    -------
    Path
        The file.  It has no table of stars: their pixels are gone.

    Raises
    ------
    InputError
        If the model cannot be opened, or its WCS cannot be expressed in plain GalSim.
    """
    plain = _plain_psf(psf, 0)
    return _write(plain, path)


def export_piff_visit(psfs: Mapping[int, Any], path: str | os.PathLike[str]) -> Path:
    """Write the models of several detectors into one file that ``piff.read`` opens.

    Parameters
    ----------
    psfs : mapping of int to (bytes, PiffModel or piff.SimplePSF)
        Models by detector number, which becomes Piff's ``chipnum``.
    path : path-like
        Usually ``*.piff``.

    Returns
    -------
    Path
        The file; a model of Piff's type SingleChip.

    Raises
    ------
    InputError
        As `export_piff`.
    """
    import piff

    chips = {int(detector): _plain_psf(psf, int(detector)) for detector, psf in sorted(psfs.items())}
    if not chips:
        raise InputError(f"there is no PSF to be written to {path}")
    first = next(iter(chips.values()))
    whole = piff.singlechip.SingleChipPSF(first)
    whole.psf_by_chip = chips
    whole.wcs = {detector: psf.wcs[detector] for detector, psf in chips.items()}
    whole.pointing = first.pointing
    return _write(whole, path)


def _write(psf: Any, path: str | os.PathLike[str]) -> Path:
    """Write under a temporary name and rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        psf.write(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _plain_psf(psf: Any, chip: int) -> Any:
    """Return a Piff object without stars whose WCS is GalSim's own."""
    from finalchar.formats.psfs import loads_piff
    from finalchar.psf.plain_wcs import plain_wcs

    if isinstance(psf, bytes):
        psf = loads_piff(psf)[2]
    psf = getattr(psf, "psf", psf)
    (wcs,) = psf.wcs.values()
    positions = [star.image_pos for star in psf.stars]
    plain = copy.copy(psf)
    del plain.stars
    plain.wcs = {chip: plain_wcs(wcs, x=[p.x for p in positions], y=[p.y for p in positions])}
    return plain
