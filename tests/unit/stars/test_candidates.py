"""Candidate stamps against a plain star-by-star, pixel-by-pixel reading of selection specification 5.3."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.sources import Footprints, SourceTable
from finalchar.stars.candidates import extract_stamps, index_of_position, make_psf_candidates

PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 31}
INTRP, DETECTED = 1 << 2, 1 << 5
CORNER = (-7, 11)  # parent coordinates of the first pixel


def make_exposure(seed=0, width=70, height=60, density=0.12, planes=PLANES):
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((height, width)) < density, DETECTED, 0).astype(np.int32)
    mask |= np.where(rng.random((height, width)) < 0.02, 1, 0).astype(np.int32)
    mask[0, 0] |= np.int32(-(2**31))
    return Exposure(
        image=rng.normal(0, 10, (height, width)).astype(np.float32),
        mask=mask,
        mask_planes=planes,
        variance=np.full((height, width), 100, np.float32),
        box=Box(CORNER[0], CORNER[1], CORNER[0] + width - 1, CORNER[1] + height - 1),
        wcs=None,
    )


def make_footprints(sources):
    """Footprints of (id, spans [(y, x0, x1)], peaks [(x, y)])."""
    offsets = [np.cumsum([0, *(len(s[k]) for s in sources)]) for k in (1, 2)]
    spans = np.array([span for source in sources for span in source[1]], np.int32).reshape(-1, 3)
    peaks = np.array([peak for source in sources for peak in source[2]], np.int32).reshape(-1, 2)
    number = len(sources)
    return Footprints(
        source_id=np.array([source[0] for source in sources], np.int64),
        parent=np.zeros(number, np.int64),
        span_offset=offsets[0],
        span_y=spans[:, 0],
        span_x0=spans[:, 1],
        span_x1=spans[:, 2],
        peak_offset=offsets[1],
        peak_x=peaks[:, 0],
        peak_y=peaks[:, 1],
        peak_f_x=peaks[:, 0].astype(np.float32),
        peak_f_y=peaks[:, 1].astype(np.float32),
        heavy=np.zeros(number, bool),
        heavy_offset=np.zeros(number + 1, np.int64),
        heavy_image=np.zeros(0, np.float32),
    )


def random_footprints(rng, ids, xs, ys):
    sources = []
    for source_id, x, y in zip(ids, xs, ys, strict=True):
        spans = [
            (round(y) + dy, round(x) - int(rng.integers(0, 9)), round(x) + int(rng.integers(0, 9)))
            for dy in range(-8, 9)
        ]
        peaks = [
            (round(x) + int(rng.integers(-6, 7)), round(y) + int(rng.integers(-6, 7)))
            for _ in range(int(rng.integers(1, 4)))
        ]
        sources.append((source_id, spans, peaks))
    return make_footprints(sources)


def plain_mask(exposure, x, y, size, spans, peaks):
    """Mask of one stamp, as the specification reads."""
    x0, y0 = int(np.floor(x + 0.5)) - size // 2, int(np.floor(y + 0.5)) - size // 2
    row, column = y0 - exposure.box.min_y, x0 - exposure.box.min_x
    mask = exposure.mask[row : row + size, column : column + size].copy()
    if len(peaks) > 1:
        distances = [(px - x) ** 2 + (py - y) ** 2 for px, py in peaks]
        central = distances.index(min(distances))
        for sy, sx0, sx1 in spans:
            for sx in range(sx0, sx1 + 1):
                if x0 <= sx < x0 + size and y0 <= sy < y0 + size:
                    squares = [(px - sx) ** 2 + (py - sy) ** 2 for px, py in peaks]
                    if any(s < squares[central] for k, s in enumerate(squares) if k != central):
                        mask[sy - y0, sx - x0] = (mask[sy - y0, sx - x0] & ~DETECTED) | INTRP
    components = flood(mask & DETECTED != 0)
    if len(components) >= 2:
        half_widths = {0: 3, 1: 2, 2: 2, 3: 0}
        centre = (size // 2, size // 2)
        for component in components:
            if centre in component:
                continue
            for py, px in component:
                for dy in range(-3, 4):
                    for dx in range(-half_widths[abs(dy)], half_widths[abs(dy)] + 1):
                        if 0 <= py + dy < size and 0 <= px + dx < size:
                            pixel = (py + dy, px + dx)
                            mask[pixel] = (mask[pixel] & ~DETECTED) | INTRP
    return mask


def flood(pixels):
    """8-connected components as sets of (y, x)."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(pixels)), strict=True))
    components = []
    while left:
        component, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border.extend(near)
        components.append(component)
    return components


class TestExtraction:
    @pytest.mark.parametrize("density", [0.0, 0.01, 0.03, 0.12, 0.5])
    @pytest.mark.parametrize("size", [15, 21])
    def test_masks_against_plain_reading(self, size, density):
        exposure = make_exposure(seed=size, density=density)
        rng = np.random.default_rng(3)
        x = CORNER[0] + rng.uniform(11, 57, 25)
        y = CORNER[1] + rng.uniform(11, 47, 25)
        footprints = random_footprints(rng, range(25), x, y)
        stamps = extract_stamps(
            exposure, x=x, y=y, size=size, footprints=footprints, footprint_index=np.arange(25)
        )
        assert stamps.rows.tolist() == list(range(25))
        assert stamps.mask.dtype == np.int32
        for star in range(25):
            spans = np.stack(footprints.spans(star), axis=1).tolist()
            peaks = np.stack(footprints.peaks(star), axis=1).tolist()
            expected = plain_mask(exposure, x[star], y[star], size, spans, peaks)
            assert np.array_equal(stamps.mask[star], expected)

    def test_planes_and_corners(self):
        exposure = make_exposure()
        stamps = extract_stamps(exposure, x=[10.5, 20.49], y=[30.0, 40.5], size=5)
        assert stamps.x0.tolist() == [9, 18]  # halves round up
        assert stamps.y0.tolist() == [28, 39]
        row, column = 28 - CORNER[1], 9 - CORNER[0]
        assert np.array_equal(stamps.image[0], exposure.image[row : row + 5, column : column + 5])
        assert stamps.size == 5
        stamps.image[:] = 0  # a copy
        stamps.mask[:] = 0
        assert exposure.image[row, column] != 0

    def test_negative_halves_round_up(self):
        assert index_of_position([-0.5, -1.5, 0.5, 1.49]).tolist() == [0, -1, 1, 1]

    def test_edge(self):
        """A stamp may touch the image's edge, and not leave it."""
        exposure = make_exposure()
        first_x, last_x = CORNER[0] + 2, CORNER[0] + 67
        x = [first_x, first_x - 1, last_x, last_x + 1, np.nan, np.inf, 1e300]
        stamps = extract_stamps(exposure, x=x, y=[40.0] * 7, size=5)
        assert stamps.rows.tolist() == [0, 2]

    def test_one_object_beside_the_centre_is_not_masked(self):
        """S-Q25: a lone object stays, even if the centre is not in it."""
        exposure = make_exposure(density=0.0)
        exposure.mask[:] = 0
        exposure.mask[20, 20] = DETECTED
        stamps = extract_stamps(exposure, x=[CORNER[0] + 23], y=[CORNER[1] + 23], size=15)
        assert (stamps.mask != 0).sum() == 1

    def test_disk_of_growth(self):
        """29 pixels less 4: half-widths 3, 2, 2, 0 for rows 0, 1, 2, 3 away."""
        exposure = make_exposure(density=0.0)
        exposure.mask[:] = 0
        exposure.mask[30, 30] = exposure.mask[30, 20] = DETECTED
        stamps = extract_stamps(exposure, x=[CORNER[0] + 30], y=[CORNER[1] + 30], size=27)
        ignored = stamps.mask[0] == INTRP
        assert ignored.sum(axis=1).tolist() == [0] * 10 + [1, 5, 5, 7, 5, 5, 1] + [0] * 10
        assert stamps.mask[0, 13, 13] == DETECTED

    def test_without_blend_masking(self):
        exposure = make_exposure(density=0.0)
        exposure.mask[:] = 0
        footprints = make_footprints([(1, [(30, 0, 40)], [(10, 30), (14, 30)])])
        options = {"x": [10.0], "y": [30.0], "size": 15, "footprints": footprints}
        options["footprint_index"] = np.array([0])
        assert (extract_stamps(exposure, mask_blends=False, **options).mask == 0).all()
        masked = extract_stamps(exposure, **options).mask[0] == INTRP
        assert np.flatnonzero(masked[7]).tolist() == [10, 11, 12, 13, 14]  # x = 13 and more; 12 is a tie

    def test_bright_objects_beside(self):
        exposure = make_exposure(density=0.0)
        exposure.mask[:] = 0
        exposure.image[:] = 0
        exposure.image[30, 30] = exposure.image[30, 25] = 1000
        x, y = [CORNER[0] + 30], [CORNER[1] + 30]
        stamps = extract_stamps(exposure, x=x, y=y, size=15, pixel_threshold=5.0)
        assert np.argwhere(stamps.mask[0]).tolist() == [[7, 2]]
        assert (extract_stamps(exposure, x=x, y=y, size=15).mask == 0).all()

    def test_no_stars(self):
        assert len(extract_stamps(make_exposure(), x=[], y=[], size=5)) == 0

    def test_missing_plane(self):
        with pytest.raises(InputError, match="mask plane 'DETECTED' is not defined"):
            extract_stamps(make_exposure(planes={"INTRP": 2}), x=[10.0], y=[30.0], size=5)


def make_table(x, y, ids=None, **columns):
    base = {
        "id": np.arange(len(x)) if ids is None else np.array(ids),
        "slot_Centroid_x": np.array(x, float),
        "slot_Centroid_y": np.array(y, float),
    }
    return SourceTable({**base, **columns})


SETTINGS = SimpleNamespace(kernelSize=5, borderWidth=1)


class TestCandidates:
    def test_order_reasons_and_greatest_value(self):
        """Bad pixels do not count, masked ones do; a stamp without a number is no stamp."""
        exposure = make_exposure()
        exposure.image[20:35, 20:35] = np.nan
        exposure.image[45, 45] = np.inf
        exposure.image[46, 46] = 9000.0
        exposure.mask[46, 46] = 1
        x = [CORNER[0] + c for c in (27, 46, -1, np.nan, 50)]
        y = [CORNER[1] + c for c in (27, 46, 30, 30, 10)]
        table = make_table(x, y, ids=[50, 40, 30, 20, 10])
        found = make_psf_candidates(table, make_footprints([]), exposure, SETTINGS)
        assert found.index.tolist() == [1, 4]
        assert found.source_id.tolist() == [40, 10]
        assert found.size == 7
        assert found.psf_max_value[0] == 9000.0
        assert found.psf_max_value.dtype == np.float32
        assert found.rejected == {"centroid_not_finite": 1, "stamp_outside_image": 1, "no_finite_pixel": 1}
        assert np.isnan(found.color_value).all()
        assert found.color_type.tolist() == ["", ""]

    def test_colors_and_selection(self):
        value = np.array([0.5, np.nan, 1.5], np.float32)
        table = make_table(
            [10, 20, 30], [30, 30, 30], psf_color_value=value, psf_color_type=np.array(["g-i", "", "g-i"])
        )
        found = make_psf_candidates(table, make_footprints([]), make_exposure(), SETTINGS)
        some = found.select(np.array([True, False, True]))
        assert some.color_value.tolist() == [0.5, 1.5]
        assert some.color_type.tolist() == ["g-i", "g-i"]
        assert some.index.tolist() == [0, 2]
        assert np.array_equal(some.image, found.image[[0, 2]])

    def test_another_size_cuts_objects_elsewhere(self):
        """S-Q25: the same star, masked in the larger stamp and not in the smaller."""
        exposure = make_exposure(density=0.0)
        exposure.mask[:] = 0
        exposure.mask[30, 30] = exposure.mask[30, 36] = DETECTED
        table = make_table([CORNER[0] + 30], [CORNER[1] + 30])
        found = make_psf_candidates(table, make_footprints([]), exposure, SETTINGS)
        assert (found.mask[0] == INTRP).sum() == 0
        assert (found.stamps(exposure, 15).mask[0] == INTRP).sum() > 0

    def test_one_nan_costs_one_pixel(self):
        """Known failure K19: the star keeps its stamp."""
        exposure = make_exposure()
        exposure.image[30, 30] = np.nan
        table = make_table([CORNER[0] + 30], [CORNER[1] + 30])
        found = make_psf_candidates(table, make_footprints([]), exposure, SETTINGS)
        assert np.isnan(found.image).sum() == 1
        assert np.isfinite(found.psf_max_value[0])

    def test_no_candidates(self):
        found = make_psf_candidates(make_table([], []), make_footprints([]), make_exposure(), SETTINGS)
        assert len(found) == 0
        assert found.image.shape == (0, 7, 7)

    @pytest.mark.parametrize("dtype", [np.int64, np.uint64])
    def test_footprints_in_any_order(self, dtype):
        """K10: neighbouring ids beyond double precision, also where one side is unsigned."""
        footprints = make_footprints([(9, [], []), (3, [], []), (592916301234567891, [], [])])
        wanted = np.array([3, 592916301234567892, 592916301234567891, 9])
        assert footprints.index_of(wanted.astype(dtype)).tolist() == [1, -1, 2, 0]
