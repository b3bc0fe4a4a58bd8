"""Damage is local and visible: what is broken costs what depends on it, and is told (K23, K24)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import tables
from tables import VISITS
from trial import Trial, edit, edit_bytes, expect, nothing

FIRST, SECOND = VISITS
OUTCOMES = "outcome of the detectors:"
KILL = "import os; os.kill(os.getpid(), 9)"
KILL_WITH_JOB = "import os; os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)"
RAISE = """

_unharmed_{visit}_{detector} = load_detector_inputs


def load_detector_inputs(**arguments):
    if (arguments["visit"], arguments["detector"]) == ({visit}, {detector}):
        {statement}
    return _unharmed_{visit}_{detector}(**arguments)
"""


def harm(trial: Trial, visit: int, detector: int, statement: str) -> str:
    """Let the code of the detector stage do something terrible for one detector; return the sound code."""
    path = trial.library("characterize.py")
    sound = path.read_text()
    path.write_text(sound + RAISE.format(visit=visit, detector=detector, statement=statement))
    return sound


def statuses(trial: Trial) -> dict[tuple[int, int], str]:
    """Outcome of every detector, from the summaries of the visits."""
    import pandas as pd

    found = {}
    for visit in VISITS:
        table = pd.read_parquet(trial.output / str(visit) / "summary.parquet")
        found |= {(visit, int(row.detector)): row.status for row in table.itertuples()}
    return found


def bad(trial: Trial) -> dict[tuple[int, int], str]:
    return {key: status for key, status in statuses(trial).items() if status != "ok"}


def last_words(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-12:])


def test_missing_exposure_is_one_detector(fresh: Trial) -> None:
    """K24: planning goes on, the rest is made and consolidated, the sentence stands last, not status 0."""
    path = fresh.survey / f"calexp_{FIRST}_1.fits"
    hidden = path.rename(fresh.root / "hidden.fits")
    assert f"visit {FIRST} detector 1: {path.name} is missing" in fresh.finalchar("status").stdout
    outcome = fresh.run()
    assert outcome.status != 0
    assert outcome.text.index(f"{path.name} is missing") < outcome.text.index("Execute")
    assert bad(fresh) == {(FIRST, 1): "input_missing"}
    assert f"{path.name} is missing" in last_words(outcome.text)
    assert "1 input_missing" in last_words(outcome.text)
    assert outcome.text.count(OUTCOMES) == 1
    assert outcome.text.strip().splitlines()[-1] == (
        "error: some detectors ended in an error (1 input_missing); everything else is complete; "
        "mend what their sentences name, then start again"
    )

    again = fresh.run()  # it stays missing: nothing to do, and still told
    assert again.says_nothing_to_do
    done = fresh.finalchar("run")
    assert done.returncode == 1
    assert f"{path.name} is missing" in done.stdout

    hidden.rename(path)
    fresh.tally.write_text("")
    done = fresh.finalchar("run", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(OUTCOMES) == 1
    assert fresh.outcome().computed["detector"] == 1
    expect(fresh, nothing())
    assert bad(fresh) == {}
    assert fresh.finalchar("run").returncode == 0


def test_missing_tract_file_concerns_the_visits_of_the_tract(fresh: Trial) -> None:
    """K24: with the optional column `tracts` the visits of other tracts are made."""
    sheet = fresh.survey / "detectors.csv"
    header, *rows = sheet.read_text().split()
    tract = {str(FIRST): tables.TRACT, str(SECOND): tables.TRACT + 1}
    lines = [f"{header},tracts", *(f"{row},{tract[row.split(',')[0]]}" for row in rows)]
    sheet.write_text("\n".join(lines) + "\n")
    path = tables.stars(fresh.survey, tables.TRACT)
    hidden = path.rename(fresh.root / "hidden.parquet")
    outcome = fresh.run()
    assert outcome.status != 0
    found = statuses(fresh)
    assert [found[FIRST, detector] for detector in range(3)] == ["input_missing"] * 3
    assert found[SECOND, 0] == "ok"
    assert path.name in last_words(outcome.text)
    hidden.rename(path)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert outcome.jobs["detector"] == 1
    assert statuses(fresh)[FIRST, 1] == "ok"


def test_broken_tract_file_is_told_by_every_visit(fresh: Trial) -> None:
    path = tables.sources(fresh.survey)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    outcome = fresh.run()
    assert outcome.status != 0
    assert set(statuses(fresh).values()) == {"input_broken"}
    assert path.name in last_words(outcome.text)
    path.write_bytes(whole)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert bad(fresh) == {}
    assert fresh.differences() == []


def test_truncated_raising_and_dying_detectors(fresh: Trial) -> None:
    """K23: three kinds of failure, three detectors; the others are complete, reasons are told."""
    exposure = fresh.survey / f"calexp_{FIRST}_0.fits"
    whole = exposure.read_bytes()
    exposure.write_bytes(whole[:20_000])
    sound = harm(fresh, FIRST, 2, "raise ValueError('what no image should hold')")
    harm(fresh, SECOND, 1, KILL)
    outcome = fresh.run()
    assert outcome.status != 0
    assert bad(fresh) == {
        (FIRST, 0): "input_broken",
        (FIRST, 2): "internal_error",
        (SECOND, 1): "internal_error",
    }
    words = last_words(outcome.text)
    assert "the job died 2 times at this detector" in words
    assert "what no image should hold" in words
    logs = [path.read_text() for path in (fresh.output / "logs" / str(FIRST)).glob("d*.log")]
    assert any("Traceback" in log and "what no image should hold" in log for log in logs)

    exposure.write_bytes(whole)
    fresh.library("characterize.py").write_text(sound)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert bad(fresh) == {}
    assert fresh.differences() == []


def test_full_disk_is_told_and_the_next_run_goes_on(fresh: Trial) -> None:
    """What cannot be written is no fault of a detector; nothing half-written, the same command then works."""
    path = fresh.library("formats/products.py")
    sound = path.read_text()
    path.write_text(
        sound
        + "\n\ndef write_detector_products(result, psf_ap_corr, table):\n"
        + "    import errno\n"
        + "    raise OSError(errno.ENOSPC, 'No space left on device')\n"
    )
    outcome = fresh.run()
    assert outcome.status != 0
    assert "No space left on device; make room for the output folder, then start again" in outcome.text
    assert "died" not in outcome.text
    assert list((fresh.output / str(FIRST)).rglob("*.fits")) == []

    path.write_text(sound)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert bad(fresh) == {}
    assert fresh.differences() == []


def test_internal_error_is_tried_again(fresh: Trial) -> None:
    harm(fresh, FIRST, 1, "if not __import__('os').path.exists('mended'): raise RuntimeError('bad day')")
    outcome = fresh.run()
    assert outcome.status != 0
    assert outcome.computed["detector"] == 6
    (fresh.clone / "mended").touch()
    outcome = fresh.run()
    assert outcome.status == 0
    assert outcome.computed["detector"] == 1
    assert bad(fresh) == {}


def test_directory_instead_of_a_file(fresh: Trial) -> None:
    path = fresh.survey / f"src_{SECOND}_2.fits"
    path.rename(fresh.root / "hidden.fits")
    path.mkdir()
    assert fresh.run().status != 0
    assert bad(fresh) == {(SECOND, 2): "input_broken"}


def test_archive_that_is_not_mounted_changes_nothing(fresh: Trial) -> None:
    assert fresh.run().status == 0
    for path in fresh.survey.glob("calexp_*"):
        path.rename(fresh.root / path.name)
    outcome = fresh.run()
    assert outcome.status != 0
    assert "is the archive mounted?" in outcome.text
    assert "Traceback" not in outcome.text
    for path in fresh.root.glob("calexp_*"):
        path.rename(fresh.survey / path.name)
    expect(fresh, nothing())


# -- bad input of a whole run: one sentence ----------------------------------------------------------------
def refused(trial: Trial, *words: str) -> None:
    """The run ends before it does anything, with one sentence that holds the words."""
    outcome = trial.run()
    assert outcome.status != 0
    assert outcome.jobs == {}
    for word in words:
        assert word in outcome.text
    assert "Traceback" not in outcome.text
    assert not trial.output.exists()


def test_unknown_key(fresh: Trial) -> None:
    fresh.add_config("measure_ap_cor: {numIter: 3}\n")
    refused(fresh, "measure_ap_cor", "measure_ap_corr")


def test_missing_column(fresh: Trial) -> None:
    edit(fresh.survey / "detectors.csv", "exposure", "image")
    refused(fresh, "detectors.csv", "exposure")


def test_duplicate_detector(fresh: Trial) -> None:
    sheet = fresh.survey / "detectors.csv"
    lines = sheet.read_text().splitlines(keepends=True)
    sheet.write_text("".join([*lines, lines[1]]))
    refused(fresh, "lines 2 and 8", str(FIRST))


def test_missing_survey(fresh: Trial) -> None:
    shutil.rmtree(fresh.survey)
    refused(fresh, "survey folder", "does not exist")


def test_output_folder_cannot_be_written(fresh: Trial) -> None:
    fresh.output.write_text("a file, not a folder")
    outcome = fresh.run()
    assert outcome.status != 0
    assert "cannot be written" in outcome.text
    assert "Traceback" not in outcome.text
    assert fresh.output.read_text() == "a file, not a folder"


def test_brace_in_the_output_folder(fresh: Trial) -> None:
    fresh.configure(f"output: {fresh.output}", f"output: '{fresh.output} {{visit}}'")
    refused(fresh, "has a brace in its name")


def test_two_runs_on_one_output(fresh: Trial) -> None:
    import fcntl

    lock = fresh.state("lock")
    lock.parent.mkdir(parents=True)
    with open(lock, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 1 on another node")
        file.flush()
        outcome = fresh.run()
    assert outcome.status != 0
    assert outcome.text.strip().splitlines()[-1] == (
        "error: another run is working on this output (process 1 on another node): wait for it or stop it"
    )
    assert outcome.jobs == {}


def test_odd_folder_names_and_another_working_directory(fresh: Trial) -> None:
    """Spaces and # in all paths, braces in those of the survey; the configuration beside the data."""
    place = fresh.root / "my # survey"
    place.mkdir()
    shutil.move(fresh.survey, place / "in put {new}")
    config = (fresh.clone / "config.yaml").read_text()
    config = config.replace(str(fresh.survey), "'in put {new}'").replace(str(fresh.output), "'out # put'")
    (place / "config.yaml").write_text(config)
    os.unlink(fresh.clone / "config.yaml")
    arguments = ["--config", str(place / "config.yaml"), "--cores", "2", "--workflow-profile", "none"]
    done = fresh.finalchar("run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "out # put" / "survey_summary.parquet").exists()
    done = fresh.finalchar("run", *arguments)
    assert "nothing to do" in done.stdout


def test_commands_before_and_after(fresh: Trial) -> None:
    done = fresh.finalchar("status")
    assert "2 of 2 visit lists" in done.stdout
    assert fresh.run().status == 0
    done = fresh.finalchar("status")
    assert "nothing to do" in done.stdout
    fresh.configure("orderX: 1", "orderX: 0")
    done = fresh.finalchar("explain", str(FIRST), "2")
    assert "config: measure_ap_corr.fitConfig.orderX: 1 -> 0" in done.stdout, done.stdout + done.stderr
    done = fresh.finalchar("status")
    assert "due: 6 of 6 detectors, 2 visits" in done.stdout
    fresh.configure("orderX: 0", "orderX: 1")
    Path(fresh.product(FIRST, 0)).unlink()
    done = fresh.finalchar("explain", str(FIRST), "0")
    assert f"product {fresh.product(FIRST, 0).name} is missing" in done.stdout
    assert "last outcome: ok: PSF, measurements" in done.stdout
    done = fresh.finalchar("verify")
    assert "files hashed" in done.stdout
    assert fresh.finalchar("explain", "1", "1").returncode == 1


def test_files_per_detector(fresh: Trial) -> None:
    """At most 3 files per detector at the default grouping (9): here 3 detectors share a job."""
    assert fresh.run().status == 0
    folder = fresh.output / str(FIRST)
    files = [path for path in folder.rglob("*") if path.is_file()]
    files += [path for name in ("state", "logs") for path in (fresh.output / name / str(FIRST)).rglob("*")]
    per_visit = 4 + 2 * 3  # list and three products; record, stamp and log of list and visit
    per_group = 2  # record and log
    assert len(files) <= 2 * 3 + per_group + per_visit


# -- found by the operator's reading ------------------------------------------------------------------------
def spoil_unseen(path: Path) -> None:
    """Change a byte, keep size and time stamp: what a disk does, and no planner sees."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_product_that_rots_unseen_is_found_and_made_again(fresh: Trial) -> None:
    """`verify` finds it and says so; the remedy that its sentence and that of a job name is one."""
    assert fresh.run().status == 0
    assert fresh.finalchar("verify").returncode == 0
    product = fresh.product(FIRST, 1)
    spoil_unseen(product)
    done = fresh.finalchar("verify")
    assert done.returncode == 1
    assert f"visit {FIRST} detector 1: product {product.name} has other content" in done.stdout
    assert "staleness.trust_stat=false" in done.stdout

    (fresh.output / str(FIRST) / "summary.parquet").unlink()  # the visit is made from it: it must not be
    outcome = fresh.run()
    assert outcome.status != 0
    assert f"{product.name} is not what its record describes" in outcome.text
    assert "staleness.trust_stat=false" in outcome.text
    fresh.tally.write_text("")
    done = fresh.finalchar("run", "--set", "staleness.trust_stat=false", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert fresh.outcome().computed["detector"] == 1
    assert fresh.differences() == []


def test_two_deadly_detectors_of_one_group(fresh: Trial) -> None:
    """They cost themselves, not their neighbour."""
    for detector in (0, 1):
        harm(fresh, FIRST, detector, KILL)
    outcome = fresh.run()
    assert outcome.status != 0
    assert "1 ok, 2 internal" in outcome.text, outcome.text[-3000:]
    assert bad(fresh) == {(FIRST, 0): "internal_error", (FIRST, 1): "internal_error"}
    assert "the job died 2 times at this detector" in last_words(outcome.text)


def test_every_detector_of_a_group_is_deadly(fresh: Trial) -> None:
    """Three are one more than the attempts of a job: the visit is complete all the same, in one run."""
    sound = fresh.library("characterize.py").read_text()
    for detector in range(3):
        harm(fresh, FIRST, detector, KILL)
    outcome = fresh.run()
    assert outcome.status != 0
    assert bad(fresh) == {(FIRST, detector): "internal_error" for detector in range(3)}
    assert outcome.computed == {"tract": 2, "list": 2, "detector": 6, "visit": 2, "survey": 1}
    assert "everything else is complete" in last_words(outcome.text)

    fresh.library("characterize.py").write_text(sound)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert fresh.differences() == []


def test_detectors_that_kill_their_whole_job(fresh: Trial) -> None:
    """As a time limit does.  More than attempts: what killed an earlier run is given up in the next."""
    for detector in range(3):
        harm(fresh, FIRST, detector, KILL_WITH_JOB)
    assert fresh.run().status != 0
    outcome = fresh.run()
    assert outcome.status != 0
    assert bad(fresh) == {(FIRST, detector): "internal_error" for detector in range(3)}
    assert "the job died in an earlier run at this detector" in last_words(outcome.text)


# -- a part of the archive is away ---------------------------------------------------------------------------
def hide(trial: Trial, *paths: Path) -> list[tuple[Path, Path]]:
    """Take files away; return where they are now and where they were."""
    return [(path.rename(trial.root / f"hidden {path.name}"), path) for path in paths]


def bring_back(hidden: list[tuple[Path, Path]]) -> None:
    for now, before in hidden:
        now.rename(before)


def test_products_outlive_the_absence_of_their_inputs(fresh: Trial) -> None:
    """The visit says honestly what is missing; the same files back cost no detector."""
    assert fresh.run().status == 0
    before = fresh.product(FIRST, 0).read_bytes()
    hidden = hide(fresh, fresh.survey / f"calexp_{FIRST}_0.fits", fresh.survey / f"src_{FIRST}_1.fits")
    outcome = fresh.run()
    assert outcome.status != 0
    assert bad(fresh) == {(FIRST, 0): "input_missing", (FIRST, 1): "input_missing"}
    assert not fresh.product(FIRST, 0).exists()
    fresh.configure("detectors_per_job: 3", "detectors_per_job: 2")  # other records, the same detectors
    assert fresh.run().status != 0
    assert fresh.finalchar("status").stdout.strip().endswith("nothing to do")

    bring_back(hidden)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert outcome.computed.get("detector", 0) == 0
    assert "its files are back, its products were kept" in outcome.text
    assert fresh.product(FIRST, 0).read_bytes() == before
    assert list(fresh.state(f"{FIRST}/aside").iterdir()) == []
    fresh.detectors_per_job = 2
    expect(fresh, nothing())


def test_products_outlive_the_absence_of_a_tract_table(fresh: Trial) -> None:
    assert fresh.run().status == 0
    hidden = hide(fresh, tables.sources(fresh.survey))
    assert fresh.run().status != 0
    assert set(statuses(fresh).values()) == {"input_missing"}
    bring_back(hidden)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert outcome.computed.get("detector", 0) == 0
    assert fresh.differences() == []


def test_products_kept_aside_are_no_better_than_others(fresh: Trial) -> None:
    """Another setting, another file or a changed product meanwhile: made again."""
    assert fresh.run().status == 0
    hidden = hide(fresh, *(fresh.survey / f"calexp_{FIRST}_{detector}.fits" for detector in range(3)))
    assert fresh.run().status != 0
    edit_bytes(hidden[0][0], lambda data: data.extend(bytes(2880)))
    kept = fresh.state(f"{FIRST}/aside") / fresh.product(FIRST, 1).name
    edit_bytes(kept, lambda data: data.reverse())
    bring_back(hidden)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert outcome.computed["detector"] == 2
    assert fresh.differences() == []

    hidden = hide(fresh, fresh.survey / f"calexp_{FIRST}_2.fits")
    assert fresh.run().status != 0
    fresh.configure("orderX: 1", "orderX: 0")
    bring_back(hidden)
    outcome = fresh.run()
    assert outcome.computed["detector"] == 6
    assert fresh.differences() == []


def test_a_kill_while_products_are_brought_back(fresh: Trial) -> None:
    """Products have been moved back, the record does not know it yet."""
    assert fresh.run().status == 0
    hidden = hide(fresh, fresh.survey / f"calexp_{FIRST}_2.fits")
    assert fresh.run().status != 0
    for path in fresh.state(f"{FIRST}/aside").iterdir():
        path.rename(fresh.product(FIRST, 2).parent / path.name)
    bring_back(hidden)
    outcome = fresh.run()
    assert outcome.status == 0, outcome.text[-2000:]
    assert outcome.computed.get("detector", 0) == 0
    assert fresh.differences() == []


def test_tables_or_catalogues_that_are_not_mounted_change_nothing(fresh: Trial) -> None:
    """As for exposures: good products are not replaced by `input_missing` of everything."""
    assert fresh.run().status == 0
    fresh.output.joinpath("survey_summary.parquet").unlink()
    fresh.state("survey/survey.json").unlink()  # a survey that is not finished is as dear
    for pattern, kind in (("isolated_star_*", "tract tables"), ("src_*", "source catalogues")):
        for path in fresh.survey.glob(pattern):
            path.rename(fresh.root / path.name)
        outcome = fresh.run()
        assert outcome.status != 0
        assert outcome.jobs == {}
        assert f"{kind} of the sheets exists" in outcome.text
        for path in fresh.root.glob(pattern):
            path.rename(fresh.survey / path.name)
    assert fresh.run().status == 0
    assert fresh.differences() == []


def test_outcomes_of_an_earlier_run_are_called_so(fresh: Trial) -> None:
    """A failed tract job leaves the old outcomes in place: they are not told as those of this run."""
    assert fresh.run().status == 0
    tract = fresh.library("stars/tract.py")
    tract.write_text(tract.read_text().replace("def reserve_stars(", "def _reserve_stars(", 1))
    outcome = fresh.run()
    assert outcome.status != 0
    assert "the outcomes above may be those of an earlier run" in outcome.text


def test_outcomes_that_another_grouping_made_are_not_called_old(fresh: Trial) -> None:
    assert fresh.run().status == 0
    fresh.configure("detectors_per_job: 3", "detectors_per_job: 2")
    outcome = fresh.run()
    assert outcome.status == 0
    assert outcome.computed.get("detector", 0) == 0
    assert "earlier run" not in outcome.text


def test_records_of_another_shape_are_made_again(fresh: Trial) -> None:
    """Valid JSON that is no record: as if it were not there, never a traceback."""
    assert fresh.run().status == 0
    for text in ("[]", '"text"', '{"detectors": {"0": 5}, "wanted": 3, "token": "0", "id": []}'):
        for path in fresh.state("").rglob("*.json"):
            path.write_text(text)
        outcome = fresh.run()
        assert outcome.status == 0, outcome.text[-3000:]
        assert "Traceback" not in outcome.text
        assert outcome.computed["detector"] == 6
        assert fresh.differences() == []
    expect(fresh, nothing())
