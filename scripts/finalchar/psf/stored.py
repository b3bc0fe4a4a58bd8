"""From a PSF as it is stored to a model that draws."""

from __future__ import annotations

import numpy as np

from finalchar.errors import InputError
from finalchar.formats.psfs import GaussianPsf, KernelPsf, PiffPsf, PsfexPsf, StoredPsf
from finalchar.psf.model import PsfModel

__all__ = ["model_from_stored"]


def model_from_stored(stored: StoredPsf, *, compatibility: str = "fixed", check: bool = True) -> PsfModel:
    """Return a model that draws a stored PSF.

    Parameters
    ----------
    stored : StoredPsf
        As the formats room reads it: Piff, PSFEx, kernels, Gaussians.
    compatibility : str
        ``lsst`` for the reference's boxes at half-integer positions (S-Q16).
    check : bool
        Draw once at the average position and refuse a PSF that is not finite or not of unit sum (known
        failure K16).

    Raises
    ------
    InputError
        If the PSF cannot be opened or drawn, or fails the check.
    """
    model = _model(stored, compatibility)
    if check:
        _check(model)
    return model


def _model(stored: StoredPsf, compatibility: str) -> PsfModel:
    if isinstance(stored, PiffPsf):
        from finalchar.formats.psfs import loads_piff
        from finalchar.psf.piff_model import piff_model

        width, _, psf = loads_piff(stored.pickle)
        return piff_model(psf, size=width, compatibility=compatibility)
    if isinstance(stored, PsfexPsf):
        from finalchar.psf.psfex_model import PsfexModel

        return PsfexModel(stored, compatibility)
    if isinstance(stored, KernelPsf | GaussianPsf):
        from finalchar.psf.kernel_model import kernel_model

        return kernel_model(stored)
    raise InputError(f"a stored PSF of the class {type(stored).__name__} cannot be drawn")


def _check(model: PsfModel) -> None:
    try:
        with np.errstate(all="ignore"):
            kernel = model.kernel_image(x=np.nan, y=np.nan).array
    except Exception as error:
        raise InputError(f"a stored PSF cannot be drawn ({type(error).__name__}: {error})") from error
    if not np.isfinite(kernel).all():
        raise InputError("a stored PSF is not finite at its average position")
    if abs(kernel.sum() - 1.0) > 1e-5:
        raise InputError(f"a stored PSF has the sum {kernel.sum():.6g} at its average position instead of 1")
