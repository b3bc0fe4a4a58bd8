"""Noise replacement against a plain sequential mutation of one image."""

from __future__ import annotations

import numpy as np
import pytest

from finalchar.errors import MeasurementError
from finalchar.formats.exposure import Box
from finalchar.measure.footprint_geometry import measure_boxes, select_footprints
from finalchar.measure.noise_replacement import NoiseLevel, measure_noise, replace_sources
from finalchar.measure.random_stream import GaussianStream

LEVEL = NoiseLevel(0.25, 3.0)


def gaussian_image(stream, *, height, width):
    """A float32 image of unit Gaussians, filled row by row from the lowest y."""
    return stream.gaussians(height * width).astype(np.float32).reshape(height, width)


def mutate_one_image(image, box, footprints, stars, seed):
    """Yield the whole image as each star sees it, by writing into one image (specification 2.1, 2.2)."""
    image = image.copy()
    stream = GaussianStream(seed)
    heavy, noise = {}, {}
    for k in range(len(footprints)):
        y, x = footprints.pixels(k)
        if footprints.heavy[k]:
            heavy[k] = footprints.heavy_pixels(k)
        elif footprints.parent[k] == 0:
            heavy[k] = image[y - box.min_y, x - box.min_x].copy()
    for k in heavy:
        y, x = footprints.pixels(k)
        if not len(y):
            continue
        filled = gaussian_image(stream, height=int(np.ptp(y)) + 1, width=int(np.ptp(x)) + 1)
        filled = filled * np.float32(LEVEL.standard_deviation) + np.float32(LEVEL.mean)
        noise[k] = filled[y - y.min(), x - x.min()]
        image[y - box.min_y, x - box.min_x] = noise[k]
    ids = footprints.source_id.tolist()
    for star in stars:
        while star not in heavy:
            star = ids.index(footprints.parent[star])
        y, x = footprints.pixels(star)
        if len(y):
            image[y - box.min_y, x - box.min_x] = heavy[star]
        yield image.copy()
        if len(y):
            image[y - box.min_y, x - box.min_x] = noise[star]


def crowded_field(footprints_of, spans_of, rng):
    """Overlapping parents, heavy children, a plain child and empty footprints, in random places."""
    spans, ids, parents, heavy = [], [], [], {}
    for k in range(12):
        x, y, radius = rng.uniform(16, 50), rng.uniform(10, 34), rng.uniform(2, 9)
        source = [] if k in (3, 7) else spans_of(x, y, radius)
        spans.append(source)
        ids.append(1000 + 7 * k)
        parents.append(ids[2] if k in (4, 5, 6, 7) else 0)
        if k in (4, 5, 7, 9):
            size = sum(x1 - x0 + 1 for _, x0, x1 in source)
            heavy[k] = rng.normal(size=size).astype(np.float32)
    return footprints_of(spans, ids=ids, parents=parents, heavy=heavy)


@pytest.mark.parametrize("seed", range(8))
def test_every_star_sees_the_sequentially_mutated_image(footprints_of, spans_of, seed):
    rng = np.random.default_rng(seed)
    box = Box(5, -4, 64, 45)
    image = rng.normal(size=(50, 60)).astype(np.float32) * 100
    footprints = crowded_field(footprints_of, spans_of, rng)
    stars = np.array([0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    images = replace_sources(
        image=image, box=box, footprints=footprints, stars=stars, level=LEVEL, seed=seed + 1
    )
    wanted = mutate_one_image(image, box, footprints, stars.tolist(), seed + 1)
    for row, expected in enumerate(wanted):
        assert np.array_equal(images.stamp(row, box), expected)
        part = Box(20, 3, 33, 30)
        assert np.array_equal(images.stamp(row, part), expected[7:35, 15:29])


def test_the_exposure_is_not_changed(footprints_of, spans_of):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(50, 60)).astype(np.float32)
    before = image.copy()
    footprints = crowded_field(footprints_of, spans_of, rng)
    replace_sources(
        image=image,
        box=Box(0, 0, 59, 49),
        footprints=footprints,
        stars=np.arange(3),
        level=LEVEL,
        seed=1,
    )
    assert np.array_equal(image, before)


def test_footprints_over_the_edge_consume_the_random_numbers_of_their_whole_box(footprints_of, spans_of):
    image = np.zeros((30, 30), dtype=np.float32)
    inside = spans_of(20, 20, 3)
    over = spans_of(0, 0, 4)
    box = Box(0, 0, 29, 29)
    both = replace_sources(
        image=image,
        box=box,
        footprints=footprints_of([over, inside]),
        stars=np.array([0]),
        level=LEVEL,
        seed=1,
    )
    stream = GaussianStream(1)
    gaussian_image(stream, height=9, width=9)
    expected = gaussian_image(stream, height=7, width=7) * np.float32(3.0) + np.float32(0.25)
    assert both.background[20, 20] == expected[3, 3]


def test_a_star_without_footprint_is_neither_replaced_nor_put_back(footprints_of, spans_of):
    rng = np.random.default_rng(5)
    image = rng.normal(size=(30, 30)).astype(np.float32)
    box = Box(0, 0, 29, 29)
    images = replace_sources(
        image=image,
        box=box,
        footprints=footprints_of([spans_of(8, 8, 3)]),
        stars=np.array([-1]),
        level=LEVEL,
        seed=1,
    )
    stamp = images.stamp(0, Box(15, 15, 29, 29))
    assert np.array_equal(stamp, image[15:, 15:])


def test_an_orphan_child_without_heavy_pixels_is_left_alone(footprints_of, spans_of):
    image = np.ones((30, 30), dtype=np.float32)
    footprints = footprints_of([spans_of(8, 8, 3)], parents=[999])
    images = replace_sources(
        image=image,
        box=Box(0, 0, 29, 29),
        footprints=footprints,
        stars=np.array([0]),
        level=LEVEL,
        seed=1,
    )
    assert np.array_equal(images.stamp(0, Box(0, 0, 29, 29)), image)


def test_no_sources_at_all(footprints_of):
    image = np.ones((8, 9), dtype=np.float32)
    images = replace_sources(
        image=image,
        box=Box(0, 0, 8, 7),
        footprints=footprints_of([]),
        stars=np.zeros(0, int),
        level=LEVEL,
        seed=1,
    )
    assert np.array_equal(images.background, image)


def test_heavy_footprints_of_the_wrong_size_are_refused(footprints_of, spans_of):
    footprints = footprints_of([spans_of(8, 8, 3)], heavy={0: np.zeros(5)})
    with pytest.raises(MeasurementError, match="5 values for 29 pixels"):
        replace_sources(
            image=np.zeros((20, 20), np.float32),
            box=Box(0, 0, 19, 19),
            footprints=footprints,
            stars=np.zeros(0, int),
            level=LEVEL,
            seed=1,
        )


def test_noise_level_ignores_stars_and_holes():
    rng = np.random.default_rng(3)
    image = rng.normal(loc=2.0, scale=7.0, size=(400, 400)).astype(np.float32)
    image[:20, :20] = 5000.0
    image[50, :] = np.nan
    image[60, 3] = np.inf
    level = measure_noise(image)
    # 3 sigma clipping of a Gaussian lowers its sigma by 1.3 per cent; 160 000 pixels give 0.2 per cent
    assert level.mean == pytest.approx(2.0, abs=0.06)
    assert level.standard_deviation == pytest.approx(0.9866 * 7.0, rel=0.006)


def test_noise_level_follows_the_three_stated_passes():
    values = np.random.default_rng(4).standard_t(3, size=5000).astype(np.float32)
    v = values.astype(np.float64)
    q1, centre, q3 = np.quantile(v, [0.25, 0.5, 0.75])
    half = 3 * 0.741301109252802 * (q3 - q1)
    for _ in range(3):
        kept = v[np.abs(v - centre) <= half]
        centre, half = kept.mean(), 3 * kept.std(ddof=1)
    level = measure_noise(values.reshape(50, 100))
    assert level.mean == pytest.approx(centre, rel=1e-12)
    assert level.standard_deviation == pytest.approx(half / 3, rel=1e-12)


def test_an_image_without_finite_pixels_is_an_error():
    with pytest.raises(MeasurementError, match="fewer than two"):
        measure_noise(np.full((5, 5), np.nan, dtype=np.float32))


def test_boxes_of_empty_footprints_have_no_area(footprints_of, spans_of):
    boxes = measure_boxes(footprints_of([[], spans_of(10, 12, 2), []]))
    assert boxes.area.tolist() == [0, 13, 0]
    assert boxes.box(0) is None
    assert boxes.box(1) == Box(8, 10, 12, 14)


def test_footprints_are_found_by_id_in_any_order(footprints_of):
    footprints = footprints_of([[], [], []], ids=[30, 10, 20])
    assert select_footprints(footprints, np.array([10, 20, 25, 30])).tolist() == [1, 2, -1, 0]
