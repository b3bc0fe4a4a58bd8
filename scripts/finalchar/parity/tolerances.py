"""How closely each column has to follow the reference (measurement specification 16).

The PSF is our own fit of the same stars, so columns that depend on it get the wider tolerance of the
PSF-dependent kind; columns that do not are held to the specification's figure for equal inputs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

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

CHAOS = "stops in the rounding noise of float32, as the reference does (8.8)"
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
        Tolerance("relative", 2e-2, median=5e-4, reason=CHAOS),  # 1e-4, and as much of the correction
    ),
    (
        r"(modelfit_CModel|slot_ModelFlux)\w*_fixed_\d",
        Tolerance("absolute", 1e-6, reason="where a fit starts"),
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


@dataclass(frozen=True)
class KnownCause:
    """Deviations that are understood: patterns of configuration and quantity, and the explanation.

    It explains nothing whose median deviation is larger than `median`.
    """

    configurations: str
    quantities: str
    cause: str
    median: float


KNOWN_CAUSES = (
    KnownCause(
        r".*",
        r"(apcorr_|ap_corr_|ap_corr_coefficients_)?(modelfit_CModel|slot_ModelFlux)\w*",
        f"CModel {CHAOS}; a star at the edge of the clipping may enter or leave its correction",
        5e-3,
    ),
    KnownCause(
        r".*",
        r"ap_corr_modelfit_CModel\w*Err",
        f"scatter of few stars, one of which entered or left; CModel {CHAOS}",
        np.inf,
    ),
    KnownCause(
        r".*",
        r"(ap_corr_|ap_corr_coefficients_)?ext_gaap_GaapFlux_1_15x_0_5\w*",
        "aperture hardly larger than the Gaussianised PSF: their difference, the weight, amplifies the"
        " rounding of one-pixel steps of the astrometry (1e-8) up to 200 times; 4e-6 in a flux, more in"
        " extrapolated corrections of few stars",
        1e-6,
    ),
)


def known_cause(configuration: str, name: str, median: float) -> str:
    """Return why a quantity of a configuration is known to be out of tolerance; empty if it is not."""
    for known in KNOWN_CAUSES:
        if (
            re.fullmatch(known.configurations, configuration)
            and re.fullmatch(known.quantities, name)
            and median <= known.median
        ):
            return known.cause
    return ""


def column_tolerance(name: str) -> Tolerance:
    """Return how the column `name` is compared."""
    if _COPIED.match(name):
        return EXACT
    for pattern, tolerance in _RULES:
        if re.fullmatch(pattern, name):
            return tolerance
    return EXACT


FLOAT32_FLUXES = ("ext_photometryKron_", "ext_convolved_", "ext_gaap_")
"""Fluxes that are summed in float32 and agree to 5e-6; so do their aperture corrections."""


def field_tolerance(name: str) -> Tolerance:
    """Return how the field of an entry of the aperture-correction map is compared.

    A field follows its flux; its error entry is a scatter of 1e-2 or less of ratios, and takes part of their
    deviation in full.
    """
    is_error = name.endswith("Err")
    if name.startswith("modelfit_CModel"):
        return Tolerance("relative", 0.2 if is_error else 1e-2, floor=1e-3 if is_error else 0.0, reason=CHAOS)
    flux = 5e-6 if name.startswith(FLOAT32_FLUXES) else 1e-6
    if is_error:
        return Tolerance(
            "relative", 1e3 * flux, floor=1e-3, reason=f"a scatter of ratios that agree to {flux}"
        )
    return Tolerance("relative", flux, reason="as their input fluxes agree")


def coefficient_tolerance(name: str) -> Tolerance:
    """Return how the coefficients of an entry of the aperture-correction map are compared."""
    if name.startswith("modelfit_CModel"):
        return Tolerance("absolute", 1e-2, reason=CHAOS)
    return Tolerance("absolute", 1e-5, reason="as the input fluxes agree")


def scale_column(name: str) -> str | None:
    """Return the column whose size is the unit of a component that passes through zero (cross moments)."""
    for cross, size in (("_xy", "_xx"), ("_Iuv", "_Iuu"), ("_Ialtaz", "_Ialtalt")):
        if name.endswith(cross):
            return name[: -len(cross)] + size
    return None
