"""How closely each column has to follow the reference (measurement specification 16).

The PSF is our own fit of the same stars, so columns that depend on it get the wider tolerance of the
PSF-dependent kind; columns that do not are held to the specification's figure for equal inputs.
"""

from __future__ import annotations

import re

from finalchar.parity.deviations import Tolerance

__all__ = ["column_tolerance", "known_cause", "scale_column"]

EXACT = Tolerance("exact", reason="no arithmetic")
WITH_PSF = 1e-5
"""Relative tolerance of fluxes and second moments measured with a PSF that was fitted again."""

_RULES: tuple[tuple[str, Tolerance], ...] = (
    (r"base_FPPosition_[xy]$", Tolerance("absolute", 1e-9, reason="affine, double precision; mm")),
    (r"base_PsfFlux_(area|chi2)$", Tolerance("relative", WITH_PSF, reason="depends on the fitted PSF")),
    (r".*_apCorr(Err)?$", Tolerance("exact", reason="NaN in the reference [M-Q23]")),
    (r".*_instFlux(Err)?(_inner)?$", Tolerance("relative", WITH_PSF, reason="depends on the fitted PSF")),
    (r"slot_(Shape|PsfShape)(Round)?_(xx|yy|xy)$", Tolerance("relative", WITH_PSF, reason="fitted PSF")),
    (r"ext_shapeHSM_Hsm(Source|Psf)Moments(Round)?_(xx|yy|xy)$", Tolerance("relative", WITH_PSF)),
    (
        r"(ext_shapeHSM_Hsm(Source|Psf)Moments|slot_(Psf)?Shape)(Round)?_[xy]$",
        Tolerance("absolute", WITH_PSF),
    ),
    (r"ext_shapeHSM_HsmShapeRegauss_sigma$", Tolerance("relative", WITH_PSF)),
    (r"ext_shapeHSM_HsmShapeRegauss_(e1|e2|resolution)$", Tolerance("absolute", WITH_PSF)),
    (r"ext_shapeHSM_HigherOrderMoments(Source|PSF)_\d\d$", Tolerance("absolute", WITH_PSF)),
    (r"(psfShape|shape)_I\w+$", Tolerance("relative", WITH_PSF, reason="pixel moments and the WCS")),
    (r"psf_color_value$", Tolerance("exact", reason="a float32 difference of two columns")),
    (r"modelfit_CModel.*_(lnR|eta|fracDev|objective|nonlinear|ellipse|nIter|time).*", Tolerance("report")),
)
_COPIED = re.compile(
    r"(base_CircularApertureFlux_|base_SdssCentroid_|base_NormalizedCompensatedTophatFlux_|slot_ApFlux_|"
    r"slot_CalibFlux_|slot_Centroid_|calib_psf_selection_)"
)
KNOWN_CAUSES: tuple[tuple[str, str, str], ...] = ()
"""(configuration, quantity, cause): patterns of deviations that are understood, with their explanation."""


def known_cause(configuration: str, name: str) -> str:
    """Return why a quantity of a configuration is known to be out of tolerance; empty if it is not."""
    for configurations, names, cause in KNOWN_CAUSES:
        if re.fullmatch(configurations, configuration) and re.fullmatch(names, name):
            return cause
    return ""


def column_tolerance(name: str) -> Tolerance:
    """Return how the column `name` is compared."""
    if _COPIED.match(name):
        return EXACT
    for pattern, tolerance in _RULES:
        if re.fullmatch(pattern, name):
            return tolerance
    return EXACT


def scale_column(name: str) -> str | None:
    """Return the column whose size is the unit of a component that passes through zero (cross moments)."""
    for cross, size in (("_xy", "_xx"), ("_Iuv", "_Iuu"), ("_Ialtaz", "_Ialtalt")):
        if name.endswith(cross):
            return name[: -len(cross)] + size
    return None
