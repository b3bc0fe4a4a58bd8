"""Adaptive moments of the stars with a circular weight (measurement specification 6.3)."""

from __future__ import annotations

from finalchar.config_base import Field as SettingsField
from finalchar.measure.hsm_source_plugin import SourceMomentsPlugin, SourceMomentsSettings

NAME = "ext_shapeHSM_HsmSourceMomentsRound"
ORDER = 1.0


class Settings(SourceMomentsSettings):
    """Settings of ext_shapeHSM_HsmSourceMomentsRound."""

    roundMoments: bool = SettingsField(True, description="use a circular weight")


class Plugin(SourceMomentsPlugin[Settings]):
    """Adaptive moments with a circular weight."""
