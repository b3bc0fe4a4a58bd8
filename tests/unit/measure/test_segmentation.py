"""Footprints where the catalogue has none: segments of the image, given to sources by place (K20)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finalchar.errors import InputError, MeasurementError
from finalchar.formats.sources import SourceTable
from finalchar.measure.noise_replacement import NoiseLevel, replace_sources
from finalchar.measure.random_stream import GaussianStream
from finalchar.measure.segmentation import Settings, footprints_of_catalogue, segment_image
from finalchar.measure.segments import footprints_from_segments, with_detected


def found(scene, **settings):
    return footprints_of_catalogue(scene.exposure, scene.catalogue(), Settings(**settings))


def changed_catalogue(scene, **columns):
    table = scene.catalogue()
    return SourceTable({**table.columns, **{n: np.asarray(v) for n, v in columns.items()}}, {}, table.aliases)


def test_each_star_has_the_pixels_around_it(scene_of):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[2e4, 3e4], origin=(30, 20))
    owned = found(scene)
    assert owned.footprints.source_id.tolist()[:2] == [1, 2]
    assert not owned.without_segment.any()
    assert not owned.sharing.any()
    for k in range(2):
        y, x = owned.footprints.pixels(k)
        assert np.hypot(x - scene.x[k], y - scene.y[k]).max() < 15
        assert (np.hypot(x - scene.x[k], y - scene.y[k]) < 4).sum() == 45  # all there are


def test_plane_detected_is_the_pixels_of_all_footprints(scene_of):
    scene = scene_of(x=[60.0, 80.0, 150.0], y=[70.0, 72.0, 120.0], flux=[2e4, 2e4, 3e4], origin=(30, 20))
    footprints, box = found(scene).footprints, scene.exposure.box
    expected = np.zeros(scene.exposure.image.shape, dtype=bool)
    for k in range(len(footprints)):
        y, x = footprints.pixels(k)
        expected[y - box.min_y, x - box.min_x] = True
    planes = {name: bit for name, bit in scene.exposure.mask_planes.items() if name != "DETECTED"}
    before = replace(scene.exposure, mask_planes=planes)
    marked = with_detected(before, footprints)
    detected = (marked.mask & marked.mask_bits(["DETECTED"])) != 0
    np.testing.assert_array_equal(detected, expected)
    others = marked.mask & ~marked.mask_bits(["DETECTED"])
    np.testing.assert_array_equal(others, before.mask & ~marked.mask_bits(["DETECTED"]))


def test_measured_as_with_the_footprints_of_a_catalogue(scene_of):
    scene = scene_of(x=[60.0, 80.0, 150.0], y=[70.0, 72.0, 120.0], flux=[2e4, 2e4, 3e4])
    given = scene.measure("fixed")
    own = replace(scene, footprints=found(scene).footprints).measure("fixed")
    error = given["base_PsfFlux_instFluxErr"]
    # the wings of stars and the noise drawn in their place differ by a part of the noise
    np.testing.assert_array_less(
        np.abs(own["base_PsfFlux_instFlux"] - given["base_PsfFlux_instFlux"]), 0.2 * error
    )
    assert not own["finalchar_Plausibility_flag"].any()


def test_the_same_stream_of_random_numbers(scene_of):
    """Box after box in catalogue order, every pixel of a box drawing one number; other segments follow."""
    scene = scene_of(x=[150.0, 60.0, 60.0], y=[120.0, 70.0, 140.0], flux=[3e4, 2e4, 2e4])
    catalogue = scene.catalogue().select(np.arange(2))  # the third star is not in it
    owned = footprints_of_catalogue(scene.exposure, catalogue, Settings())
    assert owned.unclaimed >= 1
    images = replace_sources(
        image=scene.exposure.image,
        box=scene.exposure.box,
        footprints=owned.footprints,
        stars=np.array([0, 1]),
        level=NoiseLevel(3.0, 5.0),
        seed=7,
    )
    stream = GaussianStream(7)
    for k in range(len(owned.footprints)):
        y, x = owned.footprints.pixels(k)
        box = np.ptp(y) + 1, np.ptp(x) + 1
        noise = stream.gaussians(box[0] * box[1]).reshape(box).astype(np.float32)
        wanted = noise * np.float32(5.0) + np.float32(3.0)
        np.testing.assert_array_equal(images.background[y, x], wanted[y - y.min(), x - x.min()])


def test_a_pair_that_is_not_divided_is_shared(scene_of):
    scene = scene_of(x=[100.0, 104.0], y=[90.0, 90.0], flux=[3e4, 3e4])
    owned = found(scene, deblend_contrast=1.0)
    assert owned.sharing.tolist() == [True, True]
    for k in range(2):
        y, x = owned.footprints.pixels(k)
        assert np.hypot(x - scene.x[k], y - scene.y[k]).min() < 1.0
    table = replace(scene, footprints=owned.footprints).measure("fixed")
    assert table["finalchar_Plausibility_flag_sharedFootprint"].all()


def test_a_parent_takes_no_pixels_from_its_children(scene_of):
    """Rows 1 and 2 are the parts of blend 3, whose place is that of the brighter part."""
    scene = scene_of(x=[100.0, 110.0, 100.0], y=[90.0, 90.0, 90.0], flux=[3e4, 2e4, 0.0])
    catalogue = changed_catalogue(scene, parent=np.array([3, 3, 0]))
    footprints = footprints_of_catalogue(scene.exposure, catalogue, Settings()).footprints
    areas = [len(footprints.pixels(k)[0]) for k in range(3)]
    assert footprints.parent[:3].tolist() == [3, 3, 0]
    assert footprints.heavy[:3].tolist() == [True, True, False]
    assert areas[2] == areas[0] + areas[1]
    assert min(areas) > 30
    y, x = footprints.pixels(0)
    np.testing.assert_array_equal(footprints.heavy_pixels(0), scene.exposure.image[y, x])
    table = replace(scene, footprints=footprints).measure("fixed")
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"][:2], [3e4, 2e4], rtol=0.05)


def test_a_child_whose_parent_is_missing_is_put_back(scene_of):
    scene = scene_of(x=[100.0], y=[90.0], flux=[3e4])
    footprints = footprints_of_catalogue(
        scene.exposure, changed_catalogue(scene, parent=np.array([77])), Settings()
    ).footprints
    table = replace(scene, footprints=footprints).measure("fixed")
    assert table["base_PsfFlux_instFlux"][0] == pytest.approx(3e4, rel=0.02)


def test_a_source_beside_its_segment_owns_it_by_the_peak():
    from finalchar.formats.exposure import Box

    labels = np.zeros((20, 20), dtype=np.int32)
    labels[9:12, 9:12] = 4
    arguments = {"box": Box(0, 0, 19, 19), "source_id": [1, 2], "y": [10.0, 10.0]}
    peaks = (np.array([10]), np.array([10]))
    owned = footprints_from_segments(labels, x=[12.0, 12.4], peaks=peaks, peak_distance=3.0, **arguments)
    assert owned.without_segment.tolist() == [False, True]
    assert owned.unclaimed == 0
    owned = footprints_from_segments(labels, x=[12.0, 12.4], peaks=peaks, peak_distance=1.0, **arguments)
    assert owned.without_segment.tolist() == [True, True]
    assert owned.unclaimed == 1


def test_bad_pixels_do_not_keep_a_star_from_its_segment(scene_of):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[2e4, 3e4])
    image, variance = scene.exposure.image.copy(), scene.exposure.variance.copy()
    image[69:72, 60] = np.nan
    image[10, :] = np.inf
    variance[119:122, 150] = 0.0
    labels = segment_image(scene.with_planes(image=image, variance=variance).exposure, Settings()).labels
    assert labels[70, 63] != 0
    assert labels[120, 153] != 0


def test_an_image_without_light_has_no_segments(scene_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[0.0])
    exposure = replace(scene.exposure, image=np.zeros_like(scene.exposure.image))
    owned = footprints_of_catalogue(exposure, scene.catalogue(), Settings())
    assert owned.without_segment.tolist() == [True]
    assert owned.footprints.span_offset.tolist() == [0, 0]


def test_nan_centroids_own_nothing(scene_of):
    scene = scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[2e4, 3e4])
    catalogue = changed_catalogue(scene, base_SdssCentroid_x=np.array([60.0, np.nan]))
    owned = footprints_of_catalogue(scene.exposure, catalogue, Settings())
    assert owned.without_segment.tolist() == [False, True]
    assert owned.unclaimed >= 1


def test_a_catalogue_without_positions_is_refused(scene_of):
    scene = scene_of(x=[60.0], y=[70.0], flux=[2e4])
    table = scene.catalogue()
    del table.aliases["slot_Centroid"]
    with pytest.raises(InputError, match="neither footprints nor a column 'slot_Centroid_x'"):
        footprints_of_catalogue(scene.exposure, table, Settings())


def test_what_sep_cannot_do_is_told(scene_of, monkeypatch):
    import sep

    def fail(*arguments, **keywords):
        raise Exception("object deblending overflow")

    monkeypatch.setattr(sep, "extract", fail)
    scene = scene_of(x=[60.0], y=[70.0], flux=[2e4])
    with pytest.raises(MeasurementError, match=r"overflow.*measurement\.segmentation\.threshold"):
        segment_image(scene.exposure, Settings())
