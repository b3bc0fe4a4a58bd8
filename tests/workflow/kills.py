"""Kill campaign: SIGKILL at any moment, the same command again, and everything must be right.

Every round changes something, so that stale products stand beside new ones; then a run is killed: Snakemake
alone (its jobs go on), Snakemake with all its jobs, or one job.  The same command follows at once.  After it
all products must be those of a plain run in one process, also when jobs left over from the killed run have
ended, and a third run must find nothing to do.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from trial import Trial

WHO = ("snakemake", "all", "job")


@dataclass(frozen=True)
class Round:
    """What happened in one round."""

    who: str
    events: int
    killed: str
    status: int
    differences: list[str]
    differences_later: list[str]
    third_run_is_idle: bool
    leftovers: list[str]

    @property
    def good(self) -> bool:
        wrong = self.differences or self.differences_later or self.leftovers
        return self.status == 0 and not wrong and self.third_run_is_idle

    def __str__(self) -> str:
        verdict = "ok " if self.good else "BAD"
        details = "" if self.good else f"  {self.differences} {self.differences_later} {self.leftovers}"
        return f"{verdict} {self.who:10s} after {self.events:2d} events: killed {self.killed}{details}"


def rounds(trial: Trial, number: int, *, who: str, seed: int) -> Iterator[Round]:
    """Run rounds of the campaign, killed after ever more of the events that a run writes into the tally."""
    draw = random.Random(seed)
    events = 2 * trial.groups_per_visit + 6 + 2 * 2 + 2  # jobs and units of detectors, visits, survey
    for count in range(number):
        change_settings(trial, count)
        yield one_round(trial, who, int(events * (count + draw.random()) / number), draw.uniform(0.0, 0.5))


def change_settings(trial: Trial, count: int) -> None:
    """Change detector settings every round, the reserve draw every third."""
    path = trial.clone / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if "reserve_selection" not in line]
    lines = [
        f"{line.split(':')[0]}: {(count + 1) % 2}" if line.strip().startswith("orderX") else line
        for line in lines
    ]
    lines.append(f"reserve_selection: {{reserve_fraction: 0.{20 + count // 3 % 5}}}")
    path.write_text("\n".join(lines) + "\n")


def one_round(trial: Trial, who: str, events: int, seconds: float) -> Round:
    """Kill a run some seconds after some events and look what the same command makes of it."""
    process = trial.start()
    while len(trial.tally.read_text().splitlines()) < events and process.poll() is None:
        time.sleep(0.02)
    time.sleep(seconds)
    killed = "nothing: the run had ended" if process.poll() is not None else kill(process, who)
    if who == "job":
        process.wait()
    again = trial.run("--nolock")
    differences = trial.differences()
    wait_for_session(process.pid)
    later = trial.differences()
    third = trial.run()
    leftovers = [str(path) for path in trial.output.rglob("*.tmp")]
    leftovers = [path for path in leftovers if "/state/" not in path]
    return Round(who, events, killed, again.status, differences, later, third.says_nothing_to_do, leftovers)


def kill(process: subprocess.Popen[bytes], who: str) -> str:
    """Kill and say what."""
    if who == "all":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "Snakemake and its jobs"
    if who == "snakemake":
        process.kill()
        process.wait()
        return "Snakemake, jobs go on"
    jobs = [pid for pid, words in session(process.pid) if "/scripts/" in words and "snakemake" not in words]
    for pid in jobs[:1]:
        os.kill(pid, signal.SIGKILL)
    return "a job" if jobs else "no job: none was running"


def session(leader: int) -> list[tuple[int, str]]:
    """Processes of a session, other than its leader: pid and command line."""
    listed = subprocess.run(["ps", "-eo", "pid,sid,args"], capture_output=True, text=True, check=True)
    words = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    return [(int(w[0]), w[2]) for w in words if int(w[1]) == leader and int(w[0]) != leader]


def wait_for_session(leader: int, longest: float = 120) -> None:
    """Wait until jobs that outlived their Snakemake have ended."""
    end = time.monotonic() + longest
    while session(leader) and time.monotonic() < end:
        time.sleep(0.2)
