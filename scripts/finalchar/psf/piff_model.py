"""A fitted Piff model behind the `PsfModel` protocol, with LSST's drawing conventions.

The drawing equals ``piff.PSF.draw`` divided by its sum (selection specification 6.8, file specification 7.1),
but evaluates all positions of a batch together and goes straight to GalSim's sampler.  Models other than a
pixel grid with polynomial interpolation are drawn by Piff itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import ARCSEC_PER_RADIAN
from finalchar.psf.model import PsfImage

__all__ = ["PiffModel", "image_size", "piff_model", "polynomial_terms"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PIXEL_KEYS = ("x", "y")
FIELD_KEYS = ("u", "v")
COLOR_KEY = "colorValue"


def image_size(stamp_size: int, sampling_size: float) -> int:
    """Side of the drawn square for a stamp size, always odd (selection specification 6.7, S-Q12 kept)."""
    return 2 * int(np.floor(0.5 * stamp_size / sampling_size)) + 1


def polynomial_terms(values: Sequence[npt.ArrayLike], orders: Sequence[int], max_order: int) -> FloatArray:
    """Evaluate the terms of a Piff polynomial (selection specification 6.6).

    Parameters
    ----------
    values : sequence of array_like, shape (n,)
        Values of the keys, one array per key.
    orders : sequence of int
        Highest power of each key.
    max_order : int
        Highest total power.

    Returns
    -------
    ndarray, shape (n, terms)
        Products of raw powers, in row-major order of the powers, last key fastest.
    """
    product = np.ones((np.size(values[0]), *(1 for _ in orders)))
    total = np.zeros((1, *(1 for _ in orders)), dtype=np.int64)
    for axis, (value, order) in enumerate(zip(values, orders, strict=True), start=1):
        column = np.atleast_1d(np.asarray(value, dtype=np.float64))
        powers = np.cumprod(np.column_stack([np.ones(len(column)), *[column] * order]), axis=1)
        shape = [1] * product.ndim
        shape[axis] = order + 1
        product = product * powers.reshape(len(column), *shape[1:])
        total = total + np.arange(order + 1).reshape(shape)
    return product[:, total[0] <= max_order]


@dataclass(frozen=True)
class PiffModel:
    """A Piff PSF that draws like the reference.

    Attributes
    ----------
    psf : piff.SimplePSF
        The fitted Piff object.
    size : int
        Side of drawn squares, pixels, odd.
    average_position : (float, float)
        Mean (x, y) of the used stars, parent pixels.
    average_color : float
        Mean colour of the used stars, NaN if colour is not a variable.
    compatibility : str
        ``lsst`` labels images at half-integer positions one pixel too high, as the reference (S-Q16).
    """

    psf: Any
    size: int
    average_position: tuple[float, float]
    average_color: float
    compatibility: str = "fixed"

    @property
    def chromatic(self) -> bool:
        """Whether colour is a variable of the model."""
        return COLOR_KEY in self.psf.interp_property_names

    @property
    def is_polynomial_grid(self) -> bool:
        """Whether the model is a pixel grid with polynomial interpolation, as the determiner makes it."""
        psf = self.psf
        return type(psf.model).__name__ == "PixelGrid" and type(psf.interp).__name__ == "BasisPolynomial"

    def kernel_image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model of (x, y) centred on the central pixel; (0, 0) is that pixel."""
        half = self.size // 2
        return PsfImage(self.kernel_images(x=x, y=y, color=color)[0], -half, -half)

    def image(self, *, x: float, y: float, color: float = np.nan) -> PsfImage:
        """Draw the model at its true place (x, y), parent pixels."""
        arrays, x0, y0 = self.images(x=x, y=y, color=color)
        return PsfImage(arrays[0], int(x0[0]), int(y0[0]))

    def kernel_images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> FloatArray:
        """Draw many kernel images, shape (n, size, size), unit sum."""
        places = self._places(x, y, color)
        centre_x, centre_y = self._central_pixels(places)
        return self._draw(places, centre_x, centre_y, at_x=centre_x, at_y=centre_y)

    def images(
        self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan
    ) -> tuple[FloatArray, IntArray, IntArray]:
        """Draw many images: arrays (n, size, size), unit sum, and the x0, y0 of their first pixels."""
        places = self._places(x, y, color)
        centre_x, centre_y = self._central_pixels(places)
        arrays = self._draw(places, centre_x, centre_y, at_x=places.x, at_y=places.y)
        half = self.size // 2
        x0 = np.floor(places.x + 0.5).astype(np.int64) - half
        y0 = np.floor(places.y + 0.5).astype(np.int64) - half
        return arrays, x0, y0

    def _places(self, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike) -> _Places:
        """Bring the arguments to one shape; NaN means the average position or colour."""
        xs, ys, colors = (
            np.array(values, dtype=np.float64).ravel() for values in np.broadcast_arrays(x, y, color)
        )
        average = np.isnan(xs) & np.isnan(ys)
        xs[average], ys[average] = self.average_position
        colors[np.isnan(colors)] = self.average_color
        return _Places(xs, ys, colors)

    def _central_pixels(self, places: _Places) -> tuple[FloatArray, FloatArray]:
        """Central pixels of the drawn squares; halves go down in Piff, up in the box of the image (S-Q16)."""
        if self.compatibility == "lsst":
            return np.ceil(places.x - 0.5), np.ceil(places.y - 0.5)
        return np.floor(places.x + 0.5), np.floor(places.y + 0.5)

    def _draw(
        self,
        places: _Places,
        centre_x: FloatArray,
        centre_y: FloatArray,
        *,
        at_x: FloatArray,
        at_y: FloatArray,
    ) -> FloatArray:
        """Draw squares around the central pixels with the profiles' origins at (at_x, at_y)."""
        if self.is_polynomial_grid:
            arrays = self._draw_grid(places, centre_x, centre_y, at_x, at_y)
        else:
            arrays = self._draw_by_piff(places, centre_x, centre_y, at_x, at_y)
        arrays /= arrays.sum(axis=(1, 2), keepdims=True)
        return arrays

    def _draw_grid(
        self, places: _Places, centre_x: FloatArray, centre_y: FloatArray, at_x: FloatArray, at_y: FloatArray
    ) -> FloatArray:
        import galsim

        model, wcs = self.psf.model, _only(self.psf.wcs)
        parameters = self.parameters(x=places.x, y=places.y, color=places.color)
        arrays = np.empty((len(places.x), self.size, self.size))
        half = self.size // 2
        for k, grid in enumerate(parameters.reshape(-1, model.size, model.size)):
            local = wcs.local(image_pos=galsim.PositionD(at_x[k], at_y[k])).jacobian()
            grid_to_image = np.ascontiguousarray(local.inverse().getMatrix() * model.scale)
            profile = _grid_profile(grid, model.interp)
            image = galsim.ImageD(arrays[k], xmin=-half, ymin=-half, scale=1.0)
            profile._drawReal(image, grid_to_image, (at_x[k] - centre_x[k], at_y[k] - centre_y[k]), 1.0)
        return arrays

    def parameters(self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan) -> FloatArray:
        """Return the grid values at positions, shape (n, model size squared), unit sum.

        Polynomial grid models only; `x` and `y` in parent pixels.
        """
        terms = self.terms(x=x, y=y, color=color)
        coefficients = self.psf.interp.q
        result = np.zeros((len(terms), len(coefficients)))
        for k in range(terms.shape[1]):
            result += terms[:, k, np.newaxis] * coefficients[:, k]
        result /= result.sum(axis=1, keepdims=True)
        return result

    def terms(self, *, x: npt.ArrayLike, y: npt.ArrayLike, color: npt.ArrayLike = np.nan) -> FloatArray:
        """Return the terms of the polynomial at positions, shape (n, terms); polynomial models only."""
        places = self._places(x, y, color)
        interp = self.psf.interp
        values = [self._key_values(key, places) for key in interp._keys]
        return polynomial_terms(values, interp._orders, interp._max_order)

    def _key_values(self, key: str, places: _Places) -> FloatArray:
        if key in PIXEL_KEYS:
            return places.x if key == "x" else places.y
        if key in FIELD_KEYS:
            return field_positions(_only(self.psf.wcs), self.psf.pointing, x=places.x, y=places.y)[
                FIELD_KEYS.index(key)
            ]
        if key == COLOR_KEY:
            return places.color
        raise ValueError(f"the polynomial of the Piff model has an unknown key {key!r}")

    def _draw_by_piff(
        self, places: _Places, centre_x: FloatArray, centre_y: FloatArray, at_x: FloatArray, at_y: FloatArray
    ) -> FloatArray:
        import galsim

        arrays = np.empty((len(places.x), self.size, self.size))
        half = self.size // 2
        for k in range(len(places.x)):
            image = galsim.ImageD(arrays[k], xmin=int(centre_x[k]) - half, ymin=int(centre_y[k]) - half)
            extra = {COLOR_KEY: places.color[k]} if self.chromatic else {}
            self.psf.draw(places.x[k], places.y[k], image=image, center=(at_x[k], at_y[k]), **extra)
        return arrays


@dataclass(frozen=True)
class _Places:
    """Positions (parent pixels) and colours at which a model is drawn, shape (n,)."""

    x: FloatArray
    y: FloatArray
    color: FloatArray


def piff_model(psf: Any, *, size: int, compatibility: str = "fixed") -> PiffModel:
    """Wrap a fitted Piff object; averages are those of its used stars (selection specification 6.7).

    Parameters
    ----------
    psf : piff.SimplePSF
        Fitted, with its stars (their images may be gone) and one WCS.
    size : int
        Side of drawn squares, pixels.
    """
    used = [star for star in psf.stars if not star.is_flagged and not star.is_reserve]
    position = (
        float(np.mean([star.image_pos.x for star in used])),
        float(np.mean([star.image_pos.y for star in used])),
    )
    color = np.nan
    if COLOR_KEY in psf.interp_property_names:
        values = np.array([star[COLOR_KEY] for star in used], dtype=np.float64)
        color = float(np.mean(values[np.isfinite(values)]))
    return PiffModel(psf, int(size), position, color, compatibility)


def field_positions(
    wcs: Any, pointing: Any, *, x: npt.ArrayLike, y: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return Piff's (u, v) in arcsec of parent pixel positions.

    A celestial WCS is projected on the tangent plane about `pointing`, any other WCS gives (u, v) itself.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if wcs.isCelestial():
        ra, dec = wcs.xyToradec(x, y, units="rad")
        u, v = pointing.project_rad(ra, dec)
        return u * ARCSEC_PER_RADIAN, v * ARCSEC_PER_RADIAN
    u, v = wcs.xyTouv(x, y)
    return np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64)


def _grid_profile(grid: FloatArray, interpolant: Any) -> Any:
    """Profile of a grid of model pixels of unit size, its origin on the middle pixel."""
    import galsim

    image = galsim.ImageD(np.ascontiguousarray(grid), scale=1.0)
    image.setCenter(0, 0)
    return galsim._InterpolatedImage(image, x_interpolant=interpolant, use_true_center=False)


def _only(chips: Any) -> Any:
    """The WCS of a model that covers one detector."""
    (wcs,) = chips.values()
    return wcs
