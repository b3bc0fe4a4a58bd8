"""The `Exposure`: what one detector image is to the rest of the library.

Every adapter (LSST exposures, generic image sets, ...) fills this one contract; nothing in it exists for
one survey only.  Pixel frame everywhere: the centre of the first pixel of the parent frame is (0, 0), x is
the fast (column) axis, arrays are indexed ``[y, x]``.  Angles are radians unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError

__all__ = [
    "ARCSEC_PER_RADIAN",
    "BoundedField",
    "Box",
    "Exposure",
    "PixelTransform",
    "SkyProjection",
    "VisitInfo",
]

FloatArray = npt.NDArray[np.float64]

ARCSEC_PER_RADIAN = 180.0 * 3600.0 / np.pi


@dataclass(frozen=True)
class Box:
    """Pixel box with inclusive limits, in parent pixel coordinates."""

    min_x: int
    min_y: int
    max_x: int
    max_y: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.max_x - self.min_x + 1

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.max_y - self.min_y + 1

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) of the box, pixels."""
        return 0.5 * (self.min_x + self.max_x), 0.5 * (self.min_y + self.max_y)

    def contains(self, other: Box) -> bool:
        """Whether `other` lies completely inside this box."""
        return (
            self.min_x <= other.min_x
            and self.min_y <= other.min_y
            and other.max_x <= self.max_x
            and other.max_y <= self.max_y
        )


class SkyProjection(Protocol):
    """The one reading of an exposure's astrometry; the only object that maps pixels to the sky."""

    @property
    def sky_origin(self) -> tuple[float, float]:
        """RA, Dec of the tangent point (CRVAL), radians."""

    def pixel_to_sky(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return RA in [0, 2 pi) and Dec, radians, of 0-based parent pixel positions."""

    def sky_to_pixel(self, *, ra: npt.ArrayLike, dec: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the 0-based parent pixel position (x, y) of RA, Dec in radians."""

    def pixel_to_intermediate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return intermediate world coordinates, degrees on the tangent plane at `sky_origin`."""

    def pixel_scale(self, *, x: float, y: float) -> float:
        """Square root of the pixel area at a position, arcsec."""

    def local_cd_matrix(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Jacobian pixel -> intermediate world coordinates, degrees per pixel, shape (..., 2, 2)."""


class PixelTransform(Protocol):
    """A plane-to-plane transform of pixels (to field angles in arcsec, to focal-plane millimetres, ...)."""

    def apply(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Transform 0-based parent pixel positions."""

    def jacobian(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Jacobian of `apply`, output units per pixel, shape (..., 2, 2)."""


class BoundedField(Protocol):
    """A scalar field over the detector (photometric calibration, aperture correction)."""

    def evaluate(self, *, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Value of the field at 0-based parent pixel positions."""


@dataclass(frozen=True)
class VisitInfo:
    """What is known of the visit; NaN where an input does not say."""

    exposure_id: int | None = None
    boresight_ra: float = np.nan
    boresight_dec: float = np.nan
    boresight_parallactic_angle: float = np.nan
    """Parallactic angle at the boresight, radians (used for alt/az moments)."""
    boresight_airmass: float = np.nan
    exposure_time_seconds: float = np.nan
    instrument: str = ""


@dataclass(frozen=True)
class Exposure:
    """One detector image with everything the characterisation needs of it.

    Attributes
    ----------
    image, variance : ndarray, float32, shape (ny, nx)
        Background-subtracted counts and their variance (counts squared).
    mask : ndarray, int32, shape (ny, nx)
        Bit mask; bits by name in `mask_planes` (bit 31 makes values negative: test with ``!= 0``).
    mask_planes : mapping of str to int
        Bit number of each named plane.
    box : Box
        Pixel box in the parent frame; ``image[0, 0]`` is the pixel (box.min_x, box.min_y).
    wcs : SkyProjection
        The astrometry.
    band, physical_filter : str or None
        Filter names as the exposure states them.
    detector : int or None
        Number of the detector as the exposure states it.
    calibration : BoundedField or None
        nJy per count.
    gain : float or None
        Mean gain of the detector, electrons per count.
    field_angle, focal_plane : PixelTransform or None
        Pixel to field angle (arcsec) and to focal plane (mm).
    initial_psf : object or None
        The PSF the exposure came with, as the formats room read it.
    initial_ap_corr : mapping of str to BoundedField, or None
        The aperture-correction map the exposure came with (None: it had none).
    """

    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    variance: npt.NDArray[np.float32]
    mask_planes: Mapping[str, int]
    box: Box
    wcs: SkyProjection
    band: str | None = None
    physical_filter: str | None = None
    calibration: BoundedField | None = None
    gain: float | None = None
    field_angle: PixelTransform | None = None
    focal_plane: PixelTransform | None = None
    visit_info: VisitInfo = field(default_factory=VisitInfo)
    initial_psf: object | None = None
    initial_ap_corr: Mapping[str, BoundedField] | None = None
    valid_polygon: FloatArray | None = None
    """Vertices of the valid region, shape (n, 2), parent pixels; None: all of the box."""
    detector: int | None = None

    def mask_bits(self, names: list[str] | tuple[str, ...]) -> np.int32:
        """Return the combined bit mask of the named planes.

        Raises
        ------
        InputError
            If a plane is not defined by this exposure.
        """
        bits = np.uint32(0)
        for name in names:
            if name not in self.mask_planes:
                known = ", ".join(sorted(self.mask_planes))
                raise InputError(f"mask plane {name!r} is not defined by the exposure (it has: {known})")
            bits |= np.uint32(1) << np.uint32(self.mask_planes[name])
        return bits.astype(np.int32)
