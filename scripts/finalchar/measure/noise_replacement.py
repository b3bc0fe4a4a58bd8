"""Noise in place of all sources but one (measurement specification 2).

Every source of the catalogue is replaced by noise in its (heavy) footprint; then one star after another is
put back, measured, and replaced again.  The reference mutates one image in catalogue order [M-Q29]; here the
few pixels that this history changes are kept as a list, so that the image around any star can be had at any
time without touching the exposure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.errors import MeasurementError
from finalchar.formats.exposure import Box
from finalchar.formats.sources import Footprints
from finalchar.measure.footprint_geometry import FootprintBoxes, FootprintPixels, list_pixels, measure_boxes
from finalchar.measure.random_stream import GaussianStream
from finalchar.psf.clipping import clipped_mean_and_variance

__all__ = ["NoiseLevel", "PlainImage", "ReplacedImage", "StarImages", "measure_noise", "replace_sources"]

FloatArray = npt.NDArray[np.float64]
ImageArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NoiseLevel:
    """Clipped mean and standard deviation of an image, counts."""

    mean: float
    standard_deviation: float


def measure_noise(image: ImageArray) -> NoiseLevel:
    """Return the 3-sigma clipped mean and standard deviation of a whole image (2.1, step 3).

    Parameters
    ----------
    image : ndarray, float32
        Non-finite pixels are ignored; there is no mask.

    Raises
    ------
    MeasurementError
        If fewer than two pixels are finite.
    """
    mean, variance = clipped_mean_and_variance(image)
    if np.isnan(variance):
        raise MeasurementError(
            "the noise of the image cannot be measured: fewer than two of its pixels are finite"
        )
    return NoiseLevel(mean, float(np.sqrt(variance)))


class StarImages:
    """The image plane as each star sees it."""

    def stamp(self, star: int, box: Box) -> ImageArray:
        """Return the image in `box` (inside the exposure) while star number `star` is put back."""
        raise NotImplementedError


class PlainImage(StarImages):
    """The unchanged image: what the stars see without noise replacement."""

    def __init__(self, image: ImageArray, box: Box) -> None:
        self._image = image
        self._box = box

    def stamp(self, star: int, box: Box) -> ImageArray:
        """Return a copy of the image in `box`."""
        return _cut(self._image, self._box, box).copy()


@dataclass(frozen=True)
class _Pixels:
    """Values to be written at pixels (y, x) relative to the first pixel of the image."""

    y: IntArray
    x: IntArray
    value: ImageArray

    def write(self, image: ImageArray) -> None:
        image[self.y, self.x] = self.value

    def within(self, box: Box, origin: Box) -> _Pixels:
        """Return those inside `box`, relative to its first pixel."""
        y = self.y + (origin.min_y - box.min_y)
        x = self.x + (origin.min_x - box.min_x)
        inside = (y >= 0) & (y < box.height) & (x >= 0) & (x < box.width)
        return _Pixels(y[inside], x[inside], self.value[inside])


class ReplacedImage(StarImages):
    """The image in which all sources are noise, and one star at a time is put back."""

    def __init__(
        self, background: ImageArray, box: Box, inserted: list[_Pixels], history: list[_Pixels]
    ) -> None:
        self._background = background
        self._box = box
        self._inserted = inserted
        sizes = [len(change.value) for change in history]
        self._history = _join(history)
        self._history_end = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def background(self) -> ImageArray:
        """The image with every source replaced, before any star was put back."""
        return self._background

    def stamp(self, star: int, box: Box) -> ImageArray:
        """Return the image in `box` while star number `star` is put back.

        Parameters
        ----------
        star : int
            Row number in the measured table (rows are in catalogue order).
        box : Box
            Must lie inside the exposure.
        """
        result = _cut(self._background, self._box, box).copy()
        past = slice(0, int(self._history_end[star]))
        earlier = _Pixels(self._history.y[past], self._history.x[past], self._history.value[past])
        earlier.within(box, self._box).write(result)
        self._inserted[star].within(box, self._box).write(result)
        return result


def replace_sources(
    *, image: ImageArray, box: Box, footprints: Footprints, stars: IntArray, level: NoiseLevel, seed: int
) -> ReplacedImage:
    """Replace every source by noise and remember how each star is put back (2.1, 2.2).

    Parameters
    ----------
    image : ndarray, float32, shape (ny, nx)
        The image plane; it is not changed.
    box : Box
        Its pixel box.
    footprints : Footprints
        Footprints of *all* sources of the catalogue, in catalogue order; empty ones change nothing.
    stars : ndarray, int64
        Index into `footprints` of every star that will be measured, in the order of measurement; -1 for a
        star without footprint, which then is never replaced nor put back.
    level : NoiseLevel
        Mean and standard deviation of the noise.
    seed : int
        Seed of the noise.
    """
    pixels = list_pixels(footprints)
    boxes = measure_boxes(footprints)
    active = footprints.heavy | (footprints.parent == 0)
    heavy = _heavy_values(image, box, footprints, pixels)
    noise = _noise_values(pixels, boxes, active, level, seed)
    owner = np.repeat(np.arange(len(footprints)), np.diff(pixels.offset))
    usable = _inside(pixels, box)
    replaced = usable & active[owner]
    written = _Pixels(pixels.y[replaced] - box.min_y, pixels.x[replaced] - box.min_x, noise[replaced])

    def values_of(index: int, values: ImageArray) -> _Pixels:
        part = pixels.part(index) if index >= 0 else slice(0, 0)
        good = usable[part]
        return _Pixels(pixels.y[part][good] - box.min_y, pixels.x[part][good] - box.min_x, values[part][good])

    owners = [_find_heavy(footprints, active, int(star)) for star in stars]
    current = image.copy()
    written.write(current)
    history = [_remove(current, values_of(index, noise)) for index in owners]
    written.write(current)
    return ReplacedImage(current, box, [values_of(index, heavy) for index in owners], history)


def _heavy_values(image: ImageArray, box: Box, footprints: Footprints, pixels: FootprintPixels) -> ImageArray:
    """Return the values of all footprint pixels: the stored heavy ones, else those of the image."""
    inside = _inside(pixels, box)
    values = np.zeros(len(pixels.x), dtype=np.float32)
    values[inside] = image[pixels.y[inside] - box.min_y, pixels.x[inside] - box.min_x]
    stored = np.repeat(footprints.heavy, np.diff(pixels.offset))
    if int(stored.sum()) != len(footprints.heavy_image):
        raise MeasurementError(
            f"the heavy footprints hold {len(footprints.heavy_image)} values for {int(stored.sum())} pixels;"
            " write the source catalogue anew"
        )
    values[stored] = footprints.heavy_image
    return values


def _noise_values(
    pixels: FootprintPixels,
    boxes: FootprintBoxes,
    active: npt.NDArray[np.bool_],
    level: NoiseLevel,
    seed: int,
) -> ImageArray:
    """Return the noise at all footprint pixels; every pixel of each *box* consumes one random number."""
    size = np.where(active, boxes.width * boxes.height, 0)
    first = np.concatenate([[0], np.cumsum(size)[:-1]]) if len(size) else size
    stream = GaussianStream(seed).gaussians(int(size.sum())).astype(np.float32)
    stream = stream * np.float32(level.standard_deviation) + np.float32(level.mean)
    number = np.diff(pixels.offset)
    column = pixels.x - np.repeat(boxes.min_x, number)
    row = pixels.y - np.repeat(boxes.min_y, number)
    place = np.repeat(first, number) + row * np.repeat(boxes.width, number) + column
    used = np.repeat(active, number)
    values = np.zeros(len(pixels.x), dtype=np.float32)
    values[used] = stream[place[used]]
    return values


def _remove(current: ImageArray, noise: _Pixels) -> _Pixels:
    """Write a source's own noise back; return the pixels that this changes."""
    changed = current[noise.y, noise.x] != noise.value
    noise.write(current)
    return _Pixels(noise.y[changed], noise.x[changed], noise.value[changed])


def _find_heavy(footprints: Footprints, active: npt.NDArray[np.bool_], star: int) -> int:
    """Return the index of the source that is put back for `star`: itself or its first heavy parent."""
    for _ in range(len(footprints)):
        if star < 0 or active[star]:
            return star
        above = np.flatnonzero(footprints.source_id == footprints.parent[star])
        star = int(above[0]) if len(above) else -1
    return -1


def _inside(pixels: FootprintPixels, box: Box) -> npt.NDArray[np.bool_]:
    inside = (pixels.x >= box.min_x) & (pixels.x <= box.max_x)
    return np.asarray(inside & (pixels.y >= box.min_y) & (pixels.y <= box.max_y))


def _cut(image: ImageArray, origin: Box, box: Box) -> ImageArray:
    rows = slice(box.min_y - origin.min_y, box.max_y - origin.min_y + 1)
    columns = slice(box.min_x - origin.min_x, box.max_x - origin.min_x + 1)
    return image[rows, columns]


def _join(parts: list[_Pixels]) -> _Pixels:
    empty = _Pixels(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    parts = [empty, *parts]
    return _Pixels(
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.value for part in parts]),
    )
