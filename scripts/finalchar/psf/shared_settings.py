"""Settings that every determiner has (selection specification 6.1)."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from finalchar.config_base import Field, Section

__all__ = ["DeterminerSettings", "stamp_size"]


def stamp_size(default: int) -> Any:
    """Field of the stamp size, whose default is each determiner's own."""
    return Field(
        default,
        gt=0,
        description="size of the stamps in the fit and of the drawn PSF, odd; null: that of the candidates",
    )


class DeterminerSettings(Section):
    """Stamps and down-sampling."""

    stampSize: int | None = stamp_size(41)
    maxCandidates: int = Field(300, gt=0, description="more stars than that are down-sampled")
    downsampleRandomSeed: int = Field(98765, ge=0, description="seed of the down-sampling")

    @field_validator("stampSize")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and value % 2 == 0:
            raise ValueError(f"the stamp size must be odd, not {value}")
        return value
