"""What the settings of several sections must fulfil together, looked at before the first job.

What a section must fulfil by itself stands there (`finalchar.config_base.Section.check_together`).
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from finalchar.config_base import nearest
from finalchar.config_choices import choice
from finalchar.errors import ConfigError

if TYPE_CHECKING:
    from finalchar.config import Config

__all__ = ["check_together"]

PLUGINS = ("measurement", "plugins")
SLIP = 0.8
"""Likeness from which the name of a mask plane is a slip of the pen; of REJECTED to DETECTED it is 0.75."""


def check_together(config: Config) -> None:
    """Check the settings that depend on each other.

    Raises
    ------
    ConfigError
        One sentence; its `location` leads to the setting.
    """
    _check_stamps(config)
    _check_external_settings(config)
    _check_columns(config)
    _check_slots(config)
    _check_corrected_fluxes(config)
    _check_mask_planes(config)
    _check_shapes(config)


def _check_stamps(config: Config) -> None:
    """Check that the stamps can hold the PSF model, which settings of two sections decide (K14)."""
    determiner = choice("finalchar.psf.determiners", config.psf_determiner.name)
    check = getattr(determiner, "check_settings", None)
    settings = config.psf_determiner.active
    if check is None:
        return
    check(settings, compatibility=config.compatibility)
    candidates = config.make_psf_candidates
    available = candidates.kernelSize + 2 * candidates.borderWidth
    if config.compatibility == "lsst" or available >= (settings.stampSize or available + 1):
        return  # the reference cuts the stamps with a warning
    try:
        check(settings.model_copy(update={"stampSize": available}), compatibility=config.compatibility)
    except ConfigError:
        raise ConfigError(
            f"Stamps of {available} pixels (make_psf_candidates) cannot hold the model of psf_determiner."
            f"{config.psf_determiner.name}: raise make_psf_candidates.kernelSize or lower modelSize there.",
            ("make_psf_candidates", "kernelSize"),
        ) from None


def _check_external_settings(config: Config) -> None:
    """Check the settings of plugins ``module:Class`` against the sections that their modules define."""
    from finalchar.measure.schema import external_settings

    run = config.measurement.plugins.names
    for name, given in config.measurement.plugins.external.items():
        place = (*PLUGINS, "external", name)
        try:
            config.measurement.plugins.settings_of(name)
        except ConfigError as error:
            raise ConfigError(str(error), place) from None
        if name not in run:
            close = nearest(name, [each for each in run if ":" in each])
            hint = f"did you mean '{close}'?" if close else "add it there or remove the section."
            key = ".".join(place)
            raise ConfigError(
                f"Configuration key '{key}': measurement.plugins.names has no such plugin; {hint}", place
            )
        for key, value in given.items():
            try:
                external_settings(name, {key: value})
            except ConfigError as error:
                raise ConfigError(str(error), (*place, key)) from None


def _check_columns(config: Config) -> None:
    """Refuse measurements that write the same column, before the first job does."""
    from finalchar.measure.schema import check_columns

    try:
        check_columns(
            config.measurement,
            sky_moments=config.do_add_sky_moments,
            fgcm_bands=config.fgcmPhotometryBands if config.do_add_fgcm_photometry else (),
            compatibility=config.compatibility,
        )
    except ConfigError as error:
        raise ConfigError(str(error), (*PLUGINS, "names")) from None


def _check_slots(config: Config) -> None:
    """Refuse slots that were set and stay empty; a default whose plugin is not run is as good as null."""
    from finalchar.measure.schema import empty_slots

    slots = config.measurement.slots
    for slot, target in empty_slots(config.measurement, config.compatibility).items():
        if target != type(slots).model_fields[slot].default:
            raise ConfigError(
                f"Configuration key 'measurement.slots.{slot}': no plugin that is run writes '{target}'; "
                "name one of measurement.plugins.names, or set the slot to null.",
                ("measurement", "slots", slot),
            )


def _check_corrected_fluxes(config: Config) -> None:
    """Refuse exceptions from the aperture corrections for fluxes that are not corrected anyhow."""
    from finalchar.measure.schema import correctable_fluxes

    settings = config.apply_ap_corr
    if not settings.ignoreList and not settings.proxies:
        return
    fluxes = correctable_fluxes(config.measurement, config.compatibility)
    for key, names in (("ignoreList", settings.ignoreList), ("proxies", list(settings.proxies))):
        for name in names:
            if name not in fluxes:
                close = nearest(name, fluxes)
                hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(fluxes)}."
                raise ConfigError(
                    f"Configuration key 'apply_ap_corr.{key}': no flux '{name}' is corrected; {hint}",
                    ("apply_ap_corr", key),
                )


def _check_mask_planes(config: Config) -> None:
    """Refuse bits that no flag image has, and misspelt mask planes: no setting would look at them."""
    images = config.input.images
    if not images.flags:
        return
    from finalchar.formats.image_set import MOST_BITS, STANDARD_PLANES

    for plane, numbers in images.flags.items():
        key, place = f"input.images.flags.{plane}", ("input", "images", "flags", plane)
        wrong = [number for number in numbers if not 0 <= number < MOST_BITS]
        if wrong and images.flag_kind == "bits":
            raise ConfigError(
                f"Configuration key '{key}': there is no bit {wrong[0]}, bits are numbered from 0 to "
                f"{MOST_BITS - 1}.",
                place,
            )
        close = difflib.get_close_matches(plane.upper(), STANDARD_PLANES, n=1, cutoff=SLIP)
        if close and plane not in STANDARD_PLANES:
            raise ConfigError(f"Configuration key '{key}': did you mean '{close[0]}'?", place)


def _check_shapes(config: Config) -> None:
    """Refuse psfex where second moments of the catalogue are not named: they are the width of the stars."""
    if config.psf_determiner.name != "psfex" or config.input.kind == "lsst" or config.input.catalogue.shape:
        return
    raise ConfigError(
        "Configuration key 'input.catalogue.shape' must name the columns of the second moments for "
        "psf_determiner.name 'psfex', such as [X2_IMAGE, Y2_IMAGE, XY_IMAGE].",
        ("input", "catalogue", "shape"),
    )
