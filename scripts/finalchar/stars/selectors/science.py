"""Selector ``science``: cuts on flux, flags, size, noise and position (selection specification 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, NameSet, Section, subsection
from finalchar.stars.selectors import limits

__all__ = ["NAME", "Settings", "select"]

NAME = "science"


class SciencePixelFlags(limits.Flags):
    """Flags that are looked at."""

    bad: NameSet = Field(
        default_factory=lambda: [
            "base_PixelFlags_flag_edge",
            "base_PixelFlags_flag_nodata",
            "base_PixelFlags_flag_saturated",
            "base_PsfFlux_flag",
        ],
        description="flags of which none may be set",
    )


class ScienceSignalToNoise(limits.SignalToNoise):
    """Limits of a flux over its error."""

    fluxField: str = Field("base_PsfFlux_instFlux", description="column of the flux")
    errField: str = Field("base_PsfFlux_instFluxErr", description="column of its error")


class SkyFlag(limits.Flags):
    """Flags of sky sources."""

    good: NameSet = Field(default_factory=lambda: ["sky_source"], description="flags that must all be set")


class Settings(Section):
    """Settings of the selector ``science``."""

    doFluxLimit: bool = Field(False, description="apply fluxLimit")
    doFlags: bool = Field(False, description="apply flags")
    doUnresolved: bool = Field(False, description="apply unresolved")
    doSignalToNoise: bool = Field(False, description="apply signalToNoise")
    doIsolated: bool = Field(False, description="apply isolated")
    doRequireFiniteRaDec: bool = Field(False, description="apply requireFiniteRaDec")
    doRequirePrimary: bool = Field(False, description="apply requirePrimary")
    doSkySources: bool = Field(False, description="take sky sources too, whatever the cuts before say")
    doCentroidErrorLimit: bool = Field(False, description="apply centroidErrorLimit, also to sky sources")
    fluxLimit: limits.FluxLimit = subsection(limits.FluxLimit, "limits of a flux")
    flags: SciencePixelFlags = subsection(SciencePixelFlags, "flags that are looked at")
    unresolved: limits.Unresolved = subsection(limits.Unresolved, "limits of the extendedness")
    signalToNoise: ScienceSignalToNoise = subsection(ScienceSignalToNoise, "limits of a flux over its error")
    isolated: limits.Isolated = subsection(limits.Isolated, "neither child nor parent")
    requireFiniteRaDec: limits.RequireFiniteRaDec = subsection(
        limits.RequireFiniteRaDec, "finite position on the sky"
    )
    requirePrimary: limits.RequirePrimary = subsection(limits.RequirePrimary, "primary detection")
    skyFlag: SkyFlag = subsection(SkyFlag, "what a sky source is")
    centroidErrorLimit: limits.CentroidErrorLimit = subsection(
        limits.CentroidErrorLimit, "limits of the centroid's errors"
    )


def select(
    table: Any, settings: Any, exposure: Any = None, compatibility: str = "fixed"
) -> npt.NDArray[np.bool_]:
    """Select sources; the order of the steps matters for sky sources.

    Parameters
    ----------
    table : SourceTable
    settings : Settings
    exposure : Exposure, optional
        Not used.
    compatibility : {'fixed', 'lsst'}
        Not used: both give the same.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    InputError
        If a column is missing.
    """
    selected = limits.every_row(table)
    cuts = (
        (settings.doFluxLimit, limits.select_flux, settings.fluxLimit),
        (settings.doFlags, limits.select_flags, settings.flags),
        (settings.doUnresolved, limits.select_unresolved, settings.unresolved),
        (settings.doSignalToNoise, limits.select_signal_to_noise, settings.signalToNoise),
        (settings.doIsolated, limits.select_isolated, settings.isolated),
        (settings.doRequireFiniteRaDec, limits.select_finite_ra_dec, settings.requireFiniteRaDec),
        (settings.doRequirePrimary, limits.select_primary, settings.requirePrimary),
    )
    for wanted, cut, section in cuts:
        if wanted:
            selected &= cut(table, section)
    if settings.doSkySources:
        selected |= limits.select_flags(table, settings.skyFlag)
    if settings.doCentroidErrorLimit:
        selected &= limits.select_centroid_error(table, settings.centroidErrorLimit)
    return selected
