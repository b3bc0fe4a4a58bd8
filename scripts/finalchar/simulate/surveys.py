"""The two simulated surveys as numbers: what lies in the sky, where the visits point, what is broken.

Lengths are pixels, angles degrees unless a name says otherwise; fluxes are counts (electrons, gain 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

__all__ = ["DEMO", "MICRO", "SURVEYS", "CameraPlan", "SkyPlan", "SurveyPlan", "VisitPlan", "exposure_id"]


@dataclass(frozen=True)
class SkyPlan:
    """What is in the sky: densities per square arcminute, magnitudes in the i band."""

    tracts: tuple[int, int] = (4906, 4907)
    boundary_ra: float = 150.5607476635514
    """Right ascension of the common boundary of the two tracts."""
    centre_dec: float = -28.9
    radius: float = 0.1
    """Half the side of the square field, degrees."""
    stars_per_arcmin2: float = 14.0
    galaxies_per_arcmin2: float = 4.0
    pair_fraction: float = 0.06
    """Fraction of stars that get a companion within 4 arcsec."""
    bright_limit: float = 15.6
    faint_limit: float = 22.4
    slope: float = 0.10
    """Star counts rise as 10 ** (slope * magnitude)."""
    minimum_separation: float = 0.0
    """No two stars (close pairs apart) lie closer than this, arcsec."""


@dataclass(frozen=True)
class CameraPlan:
    """Detectors side by side in a focal plane of 10 micrometre pixels of 0.2 arcsec."""

    columns: int = 2
    rows: int = 2
    width: int = 1024
    height: int = 1000
    gap: int = 44
    pixel_size: float = 0.01
    """Millimetres."""
    pixel_scale: float = 0.2
    """Arcsec, at the boresight."""
    distortion: float = 1.1e-9
    """Cubic radial distortion, per pixel squared."""
    instrument: str = "SynthCam"

    @property
    def n_detectors(self) -> int:
        """Number of detectors."""
        return self.columns * self.rows


@dataclass(frozen=True)
class VisitPlan:
    """One visit: band, pointing relative to the field centre, rotation, seeing, clouds by detector."""

    visit: int
    band: str
    offset: tuple[float, float]
    """Boresight minus field centre (RA cos Dec, Dec), arcsec."""
    rotation: float
    fwhm: float
    """Median seeing, pixels, of a star with g-i = 1.5."""
    throughput: dict[int, float] = field(default_factory=dict)
    """Fraction of the light that passes, for detectors behind a cloud."""
    no_data_columns: dict[int, int] = field(default_factory=dict)
    """Number of dead first columns (NaN under NO_DATA), by detector."""


@dataclass(frozen=True)
class SurveyPlan:
    """A whole simulated survey."""

    name: str
    sky: SkyPlan
    camera: CameraPlan
    visits: tuple[VisitPlan, ...]
    psf_order: int
    """Spatial order of the PSF and aperture-correction fits that suits the number of stars."""
    lossy: bool
    """Store images quantised (as large productions do) or lossless."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the visits, sorted."""
        return tuple(sorted({visit.band for visit in self.visits}))


DEMO = SurveyPlan(
    name="demo",
    sky=SkyPlan(),
    camera=CameraPlan(),
    visits=(
        VisitPlan(2026011500101, "r", (0.0, 0.0), 3.0, 3.9, no_data_columns={1: 6}),
        VisitPlan(2026011500188, "i", (14.0, -9.0), 31.0, 3.7, throughput={3: 0.0045}),
        VisitPlan(2026012700045, "r", (-11.0, 17.0), 93.0, 4.4),
        VisitPlan(2026020300212, "i", (8.0, 12.0), 184.0, 4.1, throughput={2: 1e-7}, no_data_columns={0: 9}),
    ),
    psf_order=2,
    lossy=True,
)

MICRO = SurveyPlan(
    name="micro",
    sky=SkyPlan(
        radius=0.04,
        stars_per_arcmin2=36.0,
        galaxies_per_arcmin2=1.5,
        pair_fraction=0.04,
        bright_limit=16.2,
        faint_limit=21.0,
        slope=0.05,
        minimum_separation=8.0,
    ),
    camera=CameraPlan(columns=3, rows=1, width=400, height=400, gap=20),
    visits=(
        VisitPlan(2026011500101, "r", (0.0, 0.0), 2.0, 3.6),
        VisitPlan(2026011500188, "i", (4.0, -3.0), 8.0, 3.9),
    ),
    psf_order=1,
    lossy=False,
)

SURVEYS = {plan.name: plan for plan in (DEMO, MICRO)}


def exposure_id(visit: int, detector: int) -> int:
    """Return the id of one detector exposure: (days since 2010, sequence number, detector) packed."""
    text = str(visit)
    day = (date(int(text[:4]), int(text[4:6]), int(text[6:8])) - date(2010, 1, 1)).days
    return (day * 32768 + visit % 100000) * 256 + detector
