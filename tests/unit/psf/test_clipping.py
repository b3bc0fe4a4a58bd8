"""Clipped mean and variance: of noise with outliers, by the stated passes, of hardly anything."""

from __future__ import annotations

import numpy as np
import pytest

from finalchar.psf.clipping import clipped_mean_and_variance


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outliers_and_holes_do_not_count(dtype):
    image = np.random.default_rng(1).normal(3.0, 5.0, (400, 400)).astype(dtype)
    image[:40] = np.nan
    image[50, 3] = np.inf
    image[100:110, 100:140] = 1e5
    mean, variance = clipped_mean_and_variance(image)
    # clipping at 3 sigma takes 2.7 per cent of the variance; the error of a mean of 144 000 is 0.013
    assert mean == pytest.approx(3.0, abs=0.05)
    assert variance == pytest.approx(0.973 * 25.0, rel=0.015)


def test_each_pass_goes_over_all_values_again():
    """Long tails: what one pass has cut, the next may take back (selection specification 7.2)."""
    values = np.random.default_rng(4).standard_t(2, size=5000) + 3.0 * np.random.default_rng(5).exponential(
        size=5000
    )
    lower, centre, upper = np.quantile(values, [0.25, 0.5, 0.75])
    half_width = 3 * 0.741301109252802 * (upper - lower)
    cumulative = values[np.abs(values - centre) <= half_width]
    for _ in range(3):
        kept = values[np.abs(values - centre) <= half_width]
        centre, half_width = kept.mean(), 3 * kept.std(ddof=1)
    for _ in range(2):
        cumulative = cumulative[np.abs(cumulative - cumulative.mean()) <= 3 * cumulative.std(ddof=1)]
    mean, variance = clipped_mean_and_variance(values)
    assert (mean, variance) == pytest.approx((kept.mean(), kept.var(ddof=1)), rel=1e-12)
    assert variance != pytest.approx(cumulative.var(ddof=1), rel=1e-6)  # the rule that it is not


def test_hardly_anything():
    assert np.isnan(clipped_mean_and_variance(np.array([np.nan]))).all()
    assert np.isnan(clipped_mean_and_variance(np.zeros((0, 5)))).all()
    mean, variance = clipped_mean_and_variance(np.array([2.0, np.nan]))
    assert mean == 2.0
    assert np.isnan(variance)
    assert clipped_mean_and_variance(np.full((9, 9), 2.0, np.float32)) == (2.0, 0.0)
