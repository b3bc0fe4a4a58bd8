"""The Gaussian stream against the published values and against drawing one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finalchar.measure import random_stream
from finalchar.measure.random_stream import GaussianStream

# Measurement specification 2.3; tables rounded to 12 digits differ by 2e-10 at most.
SEED_1 = [-0.491923638, -1.54605628, 4.26948411e-4, 0.0872218452, 0.514232798, 0.365169973]


def one_by_one(seed: int, number: int) -> list[float]:
    """Draw as the specification words it: word after word, trial after trial."""
    words = iter(np.random.RandomState(seed).randint(0, 2**32, size=3 * number, dtype=np.uint32).tolist())
    tables = random_stream._ziggurat()
    tail = random_stream.TAIL_START
    values = []
    while len(values) < number:
        u = next(words)
        level, step, sign = u & 0x7F, (u >> 8) & 0xFFFFFF, 1.0 if u & 0x80 else -1.0
        x = step * float(tables.w[level])
        if step < tables.k[level]:
            values.append(sign * x)
            continue
        if level < 127:
            low = float(tables.y[level + 1])
            y = low + (float(tables.y[level]) - low) * (next(words) / 2.0**32)
        else:
            x = tail - math.log(1.0 - next(words) / 2.0**32) / tail
            y = math.exp(-tail * (x - 0.5 * tail)) * (next(words) / 2.0**32)
        if y < math.exp(-0.5 * x * x):
            values.append(sign * x)
    return values


def test_first_values_are_the_published_ones():
    np.testing.assert_allclose(GaussianStream(1).gaussians(6), SEED_1, rtol=3e-9)


def test_tables_are_the_published_ones():
    tables = random_stream._ziggurat()
    np.testing.assert_allclose(tables.y[1:4], [0.963598623, 0.936280813, 0.913041104], rtol=1e-9)
    assert tables.w[0] == pytest.approx(1.62318314817e-8, rel=1e-10)
    assert tables.k[[0, 1, 2, 127]].tolist() == [0, 12590644, 14272653, 15472926]


@pytest.mark.parametrize("seed", [1, 2, 5, 12345])
def test_batches_consume_words_like_single_draws(seed):
    number = 40_000  # holds about 500 trials outside the quick region, 10 of them in the tail
    # numpy's and the math library's logarithm may differ in the last digit in the tail
    np.testing.assert_allclose(GaussianStream(seed).gaussians(number), one_by_one(seed, number), rtol=1e-14)


def test_cutting_the_stream_into_pieces_changes_nothing():
    whole = GaussianStream(3).gaussians(5000)
    stream = GaussianStream(3)
    pieces = [stream.gaussians(n) for n in (1, 0, 2, 700, 63, 64, 65, 4105)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_uniforms_and_gaussians_share_one_stream():
    stream = GaussianStream(1)
    assert stream.uniforms(1)[0] == 1791095845 / 2.0**32
    assert stream.uniforms(1)[0] == 4282876139 / 2.0**32


def test_only_the_low_32_bits_of_the_seed_count_and_zero_is_the_largest():
    assert np.array_equal(GaussianStream(2**40 + 9).gaussians(5), GaussianStream(9).gaussians(5))
    assert np.array_equal(GaussianStream(0).gaussians(5), GaussianStream(2**64 - 1).gaussians(5))


def test_the_numbers_are_gaussian():
    values = GaussianStream(11).gaussians(200_000)
    error = 1 / np.sqrt(len(values))
    assert abs(values.mean()) < 5 * error
    assert abs(values.std() - 1) < 5 * error
    assert abs((np.abs(values) > 3.44428647676).mean() - 5.727e-4) < 5 * np.sqrt(5.7e-4 / len(values))
