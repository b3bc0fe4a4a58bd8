"""GalSim's HSM code on stamps of the exposure and of the PSF (measurement specification 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable
from finalchar.measure.plugin import Field, StarError, flag

if TYPE_CHECKING:
    import galsim

    from finalchar.measure.context import MeasurementContext

__all__ = [
    "BAD_PLANES",
    "HIGHER_ORDERS",
    "PRECISION",
    "HsmMoments",
    "SourceStamp",
    "flag_fields",
    "galsim_image",
    "higher_order_moments",
    "measure_moments",
    "moment_fields",
    "moment_orders",
    "source_stamp",
    "store_moments",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

PRECISION = 1e-6
SOURCE_GUESS_FACTOR = 2.5
"""Guessed size of a source in units of the PSF's trace radius."""
BAD_PLANES = ("BAD", "SAT")
HIGHER_ORDERS = (3, 4)

_FLAGS = {
    "flag": "General failure flag, set if anything went wrong",
    "flag_no_pixels": "No pixels to measure",
    "flag_not_contained": "Center not contained in footprint bounding box",
    "flag_parent_source": "Parent source, ignored",
    "flag_galsim": "GalSim failure",
    "flag_invalid_param": "Invalid combination of moments",
    "flag_edge": "Variance undefined outside image edge",
    "flag_no_psf": "Exposure lacks PSF",
}


@dataclass(frozen=True)
class HsmMoments:
    """Adaptive moments: centroid (pixels) and second moments (pixels squared)."""

    x: float
    y: float
    sigma: float
    e1: float
    e2: float

    def quadrupole(self) -> tuple[float, float, float]:
        """Return (Ixx, Iyy, Ixy) from determinant radius and distortion (6.2)."""
        if self.e1**2 + self.e2**2 > 1.0:
            raise StarError("the ellipticity of the moments is larger than one")
        scale = self.sigma**2 / np.sqrt(1.0 - self.e1**2 - self.e2**2)
        return float(scale * (1.0 + self.e1)), float(scale * (1.0 - self.e1)), float(scale * self.e2)


@dataclass(frozen=True)
class SourceStamp:
    """The footprint box of a star: float32 pixels, the bad ones among them, and its place."""

    image: npt.NDArray[np.float32]
    bad: BoolArray
    box: Box


def flag_fields(name: str, *, last: str = "flag_no_psf") -> list[Field]:
    """Return the flag columns of an HSM plugin up to `last`; only the general one is ever set [M-Q6]."""
    suffixes = list(_FLAGS)[: list(_FLAGS).index(last) + 1]
    return [flag(f"{name}_{suffix}", _FLAGS[suffix]) for suffix in suffixes]


def moment_fields(name: str, subject: str) -> list[Field]:
    """Return flags, centroid and moment columns of an HSM moments plugin."""
    centroid = f"Centroid of the {subject} via the HSM shape algorithm"
    moments = f"Adaptive moments of the {subject} via the HSM shape algorithm"
    return [
        *flag_fields(name),
        *(Field(f"{name}_{axis}", "float64", "pix", centroid) for axis in ("x", "y")),
        *(Field(f"{name}_{axes}", "float64", "pix2", moments) for axes in ("xx", "yy", "xy")),
    ]


def source_stamp(context: MeasurementContext, star: int, planes: Sequence[str]) -> SourceStamp:
    """Return the footprint box of a star, checked as 6.1 says."""
    x, y = context.centroid(star)
    box = context.footprint_box(star)
    if box is None:
        raise StarError("the star has no footprint pixels")
    column, row = np.floor(x + 0.5), np.floor(y + 0.5)
    if not (box.min_x <= column <= box.max_x and box.min_y <= row <= box.max_y):
        raise StarError("the centroid is not inside the footprint's box")
    bits = context.exposure.mask_bits(list(planes))
    return SourceStamp(context.stamp(star, box), (context.mask(box) & bits) != 0, box)


def galsim_image(array: npt.NDArray[Any], *, x0: int, y0: int) -> galsim.Image:
    """Wrap an array as a GalSim image whose first pixel is (x0, y0)."""
    import galsim

    return galsim.Image(np.ascontiguousarray(array), xmin=x0, ymin=y0)


def measure_moments(
    image: galsim.Image,
    good: BoolArray | None,
    *,
    x: float,
    y: float,
    sigma: float,
    round_moments: bool,
) -> HsmMoments:
    """Run GalSim's adaptive moments.

    Parameters
    ----------
    image : galsim.Image
        Stamp in the coordinates of (x, y).
    good : ndarray, bool, or None
        Pixels of weight one; None for all.
    x, y : float
        Guessed centroid.
    sigma : float
        Guessed size, pixels.
    round_moments : bool
        Use a circular weight.
    """
    import galsim

    weight = np.ones(image.array.shape, np.int32) if good is None else good.astype(np.int32)
    shape = galsim.hsm.FindAdaptiveMom(
        image,
        weight=galsim_image(weight, x0=image.xmin, y0=image.ymin),
        guess_sig=sigma,
        precision=PRECISION,
        guess_centroid=galsim.PositionD(x, y),
        strict=True,
        check=False,
        round_moments=round_moments,
    )
    observed = shape.observed_shape
    centroid = shape.moments_centroid
    return HsmMoments(centroid.x, centroid.y, shape.moments_sigma, observed.e1, observed.e2)


def store_moments(
    table: SourceTable,
    name: str,
    star: int,
    moments: HsmMoments,
    *,
    origin_x: float = 0.0,
    origin_y: float = 0.0,
) -> None:
    """Write centroid (relative to the origin) and then the moments of one star."""
    table.columns[f"{name}_x"][star] = moments.x - origin_x
    table.columns[f"{name}_y"][star] = moments.y - origin_y
    xx, yy, xy = moments.quadrupole()
    table.columns[f"{name}_xx"][star] = xx
    table.columns[f"{name}_yy"][star] = yy
    table.columns[f"{name}_xy"][star] = xy


def moment_orders(min_order: int, max_order: int) -> list[tuple[int, int]]:
    """Return the (p, q) of all standardised moments of the orders, p rising."""
    return [(p, order - p) for order in range(min_order, max_order + 1) for p in range(order + 1)]


def higher_order_moments(
    image: npt.NDArray[Any],
    *,
    x: FloatArray,
    y: FloatArray,
    moments: tuple[float, float, float],
    orders: Sequence[tuple[int, int]],
    bad: BoolArray | None = None,
    bad_to_zero: bool = False,
) -> list[float]:
    """Return the standardised moments of an image under its own Gaussian weight (6.6).

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Pixels.
    x, y : ndarray, float64, shapes (nx,), (ny,)
        Pixel offsets from the centre.
    moments : tuple of float
        (Mxx, Myy, Mxy) of the weight.
    orders : sequence of (int, int)
        Powers (p, q) of the standardised x and y.
    bad : ndarray, bool, optional
        Pixels to be replaced [M-Q7], or set to zero if `bad_to_zero`.
    """
    xx, yy, xy = moments
    root = np.sqrt(xx * yy - xy * xy)
    eta = np.sqrt(root * root * (xx + yy + 2.0 * root))
    if not eta > 0:
        raise StarError("the moments are singular")
    u = ((yy + root) * x[np.newaxis, :] - xy * y[:, np.newaxis]) / eta
    v = (-xy * x[np.newaxis, :] + (xx + root) * y[:, np.newaxis]) / eta
    weight = np.exp(-0.5 * (u * u + v * v))
    weighted = weight * image
    if bad is not None and bad.any():
        good = ~bad
        ratio = 0.0 if bad_to_zero else image[good].sum() / weight[good].astype(image.dtype).sum()
        weighted[bad] = weight[bad] ** 2 * ratio
    total = weighted.sum()
    u_powers = [np.ones_like(u)]
    v_powers = [np.ones_like(v)]
    for _ in range(max((p + q for p, q in orders), default=0)):
        u_powers.append(u_powers[-1] * u)
        v_powers.append(v_powers[-1] * v)
    return [float((u_powers[p] * v_powers[q] * weighted).sum() / total) for p, q in orders]


def higher_order_fields(name: str, subject: str, orders: Sequence[tuple[int, int]]) -> list[Field]:
    """Return the columns of a higher-order moments plugin."""
    return [
        flag(f"{name}_flag", _FLAGS["flag"]),
        *(
            Field(f"{name}_{p}{q}", "float64", "", f"Higher order moments M_{p}{q} for {subject}")
            for p, q in orders
        ),
    ]
