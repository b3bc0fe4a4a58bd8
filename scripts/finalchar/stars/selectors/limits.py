"""Building blocks of the source selectors (selection specification 3.1).

Every block is a section of settings and a function from a table to a boolean array.  All limits are strict on
both sides and a NaN fails any active limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, NameSet, Section
from finalchar.errors import InputError
from finalchar.formats.sources import demand_column

__all__ = [
    "CentroidErrorLimit",
    "ColorLimit",
    "Flags",
    "FluxLimit",
    "Isolated",
    "Limit",
    "MagnitudeErrorLimit",
    "MagnitudeLimit",
    "MaskedRegion",
    "RequireFiniteRaDec",
    "RequirePrimary",
    "SignalToNoise",
    "Unresolved",
    "ab_magnitude",
    "as_flags",
    "column",
    "demand_order",
    "every_row",
    "select_centroid_error",
    "select_color",
    "select_finite_ra_dec",
    "select_flags",
    "select_flux",
    "select_isolated",
    "select_magnitude",
    "select_magnitude_error",
    "select_primary",
    "select_signal_to_noise",
    "select_unmasked_region",
    "select_unresolved",
    "within",
]

BoolArray = npt.NDArray[np.bool_]

AB_ZERO_POINT = 8.90
"""AB magnitude of 1 Jy."""

JANSKY_PER_NANOJANSKY = 1e-9


class Limit(Section):
    """An open interval."""

    minimum: float | None = Field(None, description="values must be greater; null: no limit")
    maximum: float | None = Field(None, description="values must be less; null: no limit")

    def check_together(self) -> None:
        """Refuse an empty interval."""
        if self.minimum is not None and self.maximum is not None:
            demand_order(self, "minimum", "maximum")


def demand_order(section: Section, lower: str, upper: str) -> None:
    """Refuse limits between which nothing lies.

    Raises
    ------
    ValueError
        If the setting `lower` is not less than the setting `upper`.
    """
    low, high = getattr(section, lower), getattr(section, upper)
    if low >= high:
        raise ValueError(
            f"{lower} ({low}) must be less than {upper} ({high}), or no source passes; change one of them."
        )


class FluxLimit(Limit):
    """Limits of a flux."""

    fluxField: str = Field("slot_CalibFlux_instFlux", description="column of the flux")


class MagnitudeLimit(Limit):
    """Limits of an AB magnitude."""

    fluxField: str = Field("flux", description="column of the flux, in nJy")


class ColorLimit(Limit):
    """Limits of a colour, a difference of two AB magnitudes."""

    primary: str = Field(description="column of the first flux, in nJy")
    secondary: str = Field(description="column of the flux whose magnitude is subtracted, in nJy")


class SignalToNoise(Limit):
    """Limits of a flux over its error."""

    fluxField: str = Field("flux", description="column of the flux")
    errField: str = Field("flux_err", description="column of its error")


class MagnitudeErrorLimit(Limit):
    """Limits of a magnitude's error."""

    magErrField: str = Field("mag_err", description="column of the error")


class Flags(Section):
    """Flags that must be set, and flags that must not."""

    good: NameSet = Field(default_factory=list, description="flags that must all be set")
    bad: NameSet = Field(default_factory=list, description="flags of which none may be set")

    def check_together(self) -> None:
        """Refuse a flag that must and must not be set."""
        both = [name for name in self.good if name in self.bad]
        if both:
            raise ValueError(
                f"{both[0]!r} is both in good and in bad, so no source passes; take it out of one."
            )


class Unresolved(Limit):
    """Limits of a measure of extendedness."""

    maximum: float | None = Field(0.1, description="values must be less; null: no limit")
    name: str = Field("base_ClassificationSizeExtendedness_value", description="column of the measure")


class Isolated(Section):
    """Neither a blend's child nor its parent."""

    parentName: str = Field("parent", description="column of the parent, 0 for none")
    nChildName: str = Field("deblend_nChild", description="column of the number of children")


class RequireFiniteRaDec(Section):
    """A finite position on the sky."""

    raColName: str = Field("coord_ra", description="column of the right ascension")
    decColName: str = Field("coord_dec", description="column of the declination")


class RequirePrimary(Section):
    """The primary detection of a source."""

    primaryColName: str = Field("detect_isPrimary", description="flag of primary detections")


class MaskedRegion(Section):
    """A place in the image where no bad mask is set."""

    badMaskNames: NameSet = Field(
        default_factory=lambda: ["NO_DATA", "NOT_DEBLENDED"], description="mask planes of bad regions"
    )
    xColName: str = Field("centroid_x", description="column of the x position, in pixels")
    yColName: str = Field("centroid_y", description="column of the y position, in pixels")


class CentroidErrorLimit(Limit):
    """Limits of the errors of a centroid."""

    maximum: float | None = Field(3.0, description="values must be less; null: no limit")
    centroidField: str = Field("slot_Centroid", description="name of the centroid")


def column(table: Any, settings: Any, setting: str, name: str | None = None) -> npt.NDArray[Any]:
    """Return the column that a setting names.

    Parameters
    ----------
    table : SourceTable
    settings : Section
    setting : str
        The setting that asks for the column; empty for a column that the selector needs by itself.
    name : str, optional
        Name of the column where it is not the setting's value, but an entry or made of it.

    Raises
    ------
    InputError
        If the table has no such column.
    """
    asked_by = settings.path_of(setting) if hasattr(settings, "path_of") else setting
    wanted = getattr(settings, setting) if name is None else name
    return demand_column(table, wanted, asked_by=asked_by or "the source selector")


def as_flags(values: npt.NDArray[Any]) -> BoolArray:
    """Return a boolean copy of a column."""
    return np.array(values, dtype=np.bool_)


def every_row(table: Any) -> BoolArray:
    """All True, one per row; a table is anything with a length in rows, or a dictionary of columns."""
    number = len(next(iter(table.values()), ())) if isinstance(table, dict) else len(table)
    return np.ones(number, dtype=bool)


def implied_flag(table: Any, field: str) -> BoolArray:
    """Return the flag ``{field}_flag``, all False where there is no such column [S-Q6]."""
    name = f"{field}_flag"
    return as_flags(table[name]) if name in table else ~every_row(table)


def within(values: npt.NDArray[Any], limit: Any) -> BoolArray:
    """Whether values lie strictly between ``limit.minimum`` and ``limit.maximum``; NaN fails any limit."""
    selected = np.ones(len(values), dtype=bool)
    with np.errstate(invalid="ignore"):
        if limit.minimum is not None:
            selected &= values > limit.minimum
        if limit.maximum is not None:
            selected &= values < limit.maximum
    return selected


def ab_magnitude(flux: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """AB magnitude of fluxes in nJy; NaN or infinite where a flux is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        magnitude: npt.NDArray[Any] = -2.5 * np.log10(flux * JANSKY_PER_NANOJANSKY) + AB_ZERO_POINT
    return magnitude


def select_flux(table: Any, settings: Any) -> BoolArray:
    """Limit a flux; see `FluxLimit`."""
    flux = column(table, settings, "fluxField")
    return ~implied_flag(table, settings.fluxField) & within(flux, settings)


def select_magnitude(table: Any, settings: Any) -> BoolArray:
    """Limit an AB magnitude; see `MagnitudeLimit`."""
    magnitude = ab_magnitude(column(table, settings, "fluxField"))
    return ~implied_flag(table, settings.fluxField) & within(magnitude, settings)


def select_color(table: Any, settings: Any) -> BoolArray:
    """Limit a colour; see `ColorLimit`."""
    primary, secondary = (ab_magnitude(column(table, settings, name)) for name in ("primary", "secondary"))
    with np.errstate(invalid="ignore"):
        color = primary - secondary
    return within(color, settings)


def select_signal_to_noise(table: Any, settings: Any) -> BoolArray:
    """Limit a signal-to-noise ratio, formed in the columns' own precision; an undefined one fails."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = column(table, settings, "fluxField") / column(table, settings, "errField")
    undefined = implied_flag(table, settings.fluxField) | np.isnan(ratio)
    return np.asarray(~undefined & within(ratio, settings))


def select_magnitude_error(table: Any, settings: Any) -> BoolArray:
    """Limit a magnitude's error."""
    return within(column(table, settings, "magErrField"), settings)


def select_flags(table: Any, settings: Any) -> BoolArray:
    """All good flags and no bad flag."""
    selected = every_row(table)
    for name in settings.good:
        selected &= column(table, settings, "good", name).astype(bool)
    for name in settings.bad:
        selected &= ~column(table, settings, "bad", name).astype(bool)
    return selected


def select_unresolved(table: Any, settings: Any) -> BoolArray:
    """Limit the extendedness."""
    return within(column(table, settings, "name"), settings)


def select_isolated(table: Any, settings: Any) -> BoolArray:
    """Sources without parent and without children."""
    parent, children = (column(table, settings, name) for name in ("parentName", "nChildName"))
    return np.asarray((parent == 0) & (children == 0))


def select_finite_ra_dec(table: Any, settings: Any) -> BoolArray:
    """Sources with finite position on the sky."""
    ra, dec = column(table, settings, "raColName"), column(table, settings, "decColName")
    return np.asarray(np.isfinite(ra) & np.isfinite(dec))


def select_primary(table: Any, settings: Any) -> BoolArray:
    """Primary detections."""
    return as_flags(column(table, settings, "primaryColName"))


def select_unmasked_region(table: Any, settings: Any, exposure: Any) -> BoolArray:
    """Sources at whose pixel no bad mask is set.

    Positions outside the image are moved to its edge and a NaN to index 0; pixels are truncated, not rounded;
    mask planes that the exposure does not have are ignored.

    Raises
    ------
    InputError
        If there is no exposure.
    """
    if exposure is None:
        raise InputError("a selection by masked region needs the exposure")
    height, width = exposure.mask.shape
    x = _pixel(column(table, settings, "xColName"), exposure.box.min_x, width)
    y = _pixel(column(table, settings, "yColName"), exposure.box.min_y, height)
    known = [name for name in settings.badMaskNames if name in exposure.mask_planes]
    return np.asarray((exposure.mask[y, x] & exposure.mask_bits(known)) == 0)


def _pixel(position: npt.NDArray[Any], first: int, size: int) -> npt.NDArray[np.int64]:
    clipped = np.clip(position.astype(np.float64) - first, 0, size - 1)
    return np.where(np.isnan(clipped), 0.0, clipped).astype(np.int64)


def select_centroid_error(table: Any, settings: Any) -> BoolArray:
    """Limit both errors of the centroid, which must be finite."""
    selected = every_row(table)
    for axis in ("xErr", "yErr"):
        error = column(table, settings, "centroidField", f"{settings.centroidField}_{axis}")
        selected &= np.isfinite(error) & within(error, settings)
    return selected
