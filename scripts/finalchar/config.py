"""The configuration: one typed model with the names, defaults and structure of the LSST task.

An override of ``FinalizeCharacterizationDetectorConfig`` translates line by line:
``config.psf_determiner["piff"].spatialOrder = 4`` is the key ``psf_determiner.piff.spatialOrder`` here.  What
LSST does not have (where things are, the workflow, a few options) stands in sections of its own.  Names and
defaults: selection specification 2.1, 3, 5.1, 6.1, 6.2, 9, appendix A; measurement specification, appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import ValidationError, model_validator

from finalchar import config_text, strict_yaml
from finalchar.config_association import IsolatedStarAssociation
from finalchar.config_base import Field, NameSet, Section, explain, only, subsection, tell_paths
from finalchar.config_checks import check_together
from finalchar.config_choices import compose_choice, compose_plugins, settings_in
from finalchar.config_input import Input, with_preset
from finalchar.config_sites import (
    AP_CORR_SELECTION,
    FINALIZE_SELECTION,
    LSST_ALLOW_FAILURE,
    LSST_DEFAULT_PLUGINS,
    LSST_DETERMINERS,
    LSST_PLUGINS,
    LSST_SELECTORS,
)
from finalchar.errors import ConfigError, NotYetImplementedError

__all__ = ["STAGES", "Config", "Stage", "load_config"]

Stage = Literal["association", "tract", "list", "detector", "visit"]
STAGES: tuple[Stage, ...] = ("association", "tract", "list", "detector", "visit")


class Sheets(Section):
    """Where the two sheets are."""

    detectors: str | None = Field(
        None, description="sheet of the detectors; null: detectors.csv in the `survey` folder"
    )
    tracts: str | None = Field(
        None, description="sheet of the tracts; null: tracts.csv in the `survey` folder"
    )


class Output(Section):
    """Where the products go, and options of the products."""

    SHORT_FORM = "folder"

    folder: str = Field("output", min_length=1, description="folder of the products")
    piff: Literal["none", "detector", "visit"] = Field(
        "none", description="also write files that piff.read opens, one per detector or one per visit"
    )
    record_time: bool = Field(
        False,
        description="fill the wall-time columns (NaN otherwise, so that the same inputs give the same bytes)",
    )
    alias_columns: bool = Field(
        True,
        description="write aliases (slot_PsfFlux_instFlux, ...) as columns beside the real ones",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_folder(cls, data: Any) -> Any:
        return {"folder": data} if isinstance(data, str) else data


class Staleness(Section):
    """What counts as a change."""

    software: Literal["rerun", "warn"] = Field(
        "rerun", description="another version of a named package: make everything again, or only say so"
    )
    trust_stat: bool = Field(
        True, description="a file of the same path, size and time stamp is the same; false: always hash"
    )
    hash_limit_gb: float = Field(
        50.0, ge=0, description="beyond this, files are hashed by the jobs instead of at planning"
    )


class ReserveSelection(Section):
    """Which stars are set aside (selection specification 2.1)."""

    reserve_name: str = Field("reserved", description="first part of the name that seeds the draw")
    reserve_fraction: float = Field(
        0.1, ge=0, le=1, description="fraction of the isolated stars that is reserved"
    )
    method: Literal["lsst", "stable"] = Field(
        "lsst",
        description="lsst: the draw of LSST; stable: by position on the sky, independent of other stars",
    )
    cell_size_arcsec: float = Field(
        6.0, gt=0, description="stable: size of the cells to which positions are rounded, in arcsec"
    )
    same_in_all_bands: bool = Field(
        False, description="reserve the same stars in every band (LSST: per band)"
    )


class MakePsfCandidates(Section):
    """Stamps of the candidate stars (selection specification 5.1)."""

    kernelSize: int = Field(27, ge=1, description="size of the stamps without border, in pixels")
    borderWidth: int = Field(0, ge=0, description="pixels added on each side")


class Slots(Section):
    """Which measurement stands for a role (measurement specification 0.3); null: as in the input."""

    centroid: str | None = Field(None, description="centroid")
    shape: str | None = Field("ext_shapeHSM_HsmSourceMoments", description="shape of the source")
    psfShape: str | None = Field("ext_shapeHSM_HsmPsfMoments", description="shape of the PSF")
    apFlux: str | None = Field(None, description="aperture flux")
    modelFlux: str | None = Field("modelfit_CModel", description="model flux")
    psfFlux: str | None = Field("base_PsfFlux", description="PSF flux")
    gaussianFlux: str | None = Field("base_GaussianFlux", description="flux in a Gaussian aperture")
    calibFlux: str | None = Field(None, description="flux of the calibration")


class NoiseReplacer(Section):
    """How other sources are replaced by noise (measurement specification 2)."""

    noiseSource: Annotated[Literal["measure", "meta", "variance", "variance_median"], only("measure")] = (
        Field("measure", description="where the noise level comes from; only measure is supported")
    )
    noiseOffset: float = Field(0.0, description="added to the noise, in counts")
    noiseSeedMultiplier: int = Field(1, ge=1, le=2**32 - 2, description="factor of the seed of the noise")


class Undeblended(Section):
    """Plugins that LSST can run with the neighbours present; finalchar does not offer this."""

    names: list[str] = Field(
        default_factory=list,
        max_length=0,
        description="must be empty: undeblended measurement is not supported",
    )


class FitConfig(Section):
    """Chebyshev polynomial of the aperture corrections (measurement specification 13.3)."""

    orderX: int = Field(2, ge=0, description="order in x")
    orderY: int = Field(2, ge=0, description="order in y")
    triangular: bool = Field(True, description="only terms with orders that add up to at most the maximum")


class ApplyApCorr(Section):
    """How aperture corrections are applied (measurement specification 14)."""

    ignoreList: NameSet = Field(default_factory=list, description="fluxes that are not corrected")
    doFlagApCorrFailures: bool = Field(True, description="set the flux flag where the correction fails")
    proxies: dict[str, str] = Field(
        default_factory=dict, description="flux name: name of the flux whose correction it takes"
    )
    xColumn: str = Field("slot_Centroid_x", description="column of the x position, in pixels")
    yColumn: str = Field("slot_Centroid_y", description="column of the y position, in pixels")


if TYPE_CHECKING:
    SourceSelector: TypeAlias = Any
    ApCorrSourceSelector: TypeAlias = Any
    PsfDeterminer: TypeAlias = Any
    Plugins: TypeAlias = Any
    PsfAcceptance: TypeAlias = Any
    ApCorrAcceptance: TypeAlias = Any
    Segmentation: TypeAlias = Any
else:
    SourceSelector = compose_choice(
        "SourceSelector",
        "finalchar.stars.selectors",
        kind="source selector",
        known=LSST_SELECTORS,
        default="science",
        defaults={"science": FINALIZE_SELECTION},
    )
    ApCorrSourceSelector = compose_choice(
        "ApCorrSourceSelector",
        "finalchar.stars.selectors",
        kind="source selector",
        known=LSST_SELECTORS,
        default="science",
        defaults={"science": AP_CORR_SELECTION},
    )
    PsfDeterminer = compose_choice(
        "PsfDeterminer",
        "finalchar.psf.determiners",
        kind="PSF determiner",
        known=LSST_DETERMINERS,
        default="piff",
    )
    Plugins = compose_plugins(
        "Plugins", "finalchar.measure.plugins", known=LSST_PLUGINS, default=LSST_DEFAULT_PLUGINS
    )
    PsfAcceptance = settings_in("finalchar.psf.acceptance")
    ApCorrAcceptance = settings_in("finalchar.apcorr.acceptance")
    Segmentation = settings_in("finalchar.measure.segmentation")


class Measurement(Section):
    """The measurement of the stars with the new PSF (measurement specification 1-6)."""

    plugins: Plugins = subsection(Plugins, "which plugins, and their settings")
    slots: Slots = subsection(Slots, "which measurement stands for a role")
    doReplaceWithNoise: bool = Field(True, description="replace all other sources by noise")
    noiseReplacer: NoiseReplacer = subsection(NoiseReplacer, "how this is done")
    segmentation: Segmentation = subsection(Segmentation, "footprints where the catalogue has none")
    undeblended: Undeblended = subsection(Undeblended, "not supported, must be empty")


class MeasureApCorr(Section):
    """The measurement of the aperture corrections (measurement specification 13)."""

    refFluxName: str = Field("slot_CalibFlux", description="the flux to which others are corrected")
    sourceSelector: ApCorrSourceSelector = subsection(ApCorrSourceSelector, "which stars enter")
    minDegreesOfFreedom: int = Field(1, ge=1, description="least number of stars beyond the first")
    fitConfig: FitConfig = subsection(FitConfig, "polynomial")
    numIter: int = Field(4, ge=0, description="number of iterations with rejection")
    numSigmaClip: float = Field(4.0, gt=0, description="rejection level, in robust standard deviations")
    doFinalMedianShift: bool = Field(True, description="shift the field to a median residual of zero")
    allowFailure: NameSet = Field(
        default_factory=lambda: list(LSST_ALLOW_FAILURE), description="fluxes whose correction may be missing"
    )


class Config(Section):
    """All settings of a survey; every one has a default."""

    survey: str = Field(
        "demo", min_length=1, description="folder that the paths in the sheets are relative to"
    )
    sheets: Sheets = subsection(Sheets, "where the two sheets are")
    output: Output = subsection(Output, "products: folder and options")
    input: Input = subsection(Input, "kind of the input files")
    compatibility: Literal["fixed", "lsst"] = Field(
        "fixed", description="lsst: results of the reference with its quirks; fixed: without them"
    )
    detectors_per_job: int = Field(9, ge=1, description="detectors that one job does, one after the other")
    visits_per_run: int | None = Field(None, ge=1, description="at most so many visits in one run; null: all")
    full_graph: bool = Field(False, description="put all jobs into the graph, for pictures of it")
    staleness: Staleness = subsection(Staleness, "what counts as a change")

    isolated_star_association: IsolatedStarAssociation = subsection(
        IsolatedStarAssociation, "isolated stars of tracts for which the sheet gives no tables"
    )
    id_column: str = Field("sourceId", description="column of the source ids in isolated_star_sources")
    reserve_selection: ReserveSelection = subsection(ReserveSelection, "which stars are set aside")
    source_selector: SourceSelector = subsection(SourceSelector, "which sources are candidates")
    make_psf_candidates: MakePsfCandidates = subsection(MakePsfCandidates, "star stamps")
    psf_determiner: PsfDeterminer = subsection(PsfDeterminer, "the PSF fit")
    psf_acceptance: PsfAcceptance = subsection(PsfAcceptance, "when a PSF is accepted")
    measurement: Measurement = subsection(Measurement, "measurement with the new PSF")
    measure_ap_corr: MeasureApCorr = subsection(MeasureApCorr, "aperture corrections")
    ap_corr_acceptance: ApCorrAcceptance = subsection(
        ApCorrAcceptance, "when an aperture correction is believed"
    )
    apply_ap_corr: ApplyApCorr = subsection(ApplyApCorr, "and their application")
    do_add_sky_moments: bool = Field(False, description="add moments in sky coordinates and altitude/azimuth")
    do_add_fgcm_photometry: bool = Field(False, description="add magnitudes of the FGCM standard stars")
    fgcmPhotometryBands: list[str] = Field(
        default_factory=lambda: ["g", "r", "i", "z", "y"], description="bands of these magnitudes"
    )

    def __init__(self, **values: Any) -> None:
        """Make a configuration from nested plain values, checked; `ConfigError` in one sentence."""
        try:
            super().__init__(**with_preset(type(self), values))
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from error
        tell_paths(self)
        check_together(self)

    def to_plain(self) -> dict[str, Any]:
        """All values, defaults included, as nested dictionaries fit for JSON; `Config(**plain)` is back."""
        return self.model_dump(mode="python", warnings="none")

    def checked(self) -> Config:
        """Validate everything again (lists may have been changed in place) and return a copy."""
        return Config(**self.to_plain())

    @property
    def detectors_sheet(self) -> Path:
        """Path of the sheet of detectors."""
        return Path(self.sheets.detectors or Path(self.survey) / "detectors.csv")

    @property
    def tracts_sheet(self) -> Path:
        """Path of the sheet of tracts."""
        return Path(self.sheets.tracts or Path(self.survey) / "tracts.csv")

    def stage_settings(self, stage: Stage) -> dict[str, Any]:
        """Plain values of the settings that a stage's products depend on, active choices only.

        Parameters
        ----------
        stage : {"association", "tract", "list", "detector", "visit"}
            Stage of the workflow.

        Returns
        -------
        dict
            Nested dictionaries of numbers, text and lists; equal if and only if the stage's settings are.
        """
        from finalchar.config_stages import stage_settings

        return stage_settings(self, stage)

    @classmethod
    def from_lsst_overrides(
        cls, overrides: Mapping[str, Any], *, drop_unimplemented: bool = False, **ours: Any
    ) -> Config:
        """Configuration from flat names of the LSST task, see `config_lsst.nested`.

        Parameters
        ----------
        overrides : mapping of str to object
            ``{"psf_determiner['piff'].spatialOrder": 4, ...}``.
        drop_unimplemented : bool, optional
            Leave out settings of inactive choices, and plugins in lists, that finalchar does not have yet,
            instead of raising `NotYetImplementedError`.
        **ours
            Settings that LSST does not have, such as ``compatibility="lsst"``.
        """
        from finalchar.config_lsst import nested

        return cls(**nested(overrides, drop_unimplemented=drop_unimplemented), **ours)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and overrides of the command line.

    Parameters
    ----------
    path : path
        YAML file.  What it does not say has its default.
    overrides : iterable of str
        ``key=value`` with a dotted key, in the order of their rising precedence.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    ConfigError
        One sentence with file, line, dotted path and remedy.
    """
    tree = strict_yaml.load_file(path)
    for assignment in overrides:
        tree.overlay(config_text.tree_of_override(assignment))
    try:
        plain = config_text.interpret(Config, tree)
        return _config_of(plain, tree, path)
    except NotYetImplementedError as error:
        place = config_text.place_of_choice(tree, error.choice) or path
        raise NotYetImplementedError(error.choice, f"{place}: {error}") from None


def _config_of(plain: Mapping[str, Any], tree: strict_yaml.Mapping, path: str | Path) -> Config:
    """Configuration of plain values, whose errors say where in the tree of the file the value stands."""
    try:
        return Config(**plain)
    except NotYetImplementedError:
        raise
    except ConfigError as error:
        location: Iterable[int | str] = error.location or config_text.first_path(str(error))
        if isinstance(error.__cause__, ValidationError):
            location = error.__cause__.errors(include_url=False)[0]["loc"]
        raise ConfigError(f"{config_text.place_of(tree, location) or path}: {error}") from None
