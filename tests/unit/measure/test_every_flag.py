"""Every flag of the default measurement has a case that sets it, or a reason why nothing does.

Each case is a star in trouble with *all* flags that the measurement specification gives it, written down by
hand; flags that the noise decides are left open.  What the reference survey sets is compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from measured_scene import GaussianPsf, disc_spans, make_footprints, make_scene

from finalchar.apcorr.apply import apply_ap_corr
from finalchar.config import Config
from finalchar.measure.schema import active_plugins, correctable_fluxes

REFERENCE = Path(__file__).parents[2] / "data/golden_small/default/measured.parquet"
HSM, HIGHER = "ext_shapeHSM_Hsm", "ext_shapeHSM_HigherOrderMoments"
KRON, CONVOLVED = "ext_photometryKron_KronFlux", "ext_convolved_ConvolvedFlux"
GAAP, CMODEL = "ext_gaap_GaapFlux", "modelfit_CModel"
SHAPELETS = "modelfit_DoubleShapeletPsfApprox"
STAGES = ("initial", "exp", "dev")
SIGMAS = ("0_5", "0_7", "1_0", "1_5", "2_5", "3_0")
SEEINGS = range(4)
PIXEL = 0.2


class TangentPlane:
    """A sky of straight lines."""

    def __init__(self, pixel=PIXEL):
        self.scale = pixel / 3600 * np.pi / 180

    def pixel_to_sky(self, *, x, y):
        return 2.0 + (np.asarray(x) - 100) * self.scale, (np.asarray(y) - 100) * self.scale


class FocalPlane:
    def apply(self, *, x, y):
        return 0.01 * np.asarray(x), 0.01 * np.asarray(y)


class BrokenFocalPlane:
    def apply(self, *, x, y):
        raise RuntimeError("no transformation")


# ---------------------------------------------------------------------------------- flags that go together


def names(prefix, *suffixes):
    return {f"{prefix}_{suffix}" for suffix in suffixes}


def hsm(*suffixes):
    return {f"ext_shapeHSM_{suffix}" for suffix in suffixes}


NOT_CONVOLVED = names(CONVOLVED, *(f"{k}_deconv" for k in SEEINGS))
GOOD = names(CONVOLVED, "0_deconv")  # 3.5 pixels are less than the PSF's 4.3
NO_SHAPE = {  # sections 5.1, 6.6, 8.1, 9 and 11.2: the moments of the star failed
    f"{HSM}SourceMoments_flag",
    f"{HIGHER}Source_flag",
    "base_GaussianFlux_flag",
    *names(KRON, "flag", "flag_bad_shape"),
    *names(f"{GAAP}_1_15x_Optimal", "flag", "flag_bigPsf"),
    f"{CMODEL}_flag_noShape",
}
NO_MOMENTS = {*NO_SHAPE, f"{HSM}SourceMomentsRound_flag", f"{HSM}ShapeRegauss_flag"}
NO_FIT = names(CMODEL, "flag", *(f"{stage}_flag" for stage in STAGES))
NUMERIC = {*NO_FIT, *names(CMODEL, *(f"{stage}_flag_numericError" for stage in STAGES))}
TOO_FEW_PIXELS = {*NO_FIT, f"{CMODEL}_flag_region_maxBadPixelFraction"}
KRON_LOST = names(CONVOLVED, *(f"{k}_kron_flag" for k in SEEINGS))
KRON_EDGE = names(KRON, "flag", "flag_edge")
GAAP_VARIANTS = names(f"{GAAP}_1_15x", *(f"{name}_flag" for name in (*SIGMAS, "PsfFlux", "Optimal")))
NO_FOOTPRINT = {*NO_MOMENTS, *NOT_CONVOLVED, *GAAP_VARIANTS, *names(GAAP, "flag", "flag_no_pixel")}
NO_FOOTPRINT -= {f"{GAAP}_1_15x_Optimal_flag_bigPsf"}  # nothing is tried
OPEN = {  # decided by noise, or by the last bit
    f"{HSM}ShapeRegauss_flag",
    *names(KRON, "flag_used_psf_radius", "flag_small_radius"),
    *names(CMODEL, *(f"{stage}_flag_trSmall" for stage in STAGES), "flags_smallShape"),
    *names(f"{CMODEL}_flags_region", "usedFootprintArea", "usedPsfArea"),
    *names(f"{CMODEL}_flags_region", "usedInitialEllipseMin", "usedInitialEllipseMax"),
}


def truncated(*radii):
    return names(
        CONVOLVED, *(f"{k}_{radius}_{flag}" for k in SEEINGS for radius in radii for flag in _TRUNCATED)
    )


_TRUNCATED = ("flag", "flag_apertureTruncated", "flag_sincCoeffsTruncated")


def cut(*radii):
    return names(CONVOLVED, *(f"{k}_{radius}_flag_sincCoeffsTruncated" for k in SEEINGS for radius in radii))


def big_psf(*sigmas):
    return names(f"{GAAP}_1_15x", *(f"{s}_{flag}" for s in sigmas for flag in ("flag", "flag_bigPsf")))


# ----------------------------------------------------------------------------------------------- the cases


@dataclass
class Case:
    """A star, what is wrong with it, and the flags it gets."""

    flags: set[str]
    star: dict[str, Any] = field(default_factory=dict)
    psf: Any = None
    planes: Any = None
    """Changes (image, mask, variance) in place."""
    exposure: dict[str, Any] = field(default_factory=dict)
    settings: Any = None
    """Changes the section of the plugins in place."""
    centroid: dict[str, Any] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)


class Undrawn(GaussianPsf):
    def kernel_image(self, **place):
        raise RuntimeError("beyond the model")

    image = kernel_images = images = kernel_image


class Empty(GaussianPsf):
    def _draw(self, dx, dy):
        return np.zeros((self.size, self.size))


class OnePixel(GaussianPsf):
    def _draw(self, dx, dy):
        image = np.zeros((self.size, self.size))
        image[self.size // 2, self.size // 2] = 1.0
        return image


def saturated_core(image, mask, variance):
    mask[87:94, 97:104] |= 1 << 1


def all_masked(image, mask, variance):
    mask[:] = 0x1FF


def nan_pixel(image, mask, variance):
    image[90, 102] = np.nan


def light_on_bad_pixels_only(image, mask, variance):
    image[:] = 0
    image[90, 100] = 1e4
    mask[90, 100] |= 1 << 1


def no_light(image, mask, variance):
    image[:] = 0


def setter(path, value):
    *parents, last = path.split(".")

    def change(plugins):
        section = plugins
        for name in parents:
            section = getattr(section, name)
        setattr(section, last, value)

    return change


def one_step(*stages):
    def change(plugins):
        for stage in stages:
            getattr(plugins.modelfit_CModel, stage).optimizer.maxOuterIterations = 1

    return change


def far_region(plugins):
    plugins.modelfit_CModel.region.nFitRadiiMax = 1e7
    plugins.modelfit_CModel.region.nFitRadiiMin = 1e6


def no_variance(value):
    def change(image, mask, variance):
        variance[90, 100] = value  # the pixel that holds the centroid, not the one nearest to it

    return change


CASES = {
    "a good star": Case(GOOD),
    "at the edge": Case(
        {
            *GOOD,
            *names("base_PsfFlux", "flag", "flag_edge"),
            *cut("3_3", "4_5"),
            *truncated("6_0"),
            *KRON_EDGE,
            f"{GAAP}_flag_edge",
            *TOO_FEW_PIXELS,
        },
        {"x": 4.3},
    ),
    "in the corner": Case(
        {
            *GOOD,
            *names("base_PsfFlux", "flag", "flag_edge"),
            *truncated("3_3", "4_5", "6_0"),
            *KRON_EDGE,
            f"{GAAP}_flag_edge",
            *TOO_FEW_PIXELS,
        },
        {"x": 2.1, "y": 3.2},
    ),
    "outside the image": Case(
        {
            *NO_FOOTPRINT,
            *names("base_PsfFlux", "flag", "flag_edge", "flag_noGoodPixels"),
            *truncated("3_3", "4_5", "6_0"),
            *KRON_EDGE,
            *TOO_FEW_PIXELS,
        },
        {"x": -40.0},
    ),
    "no footprint": Case(
        {*NO_FOOTPRINT, *KRON_LOST, *NO_FIT, f"{CMODEL}_flags_region_usedPsfArea"},
        {"footprint_of": []},
        open={f"{CMODEL}_initial_flag_maxIter", *names(CMODEL, "flag", *(f"{s}_flag" for s in STAGES))},
    ),
    "saturated core": Case({*GOOD, *TOO_FEW_PIXELS}, planes=saturated_core),
    "everything masked": Case({*GOOD, *NO_MOMENTS, *KRON_LOST, *TOO_FEW_PIXELS}, planes=all_masked),
    "a NaN near the centre": Case(
        {
            *GOOD,
            *NO_SHAPE,
            "base_PsfFlux_flag",
            f"{HSM}ShapeRegauss_flag",
            *names(KRON, "flag_bad_radius", "flag_used_psf_radius", "flag_small_radius"),
            *NUMERIC,
        },
        planes=nan_pixel,
    ),
    "a negative star": Case(
        {
            *GOOD,
            *names(KRON, "flag_bad_radius", "flag_used_psf_radius"),
            *names(CMODEL, "flag", "exp_flag", "dev_flag", "exp_flag_numericError", "dev_flag_numericError"),
        },
        {"flux": -5e4},
    ),
    "no light": Case(
        {
            *GOOD,
            *NO_MOMENTS,
            *names(KRON, "flag_bad_radius", "flag_used_psf_radius", "flag_small_radius"),
            *NUMERIC,
        },
        planes=no_light,
    ),
    "light on bad pixels only": Case(
        {
            *GOOD,
            *NO_SHAPE,
            *KRON_LOST,
            *names(CMODEL, "flag", *(f"{stage}_flag_noFlux" for stage in STAGES)),
            *names(CMODEL, "exp_flag", "dev_flag", "exp_flag_numericError", "dev_flag_numericError"),
        },
        planes=light_on_bad_pixels_only,
        open={f"{HSM}SourceMomentsRound_flag"},
    ),
    "a PSF that cannot be drawn": Case(
        {
            "base_InvalidPsf_flag",
            "base_PsfFlux_flag",
            "base_GaussianFlux_flag",
            *hsm("HsmPsfMoments_flag", "HsmSourceMoments_flag", "HsmSourceMomentsRound_flag"),
            f"{HSM}ShapeRegauss_flag",
            *hsm("HigherOrderMomentsPSF_flag", "HigherOrderMomentsSource_flag"),
            *(f"{name}_flag" for name in (KRON, CONVOLVED, GAAP)),
            *names(SHAPELETS, "flag", "flag_invalidPointForPsf"),
            f"{CMODEL}_flag_noShapeletPsf",
            *NO_FIT,
        },
        psf=Undrawn(),
    ),
    "an empty PSF": Case(
        {
            *NOT_CONVOLVED,
            *NO_SHAPE,
            "base_PsfFlux_flag",
            *hsm("HsmPsfMoments_flag", "HsmShapeRegauss_flag"),
            f"{HIGHER}PSF_flag",
            *names(KRON, "flag_bad_radius", "flag_used_psf_radius", "flag_small_radius"),
            *GAAP_VARIANTS,
            f"{GAAP}_1_15x_flag_gaussianization",
            *names(SHAPELETS, "flag", "flag_invalidMoments"),
            f"{CMODEL}_flag_noShapeletPsf",
            *NO_FIT,
        }
        - names(f"{GAAP}_1_15x", "Optimal_flag_bigPsf")
        - {f"{CMODEL}_flag_noShape"},
        psf=Empty(),
        open={f"{HSM}SourceMomentsRound_flag"},
    ),
    "a PSF of one pixel": Case(
        {
            *hsm("HsmPsfMoments_flag", "HsmShapeRegauss_flag"),
            f"{HIGHER}PSF_flag",
            *big_psf("Optimal"),  # the PSF has no moments: there is no optimal shape
            *names(SHAPELETS, "flag", "flag_invalidMoments"),
            f"{CMODEL}_flag_noShapeletPsf",
            *NO_FIT,
        },
        psf=OnePixel(),
    ),
    "a PSF wider than every seeing": Case(
        {*NOT_CONVOLVED, *big_psf("0_5", "0_7")},
        {"radius": 20.0, "flux": 2e5},
        psf=GaussianPsf(sigma=3.6, size=41),
    ),
    "coarse pixels": Case({*GOOD, *big_psf(*SIGMAS)}, exposure={"wcs": TangentPlane(1.5)}),
    "shapelets that do not converge": Case(
        {*GOOD, *names(SHAPELETS, "flag", "flag_maxIterations"), f"{CMODEL}_flag_noShapeletPsf", *NO_FIT},
        settings=setter(f"{SHAPELETS}.optimizer.maxOuterIterations", 1),
    ),
    "an initial fit without end": Case(
        {*GOOD, *NO_FIT, f"{CMODEL}_initial_flag_maxIter"}, settings=one_step("initial")
    ),
    "later fits without end": Case(
        {
            *GOOD,
            *names(CMODEL, "flag", *(f"{s}_{f}" for s in ("exp", "dev") for f in ("flag", "flag_maxIter"))),
        },
        settings=one_step("exp", "dev"),
    ),
    "a large region": Case(
        {*GOOD, f"{CMODEL}_flag_region_maxArea"}, settings=setter(f"{CMODEL}.region.maxArea", 100)
    ),
    "a region at its lower limit": Case(
        {
            *GOOD,
            f"{CMODEL}_flags_region_usedInitialEllipseMin",
            *names(CMODEL, "flag", "exp_flag", "dev_flag", "flag_region_maxBadPixelFraction"),
        },
        settings=far_region,
    ),
    "a least Kron radius": Case(
        {*GOOD, *names(KRON, "flag_used_minimum_radius", "flag_small_radius")},
        settings=setter(f"{KRON}.minimumRadius", 5.0),
    ),
    "no detector": Case({*GOOD, "base_FPPosition_missingDetector_flag"}, exposure={"focal_plane": None}),
    "no transformation": Case({*GOOD, "base_FPPosition_flag"}, exposure={"focal_plane": BrokenFocalPlane()}),
    "a flagged centroid": Case(
        {
            *GOOD,
            "base_PsfFlux_flag",
            *hsm("HsmPsfMoments_flag", "HsmSourceMoments_flag", "HsmSourceMomentsRound_flag"),
            f"{HSM}ShapeRegauss_flag",
            *hsm("HigherOrderMomentsPSF_flag", "HigherOrderMomentsSource_flag"),
            f"{SHAPELETS}_flag",
            *names(KRON, "flag", "flag_bad_shape"),  # its shape is flagged; GaussianFlux clears it [M-Q4]
            f"{CMODEL}_flag_noShape",
            f"{CONVOLVED}_flag",
        },
        centroid={"flag": True},
        open={
            f"{CMODEL}_{name}" for name in ("flag", "initial_flag_maxIter", *(f"{s}_flag" for s in STAGES))
        },
    ),
    "a NaN centroid": Case(
        {
            "base_PsfFlux_flag",
            "base_GaussianFlux_flag",
            *hsm("HsmPsfMoments_flag", "HsmSourceMoments_flag", "HsmSourceMomentsRound_flag"),
            f"{HSM}ShapeRegauss_flag",
            *hsm("HigherOrderMomentsPSF_flag", "HigherOrderMomentsSource_flag"),
            f"{SHAPELETS}_flag",
            f"{CONVOLVED}_flag",
            f"{GAAP}_flag",
            *names(KRON, "flag", "flag_bad_shape"),
            *NO_FIT,
        },
        centroid={"x": np.nan},
    ),
}

CASES |= {
    f"variance {value} of the central pixel": Case(
        GOOD | names("base_PsfFlux", *(() if value == 0 or value == -1e3 else ("flag",))),
        {"x": 100.7, "y": 90.8},
        planes=no_variance(value),
        open={
            *NO_FIT,
            *NUMERIC,
            f"{CMODEL}_flag_region_maxBadPixelFraction",
            *KRON_LOST,
            "base_PsfFlux_flag",
        },
    )
    for value in (0.0, -1e3, np.nan, np.inf)
}

NEVER = {
    **{
        f"{HSM}{plugin}_flag_{suffix}": "the reference's handler ignores what happened [M-Q6]"
        for plugin in ("PsfMoments", "SourceMoments", "SourceMomentsRound", "ShapeRegauss")
        for suffix in (
            "no_pixels",
            "not_contained",
            "parent_source",
            "galsim",
            "invalid_param",
            "edge",
            "no_psf",
        )
    },
    **{
        f"{KRON}_{suffix}": "there always is a PSF (section 9)"
        for suffix in ("flag_bad_shape_no_psf", "flag_no_minimum_radius", "flag_no_fallback_radius")
    },
    f"{CMODEL}_flag_badCentroid": "declared, never set (8.7)",
    "apcorr_slot_CalibFlux_used": "never set (13.3)",
}


def scene_of(case):
    star = {"x": 100.3, "y": 90.4, "flux": 5e4, "radius": 11.0, **case.star}
    given = {name: value for name, value in star.items() if name not in ("x", "y", "flux")}
    scene = make_scene(x=[star["x"]], y=[star["y"]], flux=[star["flux"]], **given)
    if case.psf is not None:
        scene = replace(scene, psf=case.psf)
    if type(case.psf) is GaussianPsf:  # the star is drawn with it
        rows, columns = np.indices(scene.exposure.image.shape)
        distance = (columns - star["x"]) ** 2 + (rows - star["y"]) ** 2
        light = np.exp(-0.5 * distance / 3.6**2) / (2 * np.pi * 3.6**2) * star["flux"]
        noise = np.random.default_rng(1).normal(size=light.shape) * 5.0
        scene = scene.with_planes(image=(light + noise).astype(np.float32))
    if "footprint_of" not in star:
        ny, nx = scene.exposure.image.shape
        spans = [
            (y, max(x0, 0), min(x1, nx - 1))
            for y, x0, x1 in disc_spans(star["x"], star["y"], star["radius"])
            if 0 <= y < ny and x1 >= 0
        ]
        scene = replace(scene, footprints=make_footprints([spans], peaks=[(star["x"], star["y"])]))
    planes = [getattr(scene.exposure, name).copy() for name in ("image", "mask", "variance")]
    if case.planes is not None:
        case.planes(*planes)
    more = {"wcs": TangentPlane(), "focal_plane": FocalPlane(), "calibration": object(), **case.exposure}
    scene = scene.with_planes(**dict(zip(("image", "mask", "variance"), planes, strict=True)), **more)
    selected = scene.catalogue()
    for name, value in case.centroid.items():
        selected[f"base_SdssCentroid_{name}"][:] = value
    scene.catalogue = lambda: selected
    return scene


def measured(case, compatibility):
    settings = Config().measurement
    if case.settings is not None:
        case.settings(settings.plugins)
    return scene_of(case).measure(compatibility, settings)


def flags_of_plugins(compatibility="lsst"):
    fields = [
        each for plugin in active_plugins(Config().measurement, compatibility) for each in plugin.fields()
    ]
    return [each.name for each in fields if each.dtype == "bool"]


@pytest.mark.parametrize("name", CASES)
def test_all_flags_of_a_star(name):
    case = CASES[name]
    table = measured(case, "lsst")
    found = {flag for flag in (*flags_of_plugins(), "base_InvalidPsf_flag") if table[flag][0]}
    assert found - OPEN - case.open == case.flags - OPEN - case.open
    assert case.flags - case.open <= found  # those that are open in general but certain here


def test_a_final_fit_without_flux(monkeypatch):
    """Both profiles fit, but no light is under their combination (8.7)."""
    from finalchar.measure.cmodel import measurement

    original = measurement.combine

    def dark(*arguments):
        combined = original(*arguments)
        return replace(combined, measure=replace(combined.measure, inner=0.0 * combined.measure.inner))

    monkeypatch.setattr(measurement, "combine", dark)
    table = measured(CASES["a good star"], "lsst")
    assert table[f"{CMODEL}_flag_noFlux"][0]
    assert table[f"{CMODEL}_flag"][0]
    assert not table[f"{CMODEL}_exp_flag"][0]


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_flux_is_said(name):
    """K18, K19: a flux that nothing speaks against is there, has an error, and is of the size of the star's.

    Apertures hold from 0.37 (3.3 pixels at the worst seeing) to all of the light.
    """
    case = CASES[name]
    table = measured(case, "fixed")
    if table["finalchar_Plausibility_flag"][0] or type(case.psf) is OnePixel:  # refused as a PSF
        return
    truth = case.star.get("flux", 5e4)
    for flux in correctable_fluxes(Config().measurement, "fixed"):
        plugin = next(each for each in Config().measurement.plugins.names if flux.startswith(each))
        if table[f"{flux}_flag"][0] or (table[f"{plugin}_flag"][0] and plugin != CMODEL):
            continue
        if flux.endswith("_kron") and table[f"{KRON}_flag"][0]:  # no Kron radius, no flag [M-Q16]
            continue
        assert np.isfinite(table[f"{flux}_instFluxErr"][0]), flux
        assert 0.3 < table[f"{flux}_instFlux"][0] / truth < 1.2, flux


@pytest.mark.parametrize("compatibility", ["lsst", "fixed"])
def test_a_flux_without_correction_says_so(compatibility):
    config = Config()
    table = measured(CASES["a good star"], compatibility)
    fluxes = correctable_fluxes(config.measurement, compatibility)
    corrected, applied = apply_ap_corr(table, {}, config.apply_ap_corr, fluxes, compatibility=compatibility)
    assert len(fluxes) == 31
    assert applied.uncorrected == tuple(fluxes)
    for name in fluxes:
        assert corrected[f"{name}_flag_apCorr"].all()
        assert corrected[f"{name}_instFlux"].tobytes() == table[f"{name}_instFlux"].tobytes()


def test_every_flag_has_a_case_or_a_reason():
    """A new flag needs a case; flags of the copied columns and of aliases repeat others.

    `apcorr_<flux>_used` has one rule for all fluxes (tests/unit/apcorr).
    """
    wanted = {*flags_of_plugins(), "base_InvalidPsf_flag", "apcorr_slot_CalibFlux_used"}
    shown = {f"{CMODEL}_flag_noFlux"} | set().union(*(case.flags for case in CASES.values()))
    assert shown <= wanted  # no name is misspelt
    table = pq.read_table(REFERENCE)
    compared = {name for name in wanted if name in table.column_names and any(table[name].to_pylist())}
    assert not set(NEVER) & (shown | compared)
    assert wanted - shown - compared - set(NEVER) == set()
