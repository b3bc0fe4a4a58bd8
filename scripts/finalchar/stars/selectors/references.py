"""Selector ``references``: cuts for a reference catalogue (selection specification 3.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, Section, subsection
from finalchar.stars.selectors import limits

__all__ = ["NAME", "Settings", "select"]

NAME = "references"


class Settings(Section):
    """Settings of the selector ``references``."""

    doMagLimit: bool = Field(False, description="apply magLimit")
    doFlags: bool = Field(False, description="apply flags")
    doUnresolved: bool = Field(False, description="apply unresolved")
    doSignalToNoise: bool = Field(False, description="apply signalToNoise")
    doMagError: bool = Field(False, description="apply magError")
    doRequireFiniteRaDec: bool = Field(True, description="apply requireFiniteRaDec")
    doCullFromMaskedRegion: bool = Field(False, description="apply cullFromMaskedRegion")
    magLimit: limits.MagnitudeLimit = subsection(limits.MagnitudeLimit, "limits of a magnitude")
    flags: limits.Flags = subsection(limits.Flags, "flags that are looked at")
    unresolved: limits.Unresolved = subsection(limits.Unresolved, "limits of the extendedness")
    requireFiniteRaDec: limits.RequireFiniteRaDec = subsection(
        limits.RequireFiniteRaDec, "finite position on the sky"
    )
    signalToNoise: limits.SignalToNoise = subsection(limits.SignalToNoise, "limits of a flux over its error")
    magError: limits.MagnitudeErrorLimit = subsection(
        limits.MagnitudeErrorLimit, "limits of a magnitude's error"
    )
    colorLimits: dict[str, limits.ColorLimit] = Field(
        default_factory=dict, description="label: limits of a colour; always applied"
    )
    cullFromMaskedRegion: limits.MaskedRegion = subsection(limits.MaskedRegion, "regions without sources")


def select(
    table: Any, settings: Any, exposure: Any = None, compatibility: str = "fixed"
) -> npt.NDArray[np.bool_]:
    """Select reference sources.

    Parameters
    ----------
    table : SourceTable
    settings : Settings
    exposure : Exposure, optional
        Needed for ``doCullFromMaskedRegion``.
    compatibility : {'fixed', 'lsst'}
        Not used: both give the same.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    InputError
        If a column, or the exposure, is missing.
    """
    selected = limits.every_row(table)
    cuts = (
        (settings.doMagLimit, limits.select_magnitude, settings.magLimit),
        (settings.doFlags, limits.select_flags, settings.flags),
        (settings.doUnresolved, limits.select_unresolved, settings.unresolved),
        (settings.doSignalToNoise, limits.select_signal_to_noise, settings.signalToNoise),
        (settings.doMagError, limits.select_magnitude_error, settings.magError),
        (settings.doRequireFiniteRaDec, limits.select_finite_ra_dec, settings.requireFiniteRaDec),
        *((True, limits.select_color, color) for color in settings.colorLimits.values()),
    )
    for wanted, cut, section in cuts:
        if wanted:
            selected &= cut(table, section)
    if settings.doCullFromMaskedRegion:
        selected &= limits.select_unmasked_region(table, settings.cullFromMaskedRegion, exposure)
    return selected
