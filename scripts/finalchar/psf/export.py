"""Files of our products for the plain PSF libraries."""

from __future__ import annotations

import os
from pathlib import Path

from finalchar.errors import InputError

__all__ = ["export_piff", "export_psfex"]


def export_piff(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the Piff models of a product to a file that ``piff.read`` opens.

    Parameters
    ----------
    path : path-like
        Catalogue of PSFs and aperture corrections of a detector or a visit, or a visit's folder with the
        latter.
    output : path-like, optional
        The file; by default beside the product, with the suffix ``.piff``.

    Returns
    -------
    Path
        The file.  A product with one detector gives a model with chip number 0; one with several a model of
        Piff's type SingleChip, the detector numbers being Piff's ``chipnum``.

    Raises
    ------
    InputError
        If the product cannot be read or has no Piff model.
    """
    from finalchar.formats.exposure_catalog import read_exposure_catalog
    from finalchar.formats.psfs import PiffPsf
    from finalchar.psf.piff_store import export_piff as export_one
    from finalchar.psf.piff_store import export_piff_visit

    product = _catalogue(Path(path))
    records = read_exposure_catalog(product).records
    models = {record.detector: record.psf.pickle for record in records if isinstance(record.psf, PiffPsf)}
    if not models:
        raise InputError(f"{product} has no Piff model")
    target = Path(output) if output is not None else product.with_suffix(".piff")
    if len(records) == 1:
        return export_one(next(iter(models.values())), target)
    return export_piff_visit(models, target)


def export_psfex(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Path:
    """Write the PSFEx models of a product to files that ``galsim.des.DES_PSFEx`` and others open.

    Parameters
    ----------
    path : path-like
        As for `export_piff`.
    output : path-like, optional
        The file, or for a product with several detectors the folder; by default the product's name without
        suffix, for one detector with the suffix ``.psf``.

    Returns
    -------
    Path
        The file, or the folder with one file ``psf_DETECTOR.psf`` for each detector.

    Raises
    ------
    InputError
        If the product cannot be read or has no PSFEx model.
    """
    from finalchar.formats.exposure_catalog import read_exposure_catalog
    from finalchar.formats.psfs import PsfexPsf
    from finalchar.psf.psfex_store import export_psfex as export_one

    product = _catalogue(Path(path))
    records = read_exposure_catalog(product).records
    models = {record.detector: record.psf for record in records if isinstance(record.psf, PsfexPsf)}
    if not models:
        raise InputError(f"{product} has no PSFEx model")
    if len(records) == 1:
        target = Path(output) if output is not None else product.with_suffix(".psf")
        return export_one(next(iter(models.values())), target)
    folder = Path(output) if output is not None else product.with_suffix("")
    for detector, model in models.items():
        export_one(model, folder / f"psf_{detector:03d}.psf")
    return folder


def _catalogue(path: Path) -> Path:
    """The catalogue meant by a path."""
    if not path.is_dir():
        return path
    found = path / "finalized_psf_ap_corr_catalog.fits"
    if not found.exists():
        raise InputError(f"{path} has no finalized_psf_ap_corr_catalog.fits")
    return found
