"""The whole staleness sweep and the kill campaign, with their tally (make test-staleness)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPOSITORY / "scripts")]

from kills import WHO, rounds  # noqa: E402
from trial import Trial  # noqa: E402


def sweep() -> int:
    """All rows, three ways, with 1 and 3 detectors per job."""
    command = [sys.executable, "-m", "pytest", str(HERE / "test_staleness.py"), "-q", "-n", "2"]
    environment = {**os.environ, "FINALCHAR_STALENESS": "full"}
    return subprocess.run(
        [*command, "--dist", "loadgroup"], cwd=REPOSITORY, env=environment, check=False
    ).returncode


def kill_campaign(number: int) -> int:
    """`number` rounds for each kind of victim and grouping; return how many went wrong."""
    from finalchar.simulate import make_survey

    good = bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        make_survey("micro", Path(temporary, "survey"))
        for who in WHO:
            for jobs in (3, 1):
                root = Path(temporary, f"{who}{jobs}")
                root.mkdir()
                trial = Trial.make(
                    root,
                    Path(temporary, "survey"),
                    detectors_per_job=jobs,
                    references=Path(temporary, "references"),
                )
                first = trial.run()
                assert first.status == 0, first.text[-3000:]
                for found in rounds(trial, number, who=who, seed=jobs):
                    print(f"{found} ({jobs} per job)", flush=True)
                    good, bad = good + found.good, bad + (not found.good)
    print(f"kill campaign: {good} rounds right, {bad} wrong")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="per victim and grouping")
    parser.add_argument("--only", choices=["rows", "kills"], help="one of the two campaigns")
    given = parser.parse_args()
    failed = sweep() if given.only != "kills" else 0
    wrong = kill_campaign(given.rounds) if given.only != "rows" else 0
    return int(bool(failed or wrong))


if __name__ == "__main__":
    sys.exit(main())
