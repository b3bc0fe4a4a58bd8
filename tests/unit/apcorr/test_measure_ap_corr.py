"""Aperture corrections: robustness (K21), nothing missing in silence (K22), orders, compatibility."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from finalchar.apcorr import acceptance
from finalchar.apcorr.apply import apply_ap_corr
from finalchar.apcorr.chebyshev import chebyshev_basis, count_terms, fit_chebyshev
from finalchar.apcorr.measure import measure_ap_corr
from finalchar.errors import ApCorrError, ConfigError, InputError, NoWorkError
from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import Box
from finalchar.formats.sources import SourceTable

BOX = Box(0, 0, 999, 799)
FLUX = "base_PsfFlux"
GAAP = "ext_gaap_GaapFlux_1_15x_0_5"
KRON = "ext_photometryKron_KronFlux"
APPLY = SimpleNamespace(
    ignoreList=[], proxies={}, doFlagApCorrFailures=True, xColumn="slot_Centroid_x", yColumn="slot_Centroid_y"
)


def settings(**changes):
    values = {
        "refFluxName": "ref",
        "minDegreesOfFreedom": 1,
        "numIter": 4,
        "numSigmaClip": 4.0,
        "doFinalMedianShift": True,
        "fitConfig": SimpleNamespace(orderX=2, orderY=2, triangular=True),
        "allowFailure": [GAAP],
    }
    return SimpleNamespace(**{**values, **changes})


def everything(table):
    return np.ones(len(table), dtype=bool)


def make_table(ratio, x, y, names=(FLUX,)):
    n = len(ratio)
    columns = {
        "id": np.arange(1, n + 1, dtype=np.int64),
        "slot_Centroid_x": np.asarray(x, dtype=float),
        "slot_Centroid_y": np.asarray(y, dtype=float),
        "ref_instFlux": 1000.0 * np.asarray(ratio, dtype=float),
        "ref_flag": np.zeros(n, dtype=bool),
    }
    for name in names:
        columns |= {
            f"{name}_instFlux": np.full(n, 1000.0),
            f"{name}_instFluxErr": np.full(n, 2.0),
            f"{name}_flag": np.zeros(n, dtype=bool),
            f"apcorr_{name}_used": np.zeros(n, dtype=bool),
            f"{name}_apCorr": np.full(n, np.nan),
            f"{name}_apCorrErr": np.full(n, np.nan),
            f"{name}_flag_apCorr": np.zeros(n, dtype=bool),
        }
    return SourceTable(columns)


def stars(rng, n, low=(0.0, 0.0), high=(999.0, 799.0)):
    return rng.uniform(low[0], high[0], n), rng.uniform(low[1], high[1], n)


def measure(table, names=(FLUX,), **options):
    options = {"select": everything, **options}
    return measure_ap_corr(table, BOX, options.pop("settings", settings()), names, **options)


# --------------------------------------------------------------------------------------------- the fit


def test_fit_finds_the_polynomial_it_was_given():
    rng = np.random.default_rng(1)
    x, y = stars(rng, 30)
    truth = np.array([[1.0, 0.02, -0.01], [0.03, 0.005, 0.0], [0.01, 0.0, 0.0]])
    z = ChebyshevField(box=BOX, coefficients=truth).evaluate(x=x, y=y)
    found = fit_chebyshev(x=x, y=y, z=z, box=BOX, order_x=2, order_y=2)
    # Thirty exact points for six terms: only rounding, squared by the normal equations.
    np.testing.assert_allclose(found, truth, atol=1e-13)


@pytest.mark.parametrize(
    ("order_x", "order_y", "triangular", "terms"),
    [(2, 2, True, 6), (1, 1, True, 3), (0, 0, True, 1), (2, 2, False, 9), (2, 1, True, 5), (3, 1, False, 8)],
)
def test_number_of_terms(order_x, order_y, triangular, terms):
    assert count_terms(order_x, order_y, triangular=triangular) == terms
    basis = chebyshev_basis(
        x=[1.0], y=[2.0], box=BOX, order_x=order_x, order_y=order_y, triangular=triangular
    )
    assert basis.shape == (1, terms)


@pytest.mark.parametrize(("n", "shape"), [(2, (1, 1)), (3, (1, 1)), (4, (2, 2)), (6, (2, 2)), (7, (3, 3))])
def test_orders_fall_with_the_stars(n, shape):
    x, y = stars(np.random.default_rng(2), n)
    _, measurement = measure(make_table(np.full(n, 1.05), x, y))
    assert measurement.fits[0].field.coefficients.shape == shape


@pytest.mark.parametrize("column", [f"{FLUX}_flag", "ref_flag"])
def test_flagged_fluxes_take_no_part(column):
    x, y = stars(np.random.default_rng(4), 40)
    table = make_table(np.full(40, 1.05), x, y)
    table[column][:7] = True
    table, _ = measure(table)
    np.testing.assert_array_equal(table[f"apcorr_{FLUX}_used"], np.arange(40) >= 7)


@pytest.mark.parametrize(("level", "kept"), [(4.0, False), (12.0, True)])
def test_level_of_the_clipping(level, kept):
    """A star at eight times the scatter is clipped at four and kept at twelve."""
    rng = np.random.default_rng(5)
    x, y = stars(rng, 200)
    ratio = 1.1 + 0.01 * rng.standard_normal(200)
    ratio[0] = 1.1 + 0.08
    table, _ = measure(make_table(ratio, x, y), settings=settings(numSigmaClip=level))
    assert table[f"apcorr_{FLUX}_used"][0] == kept
    assert table[f"apcorr_{FLUX}_used"][1:].sum() > 190


def test_median_shift_and_error_entry():
    rng = np.random.default_rng(3)
    x, y = stars(rng, 200)
    ratio = 1.1 + 0.01 * rng.standard_normal(200)
    table, measurement = measure(make_table(ratio, x, y))
    fit = measurement.fits[0]
    used = table[f"apcorr_{FLUX}_used"]
    residual = fit.field.evaluate(x=x[used], y=y[used]) - ratio[used]
    assert abs(np.median(residual)) < 1e-15  # what the final shift is for
    # 200 stars: the robust scatter of 0.01 is known to 8 per cent, three times that is allowed.
    assert fit.error == pytest.approx(0.01, rel=0.25)
    assert measurement.fields[f"{FLUX}_instFluxErr"].evaluate(x=[5.0], y=[7.0])[0] == fit.error


# --------------------------------------------------------------------------------------------- K21


def test_figures_of_a_field_that_is_known():
    """A plane that rises by 0.1 from border to border, and stars that lie 0.002 above and below it."""
    x, y = (each.ravel() for each in np.meshgrid(np.linspace(0, 999, 20), np.linspace(0, 799, 20)))
    plane = 1.2 + 0.05 * (x - 499.5) / 500
    ratio = plane + 0.002 * (-1.0) ** np.add.outer(np.arange(20), np.arange(20)).ravel()
    _, measurement = measure(make_table(ratio, x, y))
    figures = measurement.figures
    assert figures[f"ap_corr_{FLUX}_stars"] == 400
    assert figures[f"ap_corr_{FLUX}_centre"] == pytest.approx(1.2, abs=1e-4)
    # from the first to the last pixel centre: 999 of 1000 pixels
    assert figures[f"ap_corr_{FLUX}_range"] == pytest.approx(0.0999, abs=4e-4)
    # all deviations are 0.002; the robust standard deviation is 1.4826 times their median
    assert figures[f"ap_corr_{FLUX}_scatter"] == pytest.approx(1.4826 * 0.002, rel=0.02)
    assert figures["ap_corr_reference_stars"] == 400


@pytest.mark.parametrize("seed", range(10))
def test_a_cluster_of_false_sources_does_not_tilt_the_field(seed):
    rng = np.random.default_rng(seed)
    x, y = stars(rng, 40)
    corner_x, corner_y = stars(rng, 12, low=(850.0, 680.0))
    ratio = np.concatenate([1.0 + 0.005 * rng.standard_normal(40), 1.5 + 0.1 * rng.standard_normal(12)])
    table, measurement = measure(
        make_table(ratio, np.concatenate([x, corner_x]), np.concatenate([y, corner_y]))
    )
    assert not table[f"apcorr_{FLUX}_used"][40:].any()
    assert np.abs(measurement.fits[0].field.evaluate(x=x, y=y) - 1.0).max() < 0.02
    assert measurement.figures["ap_corr_suspect"] == ""
    assert measurement.figures[f"ap_corr_{FLUX}_rejected"] >= 12


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("place", ["corner", "everywhere"])
def test_half_of_the_stars_bad_is_said_loudly(seed, place):
    rng = np.random.default_rng(seed)
    x, y = stars(rng, 40)
    bad_x, bad_y = stars(rng, 40, low=(700.0, 500.0) if place == "corner" else (0.0, 0.0))
    ratio = np.concatenate([1.0 + 0.005 * rng.standard_normal(40), 1.5 + 0.1 * rng.standard_normal(40)])
    table = make_table(ratio, np.concatenate([x, bad_x]), np.concatenate([y, bad_y]))
    _, measurement = measure(table)
    assert measurement.suspect == (FLUX,)
    assert measurement.figures["ap_corr_suspect"] == FLUX
    with pytest.raises(ApCorrError, match=f"not believable: {FLUX}"):
        measure(table, limits=acceptance.Settings(on_suspect="fail"))
    assert measure(table, compatibility="lsst")[1].suspect == ()  # the reference judges nothing


def test_field_that_reaches_zero_is_suspect():
    x = np.array([400.0, 450.0, 500.0, 550.0, 600.0])
    _, measurement = measure(make_table(1.0 + 0.0025 * (x - 500.0), x, np.array([400.0, 300, 350, 420, 380])))
    assert measurement.fits[0].minimum < 0
    assert measurement.suspect == (FLUX,)


# --------------------------------------------------------------------------------------------- K12


@pytest.mark.parametrize("bad", [-50.0, 0.0, np.nan, np.inf])
def test_an_impossible_reference_flux_is_not_used(bad):
    """Half of a small sample: clipping alone would keep them, and the field would be nonsense."""
    x, y = stars(np.random.default_rng(4), 10)
    table = make_table(np.full(10, 1.1), x, y)
    table["ref_instFlux"][:5] = bad
    table, measured = measure(
        table, settings=settings(fitConfig=SimpleNamespace(orderX=0, orderY=0, triangular=True))
    )
    assert table[f"apcorr_{FLUX}_used"].tolist() == [False] * 5 + [True] * 5
    assert measured.fields[f"{FLUX}_instFlux"].evaluate(x=x, y=y) == pytest.approx(1.1)
    assert measured.reference_stars == 5


# --------------------------------------------------------------------------------------------- K22


@pytest.mark.parametrize("name", [FLUX, KRON])
@pytest.mark.parametrize("usable", [0, 1])
def test_required_correction_with_too_few_stars_names_flux_and_count(name, usable):
    x, y = stars(np.random.default_rng(4), 20)
    table = make_table(np.ones(20), x, y, names=(FLUX, KRON, GAAP))
    table[f"{name}_instFlux"][usable:] = np.nan
    with pytest.raises(ApCorrError, match=rf"{name} \({usable}\); 20 stars have a good reference"):
        measure(table, names=(FLUX, KRON, GAAP))


def test_a_selector_that_finds_nothing_is_a_failed_correction():
    """The detector has a PSF and rows by then: it is not one without work (truth table 4.10)."""
    x, y = stars(np.random.default_rng(4), 20)

    def nothing(table):
        raise NoWorkError("no_selected_sources", "No good star candidates out of 20 input sources")

    with pytest.raises(ApCorrError, match=r"no star is selected .* out of 20"):
        measure(make_table(np.ones(20), x, y), select=nothing)


def test_no_reference_flux_names_every_required_flux():
    x, y = stars(np.random.default_rng(4), 20)
    table = make_table(np.ones(20), x, y, names=(FLUX, KRON))
    table["ref_instFlux"][:] = np.nan
    with pytest.raises(ApCorrError, match=rf"{FLUX} \(0\), {KRON} \(0\); 0 stars have a good reference"):
        measure(table, names=(FLUX, KRON))


def test_flux_that_may_fail_is_named_as_uncorrected():
    x, y = stars(np.random.default_rng(4), 20)
    table = make_table(np.full(20, 1.1), x, y, names=(FLUX, GAAP))
    table[f"{GAAP}_instFlux"][:] = np.nan
    table, measurement = measure(table, names=(FLUX, GAAP))
    assert measurement.missing == {GAAP: 0}
    assert measurement.figures["ap_corr_uncorrected"] == GAAP
    assert f"{GAAP}_instFlux" not in measurement.fields  # no constant 1.0 in its place
    corrected, applied = apply_ap_corr(table, measurement.fields, APPLY, (FLUX, GAAP))
    assert applied.uncorrected == (GAAP,)
    assert corrected[f"{GAAP}_flag_apCorr"].all()
    assert not corrected[f"{GAAP}_flag"].any()  # reference behaviour, M-Q22


def test_missing_reference_column_is_named():
    table = make_table(np.ones(3), [1.0, 2, 3], [1.0, 2, 3])
    asked = r"'nothing_instFlux' is missing, which measure_ap_corr\.refFluxName asks for; name a flux of"
    with pytest.raises(InputError, match=asked):
        measure(table, settings=settings(refFluxName="nothing"))


# --------------------------------------------------------------------------------------------- quirks


def test_unsorted_ids_are_refused_in_lsst_mode_only():
    x, y = stars(np.random.default_rng(5), 20)
    table = make_table(np.ones(20), x, y)
    table["id"] = table["id"][::-1].copy()
    with pytest.raises(InputError, match="sorted by id"):
        measure(table, compatibility="lsst")
    assert measure(table)[0][f"apcorr_{FLUX}_used"].all()


@pytest.mark.parametrize("compatibility", ["fixed", "lsst"])
def test_applied_correction_columns(compatibility):
    x, y = stars(np.random.default_rng(6), 20)
    table, measurement = measure(make_table(np.full(20, 1.1), x, y))
    corrected, applied = apply_ap_corr(table, measurement.fields, APPLY, (FLUX,), compatibility=compatibility)
    np.testing.assert_allclose(corrected[f"{FLUX}_instFlux"], 1100.0, rtol=1e-12)
    np.testing.assert_allclose(corrected[f"{FLUX}_instFluxErr"], 2.2, rtol=1e-12)
    assert applied.corrected == (FLUX,)
    if compatibility == "fixed":
        np.testing.assert_allclose(corrected[f"{FLUX}_apCorr"], 1.1, rtol=1e-12)
        assert np.isfinite(corrected[f"{FLUX}_apCorrErr"]).all()
    else:
        assert np.isnan(corrected[f"{FLUX}_apCorr"]).all()  # M-Q23
    assert table[f"{FLUX}_instFlux"][0] == 1000.0  # the table that came in is not changed


def test_rows_without_a_positive_factor_stay_uncorrected_and_flagged():
    table = make_table(np.ones(3), [0.0, 499.5, 999.0], [400.0, 400.0, 400.0])
    falling = ChebyshevField(box=BOX, coefficients=np.array([[0.5, -1.0]]))
    constant = ChebyshevField(box=BOX, coefficients=np.array([[0.01]]))
    fields = {f"{FLUX}_instFlux": falling, f"{FLUX}_instFluxErr": constant}
    corrected, applied = apply_ap_corr(table, fields, APPLY, (FLUX,), compatibility="lsst")
    np.testing.assert_array_equal(corrected[f"{FLUX}_flag"], [False, False, True])
    np.testing.assert_array_equal(corrected[f"{FLUX}_flag_apCorr"], [False, False, True])
    np.testing.assert_allclose(corrected[f"{FLUX}_instFlux"], [1499.0, 500.0, 1000.0], rtol=1e-12)
    assert applied.rows_without_factor == {FLUX: 1}


# --------------------------------------------------------------------------------------------- settings


def apply_settings(**changes):
    return SimpleNamespace(**{**vars(APPLY), **changes})


def two_fluxes():
    """Fluxes of 1000 whose corrections are 1.1 and 1.3 everywhere."""
    x, y = stars(np.random.default_rng(6), 20)
    table = make_table(np.full(20, 1.1), x, y, names=(FLUX, KRON))
    one = ChebyshevField(box=BOX, coefficients=np.array([[1.1]]))
    other = ChebyshevField(box=BOX, coefficients=np.array([[1.3]]))
    fields = {f"{FLUX}_instFlux": one, f"{KRON}_instFlux": other}
    return table, {**fields, f"{FLUX}_instFluxErr": one, f"{KRON}_instFluxErr": other}


def test_ignored_fluxes_are_left_alone():
    table, fields = two_fluxes()
    corrected, applied = apply_ap_corr(table, fields, apply_settings(ignoreList=[KRON]), (FLUX, KRON))
    assert applied.corrected == (FLUX,)
    assert applied.uncorrected == ()
    assert (corrected[f"{KRON}_instFlux"] == 1000.0).all()
    assert not corrected[f"{KRON}_flag_apCorr"].any()


def test_a_proxy_lends_its_correction():
    table, fields = two_fluxes()
    corrected, _ = apply_ap_corr(table, fields, apply_settings(proxies={FLUX: KRON}), (FLUX, KRON))
    np.testing.assert_allclose(corrected[f"{FLUX}_instFlux"], 1300.0, rtol=1e-12)
    missing = apply_settings(proxies={FLUX: "no_such_flux"})
    corrected, applied = apply_ap_corr(table, fields, missing, (FLUX, KRON))
    assert applied.uncorrected == (FLUX,)
    assert corrected[f"{FLUX}_flag_apCorr"].all()


def test_a_proxy_for_a_flux_that_is_not_corrected_is_refused():
    table, fields = two_fluxes()
    wrong = apply_settings(proxies={"base_PsfFlax": KRON})
    with pytest.raises(ConfigError, match=f"proxies names base_PsfFlax, .*there are: {FLUX}, {KRON}"):
        apply_ap_corr(table, fields, wrong, (FLUX, KRON))


@pytest.mark.parametrize("flagging", [True, False])
def test_failures_flag_the_flux_if_they_are_told_to(flagging):
    table, fields = two_fluxes()
    fields[f"{FLUX}_instFlux"] = ChebyshevField(box=BOX, coefficients=np.array([[-1.0]]))
    corrected, _ = apply_ap_corr(table, fields, apply_settings(doFlagApCorrFailures=flagging), (FLUX,))
    assert (corrected[f"{FLUX}_flag"] == flagging).all()
    assert corrected[f"{FLUX}_flag_apCorr"].all()
    assert (corrected[f"{FLUX}_instFlux"] == 1000.0).all()


def test_the_position_columns_are_those_of_the_settings():
    table, fields = two_fluxes()
    table = table.with_columns({"other_x": np.full(20, 0.0), "other_y": np.full(20, 799.0)})
    slope = np.array([[1.0, 0.2], [0.1, 0.0]])
    fields[f"{FLUX}_instFlux"] = ChebyshevField(box=BOX, coefficients=slope)
    corrected, _ = apply_ap_corr(table, fields, apply_settings(xColumn="other_x", yColumn="other_y"), (FLUX,))
    # Chebyshev's -1 and 1 are the outer borders of the pixels: half a pixel of 500 and 400 inside
    factor = 1.0 - 0.2 * (1 - 0.5 / 500) + 0.1 * (1 - 0.5 / 400)
    np.testing.assert_allclose(corrected[f"{FLUX}_instFlux"], 1000 * factor, rtol=1e-12)


@pytest.mark.parametrize("shifted", [True, False])
def test_the_final_shift_may_be_left_out(shifted):
    rng = np.random.default_rng(8)
    x, y = stars(rng, 50)
    ratio = 1.1 + 0.01 * rng.exponential(size=50)  # mean and median differ
    table, measurement = measure(make_table(ratio, x, y), settings=settings(doFinalMedianShift=shifted))
    used = table[f"apcorr_{FLUX}_used"]
    residual = ratio[used] - measurement.fits[0].field.evaluate(x=x[used], y=y[used])
    middle = np.median(residual) if shifted else np.mean(residual)
    assert abs(middle) < 1e-14


def test_each_iteration_clips_again():
    """An outlier that hides behind a larger one falls in the second iteration."""
    x, y = stars(np.random.default_rng(9), 40)
    ratio = 1.0 + 0.001 * np.random.default_rng(10).standard_normal(40)
    ratio[:2] = 1.5, 1.0 + 0.0055
    constant = SimpleNamespace(orderX=0, orderY=0, triangular=True)
    number = [
        int(
            measure(make_table(ratio, x, y), settings=settings(numIter=n, fitConfig=constant))[1]
            .fits[0]
            .used.sum()
        )
        for n in (0, 1, 4)
    ]
    assert number[0] == 40
    assert number[0] > number[1] >= number[2]


@pytest.mark.parametrize(("freedom", "shape"), [(1, (3, 3)), (3, (2, 2)), (6, (1, 1))])
def test_degrees_of_freedom_decide_the_order(freedom, shape):
    """Eight stars: six terms leave 2, three leave 5, one leaves 7."""
    x, y = stars(np.random.default_rng(2), 8)
    _, measurement = measure(
        make_table(np.full(8, 1.05), x, y), settings=settings(minDegreesOfFreedom=freedom)
    )
    assert measurement.fits[0].field.coefficients.shape == shape


def test_without_enough_stars_for_the_degrees_of_freedom_it_fails():
    x, y = stars(np.random.default_rng(2), 8)
    with pytest.raises(ApCorrError, match=rf"{FLUX} \(8\)"):
        measure(make_table(np.full(8, 1.05), x, y), settings=settings(minDegreesOfFreedom=8))


def test_what_may_fail_and_what_must_succeed():
    """Of 31 fluxes the 16 convolved and the 8 of GAaP may be missing, no other."""
    from finalchar.config import Config
    from finalchar.measure.schema import correctable_fluxes

    config = Config()
    may_fail = set(config.measure_ap_corr.allowFailure)
    fluxes = correctable_fluxes(config.measurement, "fixed")
    apertures = ("3_3", "4_5", "6_0", "kron")
    convolved = {f"ext_convolved_ConvolvedFlux_{k}_{one}" for k in range(4) for one in apertures}
    variants = ("0_5", "0_7", "1_0", "1_5", "2_5", "3_0", "Optimal", "PsfFlux")
    assert may_fail == convolved | {f"ext_gaap_GaapFlux_1_15x_{one}" for one in variants}
    x, y = stars(np.random.default_rng(4), 20)
    whole = make_table(np.full(20, 1.1), x, y, names=fluxes)
    for name in fluxes:
        table = whole.with_columns({f"{name}_instFlux": np.full(20, np.nan)})
        allowed = settings(allowFailure=config.measure_ap_corr.allowFailure)
        if name in may_fail:
            _, measurement = measure(table, names=fluxes, settings=allowed)
            assert measurement.missing == {name: 0}
        else:
            with pytest.raises(ApCorrError, match=rf"correction of {name} \(0\)"):
                measure(table, names=fluxes, settings=allowed)
