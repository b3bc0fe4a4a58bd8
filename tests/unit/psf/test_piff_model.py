"""Drawing of Piff models: equal to Piff, right boxes, batches, averages, colours, field and sky."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import galsim
import numpy as np
import piff
import pytest
from simulated_stars import candidates, scattered, simulate

from finalchar.errors import InputError
from finalchar.formats.ast_text import AstTransform, TransformChain, sky_wcs_from_cards
from finalchar.formats.exposure import ARCSEC_PER_RADIAN
from finalchar.formats.exposure_catalog import ExposureRecord
from finalchar.formats.psfs import PiffPsf, loads_piff
from finalchar.psf.determiners import piff as determiner
from finalchar.psf.piff_model import image_size, piff_model, polynomial_terms
from finalchar.psf.piff_store import export_piff, export_piff_visit
from finalchar.psf.stored import model_from_stored

CARDS = [
    "CTYPE1  = 'RA---TAN'",
    "CTYPE2  = 'DEC--TAN'",
    "CRVAL1  =                150.5",
    "CRVAL2  =                -28.9",
    "CRPIX1  =                900.0",
    "CRPIX2  =               -300.0",
    "CD1_1   =              -5.5E-5",
    "CD1_2   =               4.0E-6",
    "CD2_1   =               4.1E-6",
    "CD2_2   =               5.5E-5",
    "CUNIT1  = 'deg     '",
    "CUNIT2  = 'deg     '",
    "RADESYS = 'ICRS    '",
]
SETTINGS = {"modelSize": 13, "stampSize": 19, "spatialOrder": 1, "interpolant": "Lanczos(5)"}


def field_transform():
    import starlink.Ast as Ast

    from finalchar.formats.ast_text import dump_ast

    matrix = Ast.MatrixMap([[0.2 / ARCSEC_PER_RADIAN, 2e-9], [-1e-9, 0.199 / ARCSEC_PER_RADIAN]])
    mapping = Ast.CmpMap(Ast.ShiftMap([-700.0, -900.0]), matrix, True)
    return TransformChain((AstTransform(dump_ast(mapping)),), ARCSEC_PER_RADIAN)


@pytest.fixture(scope="module")
def places():
    return scattered(12, seed=4)


@pytest.fixture(scope="module")
def exposure(places):
    return simulate(places, wcs=sky_wcs_from_cards(CARDS), field_angle=field_transform())


@pytest.fixture(scope="module")
def fits(exposure, places):
    """A model in each kind of coordinates, and one with colour."""
    color = np.linspace(0.2, 1.8, len(places))
    chosen = candidates(exposure, places, color=color)
    more = {kind: {"useCoordinates": kind} for kind in ("pixel", "field", "sky")}
    more["color"] = {"useColor": True}
    return {
        name: determiner.determine(
            chosen, exposure, determiner.Settings(**SETTINGS, **extra), band="r", compatibility="lsst"
        )
        for name, extra in more.items()
    }


def drawn_by_piff(psf, x, y, size, *, centred, **extra):
    array = psf.draw(x, y, stamp_size=size, center=True if centred else None, **extra).array
    return array / array.sum()


@pytest.mark.parametrize("kind", ["pixel", "field", "sky", "color"])
@pytest.mark.parametrize("size", [19, 25])
def test_drawing_equals_piff(fits, kind, size):
    psf = fits[kind].model.psf
    model = piff_model(psf, size=size, compatibility="lsst")
    extra = {"colorValue": 0.7} if kind == "color" else {}
    x = np.array([12.3, 200.0, 381.9, 77.5, 250.5, -3.5])
    y = np.array([388.1, 200.0, 5.2, 120.5, 199.7, -8.5])
    kernels = model.kernel_images(x=x, y=y, color=0.7)
    images, _, _ = model.images(x=x, y=y, color=0.7)
    for k in range(len(x)):
        # Order of the roundings.
        expected = drawn_by_piff(psf, x[k], y[k], size, centred=True, **extra)
        np.testing.assert_allclose(kernels[k], expected, atol=1e-14)
        expected = drawn_by_piff(psf, x[k], y[k], size, centred=False, **extra)
        np.testing.assert_allclose(images[k], expected, atol=1e-14)


@pytest.mark.parametrize("kind", ["pixel", "sky", "color"])
def test_a_batch_equals_one_by_one(fits, kind):
    model = fits[kind].model
    x, y, color = np.array([10.2, 333.3, np.nan]), np.array([40.0, 7.7, np.nan]), np.array([0.3, np.nan, 1.1])
    arrays, x0, y0 = model.images(x=x, y=y, color=color)
    kernels = model.kernel_images(x=x, y=y, color=color)
    for k in range(3):
        one = model.image(x=x[k], y=y[k], color=color[k])
        np.testing.assert_array_equal(one.array, arrays[k])
        assert (one.x0, one.y0) == (x0[k], y0[k])
        kernel = model.kernel_image(x=x[k], y=y[k], color=color[k])
        np.testing.assert_array_equal(kernel.array, kernels[k])
        assert (kernel.x0, kernel.y0) == (-9, -9)


def test_sums_are_one(fits):
    arrays, _, _ = fits["sky"].model.images(x=np.linspace(0, 399, 7), y=100.3)
    np.testing.assert_allclose(arrays.sum(axis=(1, 2)), 1.0, atol=1e-14)


def test_no_position_is_the_average_position_and_no_colour_the_average_colour(fits, places):
    fit = fits["color"]
    used = fit.used
    assert fit.model.average_position == pytest.approx(tuple(places[used].mean(axis=0)), abs=1e-10)
    x, y = fit.model.average_position
    nowhere = fit.model.kernel_image(x=np.nan, y=np.nan).array
    there = fit.model.kernel_image(x=x, y=y, color=fit.model.average_color).array
    np.testing.assert_array_equal(nowhere, there)
    assert fit.model.chromatic
    assert np.isnan(fits["pixel"].model.average_color)


@pytest.mark.parametrize("place", [100.5, 100.49999, -0.5, -1.5, -2.5])
def test_boxes_at_half_pixels(fits, place):
    """S-Q16: the centroid of the labelled image is the place; the reference labels halves one too high."""
    psf = fits["pixel"].model.psf
    for compatibility in ("fixed", "lsst"):
        model = piff_model(psf, size=19, compatibility=compatibility)
        image = model.image(x=place, y=200.0)
        assert image.x0 == int(np.floor(place + 0.5)) - 9
        centroid = np.sum(image.array.sum(axis=0) * (image.x0 + np.arange(19)))
        shift = 1 if compatibility == "lsst" and place % 1 == 0.5 else 0
        # The fitted model is centred to a few hundredths of a pixel.
        assert centroid == pytest.approx(place + shift, abs=0.1)


@pytest.mark.parametrize(
    ("stamp", "sampling", "size"), [(25, 1.0, 25), (29, 0.5, 59), (25, 0.5, 51), (25, 2.0, 13)]
)
def test_image_size(stamp, sampling, size):
    assert image_size(stamp, sampling) == size


def test_polynomial_terms_are_piffs():
    interp = piff.BasisPolynomial([2, 2, 1], keys=["x", "y", "c"])
    values = [np.array([3.0, 5.0]), np.array([2.0, -1.0]), np.array([0.5, 0.25])]
    terms = polynomial_terms(values, interp._orders, interp._max_order)
    for k in range(2):
        star = {"x": values[0][k], "y": values[1][k], "c": values[2][k]}
        wrapped = type("S", (), {"data": star})()
        np.testing.assert_array_equal(terms[k], interp.basis(wrapped))


# ------------------------------------------------------------------------------------- stored, exported


@pytest.mark.parametrize("kind", ["pixel", "field", "sky", "color"])
def test_stored_models_draw_the_same(fits, kind):
    fit = fits[kind]
    again = model_from_stored(PiffPsf(fit.serialized), compatibility="lsst")
    x, y = np.array([20.2, 380.7]), np.array([300.3, 31.0])
    expected = fit.model.kernel_images(x=x, y=y, color=1.0)
    np.testing.assert_array_equal(again.kernel_images(x=x, y=y, color=1.0), expected)
    assert again.average_position == fit.model.average_position
    np.testing.assert_equal(again.average_color, fit.model.average_color)


@pytest.mark.parametrize("kind", ["pixel", "field", "sky", "color"])
def test_same_fit_same_bytes(fits, exposure, places, kind):
    chosen = candidates(exposure, places, color=np.linspace(0.2, 1.8, len(places)))
    extra = {"useColor": True} if kind == "color" else {"useCoordinates": kind}
    settings = determiner.Settings(**SETTINGS, **extra)
    again = determiner.determine(chosen, exposure, settings, band="r", compatibility="lsst")
    assert again.serialized == fits[kind].serialized


@pytest.mark.parametrize("kind", ["pixel", "field", "sky", "color"])
@pytest.mark.parametrize("as_bytes", [True, False])
def test_exported_models_draw_the_same_in_piff(fits, kind, as_bytes, tmp_path):
    fit = fits[kind]
    path = export_piff(fit.serialized if as_bytes else fit.model, tmp_path / "one.piff")
    assert os.listdir(tmp_path) == ["one.piff"]
    psf = piff.read(str(path))
    extra = {"colorValue": 0.9} if kind == "color" else {}
    # The WCS is a polynomial within 1e-7 arcsec of 0.2 arcsec pixels.
    array = drawn_by_piff(psf, 150.3, 220.8, 19, centred=False, **extra)
    np.testing.assert_allclose(array, fit.model.image(x=150.3, y=220.8, color=0.9).array, atol=1e-7)


def test_a_visit_is_one_file(fits, tmp_path):
    path = export_piff_visit({7: fits["pixel"].serialized, 3: fits["pixel"].model}, tmp_path / "visit.piff")
    psf = piff.read(str(path))
    for chip in (3, 7):
        array = psf.draw(150.3, 220.8, chipnum=chip, stamp_size=19).array
        expected = fits["pixel"].model.image(x=150.3, y=220.8).array
        np.testing.assert_allclose(array / array.sum(), expected, atol=1e-14)
    with pytest.raises(InputError, match="no PSF"):
        export_piff_visit({}, tmp_path / "none.piff")


def test_export_of_a_product(fits, tmp_path):
    from finalchar.formats.exposure_catalog import write_exposure_catalog
    from finalchar.psf import export

    product = tmp_path / "finalized_psf_ap_corr_catalog.fits"
    record = ExposureRecord(detector=5, visit=12, psf=PiffPsf(fits["sky"].serialized))
    write_exposure_catalog(product, [record], {})
    path = export.export_piff(tmp_path)
    assert path == product.with_suffix(".piff")
    assert isinstance(piff.read(str(path)), piff.SimplePSF)
    with pytest.raises(InputError, match="no finalized_psf_ap_corr_catalog"):
        export.export_piff(tmp_path.parent)


# ------------------------------------------------------------------------------------------- K16, foreign


def test_a_stored_psf_that_is_not_finite_is_refused(fits):
    """K16: looked at when read, too."""
    _, _, psf = loads_piff(fits["pixel"].serialized)
    broken = copy.copy(psf)
    broken.interp = copy.copy(psf.interp)
    broken.interp.q = psf.interp.q.copy()
    broken.interp.q[10, 0] = np.nan
    from finalchar.formats.psfs import dumps_piff

    with pytest.raises(InputError, match="not finite"):
        model_from_stored(PiffPsf(dumps_piff(19, broken)))


def test_bytes_that_are_no_psf(fits):
    with pytest.raises(InputError, match="cannot be read"):
        model_from_stored(PiffPsf(fits["pixel"].serialized[:1000]))


def test_sky_and_field_need_their_transforms(exposure, places):
    from simulated_stars import FlatSky

    chosen = candidates(exposure, places)
    settings = determiner.Settings(**SETTINGS, useCoordinates="field")
    with pytest.raises(InputError, match="no transform to field angles"):
        determiner.determine(chosen, replace(exposure, field_angle=None), settings, band="r")
    settings = determiner.Settings(**SETTINGS, useCoordinates="sky")
    with pytest.raises(InputError, match="AST text"):
        determiner.determine(chosen, replace(exposure, wcs=FlatSky()), settings, band="r")


def test_field_angles_are_evaluated_for_numbers_and_arrays(fits):
    """The reference's wrapper fails with current numpy, whose one-element arrays are no numbers."""
    wcs = next(iter(fits["field"].model.psf.wcs.values()))
    position = wcs.toWorld(galsim.PositionD(10.0, 20.0))
    u, v = wcs.xyTouv(np.array([10.0, 11.0]), np.array([20.0, 20.0]))
    assert (position.x, position.y) == (u[0], v[0])
    local = wcs.local(galsim.PositionD(10.0, 20.0))
    assert local.dudx == pytest.approx(u[1] - u[0], rel=1e-9)
    back = wcs.toImage(position)
    assert (back.x, back.y) == pytest.approx((10.0, 20.0), abs=1e-9)
