"""Known failure K20: which pixels belong to which source is decided by place, not by equal numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finalchar.formats.exposure import Box
from finalchar.measure.footprint_geometry import count_shared_pixels, has_many_peaks
from finalchar.measure.segments import footprints_from_segments

CHECK = "finalchar_Plausibility"


def label_image(scene, positions, radius, labels):
    """Return an image with a disc of the given label around each position."""
    ny, nx = scene.exposure.image.shape
    row, column = np.mgrid[:ny, :nx]
    result = np.zeros((ny, nx), dtype=np.int32)
    for (x, y), label in zip(positions, labels, strict=True):
        result[np.hypot(column - x, row - y) <= radius] = label
    return result


def test_labels_need_not_be_ids(scene_of):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[2e4, 3e4])
    labels = label_image(scene, [(60, 70), (150, 120)], 8, [2, 1])  # equal to the ids, but exchanged
    owned = footprints_from_segments(labels, box=scene.exposure.box, source_id=[1, 2], x=scene.x, y=scene.y)
    assert not owned.sharing.any()
    assert not owned.without_segment.any()
    for k in range(2):
        y, x = owned.footprints.pixels(k)
        assert np.hypot(x - scene.x[k], y - scene.y[k]).max() <= 8
        assert len(x) == (labels == [2, 1][k]).sum()


@pytest.mark.parametrize("first_label", [1, 17, 10**6])
def test_a_pair_with_one_label_is_divided_and_flagged(scene_of, first_label):
    scene = scene_of(x=[100.0, 106.0, 40.0], y=[90.0, 90.0, 40.0], flux=[3e4, 3e4, 3e4])
    labels = label_image(scene, [(100, 90), (106, 90), (40, 40)], 9, [first_label, first_label, 3])
    owned = footprints_from_segments(
        labels, box=scene.exposure.box, source_id=[1, 2, 3], x=scene.x, y=scene.y
    )
    assert owned.sharing.tolist() == [True, True, False]
    _, x = owned.footprints.pixels(0)
    assert (x <= 103).all()
    assert len(x) + len(owned.footprints.pixels(1)[0]) == (labels == first_label).sum()
    table = replace(scene, footprints=owned.footprints).measure("fixed")
    assert table[f"{CHECK}_flag_sharedFootprint"].tolist() == [True, True, False]
    # each is still there when it is measured, while the other one is noise: not twice the flux
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"], 3e4, rtol=0.15)


def test_a_source_without_segment_is_counted_and_flagged(scene_of):
    scene = scene_of(x=[60.0, 150.0, 300.0], y=[70.0, 120.0, 20.0], flux=[2e4, 3e4, 0.0])
    labels = label_image(scene, [(60, 70)], 8, [5])
    owned = footprints_from_segments(
        labels, box=scene.exposure.box, source_id=[1, 2, 3], x=scene.x, y=scene.y
    )
    assert owned.without_segment.tolist() == [False, True, True]
    table = replace(scene, footprints=owned.footprints).measure("fixed")
    assert table[f"{CHECK}_flag_noFootprint"].tolist() == [False, True, True]
    assert table["base_PsfFlux_instFlux"][0] == pytest.approx(2e4, rel=0.02)


def test_segments_without_source_are_replaced_too(scene_of):
    scene = scene_of(x=[100.0, 118.0], y=[90.0, 90.0], flux=[2e4, 2e6])
    labels = label_image(scene, [(118, 90), (100, 90)], 8.9, [1, 2])
    owned = footprints_from_segments(labels, box=scene.exposure.box, source_id=[1], x=[100.0], y=[90.0])
    assert owned.unclaimed == 1
    assert owned.footprints.source_id.tolist() == [1, -1]
    table = replace(scene, footprints=owned.footprints).measure("fixed", rows=[0])
    # the wings of the bright one beyond its segment (5 sigma) stay; its 2e6 do not
    assert table["base_PsfFlux_instFlux"][0] == pytest.approx(2e4, rel=0.05)


def test_no_segment_and_no_source():
    box = Box(0, 0, 9, 7)
    owned = footprints_from_segments(np.zeros((8, 10), int), box=box, source_id=[], x=[], y=[])
    assert len(owned.footprints) == 0


def test_a_catalogue_of_other_ids_leaves_flags_not_wrong_pixels(scene_of):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[2e4, 3e4])
    strangers = replace(scene.footprints, source_id=np.array([501, 502]))
    table = replace(scene, footprints=strangers).measure("fixed")
    assert table[f"{CHECK}_flag_noFootprint"].all()
    assert table["ext_shapeHSM_HsmSourceMoments_flag"].all()


def test_no_footprints_at_all(scene_of, footprints_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[2e4])
    table = replace(scene, footprints=footprints_of([])).measure("fixed")
    assert table[f"{CHECK}_flag_noFootprint"].all()
    assert table["base_PsfFlux_instFlux"][0] == pytest.approx(2e4, rel=0.02)


def test_shared_pixels_are_counted_for_competitors_only(footprints_of):
    row = [(5, 0, 9)]
    beside = [(5, 8, 14)]
    plain = footprints_of([row, beside, [(20, 0, 3)]])
    assert count_shared_pixels(plain, np.array([0, 1, 2, -1])).tolist() == [2, 2, 0, 0]
    deblended = footprints_of(
        [row, row, beside],
        ids=[1, 2, 3],
        parents=[0, 1, 1],
        heavy={1: np.ones(10), 2: np.ones(7)},
    )
    assert count_shared_pixels(deblended, np.array([1, 2])).tolist() == [0, 0]


def test_several_peaks_in_a_footprint_that_was_not_deblended(footprints_of):
    footprints = footprints_of([[(5, 0, 9)], [(8, 0, 9)]])
    two = replace(
        footprints,
        peak_offset=np.array([0, 2, 3]),
        peak_x=np.array([1, 8, 4], dtype=np.int32),
        peak_y=np.array([5, 5, 8], dtype=np.int32),
        peak_f_x=np.array([1, 8, 4], dtype=np.float32),
        peak_f_y=np.array([5, 5, 8], dtype=np.float32),
    )
    assert has_many_peaks(two, np.array([0, 1, -1])).tolist() == [True, False, False]
