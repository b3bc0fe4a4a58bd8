"""The section of the association of isolated stars (selection specification 1.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pydantic import model_validator

from finalchar.config_base import Field, Section, subsection
from finalchar.config_choices import compose_choice
from finalchar.config_sites import LSST_SELECTORS

__all__ = ["IsolatedStarAssociation"]

SELECTION: dict[str, Any] = {
    "doFlags": True,
    "doUnresolved": True,
    "doSignalToNoise": True,
    "doIsolated": True,
    "doRequireFiniteRaDec": True,
    "doRequirePrimary": True,
    "signalToNoise.minimum": 8.0,
    "signalToNoise.maximum": 1000.0,
    "signalToNoise.fluxField": "normCompTophatFlux_instFlux",
    "signalToNoise.errField": "normCompTophatFlux_instFluxErr",
    "flags.bad": [
        "pixelFlags_edge",
        "pixelFlags_interpolatedCenter",
        "pixelFlags_saturatedCenter",
        "pixelFlags_crCenter",
        "pixelFlags_bad",
        "pixelFlags_interpolated",
        "pixelFlags_saturated",
        "centroid_flag",
        "normCompTophatFlux_flag",
    ],
    "unresolved.name": "sizeExtendedness",
    "isolated.parentName": "parentSourceId",
    "isolated.nChildName": "deblend_nChild",
    "requireFiniteRaDec.raColName": "ra",
    "requireFiniteRaDec.decColName": "dec",
    "requirePrimary.primaryColName": "detect_isPrimary",
}

EXTRA_COLUMNS = (
    "x",
    "y",
    "xErr",
    "yErr",
    "apFlux_12_0_instFlux",
    "apFlux_12_0_instFluxErr",
    "apFlux_12_0_flag",
    "apFlux_17_0_instFlux",
    "apFlux_17_0_instFluxErr",
    "apFlux_17_0_flag",
    "localBackground_instFlux",
    "localBackground_flag",
    "ixx",
    "iyy",
    "ixy",
)

if TYPE_CHECKING:
    SourceSelector: TypeAlias = Any
else:
    SourceSelector = compose_choice(
        "AssociationSourceSelector",
        "finalchar.stars.selectors",
        kind="source selector",
        known=LSST_SELECTORS,
        default="science",
        defaults={"science": SELECTION},
    )


class IsolatedStarAssociation(Section):
    """How isolated stars are found in the source tables of the visits (selection specification 1.5)."""

    inst_flux_field: str = Field(
        "normCompTophatFlux_instFlux",
        pattern=r"instFlux$",
        description="column of the flux that is kept and selected by; with Err appended: of its error",
    )
    match_radius: float = Field(1.0, gt=0, le=60, description="radius of association, in arcsec")
    nside_split: int = Field(
        32, ge=1, le=8192, description="HEALPix nside, a power of two, by whose pixels the stars are ordered"
    )
    isolation_radius: float = Field(
        2.0, gt=0, le=600, description="stars nearer to another one are left out, in arcsec"
    )
    band_order: list[str] = Field(
        default_factory=lambda: ["i", "z", "r", "g", "y", "u"],
        min_length=1,
        description="bands, by falling priority of their positions; others are ignored",
    )
    id_column: str = Field("sourceId", description="column of the source ids")
    ra_column: str = Field("ra", description="column of the right ascension, in degrees")
    dec_column: str = Field("dec", description="column of the declination, in degrees")
    physical_filter_column: str = Field("physical_filter", description="column of the physical filter")
    band_column: str = Field("band", description="column of the band")
    extra_columns: list[str] = Field(
        default_factory=lambda: list(EXTRA_COLUMNS), description="columns that are kept besides"
    )
    source_selector: SourceSelector = subsection(SourceSelector, "which sources can belong to isolated stars")
    number_of_tracts: int = Field(
        18938,
        ge=1,
        le=10**9,
        description="tracts of the sky map, whose number of digits the ids of stars leave free",
    )

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.nside_split & (self.nside_split - 1):
            raise ValueError(f"nside_split is {self.nside_split}; it must be a power of two, such as 32.")
        return self
