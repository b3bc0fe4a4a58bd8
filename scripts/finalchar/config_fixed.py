"""Settings of LSST that have one value here: overrides that repeat it pass, all others are refused.

Only for names that cannot be fields of a `Section`; a field with one legal value is a ``Literal``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["FIXED_VALUES"]

# kernels of the GAaP fluxes: private settings of the LSST plugin, most of them of image subtraction
_GAAP: dict[str, Any] = {
    "_modelPsfMatch.kernel.name": "AL",
    "_modelPsfMatch.doAutoPadPsf": True,
    "_modelPsfMatch.autoPadPsfTo": 1.4,
    "_modelPsfMatch.padPsfBy": 0,
    "_modelPsfMatch.convolutionMethod": "auto",
    "_modelPsfDimension": 65,
}
_GAAP_ALARD_LUPTON: dict[str, Any] = {
    "warpingConfig.warpingKernelName": "lanczos3",
    "warpingConfig.maskWarpingKernelName": "bilinear",
    "warpingConfig.interpLength": 10,
    "warpingConfig.cacheSize": 1000000,
    "warpingConfig.growFullMask": 16,
    "afwBackgroundConfig.statisticsProperty": "MEANCLIP",
    "afwBackgroundConfig.undersampleStyle": "REDUCE_INTERP_ORDER",
    "afwBackgroundConfig.binSize": 128,
    "afwBackgroundConfig.binSizeX": 0,
    "afwBackgroundConfig.binSizeY": 0,
    "afwBackgroundConfig.algorithm": "AKIMA_SPLINE",
    "afwBackgroundConfig.ignoredPixelMask": ["BAD", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA"],
    "afwBackgroundConfig.isNanSafe": False,
    "afwBackgroundConfig.useApprox": True,
    "afwBackgroundConfig.approxOrderX": 6,
    "afwBackgroundConfig.approxOrderY": -1,
    "afwBackgroundConfig.weighting": True,
    "afwBackgroundConfig.doApplyFlatBackgroundRatio": False,
    "afwBackgroundConfig.doFilterSuperPixels": False,
    "afwBackgroundConfig.superPixelFilterSize": 3,
    "useAfwBackground": False,
    "fitForBackground": False,
    "kernelBasisSet": "alard-lupton",
    "kernelSize": 21,
    "scaleByFwhm": True,
    "kernelSizeFwhmScaling": 6.0,
    "kernelSizeMin": 21,
    "kernelSizeMax": 35,
    "spatialModelType": "chebyshev1",
    "spatialKernelOrder": 0,
    "spatialBgOrder": 1,
    "sizeCellX": 128,
    "sizeCellY": 128,
    "nStarPerCell": 5,
    "maxSpatialIterations": 3,
    "usePcaForSpatialKernel": False,
    "subtractMeanForPca": True,
    "numPrincipalComponents": 5,
    "singleKernelClipping": False,
    "kernelSumClipping": False,
    "spatialKernelClipping": False,
    "checkConditionNumber": False,
    "badMaskPlanes": ["NO_DATA", "EDGE", "SAT"],
    "candidateResidualMeanMax": 0.25,
    "candidateResidualStdMax": 1.5,
    "useCoreStats": False,
    "candidateCoreRadius": 3,
    "maxKsumSigma": 3.0,
    "maxConditionNumber": 50000000.0,
    "conditionNumberType": "EIGENVALUE",
    "maxSpatialConditionNumber": 10000000000.0,
    "iterateSingleKernel": False,
    "constantVarianceWeighting": True,
    "calculateKernelUncertainty": False,
    "useBicForKernelBasis": False,
    "alardNGauss": 1,
    "alardDegGauss": [4],
    "alardSigGauss": [0.7, 1.5, 3.0],
    "alardGaussBeta": 1.0,
    "alardMinSig": 0.7,
    "alardMinSigDeconv": 0.4,
}

FIXED_VALUES: dict[str, Any] = {
    f"measurement.plugins.ext_gaap_GaapFlux.{name}": value
    for name, value in (
        *_GAAP.items(),
        *((f"_modelPsfMatch.kernel.AL.{name}", value) for name, value in _GAAP_ALARD_LUPTON.items()),
    )
}
"""Path of the setting and its value."""
