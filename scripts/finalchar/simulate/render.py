"""One detector image: objects drawn with GalSim, noise, and everything that breaks pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.simulate.optics import TruePsf
from finalchar.simulate.pointing import DetectorPointing
from finalchar.simulate.sky import Sky
from finalchar.simulate.streams import stream
from finalchar.simulate.surveys import CameraPlan, VisitPlan

if TYPE_CHECKING:
    import galsim

__all__ = ["MASK_PLANES", "ObjectsOnDetector", "Planes", "find_objects", "mask_bit", "render_detector"]

FloatArray = npt.NDArray[np.float64]
ImageArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.int32]

MASK_PLANES = {
    "BAD": 0,
    "SAT": 1,
    "INTRP": 2,
    "CR": 3,
    "EDGE": 4,
    "DETECTED": 5,
    "DETECTED_NEGATIVE": 6,
    "SUSPECT": 7,
    "NO_DATA": 8,
    "VIGNETTED": 9,
    "STREAK": 10,
}
SKY_LEVEL = {"g": 160.0, "r": 230.0, "i": 290.0, "z": 320.0, "y": 380.0}
READ_VARIANCE = 36.0
FULL_WELL = 100_000.0
EDGE_WIDTH = 6
MARGIN = 60
"""Objects up to this many pixels outside the detector are drawn."""


def mask_bit(*names: str) -> np.int32:
    """Return the combined bits of named planes."""
    return np.int32(sum(1 << MASK_PLANES[name] for name in names))


@dataclass
class Planes:
    """Image, mask and variance of one detector, arrays (y, x)."""

    image: ImageArray
    mask: MaskArray
    variance: ImageArray

    def set_mask(self, where: Any, *names: str) -> None:
        """Set planes at a boolean mask or an index."""
        self.mask[where] |= mask_bit(*names)


@dataclass(frozen=True)
class ObjectsOnDetector:
    """The objects near a detector: row in the sky's truth table, true pixel position and flux."""

    row: npt.NDArray[np.int64]
    x: FloatArray
    y: FloatArray
    flux: FloatArray


def find_objects(
    sky: Sky, pointing: DetectorPointing, camera: CameraPlan, visit: VisitPlan, detector: int
) -> ObjectsOnDetector:
    """Find the objects that fall on or close to a detector."""
    x, y = pointing.sky_to_pixel(ra=sky.ra, dec=sky.dec)
    near = (x > -MARGIN) & (x < camera.width + MARGIN) & (y > -MARGIN) & (y < camera.height + MARGIN)
    row = np.flatnonzero(near)
    flux = sky.flux(visit.band, visit.throughput.get(detector, 1.0))
    return ObjectsOnDetector(row.astype(np.int64), x[row], y[row], flux[row])


def render_detector(
    sky: Sky,
    objects: ObjectsOnDetector,
    psf: TruePsf,
    pointing: DetectorPointing,
    camera: CameraPlan,
    visit: VisitPlan,
    detector: int,
    seed: int,
) -> Planes:
    """Make the image of a detector, as it is after instrument signature removal and sky subtraction."""
    signal = _draw_objects(sky, objects, psf, pointing, camera)
    planes = _expose(signal, SKY_LEVEL[visit.band], stream(seed, "noise", visit.visit, detector))
    _saturate(planes)
    broken = stream(seed, "defects", detector)
    _add_bad_columns(planes, broken)
    _add_hot_patch(planes, broken)
    _add_cosmic_rays(planes, stream(seed, "cosmic rays", visit.visit, detector))
    _mask_edges(planes, visit.no_data_columns.get(detector, 0))
    return planes


def _draw_objects(
    sky: Sky, objects: ObjectsOnDetector, psf: TruePsf, pointing: DetectorPointing, camera: CameraPlan
) -> ImageArray:
    import galsim

    image = galsim.ImageF(galsim.BoundsI(0, camera.width - 1, 0, camera.height - 1), init_value=0.0)
    jacobian = pointing.local_jacobian(x=0.5 * camera.width, y=0.5 * camera.height)
    for row, x, y, flux in zip(objects.row, objects.x, objects.y, objects.flux, strict=True):
        if flux < 1.0:
            continue
        profile = psf.profile(x=x, y=y, color=float(sky.color[row])).withFlux(flux)
        if not sky.is_star[row]:
            profile = galsim.Convolve(profile, _galaxy(sky, row, jacobian))
        stamp = _draw_stamp(profile, x=x, y=y, size=_stamp_size(flux))
        overlap = stamp.bounds & image.bounds
        if overlap.isDefined():
            image[overlap] += stamp[overlap]
    return np.asarray(image.array)


def _stamp_size(flux: float) -> int:
    """Side of the square beyond which a star of `flux` is below a hundredth of the noise."""
    return 51 if flux < 3e4 else 81 if flux < 3e5 else 161


def _draw_stamp(profile: galsim.GSObject, *, x: float, y: float, size: int) -> galsim.Image:
    import galsim

    left, bottom = int(np.floor(x + 0.5)) - size // 2, int(np.floor(y + 0.5)) - size // 2
    stamp = galsim.ImageF(galsim.BoundsI(left, left + size - 1, bottom, bottom + size - 1))
    return profile.drawImage(stamp, scale=1.0, center=galsim.PositionD(x, y))


def _galaxy(sky: Sky, row: int, jacobian: FloatArray) -> galsim.GSObject:
    """Return an exponential galaxy of unit flux in pixel coordinates."""
    import galsim

    round_galaxy = galsim.Exponential(half_light_radius=float(sky.half_light_radius[row]))
    on_sky = round_galaxy.shear(g1=float(sky.g1[row]), g2=float(sky.g2[row]))
    (a, b), (c, d) = np.linalg.inv(jacobian)
    return on_sky.transform(a, b, c, d).withFlux(1.0)


def _expose(signal: ImageArray, sky_level: float, draw: np.random.Generator) -> Planes:
    """Add the noise of signal, sky and read-out; the variance plane knows the true signal."""
    variance = (np.maximum(signal + np.float32(sky_level), 1.0) + READ_VARIANCE).astype(np.float32)
    noise = draw.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(variance)
    return Planes((signal + noise).astype(np.float32), np.zeros(signal.shape, np.int32), variance)


def _saturate(planes: Planes) -> None:
    """Clip full pixels and let their charge bleed along the columns."""
    full = planes.image > FULL_WELL
    planes.set_mask(planes.image > 0.8 * FULL_WELL, "SUSPECT")
    for x in np.flatnonzero(full.any(axis=0)):
        rows = np.flatnonzero(full[:, x])
        excess = float((planes.image[rows, x] / FULL_WELL - 1.0).sum())
        reach = 2 + int(np.ceil(0.5 * excess))
        trail = slice(max(0, rows[0] - reach), rows[-1] + reach + 1)
        planes.image[trail, x] = np.maximum(planes.image[trail, x], 0.97 * FULL_WELL)
        planes.variance[trail, x] = np.maximum(planes.variance[trail, x], 0.97 * FULL_WELL)
        planes.set_mask((trail, x), "SAT", "INTRP")


def _add_bad_columns(planes: Planes, draw: np.random.Generator) -> None:
    """Interpolate over two dead neighbouring columns."""
    x = int(draw.integers(40, planes.image.shape[1] - 40))
    ends = planes.image[:, [x - 1, x + 2]], planes.variance[:, [x - 1, x + 2]]
    for plane, end in zip((planes.image, planes.variance), ends, strict=True):
        plane[:, x] = (2.0 * end[:, 0] + end[:, 1]) / 3.0
        plane[:, x + 1] = (end[:, 0] + 2.0 * end[:, 1]) / 3.0
    planes.set_mask((slice(None), slice(x, x + 2)), "BAD", "INTRP")


def _add_hot_patch(planes: Planes, draw: np.random.Generator) -> None:
    """Leave a patch of hot pixels in place, marked BAD only."""
    x = int(draw.integers(20, planes.image.shape[1] - 20))
    y = int(draw.integers(20, planes.image.shape[0] - 20))
    patch = (slice(y, y + 3), slice(x, x + 4))
    planes.image[patch] += np.float32(4000.0)
    planes.set_mask(patch, "BAD")


def _add_cosmic_rays(planes: Planes, draw: np.random.Generator) -> None:
    """Mark the removed cosmic-ray tracks (interpolated) and leave the last one in the image."""
    height, width = planes.image.shape
    count = 3 + int(14 * height * width / 1e6)
    for index in range(count):
        x, y = draw.uniform(12, width - 12), draw.uniform(12, height - 12)
        angle, length = draw.uniform(0.0, np.pi), draw.uniform(3.0, 11.0)
        step = np.arange(0.0, length, 0.5)
        track_x = np.clip(np.round(x + step * np.cos(angle)), 1, width - 2).astype(int)
        track_y = np.clip(np.round(y + step * np.sin(angle)), 1, height - 2).astype(int)
        if index == count - 1:
            planes.image[track_y, track_x] += np.float32(2500.0)
            planes.set_mask((track_y, track_x), "CR")
            continue
        around = 0.5 * (planes.image[track_y, track_x - 1] + planes.image[track_y, track_x + 1])
        planes.image[track_y, track_x] = around
        planes.set_mask((track_y, track_x), "CR", "INTRP")


def _mask_edges(planes: Planes, no_data_columns: int) -> None:
    """Mark the border, where sources cannot be detected, and dead first columns."""
    inner = (slice(EDGE_WIDTH, -EDGE_WIDTH), slice(EDGE_WIDTH, -EDGE_WIDTH))
    border = np.ones(planes.image.shape, dtype=bool)
    border[inner] = False
    planes.set_mask(border, "EDGE")
    if no_data_columns:
        dead = (slice(None), slice(0, no_data_columns))
        planes.image[dead] = np.nan
        planes.variance[dead] = np.nan
        planes.set_mask(dead, "NO_DATA")
