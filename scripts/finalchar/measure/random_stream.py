"""The random numbers of the noise replacement: MT19937 words turned into Gaussians by GSL's ziggurat.

Measurement specification 2.3.  The stream is a pure function of its seed, so that the replaced noise of
every detector can be made again; draws are computed in batches, with the consumption of words exactly as in
one-by-one drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["GaussianStream"]

FloatArray = npt.NDArray[np.float64]
WordArray = npt.NDArray[np.uint32]

TAIL_START = 3.44428647676
"""Abscissa R where the tail of the ziggurat begins."""
LEVELS = 128
LONGEST_TRIAL = 3
"""Most words that one trial consumes."""
SPARE_WORDS = 64


@dataclass(frozen=True)
class _Ziggurat:
    """Tables of the levels: widths `w` per 24-bit step, thresholds `k` of quick acceptance, heights `y`."""

    w: FloatArray
    k: npt.NDArray[np.int64]
    y: FloatArray


def _density(x: FloatArray | float) -> FloatArray:
    return np.asarray(np.exp(-0.5 * np.square(x)))


@cache
def _ziggurat() -> _Ziggurat:
    area = _density(TAIL_START) * (TAIL_START + 1.0 / TAIL_START)
    x = np.zeros(LEVELS + 1)
    x[LEVELS] = TAIL_START + 1.0 / TAIL_START
    x[LEVELS - 1] = TAIL_START
    for level in range(LEVELS - 2, 0, -1):
        height = _density(x[level + 1]) + area / x[level + 1]
        x[level] = np.sqrt(-2.0 * np.log(height))
    return _Ziggurat(
        w=x[1:] / 2.0**24,
        k=np.floor(2.0**24 * x[:-1] / x[1:]).astype(np.int64),
        y=_density(x[:-1]),
    )


class GaussianStream:
    """Unit Gaussians and uniforms from one seeded Mersenne twister.

    Parameters
    ----------
    seed : int
        Only the low 32 bits matter; 0 stands for the largest unsigned number.
    """

    def __init__(self, seed: int) -> None:
        low = seed & 0xFFFFFFFF if seed != 0 else 0xFFFFFFFF
        # The old seeding by one 32-bit number is what the reference uses.
        self._generator = np.random.RandomState(low)
        self._words: WordArray = np.zeros(0, dtype=np.uint32)

    def uniforms(self, number: int) -> FloatArray:
        """Return `number` uniform variates in [0, 1), float64."""
        self._reserve(number)
        words, self._words = self._words[:number], self._words[number:]
        return words / 2.0**32

    def gaussians(self, number: int) -> FloatArray:
        """Return `number` unit Gaussians, float64, shape (number,)."""
        parts: list[FloatArray] = []
        missing = number
        while missing > 0:
            self._reserve(missing + SPARE_WORDS)
            values, ends = _draw(self._words)
            values = values[:missing]
            if len(values):
                parts.append(values)
                missing -= len(values)
                self._words = self._words[ends[len(values) - 1] :]
            else:
                self._reserve(len(self._words) + SPARE_WORDS)
        return np.concatenate(parts) if parts else np.zeros(0)

    def _reserve(self, number: int) -> None:
        """Make sure that `number` unused words are there."""
        lacking = number - len(self._words)
        if lacking > 0:
            fresh = self._generator.randint(0, 2**32, size=lacking, dtype=np.uint32)
            self._words = np.concatenate([self._words, fresh])


def _draw(words: WordArray) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Turn words into Gaussians; return them and, for each, the number of words used up to its end."""
    tables = _ziggurat()
    number = max(len(words) - LONGEST_TRIAL + 1, 0)
    first = words[:number]
    level = (first & 0x7F).astype(np.int64)
    step = (first >> np.uint32(8)).astype(np.int64)
    value = step * tables.w[level]
    rare = np.flatnonzero(step >= tables.k[level])
    value[rare], accepted, length = _decide(words, rare, level[rare], value[rare])
    given = np.ones(number, dtype=bool)
    end = np.arange(1, number + 1)
    free = 0
    for start, good, size in zip(rare.tolist(), accepted.tolist(), length.tolist(), strict=True):
        if start < free:  # this word was already consumed by the trial before
            continue
        free = start + size
        given[start] = good
        given[start + 1 : free] = False
        end[start] = free
    sign = np.where(first & 0x80, 1.0, -1.0)
    return (sign * value)[given], end[given]


def _decide(
    words: WordArray, start: npt.NDArray[np.int64], level: npt.NDArray[np.int64], x: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Judge the trials outside the quick region; return value, acceptance and number of words."""
    tables = _ziggurat()
    u1 = words[start + 1] / 2.0**32
    u2 = words[start + 2] / 2.0**32
    tail = level == LEVELS - 1
    upper = tables.y[np.minimum(level + 1, LEVELS - 1)]
    height = upper + (tables.y[level] - upper) * u1
    tail_x = TAIL_START - np.log(1.0 - u1) / TAIL_START
    x = np.where(tail, tail_x, x)
    height = np.where(tail, np.exp(-TAIL_START * (x - 0.5 * TAIL_START)) * u2, height)
    return x, height < _density(x), np.where(tail, 3, 2)
