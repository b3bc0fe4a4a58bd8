"""The determiner `piff`: a grid of pixels with polynomial interpolation (selection specification 6).

What flows in: candidate stars and their exposure.  What flows out: a `PsfFit` with a genuine Piff PSF.  Here
are the settings and the data that go in; `finalchar.psf.piff_plan` makes Piff's configuration of them,
`piff_fit` the fit, `piff_result` what is told and kept of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from finalchar.config_base import Field, NameSet
from finalchar.errors import ConfigError, PsfError
from finalchar.formats.exposure import Exposure
from finalchar.psf.down_sampling import down_sample
from finalchar.psf.model import PsfFit
from finalchar.psf.piff_fit import fit_constant, run_fit
from finalchar.psf.piff_frame import check_north, piff_frame
from finalchar.psf.piff_plan import config_from_yaml, plan_fit, with_enough_stars
from finalchar.psf.piff_result import make_psf_fit
from finalchar.psf.piff_stars import StarStamps, UsableStars, piff_stars, usable_stars
from finalchar.psf.shared_settings import DeterminerSettings, stamp_size

if TYPE_CHECKING:
    from finalchar.stars.candidates import Candidates

__all__ = ["NAME", "Settings", "check_settings", "determine", "down_sample", "fit_stars"]

NAME = "piff"

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

INTERPOLANT = re.compile(
    r"(galsim\.)?Lanczos\(\d+\)|galsim\.(Cubic|Delta|Linear|Nearest|Quintic|SincInterpolant)(\(\))?"
)


class Settings(DeterminerSettings):
    """Settings of the determiner `piff` (selection specification 6.1, 6.2)."""

    stampSize: int | None = stamp_size(25)
    spatialOrderPerBand: dict[str, int] = Field(
        default_factory=dict, description="order of the spatial polynomial by band; others: spatialOrder"
    )
    spatialOrder: int = Field(2, ge=0, description="order of the spatial polynomial")
    piffBasisPolynomialSolver: Literal["scipy", "cpp", "jax", "qr"] = Field(
        "scipy", description="Piff's linear solver, where Piff itself makes the fit"
    )
    solver: Literal["separable", "scipy", "cpp", "qr", "jax"] | None = Field(
        "separable",
        description="separable: the fit without dense matrices, or Piff where that does not "
        "apply; a solver of Piff: Piff with it; null: Piff with piffBasisPolynomialSolver",
    )
    piffPixelGridFitCenter: bool = Field(True, description="fit the centres of the stars again")
    samplingSize: float = Field(1.0, gt=0, description="size of a model pixel in detector pixels")
    modelSize: int = Field(25, gt=0, description="side of the model grid, in model pixels")
    outlierNSigma: float = Field(4.0, gt=0, description="chi-square level of outliers, in sigma")
    outlierMaxRemove: float = Field(
        0.05, gt=0, lt=1, description="fraction of the stars that one iteration removes at most"
    )
    maxSNR: float = Field(200.0, gt=0, description="stars of higher signal-to-noise are weighted down to it")
    zeroWeightMaskBits: NameSet = Field(
        default_factory=lambda: ["BAD", "CR", "INTRP", "SAT", "SUSPECT", "NO_DATA"],
        description="mask planes whose pixels get zero weight",
    )
    minimumUnmaskedFraction: float = Field(
        0.5, ge=0, le=1, description="stars with a smaller fraction of good pixels are left out"
    )
    useColor: bool = Field(False, description="colour as a variable of the polynomial")
    color: dict[str, str] = Field(
        default_factory=dict, description="colour of each band, such as 'g-i' for band g"
    )
    colorOrder: int = Field(1, ge=0, description="order of the polynomial in colour")
    interpolant: str = Field("Lanczos(11)", description="interpolant between model pixels")
    zerothOrderInterpNotEnoughStars: bool = Field(
        False, description="too few stars for the order: a constant model instead of a failure"
    )
    debugStarData: bool = Field(False, description="keep the stamps of the stars in the stored model")
    useCoordinates: Literal["pixel", "field", "sky"] = Field(
        "pixel", description="coordinates of model and polynomial"
    )
    piffMaxIter: int = Field(15, gt=0, description="iterations of the fit at most")
    piffLoggingLevel: int = Field(
        0, ge=0, le=3, description="what Piff logs: 0 nothing, 1 warnings, 2 information, 3 everything"
    )
    piffPsfConfigYaml: str | None = Field(
        None,
        description="complete configuration of the Piff fit; replaces order, size, outlier, solver settings",
    )

    @field_validator("color")
    @classmethod
    def _two_bands(cls, value: dict[str, str]) -> dict[str, str]:
        for band, color in value.items():
            parts = color.split("-")
            if len(parts) != 2 or not all(part.strip() for part in parts):
                raise ValueError(f"the colour of band {band!r} must read like 'g-i', not {color!r}")
        return value

    @field_validator("piffPsfConfigYaml")
    @classmethod
    def _complete_configuration(cls, value: str | None) -> str | None:
        if value is not None:
            config_from_yaml(value)
        return value

    @field_validator("interpolant")
    @classmethod
    def _known_interpolant(cls, value: str) -> str:
        if not INTERPOLANT.fullmatch(value):
            raise ValueError(
                f"{value!r} is no interpolant; write Lanczos(N), galsim.Cubic, galsim.Delta, galsim.Linear, "
                "galsim.Nearest, galsim.Quintic, galsim.SincInterpolant"
            )
        return value


def determine(
    candidates: Candidates,
    exposure: Exposure,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str = "fixed",
) -> PsfFit:
    """Fit a Piff model to candidate stars (selection specification 6).

    Parameters
    ----------
    candidates : Candidates
        Stars for the fit, reserved ones not among them.
    exposure : Exposure
        The detector image they are on.
    settings : Settings
        Section `psf_determiner.piff`.
    band : str or None
        Band label of the exposure; decides order and colour.
    compatibility : str
        ``lsst`` keeps S-Q9, S-Q12, S-Q14, S-Q16 and S-Q27.

    Returns
    -------
    PsfFit
        With ``used`` over all candidates handed in.

    Raises
    ------
    PsfError
        If there are too few stars, or Piff cannot fit them.
    ConfigError
        If the stamps are too small for the model.
    """
    check_settings(settings, compatibility=compatibility)
    chosen = down_sample(len(candidates), settings)
    size = _stamp_size(candidates, settings)
    stamps = _stamps(candidates, exposure, chosen, size)
    fit = fit_stars(stamps, exposure, settings, band=band, compatibility=compatibility)
    used = np.zeros(len(candidates), dtype=bool)
    used[chosen[fit.used]] = True
    return PsfFit(
        fit.model,
        used,
        {**fit.figures, "stars_down_sampled": len(candidates) - len(chosen)},
        fit.persisted_class,
        fit.serialized,
        fit.evidence,
    )


def check_settings(settings: Settings, *, compatibility: str = "fixed") -> None:
    """Check that the stamps can hold the model (selection specification 6.2, S-Q12).

    Raises
    ------
    ConfigError
        If `stampSize` is too small.
    """
    if settings.stampSize is None or settings.piffPsfConfigYaml is not None:
        return
    side = settings.modelSize * (np.sqrt(2) if settings.useCoordinates == "sky" else 1.0)
    if compatibility == "lsst":
        needed = int(side / settings.samplingSize)
    else:
        needed = int(np.ceil(round(side * settings.samplingSize, 9)))
    if settings.stampSize < needed:
        raise ConfigError(
            f"psf_determiner.piff.stampSize is {settings.stampSize}, but a model of modelSize "
            f"{settings.modelSize} and samplingSize {settings.samplingSize:g} needs at least {needed}."
        )


def _stamp_size(candidates: Candidates, settings: Settings) -> int:
    available = int(candidates.size)
    if settings.stampSize is None:
        return available
    if settings.stampSize > available:
        log.warning(
            "stampSize %d is larger than the candidates' %d; using that", settings.stampSize, available
        )
    return min(settings.stampSize, available)


def _stamps(candidates: Candidates, exposure: Exposure, rows: IntArray, size: int) -> StarStamps:
    """Cut the stars out again at the size of the fit: masks depend on it (selection specification 5.3)."""
    chosen = candidates.select(rows)
    stamps = chosen.stamps(exposure, size)
    if len(stamps) != len(chosen):
        raise PsfError(f"{len(chosen) - len(stamps)} candidates have no stamp of size {size} in the image.")
    return StarStamps(
        ids=chosen.source_id,
        x=chosen.x,
        y=chosen.y,
        image=stamps.image,
        mask=stamps.mask,
        variance=stamps.variance,
        x0=stamps.x0,
        y0=stamps.y0,
        color=chosen.color_value.astype(np.float64),
        color_type=[str(kind) for kind in chosen.color_type],
    )


def fit_stars(
    stamps: StarStamps,
    exposure: Exposure,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str = "fixed",
) -> PsfFit:
    """Fit a Piff model to star stamps; ``used`` is over the stamps.  See `determine`."""
    usable = usable_stars(
        stamps,
        bad_bits=exposure.mask_bits(settings.zeroWeightMaskBits),
        minimum_unmasked_fraction=settings.minimumUnmaskedFraction,
        max_snr=settings.maxSNR,
        compatibility=compatibility,
    )
    frame = piff_frame(exposure, settings.useCoordinates)
    if settings.useCoordinates == "sky" and compatibility != "lsst":
        check_north(frame, exposure)
    color, color_type = _colors(stamps, usable, settings, band=band, compatibility=compatibility)
    stars = piff_stars(stamps, usable, frame, color=color, color_type=color_type, compatibility=compatibility)
    plan = plan_fit(settings, frame, stars, band=band, compatibility=compatibility)
    plan = with_enough_stars(plan, len(stars), settings)
    variance = stamps.variance[usable.rows].astype(np.float64)
    outcome = run_fit(plan, stars, frame, settings, variance)
    if len(outcome.used) < plan.minimum_stars:
        outcome = fit_constant(plan, stars, frame, settings, variance, outcome, compatibility=compatibility)
    return make_psf_fit(outcome, stamps, usable, settings, compatibility=compatibility)


def _colors(
    stamps: StarStamps,
    usable: UsableStars,
    settings: Settings,
    *,
    band: str | None,
    compatibility: str,
) -> tuple[FloatArray, Sequence[str]]:
    """Colours of the usable stars; missing ones are the mean if colour is fitted (specification 6.5)."""
    color = np.asarray(stamps.color, dtype=np.float64)[usable.rows]
    kind = [str(stamps.color_type[row]) for row in usable.rows]
    if not settings.useColor:
        return color, kind
    known = np.isfinite(color)
    kinds = sorted({kind[k] for k in np.flatnonzero(known)})
    if len(kinds) > 1:
        raise PsfError(f"The stars have colours of several kinds ({', '.join(kinds)}); one is needed.")
    if not kinds:
        log.warning("No star has a colour; the mean colour is set to 0.")
        if compatibility == "lsst":
            raise PsfError("No star has a colour, and so there is no kind of colour (S-Q9).")
        kinds = [settings.color.get(band or "", "")]
    mean = float(np.mean(color[known])) if known.any() else 0.0
    return np.where(known, color, mean), kinds * len(kind)
