"""A small scene: stars drawn with GalSim on noise, their footprints, and a PSF that is exactly the stars'."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import galsim
import numpy as np

from finalchar.formats.exposure import Box, Exposure, VisitInfo
from finalchar.formats.sources import ColumnInfo, Footprints, SourceTable
from finalchar.measure import make_output_table, run_measurement
from finalchar.psf.model import PsfImage

PLUGINS = [
    "base_FPPosition",
    "base_PsfFlux",
    "base_GaussianFlux",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HigherOrderMomentsPSF",
]
MASK_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "NO_DATA": 8}


class GaussianPsf:
    """A constant PSF, drawn by GalSim without pixel convolution (as Piff's models are)."""

    def __init__(self, sigma: float = 1.823, g1: float = 0.03, g2: float = -0.02, size: int = 25) -> None:
        self.profile = galsim.Gaussian(sigma=sigma).shear(g1=g1, g2=g2)
        self.size = size
        self.average_position = (100.0, 100.0)
        self.average_color = np.nan

    def _draw(self, dx: float, dy: float) -> np.ndarray:
        image = galsim.ImageD(self.size, self.size, scale=1.0)
        self.profile.drawImage(image=image, offset=(dx, dy), method="no_pixel")
        return image.array / image.array.sum()

    def kernel_image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        half = self.size // 2
        return PsfImage(self._draw(0.0, 0.0), -half, -half)

    def image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        half = self.size // 2
        return PsfImage(self._draw(x - column, y - row), column - half, row - half)

    def kernel_images(self, *, x, y, color=np.nan):
        return np.stack([self.kernel_image(x=0, y=0).array for _ in np.atleast_1d(x)])

    def images(self, *, x, y, color=np.nan):
        drawn = [self.image(x=a, y=b) for a, b in zip(np.atleast_1d(x), np.atleast_1d(y), strict=True)]
        return (
            np.stack([one.array for one in drawn]),
            np.array([one.x0 for one in drawn]),
            np.array([one.y0 for one in drawn]),
        )


def measurement_settings(names: list[str] | None = None, **changes: object) -> SimpleNamespace:
    """Return the section `measurement` with the default settings."""
    settings = SimpleNamespace(
        plugins=SimpleNamespace(names=PLUGINS if names is None else names),
        slots=SimpleNamespace(
            shape="ext_shapeHSM_HsmSourceMoments",
            psfShape="ext_shapeHSM_HsmPsfMoments",
            modelFlux="modelfit_CModel",
            psfFlux="base_PsfFlux",
            gaussianFlux="base_GaussianFlux",
        ),
        doReplaceWithNoise=True,
        noiseReplacer=SimpleNamespace(noiseSource="measure", noiseOffset=0.0, noiseSeedMultiplier=1),
    )
    for name, value in changes.items():
        setattr(settings, name, value)
    return settings


def disc_spans(x: float, y: float, radius: float) -> list[tuple[int, int, int]]:
    """Return the spans (y, x0, x1) of a disc."""
    spans = []
    for row in range(int(np.ceil(y - radius)), int(np.floor(y + radius)) + 1):
        half = np.sqrt(radius**2 - (row - y) ** 2)
        spans.append((row, int(np.ceil(x - half)), int(np.floor(x + half))))
    return [span for span in spans if span[1] <= span[2]]


def make_footprints(
    spans: list[list[tuple[int, int, int]]],
    *,
    ids: list[int] | None = None,
    parents: list[int] | None = None,
    heavy: dict[int, np.ndarray] | None = None,
    peaks: list[tuple[float, float]] | None = None,
) -> Footprints:
    """Gather footprints of sources given as lists of spans (y, x0, x1)."""
    number = len(spans)
    flat = np.array([span for source in spans for span in source], dtype=np.int32).reshape(-1, 3)
    values = [heavy[k] if heavy and k in heavy else np.zeros(0) for k in range(number)]
    peaks = peaks or [(0.0, 0.0)] * number
    return Footprints(
        source_id=np.array(range(1, number + 1) if ids is None else ids, dtype=np.int64),
        parent=np.array([0] * number if parents is None else parents, dtype=np.int64),
        span_offset=np.concatenate([[0], np.cumsum([len(source) for source in spans])]).astype(np.int64),
        span_y=flat[:, 0],
        span_x0=flat[:, 1],
        span_x1=flat[:, 2],
        peak_offset=np.arange(number + 1),
        peak_x=np.array([round(x) for x, _ in peaks], dtype=np.int32),
        peak_y=np.array([round(y) for _, y in peaks], dtype=np.int32),
        peak_f_x=np.array([x for x, _ in peaks], dtype=np.float32),
        peak_f_y=np.array([y for _, y in peaks], dtype=np.float32),
        heavy=np.array([bool(heavy and k in heavy) for k in range(number)], dtype=bool),
        heavy_offset=np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int64),
        heavy_image=np.concatenate(values).astype(np.float32) if number else np.zeros(0, np.float32),
    )


@dataclass
class Scene:
    """Stars on an image; `measure` runs the default measurement of all of them."""

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    exposure: Exposure
    footprints: Footprints
    psf: GaussianPsf = field(default_factory=GaussianPsf)

    def catalogue(self) -> SourceTable:
        """Return an input catalogue with the slots and columns that the star table needs."""
        number = len(self.x)
        ids = np.arange(1, number + 1, dtype=np.int64)
        columns = {
            "id": ids,
            "coord_ra": np.zeros(number),
            "coord_dec": np.zeros(number),
            "parent": np.zeros(number, dtype=np.int64),
            "base_SdssCentroid_x": self.x.copy(),
            "base_SdssCentroid_y": self.y.copy(),
            "base_SdssCentroid_flag": np.zeros(number, dtype=bool),
            "base_SdssCentroid_flag_edge": np.zeros(number, dtype=bool),
            "base_GaussianFlux_instFlux": self.flux.copy(),
            "base_GaussianFlux_instFluxErr": np.ones(number),
            "base_CircularApertureFlux_12_0_instFlux": self.flux.copy(),
            "base_CircularApertureFlux_12_0_flag": np.zeros(number, dtype=bool),
            "base_NormalizedCompensatedTophatFlux_instFlux": self.flux.copy(),
            "base_NormalizedCompensatedTophatFlux_instFluxErr": np.ones(number),
            "base_NormalizedCompensatedTophatFlux_flag": np.zeros(number, dtype=bool),
            "deblend_nChild": np.zeros(number, dtype=np.int32),
        }
        aliases = {
            "slot_Centroid": "base_SdssCentroid",
            "slot_ApFlux": "base_CircularApertureFlux_12_0",
            "slot_CalibFlux": "base_NormalizedCompensatedTophatFlux",
            "slot_Shape": "base_SdssShape",
            "base_CircularApertureFlux_flag_badCentroid": "base_SdssCentroid_flag",
        }
        info = {"base_SdssCentroid_x": ColumnInfo("pix", "centroid from Sdss Centroid algorithm")}
        return SourceTable(columns, info, aliases)

    def measure(
        self, compatibility: str = "fixed", settings: SimpleNamespace | None = None, rows: object = None
    ) -> SourceTable:
        """Measure all stars (or the given rows of the catalogue) and return the table."""
        settings = settings or measurement_settings()
        selected = self.catalogue()
        if rows is not None:
            selected = selected.select(np.asarray(rows))
        table = make_output_table(selected=selected, settings=settings, compatibility=compatibility)
        return run_measurement(
            exposure=self.exposure,
            psf=self.psf,
            footprints=self.footprints,
            table=table,
            settings=settings,
            compatibility=compatibility,
        )

    def with_planes(self, **planes: np.ndarray) -> Scene:
        """Return a scene with other image planes."""
        return replace(self, exposure=replace(self.exposure, **planes))


def make_scene(
    *,
    x: object,
    y: object,
    flux: object,
    shape: tuple[int, int] = (200, 220),
    origin: tuple[int, int] = (0, 0),
    sky_sigma: float = 5.0,
    radius: float = 11.0,
    footprint_of: object = None,
    seed: int = 42,
) -> Scene:
    """Draw stars at parent positions (x, y) and give each a disc as footprint."""
    x, y, flux = (np.atleast_1d(np.asarray(values, dtype=float)) for values in (x, y, flux))
    psf = GaussianPsf()
    x0, y0 = origin
    box = Box(x0, y0, x0 + shape[1] - 1, y0 + shape[0] - 1)
    image = galsim.ImageD(shape[1], shape[0], xmin=x0, ymin=y0, scale=1.0)
    for a, b, f in zip(x, y, flux, strict=True):
        star = (psf.profile * f).drawImage(
            image=image.copy(), center=galsim.PositionD(a, b), method="no_pixel", add_to_image=False
        )
        image.array[:] += star.array
    rng = np.random.default_rng(seed)
    variance = sky_sigma**2 + np.maximum(image.array, 0)
    noisy = image.array + rng.normal(size=shape) * sky_sigma
    own = range(len(x)) if footprint_of is None else footprint_of
    spans = [disc_spans(x[k], y[k], radius) if k in own else [] for k in range(len(x))]
    exposure = Exposure(
        image=noisy.astype(np.float32),
        mask=np.zeros(shape, dtype=np.int32),
        variance=variance.astype(np.float32),
        mask_planes=MASK_PLANES,
        box=box,
        wcs=None,  # type: ignore[arg-type]
        visit_info=VisitInfo(exposure_id=7),
    )
    footprints = make_footprints(spans, peaks=list(zip(x, y, strict=True)))
    return Scene(x, y, flux, exposure, footprints, psf)
