"""The measurement of one detector: noise replacement, then plugin after plugin over all stars."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from finalchar.errors import ConfigError
from finalchar.formats.exposure import Exposure
from finalchar.formats.sources import Footprints, SourceTable
from finalchar.measure.context import make_context
from finalchar.measure.footprint_geometry import select_footprints
from finalchar.measure.noise_replacement import PlainImage, StarImages, measure_noise, replace_sources
from finalchar.measure.schema import active_plugins
from finalchar.psf.model import PsfModel

__all__ = ["run_measurement"]


def run_measurement(
    *,
    exposure: Exposure,
    psf: PsfModel,
    footprints: Footprints,
    table: SourceTable,
    settings: Any,
    compatibility: str = "fixed",
) -> SourceTable:
    """Measure all stars of a table with a PSF (measurement specification 0.1 step 9, 1-6).

    Parameters
    ----------
    exposure : Exposure
        The detector image; it is not changed.
    psf : PsfModel
        The PSF at the stars.
    footprints : Footprints
        Footprints of all sources of the catalogue, in catalogue order.
    table : SourceTable
        Table of `schema.make_output_table`, rows in catalogue order.  Its plugin columns are filled in
        place, so that a caller still has the partly filled rows when an error escapes [M-Q31].
    settings : section
        Configuration section ``measurement``.
    compatibility : {"fixed", "lsst"}
        "lsst" reproduces the reference's quirks.

    Returns
    -------
    SourceTable
        The same table.

    Raises
    ------
    InputError
        If the exposure lacks a mask plane that a plugin needs.
    MeasurementError
        If the detector as a whole cannot be measured.
    """
    active = active_plugins(settings, compatibility)
    for plugin in active:
        exposure.mask_bits(getattr(plugin.settings, "badMaskPlanes", []))  # all planes are known, or an error
    if not len(table):
        return table
    footprint_index = select_footprints(footprints, table["id"])
    context = make_context(
        exposure=exposure,
        psf=psf,
        footprints=footprints,
        footprint_index=footprint_index,
        images=_star_images(exposure, footprints, footprint_index, settings, compatibility),
        table=table,
        slots=settings.slots,
        compatibility=compatibility,
    )
    for plugin in active:
        if plugin.settings.doMeasure:
            plugin.measure(context, table)
    return table


def _star_images(
    exposure: Exposure,
    footprints: Footprints,
    stars: np.ndarray[Any, np.dtype[np.int64]],
    settings: Any,
    compatibility: str,
) -> StarImages:
    """Return the image as each star will see it (2)."""
    if not settings.doReplaceWithNoise:
        return PlainImage(exposure.image, exposure.box)
    replacer = settings.noiseReplacer
    if replacer.noiseSource != "measure":
        raise ConfigError(
            f"measurement.noiseReplacer.noiseSource is {replacer.noiseSource!r}; only 'measure' is supported"
        )
    level = measure_noise(exposure.image)
    level = type(level)(level.mean + replacer.noiseOffset, level.standard_deviation)
    return replace_sources(
        image=exposure.image,
        box=exposure.box,
        footprints=footprints,
        stars=stars,
        level=level,
        seed=noise_seed(exposure, footprints, replacer.noiseSeedMultiplier, compatibility),
    )


def noise_seed(exposure: Exposure, footprints: Footprints, multiplier: int, compatibility: str) -> int:
    """Return the seed of the noise, 32 bits.

    In the reference it is the same for every detector of every visit [M-Q3]; else it is drawn from what
    tells detectors apart: the exposure's id, which some surveys give per visit, and the first source's id,
    which some count per detector.
    """
    if compatibility == "lsst":
        return multiplier
    first_source = int(footprints.source_id[0]) if len(footprints) else 0
    return zlib.crc32(f"{exposure.visit_info.exposure_id} {first_source} {multiplier}".encode())
