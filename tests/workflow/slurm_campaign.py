"""The micro survey on a real one-node Slurm: same bytes as a plain run, jobs left over from a kill stop.

Starts munged, slurmctld and slurmd of its own (Debian: slurm-wlm, munge; as root) and stops them by
their pid files.  srun inside a job reads /etc/slurm/slurm.conf only, so that this file is written, and
refused if it belongs to another Slurm.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(HERE), str(REPOSITORY / "scripts")]

from trial import Trial, edit_bytes  # noqa: E402

MARK = "# written by the slurm test of finalchar"
CONFIGURATION = Path("/etc/slurm/slurm.conf")
SLURM = """{mark}
ClusterName=finalchar
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
MinJobAge=600
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A Slurm on this machine."""
    check_means()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = SLURM.format(
        mark=MARK,
        host=host,
        folder=folder,
        cpus=os.cpu_count(),
        memory=int(0.9 * pages / 2**20),
    )
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(text)
    started = [start_munge(), *start_daemons(folder)]
    try:
        wait_until(lambda: "idle" in told("sinfo", "--noheader", "--format=%T"), "the node is idle")
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"], check=False)
        for pid in started[::-1]:
            if pid:
                os.kill(pid, signal.SIGTERM)
        CONFIGURATION.unlink()


def check_means() -> None:
    """Say what is missing."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"make test-slurm needs {', '.join(missing)}: install slurm-wlm and munge")
    if os.geteuid() != 0:
        raise SystemExit(
            "make test-slurm starts a Slurm of its own and needs to be root (a container will do)"
        )
    if CONFIGURATION.exists() and MARK not in CONFIGURATION.read_text():
        raise SystemExit(f"{CONFIGURATION} belongs to another Slurm: use another machine or a container")
    try:
        import snakemake_executor_plugin_slurm  # noqa: F401
    except ImportError:
        raise SystemExit("make test-slurm: pip install -r envs/requirements-slurm.txt first") from None


def start_munge() -> int | None:
    """Start munged if none answers; return its pid."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return None
    for folder in ("/run/munge", "/var/lib/munge", "/var/log/munge"):
        Path(folder).mkdir(exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    subprocess.run(
        ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged"],
        check=True,
    )
    return int(Path("/run/munge/munged.pid").read_text())


def start_daemons(folder: Path) -> Iterator[int]:
    """Start controller and node daemon; yield their pids."""
    for name in ("slurmctld", "slurmd"):
        subprocess.run([name], check=True)
        file = folder / f"{name}.pid"
        wait_until(file.exists, f"{name} runs")
        yield int(file.read_text())


def wait_until(is_true: object, what: str, longest: float = 60) -> None:
    """Wait for a condition."""
    end = time.monotonic() + longest
    while not is_true():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit(f"waited {longest} s in vain until {what}")
        time.sleep(0.5)


def told(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def steps(trial: Trial, kills: int) -> Iterator[tuple[str, bool]]:
    """The steps of the campaign and whether each was right."""
    first = trial.run()
    yield "first run", first.status == 0 and trial.differences() == []
    if first.status:
        print(first.text[-3000:])
        return
    yield "nothing to do", trial.run().says_nothing_to_do
    edit_bytes(trial.survey / "calexp_2026011500101_1.fits", flip_comment)
    one = trial.run()
    yield "one exposure", one.computed.get("detector") == 1 and trial.differences() == []
    for count in range(kills):
        trial.configure(f"orderX: {1 - count % 2}", f"orderX: {count % 2}")
        yield f"killed {count + 1}", killed_and_taken_up(trial, 8 + 5 * count)


def killed_and_taken_up(trial: Trial, seconds: float) -> bool:
    """Kill the submitting Snakemake, start again beside its jobs."""
    process = trial.start()
    time.sleep(seconds)
    process.kill()
    process.wait()
    again = trial.run("--nolock")
    right = again.status == 0 and trial.differences() == []
    wait_until(lambda: not told("squeue", "--noheader").strip(), "all jobs ended", 300)
    return right and trial.differences() == [] and trial.run().says_nothing_to_do


def flip_comment(data: bytearray) -> None:
    """Change one letter of a comment in a FITS header."""
    data[data.index(b"FITS standard")] ^= 0x20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=2)
    given = parser.parse_args()
    from finalchar.simulate import make_survey

    wrong = 0
    with tempfile.TemporaryDirectory() as temporary, slurm(Path(temporary, "slurm")):
        root = Path(temporary, "trial")
        root.mkdir()
        make_survey("micro", Path(temporary, "survey"))
        trial = Trial.make(
            root,
            Path(temporary, "survey"),
            references=Path(temporary, "references"),
            arguments=(
                *("--workflow-profile", str(REPOSITORY / "profiles" / "slurm"), "--jobs", "4"),
                *("--slurm-no-account", "--slurm-status-command", "squeue"),
            ),
        )
        for name, right in steps(trial, given.kills):
            print(f"{'ok ' if right else 'BAD'} {name}", flush=True)
            wrong += not right
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
