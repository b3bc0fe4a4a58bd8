"""A star in trouble costs itself only, in every plugin of the registry: no exception, no placeholders."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pytest

from finalchar.config import Config
from finalchar.measure import plugins

FIRST = [
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "base_PsfFlux",
    "ext_photometryKron_KronFlux",
    "modelfit_DoubleShapeletPsfApprox",
]
"""What other plugins read."""


class TangentPlane:
    """A sky of straight lines, 0.2 arcsec per pixel."""

    def pixel_to_sky(self, *, x, y):
        scale = 0.2 / 3600 * np.pi / 180
        return 2.0 + (np.asarray(x) - 100) * scale, (np.asarray(y) - 100) * scale


class FocalPlane:
    def apply(self, *, x, y):
        return 0.01 * np.asarray(x), 0.01 * np.asarray(y)


def pixel(plane, value, x=40, y=60):
    """Return a change of one pixel near the first star."""

    def change(**planes):
        planes[plane][y, x] = value

    return change


def masked(bit, half):
    def change(**planes):
        planes["mask"][60 - half : 61 + half, 40 - half : 41 + half] |= 1 << bit

    return change


def columns_of_nan(**planes):
    planes["image"][:, 38:43] = np.nan
    planes["variance"][:, 38:43] = np.nan
    planes["mask"][:, 38:43] |= 1 << 8  # NO_DATA


TROUBLES = {
    "NaN pixel": ({}, pixel("image", np.nan, 42)),
    "infinite pixel": ({}, pixel("image", np.inf, 42)),
    "NaN in the centre": ({}, pixel("image", np.nan)),
    "columns of NaN": ({}, columns_of_nan),
    "no variance": ({}, pixel("variance", 0.0)),
    "negative variance": ({}, pixel("variance", -10.0)),
    "NaN variance": ({}, pixel("variance", np.nan)),
    "infinite variance": ({}, pixel("variance", np.inf)),
    "saturated core": ({}, masked(1, 3)),
    "no data in the core": ({}, masked(8, 3)),
    "all of its pixels bad": ({}, masked(0, 14)),
    "edge": ({"x": 3.6}, None),
    "corner": ({"x": 219.0, "y": 199.4}, None),
    "beyond the edge": ({"x": -0.9}, None),
    "far outside": ({"x": -500.0}, None),
    "at infinity": ({"x": np.inf}, None),
    "no place": ({"x": np.nan}, None),
    "zero flux": ({"flux": 0.0}, None),
    "negative flux": ({"flux": -4e4}, None),
    "no footprint": ({"footprint": False}, None),
    "undrawn PSF": ({"drawn": False}, None),
}


def make_pair(scene_of, star, change):
    """Return a scene of a star in trouble, at (40, 60) unless it is elsewhere, and a good one."""
    x, y = star.get("x", 40.3), star.get("y", 60.4)
    drawn = x if np.isfinite(x) else 40.0
    scene = scene_of(
        x=[drawn, 150.2],
        y=[y, 120.7],
        flux=[star.get("flux", 4e4), 5e4],
        footprint_of=[0, 1] if star.get("footprint", True) and 0 <= drawn < 200 else [1],
        radius=9.0,
    )
    if abs(drawn) <= 9.0 or drawn > 200:
        scene = _clip_first_footprint(scene)
    planes = {name: getattr(scene.exposure, name).copy() for name in ("image", "mask", "variance")}
    if change is not None:
        change(**planes)
    scene = scene.with_planes(**planes, wcs=TangentPlane(), focal_plane=FocalPlane(), calibration=object())
    if not star.get("drawn", True):
        scene = replace(scene, psf=half_drawn(type(scene.psf))())
    selected = scene.catalogue()
    selected["base_SdssCentroid_x"][0] = x
    for name in [one for one in selected if "Aperture" in one or "Tophat" in one]:
        del selected.columns[name]  # the aperture plugins write them
    selected.aliases |= {"slot_ApFlux": "base_SdssCentroid", "slot_CalibFlux": "base_SdssCentroid"}
    scene.catalogue = lambda: selected
    return scene


def _clip_first_footprint(scene):
    ny, nx = scene.exposure.image.shape
    old = scene.footprints
    inside = (old.span_y >= 0) & (old.span_y < ny) & (old.span_x1 >= 0) & (old.span_x0 < nx)
    first = int(inside[: old.span_offset[1]].sum())
    return replace(
        scene,
        footprints=replace(
            old,
            span_offset=np.array([0, first, int(inside.sum())]),
            span_y=old.span_y[inside],
            span_x0=np.clip(old.span_x0[inside], 0, nx - 1),
            span_x1=np.clip(old.span_x1[inside], 0, nx - 1),
        ),
    )


def half_drawn(kind):
    """Return a PSF that cannot be drawn at small x."""

    class HalfDrawn(kind):
        def images(self, *, x, y, color=np.nan):
            raise RuntimeError("no batch here")

        kernel_images = images

        def image(self, *, x, y, color=np.nan):
            if x < 100:
                raise RuntimeError("beyond the model")
            return super().image(x=x, y=y)

        def kernel_image(self, *, x, y, color=np.nan):
            if x < 100:
                raise RuntimeError("beyond the model")
            return super().kernel_image(x=x, y=y)

    return HalfDrawn


def settings_of(name):
    settings = Config().measurement
    settings.plugins.names = [*FIRST, *(() if name in FIRST else (name,))]
    settings.doReplaceWithNoise = False  # the noise depends on the pixels of the whole image
    return settings


def own_columns(table, name):
    return {column: values for column, values in table.columns.items() if column.startswith(name)}


@pytest.fixture(name="measured", scope="module")
def measure_with_all_plugins():
    """Return a function from (trouble, mode) to the table of both stars; `None` is no trouble."""
    from measured_scene import make_scene

    @cache
    def measured(trouble, compatibility):
        settings = settings_of("base_FPPosition")
        ours = () if compatibility == "fixed" else ("finalchar_Plausibility",)
        settings.plugins.names = [name for name in plugins.names() if name not in ours]
        star, change = TROUBLES.get(trouble, ({}, None))
        return make_pair(make_scene, star, change).measure(compatibility, settings)

    return measured


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", plugins.names())
@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_trouble_costs_one_star(measured, name, trouble, compatibility):
    undisturbed = measured(None, compatibility)
    for column, values in own_columns(measured(trouble, compatibility), name).items():
        if column.endswith("_time"):
            continue
        if values.dtype.kind == "f":
            # which stars are measured together may decide the last bit of float32 sums
            np.testing.assert_allclose(values[1], undisturbed[column][1], rtol=1e-6, err_msg=column)
            assert values[0] != -1.0, column  # placeholder of a library [K18]
        else:
            assert values[1] == undisturbed[column][1], column


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", plugins.names())
def test_few_stars(scene_of, name, number):
    scene = make_pair(scene_of, {}, None)
    table = scene.measure("fixed", settings_of(name), rows=np.arange(1, 1 + number))
    assert len(table) == number
    assert all(len(values) == number for values in table.columns.values())


@pytest.mark.parametrize("size", [(1, 2), (4, 3), (12, 9)])
@pytest.mark.parametrize("name", plugins.names())
def test_a_tiny_image(scene_of, name, size):
    scene = make_pair(lambda **_: scene_of(x=[0.9], y=[1.2], flux=[1e4], radius=1.0, shape=size), {}, None)
    table = scene.measure("fixed", settings_of(name))
    flagged = [column for column, values in own_columns(table, name).items() if values.dtype == bool]
    assert flagged


@pytest.mark.parametrize("name", plugins.names())
def test_an_image_without_a_good_pixel(scene_of, name):
    scene = make_pair(scene_of, {}, None)
    mask = np.full_like(scene.exposure.mask, 0x1FF)
    broken = scene.with_planes(mask=mask)
    broken.catalogue = scene.catalogue
    table = broken.measure("fixed", settings_of(name))
    assert len(table) == 2
    if name == "finalchar_Plausibility":
        assert table[f"{name}_flag_maskedCore"].all()


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("modelfit_CModel", "cmodel.measurement", "local_jacobian"),
        ("modelfit_DoubleShapeletPsfApprox", "plugins.double_shapelet_psf_approx", "_fit_coefficients"),
    ],
)
def test_an_unexpected_error_costs_one_star(scene_of, monkeypatch, caplog, name, module, function):
    """An error while all stars are fitted together, such as a singular matrix: they are fitted one by one."""
    scene, settings = make_pair(scene_of, {}, None), settings_of(name)
    wanted = scene.measure("fixed", settings)
    place = import_module(f"finalchar.measure.{module}")
    original = getattr(place, function)
    calls = []

    def broken(*arguments):
        calls.append(1)
        if len(calls) <= 2:  # both together, then the first alone
            raise np.linalg.LinAlgError("singular matrix")
        return original(*arguments)

    monkeypatch.setattr(place, function, broken)
    table = scene.measure("fixed", settings)
    assert "measures star by star" in caplog.text
    assert table[f"{name}_flag"].tolist() == [True, False]
    for column, values in own_columns(wanted, name).items():
        if not column.endswith("_time"):
            np.testing.assert_array_equal(table[column][1], values[1], err_msg=column)
