"""Fluxes of galaxy models convolved with the PSF (measurement specification 8)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from finalchar.errors import MeasurementError
from finalchar.formats.sources import SourceTable
from finalchar.measure.cmodel.profiles import profile_of
from finalchar.measure.cmodel.settings import CModelSettings
from finalchar.measure.context import MeasurementContext
from finalchar.measure.plugin import BatchPlugin, Field, flag

NAME = "modelfit_CModel"
ORDER = 3.0
Settings = CModelSettings

STAGES = {"initial": "initial", "exp": "exponential", "dev": "de Vaucouleur"}
_INNER = "flux within the fit region, with no extrapolation"
_NO_FLUX = "no flux was measured on the image; this means the error will be non-finite."


class Plugin(BatchPlugin[CModelSettings]):
    """Fit an exponential and a de Vaucouleurs profile to all stars together, then their best combination."""

    def __init__(self, name: str, settings: CModelSettings) -> None:
        super().__init__(name, settings)
        for stage in STAGES:
            own = getattr(settings, stage)
            profile_of(own.profileName, own.nComponents)  # an error now rather than after the other plugins

    def fields(self) -> list[Field]:
        """Return the columns."""
        stages = [field for stage, adjective in STAGES.items() for field in _stage_fields(stage, adjective)]
        return [*stages, *_final_fields(self.settings.minInitialRadius)]

    def fluxes(self) -> list[str]:
        """Return the fluxes to be aperture corrected."""
        return [NAME, *(f"{NAME}_{stage}" for stage in STAGES)]

    def measure_batch(
        self, context: MeasurementContext, table: SourceTable, stars: npt.NDArray[np.int64]
    ) -> None:
        """Fit stars."""
        from finalchar.measure.cmodel.measurement import GalaxyMeasurement  # only jobs that measure need it

        _check_exposure(context)
        GalaxyMeasurement(NAME, self.settings, context, table).run(stars)


def _check_exposure(context: MeasurementContext) -> None:
    """Refuse exposures that the fit cannot be made on."""
    if context.exposure.wcs is None:
        raise MeasurementError(f"{NAME} needs the astrometry of the exposure, which it does not have")
    if context.compatibility == "lsst" and context.exposure.calibration is None:
        raise MeasurementError(
            f"{NAME} needs the photometric calibration of the exposure, which it does not have;"
            " 'compatibility: fixed' does without"
        )


def _ellipse_fields(name: str, sentence: str) -> list[Field]:
    return [Field(f"{name}_{axes}", "float64", "pix2", sentence) for axes in ("xx", "yy", "xy")]


def _stage_fields(stage: str, adjective: str) -> list[Field]:
    """Return the columns of one nonlinear fit."""
    name = f"{NAME}_{stage}"
    fit = f"the {adjective} fit"
    return [
        Field(f"{name}_instFlux", "float64", "ct", f"flux from {fit}"),
        Field(f"{name}_instFluxErr", "float64", "ct", f"flux uncertainty from {fit}"),
        flag(f"{name}_flag", f"flag set when the flux for the {adjective} flux failed"),
        Field(f"{name}_instFlux_inner", "float64", "ct", _INNER),
        *_ellipse_fields(f"{name}_ellipse", f"half-light ellipse of {fit}"),
        Field(f"{name}_objective", "float64", "", f"-ln(likelihood*prior) at best-fit point for {fit}"),
        *(
            Field(f"{name}_{kind}_{index}", "float64", "", f"{kind} parameters for {fit}")
            for kind, number in (("nonlinear", 3), ("fixed", 2))
            for index in range(number)
        ),
        flag(
            f"{name}_flag_trSmall",
            "the optimizer converged because the trust radius became too small; this is a less-secure result"
            " than when the gradient is below the threshold, but usually not a problem",
        ),
        flag(
            f"{name}_flag_maxIter",
            "the optimizer hit the maximum number of iterations and did not converge",
        ),
        Field(f"{name}_nIter", "int32", "", "Number of total iterations in stage"),
        Field(f"{name}_time", "float64", "s", "Time spent in stage"),
        flag(
            f"{name}_flag_numericError",
            "numerical underflow or overflow in model evaluation; usually this means the prior was"
            " insufficient to regularize the fit, or all pixel values were zero.",
        ),
        flag(f"{name}_flag_noFlux", _NO_FLUX),
    ]


def _final_fields(least_radius: float) -> list[Field]:
    """Return the columns of the combination, and those of all stages together."""
    region = "ellipse used to set the pixel region for the {0} fit (before applying bad pixel mask)"
    used = "the pixel region for the {0} fit was {1}"
    return [
        Field(f"{NAME}_instFlux", "float64", "ct", "flux from the final cmodel fit"),
        Field(f"{NAME}_instFluxErr", "float64", "ct", "flux uncertainty from the final cmodel fit"),
        flag(f"{NAME}_flag", "flag set if the final cmodel fit (or any previous fit) failed"),
        Field(f"{NAME}_instFlux_inner", "float64", "ct", _INNER),
        Field(f"{NAME}_fracDev", "float64", "", "fraction of flux in de Vaucouleur component"),
        Field(f"{NAME}_objective", "float64", "", "-ln(likelihood) (chi^2) in cmodel fit"),
        flag(
            f"{NAME}_flag_region_maxArea",
            "number of pixels in fit region exceeded the region.maxArea value",
        ),
        flag(
            f"{NAME}_flag_region_maxBadPixelFraction",
            "the fraction of bad/clipped pixels in the fit region exceeded region.maxBadPixelFraction",
        ),
        *(
            flag(f"{NAME}_flags_region_used{name}", used.format(fit, what))
            for name, fit, what in (
                ("FootprintArea", "initial", "defined by the area of the Footprint"),
                ("PsfArea", "initial", "set to a fixed factor of the PSF area"),
                ("InitialEllipseMin", "final", "set to the lower bound defined by the initial fit"),
                ("InitialEllipseMax", "final", "set to the upper bound defined by the initial fit"),
            )
        ),
        flag(
            f"{NAME}_flag_noShape",
            "the shape slot needed to initialize the parameters failed or was not defined",
        ),
        flag(
            f"{NAME}_flags_smallShape",
            "initial parameter guess resulted in negative radius; used minimum of"
            f" {least_radius:f} pixels instead.",
        ),
        *_ellipse_fields(f"{NAME}_ellipse", "fracDev-weighted average of exp.ellipse and dev.ellipse"),
        *_ellipse_fields(f"{NAME}_region_initial_ellipse", region.format("initial")),
        *_ellipse_fields(f"{NAME}_region_final_ellipse", region.format("final")),
        flag(f"{NAME}_flag_noShapeletPsf", "the multishapelet fit to the PSF model did not succeed"),
        flag(
            f"{NAME}_flag_badCentroid",
            "input centroid was not within the fit region (probably because it's not within the Footprint)",
        ),
        flag(f"{NAME}_flag_noFlux", _NO_FLUX),
    ]
