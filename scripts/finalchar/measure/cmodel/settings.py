"""Settings of the galaxy-model fit: names and defaults of the reference (measurement specification A)."""

from __future__ import annotations

from typing import Annotated, Literal

from finalchar.config_base import Field, NameSet, Section, only, subsection
from finalchar.measure.plugin import PluginSettings
from finalchar.measure.trust_region import OptimizerSettings

__all__ = ["CModelSettings", "EmpiricalPriorSettings", "RegionSettings", "StageSettings"]


class EmpiricalPriorSettings(Section):
    """The prior of ellipticity and radius."""

    logRadiusMinOuter: float = Field(-6.001, description="ln radius (arcsec) below which it is zero")
    logRadiusMinInner: float = Field(-6.0, description="ln radius above which it is flat")
    logRadiusMu: float = Field(-1.0, description="ln radius above which it falls off")
    logRadiusSigma: float = Field(0.45, gt=0, description="width of the fall")
    logRadiusNu: float = Field(50.0, gt=0, description="degrees of freedom of the fall (Student's t)")
    ellipticitySigma: float = Field(0.3, gt=0, description="scale of the ellipticity (conformal shear)")
    ellipticityCore: float = Field(0.001, gt=0, description="softening of the peak at round shapes")


class LinearPriorSettings(Section):
    """The reference's other prior, which is not supported."""

    logRadiusMinOuter: Annotated[float, only(-6.001)] = Field(-6.001, description="not supported")
    logRadiusMinInner: Annotated[float, only(-6.0)] = Field(-6.0, description="not supported")
    logRadiusMaxOuter: Annotated[float, only(3.001)] = Field(3.001, description="not supported")
    logRadiusMaxInner: Annotated[float, only(3.0)] = Field(3.0, description="not supported")
    logRadiusMinMaxRatio: Annotated[float, only(1.0)] = Field(1.0, description="not supported")
    ellipticityMaxOuter: Annotated[float, only(2.001)] = Field(2.001, description="not supported")
    ellipticityMaxInner: Annotated[float, only(2.0)] = Field(2.0, description="not supported")


class StageSettings(Section):
    """One nonlinear fit."""

    profileName: Literal["lux", "luv"] = Field("lux", description="exponential (lux), de Vaucouleurs (luv)")
    nComponents: int = Field(6, description="Gaussians of the profile: 3 or 6 of lux, 8 of luv")
    maxRadius: int = Field(0, ge=0, le=0, description="truncation; 0: the profile's own")
    usePixelWeights: bool = Field(False, description="weight pixels by their own variance, not the mean one")
    weightsMultiplier: float = Field(1.0, gt=0, description="factor of all weights")
    priorSource: Literal["EMPIRICAL"] = Field("EMPIRICAL", description="which prior")
    priorName: Literal[""] = Field("", description="not used by the empirical prior")
    empiricalPriorConfig: EmpiricalPriorSettings = subsection(EmpiricalPriorSettings, "the prior")
    linearPriorConfig: LinearPriorSettings = subsection(LinearPriorSettings, "not supported")
    optimizer: OptimizerSettings = subsection(OptimizerSettings, "the optimiser")
    doRecordHistory: bool = Field(True, description="fill the column nIter")
    doRecordTime: bool = Field(
        True, description="fill the column time, if output.record_time says so: wall time per star"
    )


class InitialOptimizerSettings(OptimizerSettings):
    """The optimiser of the first fit, which need not be exact."""

    gradientThreshold: float = Field(1e-3, description="a smaller gradient ends the fit")
    minTrustRadiusThreshold: float = Field(1e-2, description="a smaller trust radius ends the fit")


class ExponentialOptimizerSettings(OptimizerSettings):
    """The optimiser of the exponential fit."""

    maxOuterIterations: int = Field(250, ge=1, description="most accepted steps")


class InitialStageSettings(StageSettings):
    """The first fit: a rough exponential."""

    nComponents: int = Field(3, description="Gaussians of the profile: 3 or 6 of lux, 8 of luv")
    usePixelWeights: bool = Field(True, description="weight pixels by their own variance, not the mean one")
    optimizer: InitialOptimizerSettings = subsection(InitialOptimizerSettings, "the optimiser")


class ExponentialStageSettings(StageSettings):
    """The exponential fit."""

    optimizer: ExponentialOptimizerSettings = subsection(ExponentialOptimizerSettings, "the optimiser")


class DeVaucouleursStageSettings(StageSettings):
    """The de Vaucouleurs fit."""

    profileName: Literal["lux", "luv"] = Field("luv", description="exponential (lux), de Vaucouleurs (luv)")
    nComponents: int = Field(8, description="Gaussians of the profile: 3 or 6 of lux, 8 of luv")


class RegionSettings(Section):
    """The pixels that are fitted."""

    nKronRadii: float = Field(1.5, gt=0, description="initial region in Kron radii")
    nPsfSigmaMin: float = Field(4.0, ge=0, description="least initial region in PSF sizes")
    nPsfSigmaGrow: float = Field(2.0, ge=0, description="PSF sizes added to the final region")
    nFitRadiiMin: float = Field(1.0, ge=0, description="least final region in fitted radii")
    nFitRadiiMax: float = Field(3.0, gt=0, description="largest final region in fitted radii")
    maxArea: int = Field(100000, ge=1, description="flag larger regions, pixels")
    badMaskPlanes: NameSet = Field(
        default_factory=lambda: ["EDGE", "SAT", "BAD", "NO_DATA"], description="planes not fitted"
    )
    maxBadPixelFraction: float = Field(0.1, ge=0, le=1, description="no fit if more of the region is lost")


class CModelSettings(PluginSettings):
    """Settings of modelfit_CModel."""

    psfName: str = Field(
        "modelfit_DoubleShapeletPsfApprox", description="the plugin that approximates the PSF"
    )
    region: RegionSettings = subsection(RegionSettings, "the pixels that are fitted")
    initial: InitialStageSettings = subsection(InitialStageSettings, "the first fit")
    exp: ExponentialStageSettings = subsection(ExponentialStageSettings, "the exponential fit")
    dev: DeVaucouleursStageSettings = subsection(DeVaucouleursStageSettings, "the de Vaucouleurs fit")
    minInitialRadius: float = Field(0.1, gt=0, description="least radius at the start, pixels")
    fallbackInitialMomentsPsfFactor: float = Field(1.5, gt=0, description="PSF sizes where moments failed")
