"""Final, star-consistent PSF and aperture-correction measurement of imaging surveys.

The names below are imported when they are first used, so that ``import finalchar`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finalchar.config import Config, load_config
    from finalchar.formats.lsst_exposure import read_exposure
    from finalchar.psf_ap_corr import read_psf_ap_corr
    from finalchar.task import (
        ConsolidateFinalizeCharacterizationDetectorTask,
        FinalizeCharacterizationDetectorTask,
        read_source_catalog,
    )

__all__ = [
    "Config",
    "ConsolidateFinalizeCharacterizationDetectorTask",
    "FinalizeCharacterizationDetectorTask",
    "load_config",
    "read_exposure",
    "read_psf_ap_corr",
    "read_source_catalog",
]

_HOMES = {
    "Config": "finalchar.config",
    "ConsolidateFinalizeCharacterizationDetectorTask": "finalchar.task",
    "FinalizeCharacterizationDetectorTask": "finalchar.task",
    "load_config": "finalchar.config",
    "read_exposure": "finalchar.formats.lsst_exposure",
    "read_psf_ap_corr": "finalchar.psf_ap_corr",
    "read_source_catalog": "finalchar.task",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'finalchar' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
