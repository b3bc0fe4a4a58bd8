"""One reading of the astrometry: AST text, header cards, GalSim."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.ast_text import AstTransform, SkyWcs, parse_ast, sky_wcs_from_cards, stored_sky_wcs
from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import Box
from finalchar.formats.lsst_exposure import read_exposure

SURVEY = Path(__file__).resolve().parents[2] / "data/golden_small/survey"
ARCSEC = np.degrees(1.0) * 3600.0
SCAMP = {"PV1_0": 1e-3, "PV1_1": 1.001, "PV2_0": 0.0, "PV2_1": 1.0}


def cards(kind: str = "TAN", **more: float) -> list[str]:
    values: dict[str, object] = {
        "CTYPE1": f"'RA---{kind}'",
        "CTYPE2": f"'DEC--{kind}'",
        "CRVAL1": 150.0,
        "CRVAL2": 2.0,
        "CRPIX1": 1024.0,
        "CRPIX2": 2048.0,
        "CD1_1": -7.3e-5,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": 7.3e-5,
        "RADESYS": "'ICRS'",
        **more,
    }
    return [f"{name:<8}= {value}".ljust(80) for name, value in values.items()]


def shift_of(wcs: SkyWcs) -> tuple[float, float]:
    """Shift of pixel (0, 0) in RA, Dec coordinates against the undistorted header, arcsec."""
    ra0, dec0 = sky_wcs_from_cards(cards()).pixel_to_sky(x=0.0, y=0.0)
    ra, dec = wcs.pixel_to_sky(x=0.0, y=0.0)
    return float(ra - ra0) * ARCSEC, float(dec - dec0) * ARCSEC


def test_an_undistorted_header_as_astropy_reads_it() -> None:
    from astropy.wcs import WCS

    other = WCS(naxis=2)
    other.wcs.ctype, other.wcs.crval, other.wcs.crpix = (
        ["RA---TAN", "DEC--TAN"],
        [150.0, 2.0],
        [1024.0, 2048.0],
    )
    other.wcs.cd = np.diag([-7.3e-5, 7.3e-5])
    wcs = sky_wcs_from_cards(cards())
    x, y = np.array([0.0, 1000.0, 2047.0]), np.array([5.0, 4000.0, 1.5])
    ra, dec = other.wcs_pix2world(x, y, 0)
    np.testing.assert_allclose(np.degrees(wcs.pixel_to_sky(x=x, y=y)), [ra, dec], rtol=0, atol=1e-12)


@pytest.mark.parametrize("more", [SCAMP, SCAMP | {"PV1_7": 0.01, "PV2_7": 0.01}], ids=["linear", "cubic"])
def test_tan_with_scamp_terms_is_tpv(more: dict[str, float]) -> None:
    """K06: whatever the highest index; equal to the formula of TPV."""
    tan, tpv = (sky_wcs_from_cards(cards(kind, **more)) for kind in ("TAN", "TPV"))
    assert shift_of(tan) == shift_of(tpv)
    assert shift_of(tan)[0] == pytest.approx(3.87, abs=0.02)  # arcsec, as the report says
    xi, eta = -7.3e-5 * (1 - 1024.0), 7.3e-5 * (1 - 2048.0)  # degrees; pixel (1, 1) of the header
    distorted = 1e-3 + 1.001 * xi + more.get("PV1_7", 0.0) * xi**3, eta + more.get("PV2_7", 0.0) * eta**3
    ra, dec = deproject(*np.radians(distorted))
    found = np.array(tan.pixel_to_sky(x=0.0, y=0.0))
    np.testing.assert_allclose(found * ARCSEC, np.array([ra, dec]) * ARCSEC, rtol=0, atol=1e-7)


def deproject(xi: float, eta: float) -> tuple[float, float]:
    """Sky position of a point of the tangent plane at RA 150, Dec 2, radians."""
    ra0, dec0 = np.radians([150.0, 2.0])
    east = xi / (np.cos(dec0) - eta * np.sin(dec0))
    north = (np.sin(dec0) + eta * np.cos(dec0)) / (np.cos(dec0) - eta * np.sin(dec0))
    dec = np.arctan(north * np.cos(np.arctan(east)))
    return ra0 + np.arctan(east), dec


@pytest.mark.parametrize("kind", ["TAN", "TAN-SIP", "TPV", "TAN with PV"])
def test_intermediate_coordinates_are_on_the_tangent_plane(kind: str) -> None:
    """Of every kind of header: what sky moments and field angles rest on holds the distortion."""
    more = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-6, "B_0_2": 1e-6} if kind == "TAN-SIP" else {}
    more = SCAMP | {"PV1_7": 0.01, "PV2_7": 0.01} if "PV" in kind else more
    wcs = sky_wcs_from_cards(cards(kind.partition(" ")[0], **more))
    x, y = np.array([0.0, 700.0, 2047.0]), np.array([3.0, 3000.0, 4095.0])
    xi, eta = wcs.pixel_to_intermediate(x=x, y=y)
    ra, dec = np.transpose([deproject(*np.radians(place)) for place in zip(xi, eta, strict=True)])
    # Rounding of angles of 2.6.
    np.testing.assert_allclose(wcs.pixel_to_sky(x=x, y=y), [ra, dec], rtol=0, atol=1e-14)
    # The inverse of TPV is found by iteration.
    np.testing.assert_allclose(wcs.sky_to_pixel(ra=ra, dec=dec), [x, y], rtol=0, atol=1e-5)
    step = 0.5
    right, left = wcs.pixel_to_intermediate(x=x + step, y=y), wcs.pixel_to_intermediate(x=x - step, y=y)
    # Rates are estimates of AST; degrees per pixel are 7e-5.
    jacobian = wcs.local_cd_matrix(x=x, y=y)
    np.testing.assert_allclose(jacobian[:, :, 0], np.subtract(right, left).T, rtol=0, atol=1e-12)
    again = pickle.loads(pickle.dumps(wcs))
    np.testing.assert_array_equal(again.pixel_to_sky(x=x, y=y), wcs.pixel_to_sky(x=x, y=y))


@pytest.mark.parametrize("name", ["PV1_1", "PV2_1", "PV2_7", "PV1_4"])
def test_a_single_scamp_term_is_not_forgotten(name: str) -> None:
    """The libraries' guesses depend on which terms there are; the rule here does not."""
    value = 1.001 if name.endswith("_1") else 0.01
    tan, tpv = (sky_wcs_from_cards(cards(kind, **{name: value})) for kind in ("TAN", "TPV"))
    assert shift_of(tan) == shift_of(tpv)
    assert max(np.abs(shift_of(tan))) > 0.1  # arcsec


def test_two_kinds_of_distortion_are_refused() -> None:
    with pytest.raises(InputError, match="SIP and PVi_j"):
        sky_wcs_from_cards(
            [*cards("TAN-SIP", A_ORDER=2, B_ORDER=2, A_2_0=1e-7), *cards("TAN-SIP", **SCAMP)[-4:]]
        )


@pytest.mark.parametrize(
    "wrong",
    [[], ["CTYPE1  = 'LINEAR'".ljust(80)], [card.replace("RA---TAN", "GLON-XYZ") for card in cards()]],
    ids=["nothing", "linear", "unknown"],
)
def test_headers_without_sky_are_refused(wrong: list[str]) -> None:
    with pytest.raises(InputError, match="world coordinates"):
        sky_wcs_from_cards(wrong)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"RADESYS": "'FK4'", "EQUINOX": 1950.0}, "FK4 of the equinox 1950"),
        ({"RADESYS": "'FK5'", "EQUINOX": 1975.0}, "FK5 of the equinox 1975"),
        ({"CTYPE1": "'GLON-TAN'", "CTYPE2": "'GLAT-TAN'"}, "are GALACTIC"),
        ({"CTYPE1": "'DEC--TAN'", "CTYPE2": "'RA---TAN'"}, "Dec before RA"),
        ({"CUNIT1": "'arcsec'", "CUNIT2": "'arcsec'"}, "must be in deg"),
    ],
    ids=["B1950", "other equinox", "galactic", "exchanged", "arcsec"],
)
def test_another_sky_is_refused(more: dict[str, float], sentence: str) -> None:
    """Nothing would show that positions are off by degrees: the pixels are where they were."""
    with pytest.raises(InputError, match=sentence):
        sky_wcs_from_cards(cards(**more))


def test_the_old_name_of_the_system_counts() -> None:
    old = [card.replace("RADESYS =", "RADECSYS=") for card in cards(RADESYS="'FK4'")]
    with pytest.raises(InputError, match="FK4"):
        sky_wcs_from_cards(old)


@pytest.mark.parametrize("more", [{}, {"CUNIT1": "'deg     '"}, {"RADESYS": "'FK5'", "EQUINOX": 2000.0}])
def test_j2000_in_degrees_is_taken(more: dict[str, float]) -> None:
    assert np.degrees(sky_wcs_from_cards(cards(**more)).sky_origin) == pytest.approx([150.0, 2.0])


def test_no_position_has_no_place_on_the_sky() -> None:
    """AST has a large number for what is none; it would pass for a finite right ascension."""
    ra, dec = sky_wcs_from_cards(cards()).pixel_to_sky(x=[np.nan, 5.0], y=[1.0, np.inf])
    np.testing.assert_array_equal([ra, dec], np.nan)


def test_what_we_store_is_read_back() -> None:
    wcs = sky_wcs_from_cards(cards(), x0=12, y0=-5)
    text = stored_sky_wcs(wcs).decode()
    assert text.startswith("1 SkyWcs 0 ")
    again = SkyWcs(text[text.index("Begin") :])
    x, y = np.array([12.0, 500.25]), np.array([-5.0, 100.0])
    np.testing.assert_array_equal(again.pixel_to_sky(x=x, y=y), wcs.pixel_to_sky(x=x, y=y))
    np.testing.assert_allclose(again.pixel_origin, (1023.0 + 12.0, 2047.0 - 5.0), atol=1e-9)
    np.testing.assert_allclose(np.degrees(again.sky_origin), (150.0, 2.0), rtol=1e-15)


def test_shapes_that_come_in_come_out() -> None:
    wcs = sky_wcs_from_cards(cards())
    assert wcs.pixel_to_sky(x=1.0, y=2.0)[0].shape == ()
    assert wcs.pixel_to_sky(x=np.zeros((2, 3)), y=1.0)[1].shape == (2, 3)
    assert wcs.pixel_to_sky(x=np.zeros((0, 3)), y=1.0)[1].shape == (0, 3)
    assert wcs.local_cd_matrix(x=np.zeros(4), y=0.0).shape == (4, 2, 2)
    np.testing.assert_allclose(wcs.local_cd_matrix(x=9.0, y=9.0), [[-7.3e-5, 0], [0, 7.3e-5]], atol=1e-13)
    assert wcs.pixel_scale(x=1023.0, y=2047.0) == pytest.approx(7.3e-5 * 3600.0, rel=1e-9)


def test_objects_travel_between_processes() -> None:
    exposure = read_exposure(SURVEY / "calexp_2026011500101_1.fits")
    before = exposure.wcs.pixel_to_sky(x=10.0, y=20.0)
    for other in (pickle.loads(pickle.dumps(exposure)), copy.deepcopy(exposure)):
        np.testing.assert_array_equal(other.wcs.pixel_to_sky(x=10.0, y=20.0), before)
        np.testing.assert_array_equal(
            other.field_angle.apply(x=10.0, y=20.0), exposure.field_angle.apply(x=10.0, y=20.0)
        )


def test_jacobians_are_derivatives() -> None:
    exposure = read_exposure(SURVEY / "calexp_2026011500101_1.fits")
    x, y = np.array([40.0, 700.0]), np.array([900.0, 20.5])
    for transform in (exposure.field_angle, exposure.focal_plane):
        matrix = transform.jacobian(x=x, y=y)
        for axis, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
            ahead = np.array(transform.apply(x=x + dx, y=y + dy))
            behind = np.array(transform.apply(x=x - dx, y=y - dy))
            # half a pixel to either side: relative error of the difference below 1e-7
            np.testing.assert_allclose(matrix[..., axis], (ahead - behind).T, rtol=1e-6, atol=1e-9)


def test_transforms_run_backwards() -> None:
    step = read_exposure(SURVEY / "calexp_2026011500101_1.fits").field_angle.steps[-1]
    u, v = step.apply(x=np.array([1.0, 2.0]), y=np.array([3.0, -4.0]))
    x, y = step.inverse().apply(x=u, y=v)
    np.testing.assert_allclose([x, y], [[1.0, 2.0], [3.0, -4.0]], atol=1e-6)  # mm
    assert step.inverse().inverse() == step


@pytest.mark.parametrize("text", ["", "no dump here", "Begin Nonsense\nEnd Nonsense"])
def test_texts_that_are_not_ast(text: str) -> None:
    with pytest.raises(InputError, match="a stored transform"):
        parse_ast(text)
    with pytest.raises(InputError, match="a stored transform"):
        AstTransform(text).apply(x=0.0, y=0.0)


def test_chebyshev_fields() -> None:
    """Pixel edges map to -1 and 1; no clipping outside."""
    field = ChebyshevField(Box(10, 0, 19, 4), np.array([[1.0, 2.0], [3.0, 0.0]]))
    assert field.evaluate(x=9.5, y=-0.5) == pytest.approx(1.0 - 2.0 - 3.0)
    assert field.evaluate(x=19.5, y=4.5) == pytest.approx(1.0 + 2.0 + 3.0)
    assert field.evaluate(x=29.5, y=2.0) == pytest.approx(1.0 + 2.0 * 3.0)
    assert field.mean() == pytest.approx(1.0)
    assert field.scaled(2.0).mean() == pytest.approx(2.0)
    second = ChebyshevField(Box(0, 0, 9, 9), np.array([[0.0, 0.0, 1.0]]))
    x = np.linspace(-0.5, 9.5, 20001)
    # trapezoidal rule with 20000 steps: 1e-8
    assert second.mean() == pytest.approx(np.trapezoid(second.evaluate(x=x, y=0.0), x) / 10.0, abs=1e-7)
    assert (
        ChebyshevField(Box(0, 0, 9, 9), np.array([[2.5]])).evaluate(x=np.zeros(3), y=0.0).tolist()
        == [2.5] * 3
    )
