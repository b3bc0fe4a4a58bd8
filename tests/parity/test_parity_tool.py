"""The parity tool itself: deviations, verdicts, what makes the exit status 1, and what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import NotYetImplementedError
from finalchar.formats.sources import SourceTable
from finalchar.parity import __main__ as tool
from finalchar.parity import run
from finalchar.parity.compare import compare_table, outcome
from finalchar.parity.deviations import Tolerance, deviations_between, verdicts
from finalchar.parity.table import outcome_lines
from finalchar.parity.tolerances import column_tolerance, known_cause, scale_column

SMALL = Path(__file__).parents[2] / "tests/data/golden_small"
RELATIVE = Tolerance("relative", 1e-5)


def verdict_of(*deviations, cause=""):
    (verdict,) = verdicts(deviations, lambda name, median: cause)
    return verdict


def test_relative_deviation():
    verdict = verdict_of(deviations_between("a", np.array([1.0, 2.00001]), np.array([1.0, 2.0]), RELATIVE))
    assert verdict.n == 2
    assert verdict.maximum == pytest.approx(5e-6)
    assert verdict.ok


def test_values_that_are_nan_on_both_sides_are_left_out():
    nan = np.array([np.nan, 1.0])
    verdict = verdict_of(deviations_between("a", nan, nan.copy(), RELATIVE))
    assert (verdict.n, verdict.maximum, verdict.ok) == (1, 0.0, True)


@pytest.mark.parametrize(("ours", "reference"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, 1.0)])
def test_a_value_that_only_one_side_has_is_out(ours, reference):
    verdict = verdict_of(deviations_between("a", np.array([ours]), np.array([reference]), RELATIVE))
    assert not verdict.ok
    assert verdict.to_dict()["max"] == "inf"


def test_infinite_on_both_sides_agrees():
    both = np.array([np.inf, -np.inf])
    assert verdict_of(deviations_between("a", both, both.copy(), RELATIVE)).ok


def test_integers_beyond_doubles_are_compared_as_integers():
    a = np.array([2**60 + 1])
    assert not verdict_of(deviations_between("id", a, a - 1, Tolerance("exact"))).ok


def test_unequal_lengths_are_out_and_told():
    verdict = verdict_of(deviations_between("a", np.zeros(2), np.zeros(3), RELATIVE))
    assert not verdict.ok
    assert verdict.detail == "shape (2,), not (3,)"
    assert verdict.cause == ""


def test_a_detail_is_no_cause_and_a_cause_is_told():
    wrong = outcome("psf_class", "A", "B")
    assert not verdict_of(wrong).ok
    assert verdict_of(wrong).cause == ""
    assert verdict_of(wrong, cause="understood").cause == "understood"
    assert verdict_of(outcome("psf_class", "A", "A"), cause="understood").cause == ""


def test_report_only_is_never_out():
    far = deviations_between("a", np.array([9.0]), np.array([1.0]), Tolerance("report", reason="chaos"))
    verdict = verdict_of(far)
    assert verdict.ok
    assert verdict.tolerance is None


def test_known_causes_reach_no_further_than_their_median():
    name = "modelfit_CModel_dev_instFlux"
    assert "rounding noise" in known_cause("default", name, 1e-4)
    assert known_cause("default", name, 0.1) == ""
    assert known_cause("default", "base_PsfFlux_instFlux", 1e-4) == ""


def test_outliers_and_median_of_a_tolerance():
    few = Tolerance("exact", outliers=0.01)
    flags = np.zeros(200, dtype=bool)
    wrong = flags.copy()
    wrong[:2] = True
    assert verdict_of(deviations_between("flag", wrong, flags, few)).ok
    wrong[2] = True
    assert not verdict_of(deviations_between("flag", wrong, flags, few)).ok
    medians = Tolerance("relative", 0.1, median=1e-4)
    ones = np.ones(10)
    assert verdict_of(deviations_between("flux", ones + 1e-5, ones, medians)).ok
    assert not verdict_of(deviations_between("flux", ones + 1e-3, ones, medians)).ok


def table(**columns):
    return SourceTable({name: np.asarray(values) for name, values in columns.items()})


def test_columns_missing_extra_and_of_wrong_type():
    reference = table(id=[1], a=[1.0], gone=[2.0], ext_other_flux=[3.0])
    ours = table(id=[1], a=np.array([1.0], dtype=np.float32), extra=[4.0])
    missing = {"ext_other": "not_implemented: plugin ext_other"}
    found = {verdict.name: verdict for verdict in verdicts(compare_table(ours, reference, missing))}
    assert not found["gone"].ok
    assert found["gone"].detail == "the column is missing"
    assert found["ext_other_flux"].ok
    assert found["ext_other_flux"].cause == "not_implemented: plugin ext_other"
    assert found["column_types"].detail == "a float32, not a float64"
    assert found["columns_beyond_reference"].detail.startswith("extra, not")


def test_rules_of_columns():
    assert column_tolerance("base_CircularApertureFlux_3_0_instFlux").kind == "exact"
    assert column_tolerance("slot_CalibFlux_instFlux").kind == "exact"
    assert column_tolerance("base_PsfFlux_instFlux").value == 1e-9
    assert column_tolerance("base_PsfFlux_flag").kind == "exact"
    assert scale_column("slot_Shape_xy") == "slot_Shape_xx"
    assert scale_column("psfShape_Iuv") == "psfShape_Iuu"
    assert scale_column("slot_Shape_xx") is None


@pytest.fixture
def failing_only(tmp_path):
    """A reference of the one detector whose PSF fails: quick."""
    root = tmp_path / "reference"
    shutil.copytree(SMALL / "default", root / "default")
    (root / "survey").symlink_to(SMALL / "survey")
    status = json.loads((root / "default/status.json").read_text())
    kept = {key: status[key] for key in ("2026011500188_3", "2026020300212_3")}
    (root / "default/status.json").write_text(json.dumps(kept))
    (root / "default/consolidate.json").unlink()
    return root, kept


def call(root, tmp_path, *more):
    path = tmp_path / "parity.json"
    code = tool.main([str(root), "--json", str(path), "--processes", "1", *more])
    return code, json.loads(path.read_text()) if path.exists() else None


def test_agreement_is_exit_status_zero(failing_only, tmp_path, capsys):
    root, _ = failing_only
    code, figures = call(root, tmp_path)
    assert code == 0
    assert figures["default"]["psf_class"]["n"] == 2
    assert "0 out of tolerance" in capsys.readouterr().out


def test_disagreement_is_exit_status_one_and_printed(failing_only, tmp_path, capsys):
    root, kept = failing_only
    kept["2026011500188_3"]["psf"] = "PiffPsf"  # the reference now claims that this fit succeeded
    (root / "default/status.json").write_text(json.dumps(kept))
    code, figures = call(root, tmp_path)
    assert code == 1
    assert not figures["default"]["psf_class"]["ok"]
    printed = capsys.readouterr().out
    assert "OUT" in printed
    assert "2026011500188_3: None, not 2026011500188_3: PiffPsf" in printed


def test_configuration_that_is_not_implemented(failing_only, tmp_path, capsys, monkeypatch):
    root, _ = failing_only

    def refuse(*arguments, **keywords):
        raise NotYetImplementedError("other", "the PSF determiner 'other' is not implemented yet")

    monkeypatch.setattr("finalchar.config.Config.from_lsst_overrides", refuse)
    code, figures = call(root, tmp_path)
    assert code == 0
    assert figures["default"]["not_implemented"]["cause"].startswith("not_implemented: the PSF determiner")
    assert "0 configurations compared, 1 not_implemented" in capsys.readouterr().out


def test_directory_that_is_no_reference(tmp_path, capsys):
    assert call(tmp_path, tmp_path)[0] == 2
    assert "is no reference directory: it needs survey/ and default/config.json" in capsys.readouterr().err


def test_unknown_configuration(failing_only, tmp_path, capsys):
    root, _ = failing_only
    assert call(root, tmp_path, "--configs", "nothing")[0] == 2
    assert "has no configuration 'nothing'; it has: default" in capsys.readouterr().err


def test_table_hides_exact_agreement_unless_asked():
    same = outcome("one", 1, 1)
    result = run.Outcome("name", tuple(verdicts([same, outcome("two", 1, 2)])))
    short, long = list(outcome_lines(result)), list(outcome_lines(result, every=True))
    assert not any(line.startswith("one") for line in short)
    assert any(line.startswith("one") for line in long)
    assert any("OUT" in line for line in short)
    assert not result.ok
