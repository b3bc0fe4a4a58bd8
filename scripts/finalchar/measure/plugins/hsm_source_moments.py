"""Adaptive moments of the stars (measurement specification 6.2)."""

from __future__ import annotations

from finalchar.measure.hsm_source_plugin import SourceMomentsPlugin, SourceMomentsSettings

NAME = "ext_shapeHSM_HsmSourceMoments"
ORDER = 1.0


class Settings(SourceMomentsSettings):
    """Settings of ext_shapeHSM_HsmSourceMoments."""


class Plugin(SourceMomentsPlugin[Settings]):
    """Adaptive moments with an elliptical weight."""
