"""One detector in a process of its own, after a job of its group has died.

    python -m finalchar.work.alone STAMP RUN_FOLDER OWNER DETECTOR

is started by the job of the group and writes into the group's record in its name.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

from finalchar.work.group import DetectorGroup, GroupRecord
from finalchar.work.job import Job
from finalchar.work.start import one_sentence

__all__ = ["run_alone"]

LIBRARY = str(Path(__file__).resolve().parents[2])


def run_alone(job: Job, owner: str, detector: str) -> int:
    """Make a detector in a process of its own; return the exit status of the process."""
    paths = [LIBRARY, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", __name__, job.stamp, job.run.folder, owner, detector]
    return subprocess.run(command, env=environment, check=False).returncode


def make_one(stamp: str, run_folder: str, owner: str, detector: str) -> None:
    """Make a detector in the name of the job of its group, whose record is `owner`'s."""
    from finalchar.work.detector import DetectorWork

    job = Job("detector", stamp, run_folder)
    group = DetectorGroup(job)
    made = GroupRecord.of_owner(job, owner)
    row = next(row for row in group.rows if str(row["detector"]) == detector)
    DetectorWork(job, made, group, {}).make(row)


if __name__ == "__main__":
    with one_sentence(traceback.print_exc):
        make_one(*sys.argv[1:5])
