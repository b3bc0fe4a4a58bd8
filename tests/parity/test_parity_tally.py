"""How the parity tool counts: report-only columns, the twentieth that may miss, and those that never may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.sources import SourceTable
from finalchar.parity.compare import compare_table
from finalchar.parity.deviations import Tolerance, Verdict, deviations_between, verdicts
from finalchar.parity.given_reference import compare_uncorrected
from finalchar.parity.run import Outcome
from finalchar.parity.table import outcome_lines
from finalchar.parity.tally import REPORT_ONLY, ReportOnly, read_report_only, tally
from finalchar.parity.tolerances import (
    CORRECTION_FLOOR,
    column_tolerance,
    known_cause,
    true_name,
    uncorrected_tolerance,
)

COLUMNS = Path(__file__).parents[2] / "tests/data/golden_small/default/measured_columns.json"


def column(name, *, ok=True, cause="", n=10, kind="relative"):
    return Verdict(name, n, 0.0 if ok else 1e-4, 0.0 if ok else 1.0, 1e-9, ok, cause, kind, column=True)


def table(**columns):
    return SourceTable({name: np.asarray(values) for name, values in columns.items()})


def test_the_list_has_what_the_specification_marks_and_nothing_else():
    listed = read_report_only(REPORT_ONLY)
    for name in (
        "modelfit_CModel_nonlinear_0", "slot_ModelFlux_exp_nonlinear_2", "modelfit_CModel_dev_ellipse_xy",
        "modelfit_CModel_ellipse_xx", "modelfit_CModel_fracDev", "slot_ModelFlux_initial_nIter",
        "modelfit_CModel_exp_time",
    ):  # fmt: skip
        assert listed.reason(name), name
    for name in (
        "modelfit_CModel_instFlux", "modelfit_CModel_exp_instFluxErr", "modelfit_CModel_objective",
        "modelfit_CModel_region_initial_ellipse_xx", "modelfit_CModel_initial_fixed_0",
        "modelfit_CModel_dev_flag_maxIter", "base_PsfFlux_instFlux", "modelfit_DoubleShapeletPsfApprox_0_xx",
    ):  # fmt: skip
        assert not listed.reason(name), name


def test_no_other_tolerance_leaves_a_column_unjudged(golden_columns):
    listed = read_report_only(REPORT_ONLY)
    unjudged = {name for name in golden_columns if column_tolerance(name).kind == "report"}
    assert unjudged == set()
    assert sum(bool(listed.reason(name)) for name in golden_columns) < 0.1 * len(golden_columns)


@pytest.fixture(name="golden_columns")
def columns_of_the_reference():
    path = COLUMNS.with_name("measured.parquet")
    import pyarrow.parquet as pq

    return pq.read_schema(path).names


def test_report_only_columns_are_never_out_and_say_why(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# comment\n\nmodelfit_CModel_a\tarbitrary\n")
    listed = read_report_only(path)
    out = listed.apply([column("slot_ModelFlux_a", ok=False), column("b")])
    assert (out[0].ok, out[0].cause, out[0].tolerance) == (True, "arbitrary", None)
    counted = tally(out)
    assert (counted.counted, counted.reported, counted.missed) == (1, 1, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [("name only\n", ":1 gives no reason"), ("# a\n(\treason\n", ":2: '\\(' is no pattern")],
)
def test_lists_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_report_only(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_report_only(tmp_path / "absent.txt")


def test_one_in_twenty_may_miss_with_a_cause():
    good = [column(f"c{k}") for k in range(19)]
    one = column("ext_convolved_ConvolvedFlux_0_3_3_instFlux", ok=False, cause="known")
    assert tally([*good, one]).few
    assert not tally([*good[:-1], one]).few
    assert tally([*good[:-1], one]).ok
    assert Outcome("default", (*good, one)).ok
    assert not Outcome("default", (*good[:-1], one)).ok
    assert Outcome("pca", (*good[:-1], one)).ok  # said, but no reason to fail
    assert "MISSED" in next(tally([*good[:-1], one]).lines())
    assert not tally([*good, column("other", ok=False)]).ok  # no cause


def test_empty_columns_are_not_counted():
    nothing = tally([column("a"), column("b", n=0)])
    assert (nothing.counted, nothing.empty) == (1, 1)


@pytest.mark.parametrize(
    "name",
    [
        "base_PsfFlux_instFlux", "slot_PsfFlux_instFluxErr", "base_GaussianFlux_flag", "slot_Shape_xx",
        "ext_shapeHSM_HigherOrderMomentsSource_03", "ext_photometryKron_KronFlux_flag_edge",
        "ext_photometryKron_KronFlux_instFlux", "modelfit_CModel_flag", "slot_ModelFlux_dev_flag_trSmall",
        "modelfit_CModel_exp_instFlux",
    ],
)  # fmt: skip
def test_what_may_never_be_out_even_with_a_cause(name):
    result = tally([*(column(f"c{k}") for k in range(99)), column(name, ok=False, cause="known")])
    assert result.forbidden == (name,)
    assert not result.ok
    verdicts = (column(name, ok=False, cause="known"), *(column(f"c{k}") for k in range(99)))
    assert not Outcome("default", verdicts).ok


def bright(sigma):
    """Verdicts of a CModel flux that deviates by `sigma` error bars, at S/N 300."""
    flux, error = np.full(40, 3e4), np.full(40, 100.0)
    reference = {"modelfit_CModel_exp_instFlux": flux, "modelfit_CModel_exp_instFluxErr": error}
    reference |= {f"other_{k}": flux for k in range(60)}
    ours = {**reference, "modelfit_CModel_exp_instFlux": flux + sigma * error}
    compared = compare_table(table(**ours), table(**reference), {})
    return verdicts(compared, lambda name, median: known_cause("default", name, median))


def test_cmodel_may_be_judged_on_the_error_bars_of_bright_stars():
    near = tally(bright(0.09))
    assert near.ok
    assert near.by_error_bars == ("modelfit_CModel_exp_instFlux",)  # 3e-4 of the flux: out without this
    for far in (0.12, 0.5, 1.2):
        assert tally(bright(far)).forbidden == ("modelfit_CModel_exp_instFlux",)


def test_one_bright_star_in_five_may_deviate_by_more():
    deviations = np.full(40, 0.09)
    deviations[:8] = 0.5
    assert tally(bright(deviations)).ok
    deviations[8] = 0.5
    assert not tally(bright(deviations)).ok


def test_weights_are_in_error_bars():
    verdict = {one.name: one for one in bright(0.09)}["modelfit_CModel_exp_instFlux"]
    assert verdict.weight == pytest.approx(0.09)
    assert verdict.to_dict()["error_bars"] == pytest.approx(0.09)


def test_a_limit_in_error_bars():
    tolerance = Tolerance("relative", 1.0, error_bars=0.5)
    assert tolerance.accepts(np.array([0.1]), np.array([0.4]))
    assert not tolerance.accepts(np.array([0.1]), np.array([0.6]))


def test_corrected_cmodel_fluxes_are_held_to_flux_and_correction():
    for name, alone in (
        ("modelfit_CModel_initial_instFlux", 2e-5),
        ("modelfit_CModel_exp_instFluxErr", 1e-4),
    ):
        assert uncorrected_tolerance(name).median == alone
        for column_name in (name, name.replace("modelfit_CModel", "slot_ModelFlux")):
            assert column_tolerance(column_name).median == pytest.approx(alone + CORRECTION_FLOOR)
    for other in ("modelfit_CModel_exp_instFlux_inner", "base_PsfFlux_instFlux"):
        assert column_tolerance(other) == uncorrected_tolerance(other)


class Field:
    """A correction that is the same everywhere."""

    def __init__(self, value):
        self.value = value

    def evaluate(self, *, x, y):
        return np.full(len(x), self.value)


def test_corrections_are_undone_on_each_side():
    position = {"slot_Centroid_x": [1.0, 2.0], "slot_Centroid_y": [1.0, 2.0]}
    name = "modelfit_CModel_dev_instFlux"
    reference = table(**position, **{name: [100.0, 200.0], f"{name}Err": [1.0, 1.0]})
    ours = table(**position, **{name: [101.0, 202.0], f"{name}Err": [1.01, 1.01]})
    found = verdicts(compare_uncorrected(ours, reference, {name: Field(1.111)}, {name: Field(1.1)}))
    assert [one.name for one in found] == [f"uncorrected_{name}", f"uncorrected_{name}Err"]
    assert max(one.maximum for one in found) < 1e-12
    assert list(compare_uncorrected(ours, reference, {}, {name: Field(1.1)})) == []


@pytest.mark.parametrize(("given", "out"), [(1.0, False), (1.1, True), (np.nan, True)])
def test_a_column_is_judged_given_the_references_earlier_results(given, out):
    name = "modelfit_CModel_region_final_ellipse_xx"
    found = {
        one.name: one
        for one in verdicts(
            compare_table(table(**{name: [1.1]}), table(**{name: [1.0]}), {}, {name: np.array([given])})
        )
    }
    assert found[name].ok is not out
    assert found[name].column
    assert found[f"own_{name}"].maximum == pytest.approx(0.1)
    assert found[f"own_{name}"].kind == "report"


def test_text_and_flags_are_no_columns_of_numbers():
    reference = table(a=np.array(["x"]), b=np.array([True]), c=np.array([1.0]), d=np.array([1]))
    result = tally(verdicts(compare_table(reference, reference, {})))
    assert result.counted == 2


def test_slots_are_held_to_what_their_measurement_is():
    assert true_name("slot_ShapeRound_xx") == "ext_shapeHSM_HsmSourceMomentsRound_xx"
    for slot, name in (("slot_PsfFlux_instFlux", "base_PsfFlux_instFlux"), ("slot_Shape_x", "slot_Shape_x")):
        assert column_tolerance(slot) == column_tolerance(name)


def test_the_tally_is_printed():
    missed = deviations_between(
        "ext_gaap_GaapFlux_1_15x_0_5_instFlux", np.array([1.1]), np.array([1.0]), Tolerance("relative", 1e-9)
    )
    (verdict,) = verdicts([missed], lambda name, median: "known")
    good = tuple(column(f"c{k}") for k in range(30))
    from dataclasses import replace

    printed = list(outcome_lines(Outcome("a", (replace(verdict, column=True, weight=0.2), *good))))
    assert any(
        "31 columns of numbers counted (0 more only reported, 0 empty): 1 miss" in line for line in printed
    )
    assert any("at most 0.2 error bars: known" in line for line in printed)
    assert printed[-1] == "out though they never may be: none"
    assert ReportOnly().apply(good) == list(good)
