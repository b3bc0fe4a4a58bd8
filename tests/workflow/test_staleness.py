"""The staleness table: what a run makes again after each change, with counted jobs.

Every row starts from a finished state and compares all products, byte for byte, with those of a plain run of
the chain in one process.  Rows marked `dangerous` are tried in three ways; with FINALCHAR_STALENESS=full all.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tables
from tables import VISITS
from trial import (
    Expected,
    Trial,
    all_detectors,
    edit,
    edit_bytes,
    everything,
    expect,
    lists_only,
    make_distribution,
    nothing,
    one_detector,
    one_group,
    survey_only,
    visits,
)

dangerous = pytest.mark.dangerous
FIRST, SECOND = VISITS
INPUT_FILES = 12 + 4
"""Exposures, catalogues and tract tables of the micro survey that decide something."""


def comment_of(text: bytes, data: bytearray) -> None:
    """Change one letter of a comment in a FITS header: other bytes, same size, same meaning."""
    place = data.index(text)
    data[place] ^= 0x20


def change_file(path: Path, **options: int) -> None:
    edit_bytes(path, lambda data: comment_of(b"FITS standard", data), **options)


# -- nothing --------------------------
@dangerous
def test_nothing_changed(trial: Trial) -> None:
    expect(trial, nothing(), hashed=0)
    expect(trial, nothing(), hashed=0)


def test_archive_moved(trial: Trial) -> None:
    moved = trial.root / "elsewhere"
    trial.survey.rename(moved)
    trial.configure(f"survey: {trial.survey}", f"survey: {moved}")
    expect(trial, nothing(), hashed=0, compare=False)
    moved.rename(trial.survey)
    trial.configure(f"survey: {moved}", f"survey: {trial.survey}")
    expect(trial, nothing(), hashed=0)


@dangerous
def test_archive_copied_with_new_time_stamps(trial: Trial) -> None:
    copied = trial.root / "copied survey"
    shutil.copytree(trial.survey, copied, copy_function=shutil.copy)
    shutil.rmtree(trial.survey)
    copied.rename(trial.survey)
    expect(trial, nothing(), hashed=INPUT_FILES)
    expect(trial, nothing(), hashed=0)


def test_every_input_touched(trial: Trial) -> None:
    for path in trial.survey.iterdir():
        os.utime(path)
    expect(trial, nothing(), hashed=INPUT_FILES)
    expect(trial, nothing(), hashed=0)


def test_every_input_from_the_year_2031(trial: Trial) -> None:
    for path in trial.survey.iterdir():
        os.utime(path, (1_930_000_000, 1_930_000_000))
    expect(trial, nothing(), hashed=INPUT_FILES)


def test_every_product_touched(trial: Trial) -> None:
    for path in trial.output.rglob("*"):
        os.utime(path)
    expect(trial, nothing())
    expect(trial, nothing(), hashed=0)


@dangerous
def test_output_copied_elsewhere(trial: Trial) -> None:
    copied = trial.root / "copied output"
    shutil.copytree(trial.output, copied, copy_function=shutil.copy)
    shutil.rmtree(trial.output)
    copied.rename(trial.output)
    expect(trial, nothing())
    expect(trial, nothing(), hashed=0)


@dangerous
def test_all_stamps_deleted(trial: Trial) -> None:
    for stamp in trial.stamps():
        stamp.unlink()
    expect(trial, nothing())


def test_snakemake_folder_deleted(trial: Trial) -> None:
    shutil.rmtree(trial.clone / ".snakemake", ignore_errors=True)
    expect(trial, nothing())


def test_every_workflow_file_touched(trial: Trial) -> None:
    for path in trial.clone.rglob("*"):
        os.utime(path)
    expect(trial, nothing())


def test_shell_text_of_a_rule(trial: Trial) -> None:
    path = trial.clone / "workflow" / "rules" / "characterize.smk"
    edit(path, "{params.python:q} {params.script:q}", "{params.python:q} -u {params.script:q}")
    expect(trial, nothing())


# -- tract tables --------------------------
@dangerous
def test_one_star_seen_by_one_detector(trial: Trial) -> None:
    tables.lose_one_source(trial.survey, FIRST, 1)
    expect(trial, one_detector(tract=1, list=2))
    expect(trial, nothing(), hashed=0)


def test_unused_column(trial: Trial) -> None:
    tables.change_unused_column(trial.survey)
    expect(trial, lists_only(1, 2))


def test_unused_row(trial: Trial) -> None:
    tables.add_unused_row(trial.survey)
    expect(trial, lists_only(1, 2))


def test_unused_star(trial: Trial) -> None:
    tables.add_unused_star(trial.survey)
    expect(trial, lists_only(1, 2))
    expect(trial, nothing(), hashed=0)


# -- exposures and catalogues --------------------------
@dangerous
def test_exposure_changed(trial: Trial) -> None:
    change_file(trial.survey / f"calexp_{SECOND}_2.fits")
    expect(trial, one_detector())


@dangerous
def test_src_of_same_size_with_an_older_time_stamp(trial: Trial) -> None:
    change_file(trial.survey / f"src_{SECOND}_0.fits", older_by_seconds=3600)
    expect(trial, one_detector())


def test_exposure_from_1970(trial: Trial) -> None:
    path = trial.survey / f"calexp_{FIRST}_0.fits"
    change_file(path)
    os.utime(path, (0, 0))
    expect(trial, one_detector())


def test_exposure_there_and_back(trial: Trial) -> None:
    path = trial.survey / f"calexp_{FIRST}_2.fits"
    before = path.read_bytes()
    change_file(path)
    expect(trial, one_detector())
    path.write_bytes(before)
    expect(trial, one_detector())


def test_two_rows_of_the_sheet_swap_their_files(trial: Trial) -> None:
    sheet = trial.survey / "detectors.csv"
    before = sheet.read_text()
    sheet.write_text(
        before.replace(f"calexp_{FIRST}_0", "X").replace(f"calexp_{FIRST}_1", f"calexp_{FIRST}_0")
        .replace("X", f"calexp_{FIRST}_1")
    )  # fmt: skip
    outcome = trial.run()
    assert outcome.computed.get("detector") == 2, outcome.text[-2000:]
    sheet.write_text(before)
    outcome = trial.run()
    assert outcome.computed.get("detector") == 2, outcome.text[-2000:]
    assert trial.differences() == []


# -- the sheet --------------------------
def test_visit_removed_and_put_back(trial: Trial) -> None:
    sheet = trial.survey / "detectors.csv"
    before = sheet.read_text()
    there = sorted(path for path in trial.output.rglob("*") if "detectors" in path.parts)
    kept = [line for line in before.splitlines(keepends=True) if not line.startswith(str(SECOND))]
    sheet.write_text("".join(kept))
    outcome = expect(trial, Expected({"tract": 2, "list": 1, "survey": 1}), compare=False)
    assert outcome.computed.get("list", 0) <= 1
    assert sorted(path for path in trial.output.rglob("*") if "detectors" in path.parts) == there
    sheet.write_text(before)
    expect(trial, Expected({"tract": 2, "list": 2, "survey": 1}))
    expect(trial, nothing())


def test_visit_appended(trial: Trial) -> None:
    sheet = trial.survey / "detectors.csv"
    before = sheet.read_text()
    new = SECOND + 1
    mine = [line for line in before.splitlines(keepends=True) if line.startswith(str(SECOND))]
    sheet.write_text(before + "".join(line.replace(str(SECOND), str(new), 1) for line in mine))
    groups = trial.groups_per_visit
    appended = {"list": 1, "detector": groups, "visit": 1, "survey": 1}
    expect(trial, Expected(appended, 3))
    sheet.write_text(before)
    expect(trial, survey_only(), compare=False)
    shutil.rmtree(trial.output / str(new))
    expect(trial, nothing())


def test_sheet_in_another_order(trial: Trial) -> None:
    sheet = trial.survey / "detectors.csv"
    header, *rows = sheet.read_text().splitlines(keepends=True)
    sheet.write_text(header + "".join(reversed(rows)))
    expect(trial, nothing())


# -- configuration --------------------------
@dangerous
def test_setting_of_the_detector_stage_there_and_back(trial: Trial) -> None:
    trial.configure("orderX: 1", "orderX: 0")
    expect(trial, all_detectors(trial))
    trial.configure("orderX: 0", "orderX: 1")
    expect(trial, all_detectors(trial))


def test_reserve_fraction(trial: Trial) -> None:
    before = rows_of_lists(trial)
    trial.add_config("reserve_selection: {reserve_fraction: 0.12}\n")
    outcome = trial.run()
    after = rows_of_lists(trial)
    changed = [key for key in before | after if before.get(key) != after.get(key)]
    assert outcome.computed.get("detector", 0) == len(changed)
    assert outcome.jobs["tract"] == 2
    assert trial.differences() == []
    trial.configure("reserve_selection: {reserve_fraction: 0.12}\n", "")
    trial.run()
    assert rows_of_lists(trial) == before
    assert trial.differences() == []


def rows_of_lists(trial: Trial) -> dict[tuple[int, str], str]:
    return {
        (visit, detector): digest
        for visit in VISITS
        for detector, digest in json.loads(trial.state(f"{visit}/list.json").read_text())["rows"].items()
    }


def test_files_for_piff_on_request(trial: Trial) -> None:
    plain, with_files = f"output: {trial.output}", f"output: {{folder: {trial.output}, piff: visit}}"
    file = trial.output / str(FIRST) / f"psf_{FIRST}.piff"
    trial.configure(plain, with_files)
    expect(trial, visits(2), compare=False)
    file.unlink()
    expect(trial, visits(1), compare=False)
    assert file.exists()
    trial.configure(with_files, plain)
    expect(trial, visits(2))
    assert not file.exists()


def test_setting_without_effect(trial: Trial) -> None:
    trial.add_config("staleness: {hash_limit_gb: 10.0}\n")
    expect(trial, nothing())
    trial.configure("staleness: {hash_limit_gb: 10.0}\n", "")


def test_comment_in_the_configuration(trial: Trial) -> None:
    trial.add_config("# nothing but a comment\n")
    expect(trial, nothing())
    trial.configure("# nothing but a comment\n", "")


@dangerous
def test_detectors_per_job(trial: Trial) -> None:
    mine = trial.detectors_per_job
    other = 3 if mine == 1 else 1
    jobs = {3: 2, 1: 6}
    trial.configure(f"detectors_per_job: {mine}", f"detectors_per_job: {other}")
    expect(trial, Expected({"detector": jobs[other], "visit": 2, "survey": 1}, 0))
    expect(trial, nothing())
    change_file(trial.survey / f"calexp_{FIRST}_1.fits")
    trial.configure(f"detectors_per_job: {other}", f"detectors_per_job: {mine}")
    expect(trial, Expected({"detector": jobs[mine], "visit": 2, "survey": 1}, 1))
    expect(trial, nothing())


# -- code and software --------------------------
@dangerous
def test_comments_and_docstrings_of_library_code(trial: Trial) -> None:
    path = trial.library("apcorr/measure.py")
    path.write_text(path.read_text().replace('"""', '"""Other words. ', 1) + "\n\n# a better comment\n")
    expect(trial, nothing())


def test_code_of_consolidation_only(trial: Trial) -> None:
    append_code(trial, "consolidate.py")
    expect(trial, visits(2))


def test_code_of_the_detector_stage(trial: Trial) -> None:
    append_code(trial, "apcorr/measure.py")
    expect(trial, all_detectors(trial))


def test_code_found_through_a_registry(trial: Trial) -> None:
    append_code(trial, "measure/plugins/base_psf_flux.py")
    expect(trial, all_detectors(trial))


def test_code_of_all_stages(trial: Trial) -> None:
    append_code(trial, "errors.py")
    expect(trial, everything(trial))


def append_code(trial: Trial, name: str) -> None:
    with open(trial.library(name), "a") as file:
        file.write(f"\n\nADDED_BY_RUN_{trial.runs} = {trial.runs}\n")


def test_version_of_a_named_package(trial: Trial) -> None:
    folder = trial.clone / "packages"
    make_distribution(folder, "1.1")
    expect(trial, all_detectors(trial), compare=False)
    make_distribution(folder, "1.0")
    expect(trial, all_detectors(trial))


def test_version_of_a_named_package_with_a_warning_only(trial: Trial) -> None:
    folder = trial.clone / "packages"
    trial.add_config("staleness: {software: warn}\n")
    make_distribution(folder, "1.2")
    outcome = expect(trial, nothing(), compare=False)  # the products name the version they were made with
    assert "galsim 1.0 -> 1.2" in outcome.text
    make_distribution(folder, "1.0")
    trial.configure("staleness: {software: warn}\n", "")
    expect(trial, nothing())


# -- products and records --------------------------
@dangerous
def test_product_deleted(trial: Trial) -> None:
    trial.product(FIRST, 2).unlink()
    expect(trial, one_detector())


def test_product_truncated(trial: Trial) -> None:
    os.truncate(trial.product(FIRST, 2), 5)
    expect(trial, one_detector())


@dangerous
def test_product_corrupted_at_the_same_size(trial: Trial) -> None:
    edit_bytes(trial.product(FIRST, 2), lambda data: data.__setitem__(-3000, data[-3000] ^ 1))
    expect(trial, one_detector())


def test_record_deleted(trial: Trial) -> None:
    trial.state(f"{FIRST}/{trial.group(2)}.json").unlink()
    expect(trial, one_group(trial))


def test_record_cut(trial: Trial) -> None:
    trial.state(f"{FIRST}/{trial.group(2)}.json").write_text('{"tok')
    expect(trial, one_group(trial))


def test_product_and_record_deleted(trial: Trial) -> None:
    trial.product(FIRST, 2).unlink()
    trial.state(f"{FIRST}/{trial.group(2)}.json").unlink()
    expect(trial, one_group(trial))


def test_all_records_of_a_visit_deleted(trial: Trial) -> None:
    shutil.rmtree(trial.state(str(FIRST)))
    expected = {"list": 1, "detector": trial.groups_per_visit, "visit": 1, "survey": 1}
    expect(trial, Expected(expected, 3))


def test_visit_product_deleted(trial: Trial) -> None:
    (trial.output / str(FIRST) / "finalized_src_table.parquet").unlink()
    expect(trial, visits(1))


def test_visit_product_and_detector_product_deleted(trial: Trial) -> None:
    (trial.output / str(FIRST) / "finalized_psf_ap_corr_catalog.fits").unlink()
    trial.product(FIRST, 0).unlink()
    expect(trial, one_detector())


def test_visit_list_deleted(trial: Trial) -> None:
    (trial.output / str(FIRST) / "visit_list.parquet").unlink()
    expect(trial, Expected({"list": 1}))


def test_reserve_product_deleted(trial: Trial) -> None:
    (trial.output / "reserve" / f"reserved_stars_{tables.TRACT}.parquet").unlink()
    expect(trial, lists_only(1, 2))


def test_survey_summary_deleted(trial: Trial) -> None:
    (trial.output / "survey_summary.parquet").unlink()
    expect(trial, survey_only())


# -- two things at once; commands --------------------------
def test_setting_and_exposure_at_once(trial: Trial) -> None:
    trial.configure("orderY: 1", "orderY: 0")
    change_file(trial.survey / f"calexp_{SECOND}_1.fits")
    expect(trial, all_detectors(trial))
    trial.configure("orderY: 0", "orderY: 1")
    expect(trial, all_detectors(trial))


def test_redo_makes_a_detector_again(trial: Trial) -> None:
    done = trial.finalchar("redo", str(FIRST), "1")
    assert done.returncode == 0, done.stderr
    expect(trial, one_detector())


def test_full_graph_computes_nothing(trial: Trial) -> None:
    outcome = trial.run("--config", "full_graph=true")
    assert outcome.status == 0, outcome.text[-3000:]
    assert outcome.computed == {}
    expect(trial, nothing())


def test_status_from_good_to_none_and_back(trial: Trial) -> None:
    """Products that an earlier, better status left behind are removed."""
    path = tables.sources(trial.survey)
    other = tables.sources(trial.survey, tables.TRACT + 1)
    before = path.read_bytes(), other.read_bytes()
    for table in (path, other):
        tables.change_table(table, lambda t: t[~((t["visit"] == SECOND) & (t["detector"] == 0))])
    outcome = trial.run()
    assert outcome.status == 0, outcome.text[-3000:]
    assert "no_isolated_stars" in outcome.text
    assert not trial.product(SECOND, 0).exists()
    assert trial.differences() == []
    path.write_bytes(before[0])
    other.write_bytes(before[1])
    trial.run()
    assert trial.differences() == []
    expect(trial, nothing())
