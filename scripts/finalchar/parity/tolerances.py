"""How closely each column has to follow the reference (measurement specification 16).

The PSF is our own fit of the same stars, so columns that depend on it get the wider tolerance of the
PSF-dependent kind; columns that do not are held to the specification's figure for equal inputs.
"""

from __future__ import annotations

import re

from finalchar.parity.deviations import Tolerance

__all__ = [
    "coefficient_tolerance",
    "column_tolerance",
    "field_tolerance",
    "known_cause",
    "scale_column",
]

EXACT = Tolerance("exact", reason="no arithmetic")
WITH_PSF = 1e-5
"""Relative tolerance of fluxes and second moments measured with a PSF that was fitted again."""

CHAOS = "stops in the rounding noise of float32; the reference itself differs so from run to run"
"""Why the non-linear fits of CModel agree in the median only (measurement specification 8.8)."""

_RULES: tuple[tuple[str, Tolerance], ...] = (
    (r"base_FPPosition_[xy]", Tolerance("absolute", 1e-9, reason="affine, double precision; mm")),
    (r"base_PsfFlux_(area|chi2)", Tolerance("relative", WITH_PSF, reason="depends on the fitted PSF")),
    (r".*_apCorr(Err)?", Tolerance("exact", reason="NaN in the reference [M-Q23]")),
    # CModel: 8.8 and 16
    (r"(modelfit_CModel|slot_ModelFlux)(_\w+)?_(time|nIter|fracDev)", Tolerance("report", reason=CHAOS)),
    (r"(modelfit_CModel|slot_ModelFlux)\w*_nonlinear_\d", Tolerance("report", reason=CHAOS)),
    (r"(modelfit_CModel|slot_ModelFlux)_(region_\w+)_(xx|yy|xy)", Tolerance("relative", 1e-3, outliers=0.1)),
    (r"(modelfit_CModel|slot_ModelFlux)\w*_ellipse_(xx|yy|xy)", Tolerance("report", reason=CHAOS)),
    (
        r"(modelfit_CModel|slot_ModelFlux)(_\w+)?_objective",
        Tolerance("relative", 0.1, median=1e-3, reason=CHAOS),
    ),
    (
        r"(modelfit_CModel|slot_ModelFlux)(_\w+)?_instFlux(Err)?(_inner)?",
        Tolerance("relative", 2e-2, median=1e-4, reason=CHAOS),
    ),
    (r"(modelfit_CModel|slot_ModelFlux)\w*_flag\w*", Tolerance("exact", outliers=0.01, reason=CHAOS)),
    (r"apcorr_modelfit_CModel\w*_used", Tolerance("exact", outliers=0.02, reason=CHAOS)),
    (r"modelfit_DoubleShapeletPsfApprox_\d_\w+", Tolerance("absolute", 1e-6, reason="a converged fit")),
    # fluxes that the fitted PSF enters
    (r".*_instFlux(Err)?(_inner)?", Tolerance("relative", WITH_PSF, reason="depends on the fitted PSF")),
    (r"ext_photometryKron_KronFlux_\w*radius\w*", Tolerance("relative", WITH_PSF, outliers=0.01)),
    (r"ext_convolved_ConvolvedFlux_\w*seeing", Tolerance("relative", WITH_PSF)),
    (r"ext_gaap_GaapFlux_OptimalShape_(xx|yy|xy)", Tolerance("relative", WITH_PSF)),
    # moments
    (r"slot_(Shape|PsfShape)(Round)?_(xx|yy|xy)", Tolerance("relative", WITH_PSF, reason="fitted PSF")),
    (r"ext_shapeHSM_Hsm(Source|Psf)Moments(Round)?_(xx|yy|xy)", Tolerance("relative", WITH_PSF)),
    (
        r"(ext_shapeHSM_Hsm(Source|Psf)Moments|slot_(Psf)?Shape)(Round)?_[xy]",
        Tolerance("absolute", WITH_PSF),
    ),
    (r"ext_shapeHSM_HsmShapeRegauss_sigma", Tolerance("relative", WITH_PSF)),
    (
        r"ext_shapeHSM_HsmShapeRegauss_(e1|e2|resolution)",
        Tolerance("relative", WITH_PSF, floor=1.0, reason="of stars, reaches thousands; kept in float32"),
    ),
    (r"ext_shapeHSM_HigherOrderMoments(Source|PSF)_\d\d", Tolerance("absolute", WITH_PSF)),
    (r"(psfShape|shape)_I\w+", Tolerance("relative", WITH_PSF, reason="pixel moments and the WCS")),
    (r"psf_color_value", Tolerance("exact", reason="a float32 difference of two columns")),
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


def field_tolerance(name: str) -> Tolerance:
    """Return how the field of an entry of the aperture-correction map is compared."""
    if name.startswith("modelfit_CModel"):
        return Tolerance("relative", 1e-2, floor=1e-3 if name.endswith("Err") else 0.0, reason=CHAOS)
    if name.endswith("Err"):
        return Tolerance("relative", 1e-4, floor=1e-3, reason="scatter of ratios that agree to 1e-6")
    return Tolerance("relative", 1e-6, reason="where the input fluxes agree")


def coefficient_tolerance(name: str) -> Tolerance:
    """Return how the coefficients of an entry of the aperture-correction map are compared."""
    if name.startswith("modelfit_CModel"):
        return Tolerance("absolute", 1e-2, reason=CHAOS)
    return Tolerance("absolute", 1e-6, reason="where the input fluxes agree")


def scale_column(name: str) -> str | None:
    """Return the column whose size is the unit of a component that passes through zero (cross moments)."""
    for cross, size in (("_xy", "_xx"), ("_Iuv", "_Iuu"), ("_Ialtaz", "_Ialtalt")):
        if name.endswith(cross):
            return name[: -len(cross)] + size
    return None
