"""From a row of detectors.csv and the settings ``input.images`` to the images of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finalchar.errors import InputError
from finalchar.formats.image_set import Background, ImageSet, Plane
from finalchar.hdu_names import file_and_hdu

__all__ = ["image_set_of_row"]


def image_set_of_row(
    exposure: Path, row: Mapping[str, Any], *, survey: Path, band: str, settings: Any
) -> ImageSet:
    """Return the images of a detector.

    Parameters
    ----------
    exposure : Path
        The image; an HDU may be named at its end, as in ``file.fits[1]``.
    row : mapping
        The row of the sheet: ``weight``, ``flag``; numbers that stand above those of the settings.
    survey : Path
        Folder that the paths in the row are relative to.
    band : str
        Band of the visit.
    settings : section
        Configuration section ``input.images``.

    Raises
    ------
    InputError
        If the row names no weight image.
    """
    if not row.get("weight"):
        raise InputError(f"{exposure} has no weight image: name it in the column 'weight' of detectors.csv")
    numbers = {
        name: float(row[name]) if row.get(name) else getattr(settings, name)
        for name in ("gain", "saturation", "offset", "zero_point")
    }
    subtract = settings.background == "subtract"
    return ImageSet(
        image=_plane(exposure),
        weight=_plane(survey / row["weight"]),
        weight_kind=settings.weight_kind,
        flags=_plane(survey / row["flag"]) if row.get("flag") else None,
        flag_planes=settings.flags,
        flag_kind=settings.flag_kind,
        band=band,
        add_photon_noise=settings.photon_noise == "add",
        background=Background(settings.background_box, settings.background_filter) if subtract else None,
        **numbers,
    )


def _plane(path: Path) -> Plane:
    name, hdu = file_and_hdu(str(path))
    return Plane(Path(name), hdu)
