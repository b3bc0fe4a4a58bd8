"""When a detector that kills its job, or its own process, is given up."""

from __future__ import annotations

from typing import Any

from finalchar.work.attempts import Attempts

RUN, OTHER = "abcd", "ef01"


def after_job_death(attempts: Attempts, at: str, run: str = RUN, now: str = RUN) -> Attempts:
    """What the next job reads when one has died at a detector."""
    record: dict[str, Any] = {"attempts": attempts.to_dict(run, at)}
    return Attempts.of_earlier_jobs(record, now)


def test_nothing_died() -> None:
    for record in (None, {}, {"attempts": None}):
        attempts = Attempts.of_earlier_jobs(record, RUN)
        assert not attempts.any
        assert attempts.given_up("0") is None


def test_a_detector_is_given_up_at_the_second_death() -> None:
    attempts = after_job_death(Attempts(), "3")
    assert attempts.any
    assert attempts.given_up("3") is None
    attempts.count("3")  # in a process of its own
    assert attempts.given_up("3") == "the job died 2 times at this detector (out of memory, or killed)"
    assert attempts.given_up("4") is None


def test_the_last_job_tries_nothing_suspicious() -> None:
    attempts = after_job_death(after_job_death(Attempts(), "3"), "4")
    assert attempts.jobs == 2
    for detector in ("3", "4"):
        assert attempts.given_up(detector) == "the job died once at this detector (out of memory, or killed)"
    assert attempts.given_up("5") is None


def test_deaths_of_processes_are_no_dead_jobs() -> None:
    attempts = after_job_death(Attempts(), "3")
    attempts.count("4")
    assert attempts.jobs == 1
    assert attempts.given_up("4") is None


def test_the_next_run_tries_again_but_is_warned() -> None:
    attempts = Attempts()
    for detector in ("3", "4", "5"):
        attempts = after_job_death(attempts, detector)
    attempts = Attempts.of_earlier_jobs({"attempts": attempts.to_dict(RUN, None)}, OTHER)
    assert attempts.jobs == 0
    assert [attempts.is_suspicious(name) for name in "2345"] == [False, True, True, True]
    assert attempts.given_up("5") is None
    for detector in ("3", "3"):
        attempts = after_job_death(attempts, detector, OTHER, OTHER)
    assert (
        attempts.given_up("5") == "the job died in an earlier run at this detector (out of memory, or killed)"
    )
    assert attempts.given_up("2") is None


def test_suspects_are_known_until_the_group_is_finished() -> None:
    attempts = Attempts.of_earlier_jobs({"attempts": Attempts(suspects={"7"}).to_dict(OTHER, None)}, RUN)
    assert attempts.is_suspicious("7")
    assert not attempts.is_suspicious("6")


def test_a_process_of_the_job_reads_what_the_job_knows() -> None:
    attempts = after_job_death(Attempts(suspects={"7"}), "3")
    record = {"attempts": attempts.to_dict(RUN, None)}
    assert Attempts.of_this_job(record) == attempts
    assert Attempts.of_this_job({}) == Attempts()
