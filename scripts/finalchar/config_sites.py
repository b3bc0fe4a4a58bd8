"""What the LSST task sets where it uses a choice: names, and defaults other than those of the class.

Selection specification 3.2, 9, appendix A; measurement specification, appendix A.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AP_CORR_SELECTION",
    "FINALIZE_SELECTION",
    "LSST_ALLOW_FAILURE",
    "LSST_DEFAULT_PLUGINS",
    "LSST_DETERMINERS",
    "LSST_PLUGINS",
    "LSST_SELECTORS",
]

_BAD_PIXELS = [
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_nodata",
    "base_PixelFlags_flag_interpolatedCenter",
    "base_PixelFlags_flag_saturatedCenter",
    "base_PixelFlags_flag_crCenter",
    "base_PixelFlags_flag_bad",
    "base_PixelFlags_flag_interpolated",
    "base_PixelFlags_flag_saturated",
]

# source_selector['science'] of the task
FINALIZE_SELECTION: dict[str, Any] = {
    "doFlags": True,
    "doSignalToNoise": True,
    "signalToNoise.minimum": 50.0,
    "signalToNoise.maximum": 1000.0,
    "signalToNoise.fluxField": "base_GaussianFlux_instFlux",
    "signalToNoise.errField": "base_GaussianFlux_instFluxErr",
    "flags.bad": [*_BAD_PIXELS, "slot_Centroid_flag", "base_GaussianFlux_flag"],
}

# measure_ap_corr.sourceSelector['science']
AP_CORR_SELECTION: dict[str, Any] = {
    "doSignalToNoise": True,
    "signalToNoise.minimum": 200.0,
    "signalToNoise.fluxField": "base_PsfFlux_instFlux",
    "signalToNoise.errField": "base_PsfFlux_instFluxErr",
    "flags.bad": list(_BAD_PIXELS),
}

LSST_SELECTORS = ("science", "references", "null", "objectSize", "flagged")
LSST_DETERMINERS = ("piff", "psfex", "pca")

LSST_DEFAULT_PLUGINS = (
    "base_FPPosition",
    "base_GaussianFlux",
    "base_PsfFlux",
    "ext_convolved_ConvolvedFlux",
    "ext_gaap_GaapFlux",
    "ext_photometryKron_KronFlux",
    "ext_shapeHSM_HigherOrderMomentsPSF",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "modelfit_CModel",
    "modelfit_DoubleShapeletPsfApprox",
)

LSST_PLUGINS = (
    *LSST_DEFAULT_PLUGINS,
    "base_Blendedness",
    "base_CircularApertureFlux",
    "base_ClassificationSizeExtendedness",
    "base_CompensatedGaussianFlux",
    "base_CompensatedTophatFlux",
    "base_InputCount",
    "base_Jacobian",
    "base_LocalBackground",
    "base_LocalPhotoCalib",
    "base_LocalWcs",
    "base_PeakCentroid",
    "base_PeakLikelihoodFlux",
    "base_PixelFlags",
    "base_ScaledApertureFlux",
    "base_SdssCentroid",
    "base_SdssShape",
    "base_SkyCoord",
    "base_Variance",
    "ext_shapeHSM_HsmPsfMomentsDebiased",
    "ext_shapeHSM_HsmShapeBj",
    "ext_shapeHSM_HsmShapeKsb",
    "ext_shapeHSM_HsmShapeLinear",
    "modelfit_GeneralShapeletPsfApprox",
)

_SEEINGS = range(4)  # ext_convolved_ConvolvedFlux.seeing has four entries
_APERTURES = ("3_3", "4_5", "6_0")
_GAAP = ("0_5", "0_7", "1_0", "1_5", "2_5", "3_0", "PsfFlux", "Optimal")
LSST_ALLOW_FAILURE = (
    *(f"ext_convolved_ConvolvedFlux_{i}_{radius}" for i in _SEEINGS for radius in _APERTURES),
    *(f"ext_convolved_ConvolvedFlux_{i}_kron" for i in _SEEINGS),
    *(f"ext_gaap_GaapFlux_1_15x_{name}" for name in _GAAP),
)
