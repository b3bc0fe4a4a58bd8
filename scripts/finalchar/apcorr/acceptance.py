"""What makes an aperture correction suspect: how far it varies and how its stars scatter.

A spatial fit can be captured by a group of wrong stars when they are half of all (known failure K21).  Such
a correction has a large range over the detector, or a large scatter; both are figures of every fit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from finalchar.config_base import Field, Section
from finalchar.formats.exposure import BoundedField, Box

__all__ = ["Settings", "field_limits", "is_suspect"]

GRID = 9
"""Points per axis on which the range of a field over the detector is found, corners included."""


class Settings(Section):
    """When an aperture correction is called suspect, and what then (not in LSST; `fixed` only)."""

    maximum_range: float = Field(
        default=0.3,
        gt=0.0,
        description="largest believable maximum - minimum of a correction over a detector",
    )
    maximum_scatter: float = Field(
        default=0.1, gt=0.0, description="largest believable robust scatter of the stars about a correction"
    )
    on_suspect: Literal["warn", "fail"] = Field(
        default="warn",
        description="warn: name the flux in status and summary; fail: ap_corr_failed if the flux is required",
    )


def field_limits(field: BoundedField, box: Box) -> tuple[float, float]:
    """Return minimum and maximum of a field over the pixels of `box`, found on a grid with the corners."""
    x, y = np.meshgrid(
        np.linspace(box.min_x, box.max_x, GRID), np.linspace(box.min_y, box.max_y, GRID), indexing="xy"
    )
    values = field.evaluate(x=x.ravel(), y=y.ravel())
    return float(values.min()), float(values.max())


def is_suspect(*, minimum: float, maximum: float, scatter: float, settings: Settings) -> bool:
    """Whether a correction varies or scatters more than is believable, or is not positive somewhere."""
    believable = (
        minimum > 0.0 and maximum - minimum <= settings.maximum_range and scatter <= settings.maximum_scatter
    )
    return not believable
