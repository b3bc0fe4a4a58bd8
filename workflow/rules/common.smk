"""Helpers of all rules: configuration, the planner, how a script is called.

Only due units enter the graph.  Each stamp's name ends in a token that is not on disk while its unit is due, so
that "output missing" is the only reason for which Snakemake runs a job; external files are not declared, the
planner watches them (docs/staleness.md).
"""

import sys
from pathlib import Path

BASE = Path(workflow.basedir)
SCRIPTS = BASE / "scripts"
sys.path.insert(0, str(SCRIPTS))

from finalchar import commands  # noqa: E402
from finalchar.errors import FinalcharError  # noqa: E402

MAIN = workflow.is_main_process


def in_one_sentence(function):
    """Let errors that are meant for the user end Snakemake with their one sentence."""

    def wrapped(*arguments):
        try:
            return function(*arguments)
        except FinalcharError as error:
            raise WorkflowError(str(error)) from None

    return wrapped


try:
    RUN = commands.SnakemakeRun(
        BASE, workflow.config_settings.configfiles, workflow.config_settings.config
    )
    if MAIN and commands.is_asked_to_run(sys.argv):
        RUN.check()
except FinalcharError as error:
    sys.exit(f"error: {error}")

STATE = RUN.layout.state
LOGS = f"{RUN.layout.output}/logs"


wildcard_constraints:
    tract=r"[0-9]+",
    visit=r"[0-9]+",
    group=r"d[0-9]+-[0-9]+",
    token=r"[0-9a-f]{12}(-[0-9]+)?",


def stamps(select):
    """Input function of the due units that `select(plan, wildcards)` returns; a job never plans."""

    @in_one_sentence
    def function(wildcards):
        if not MAIN:
            return []
        return [
            ancient(stamp) for stamp in RUN.plan.stamps(select(RUN.plan, wildcards))
        ]

    return function


def after_gate(function):
    """Input function that is asked once every visit list is current: only then detectors can be planned."""

    @in_one_sentence
    def gated(wildcards):
        if not MAIN:
            return []
        if RUN.gate_is_consulted:
            checkpoints.reserve_gate.get(token=RUN.plan.gate.token)
        return RUN.planned(function, wildcards)

    return gated


def stamps_after_gate(select):
    """Like `stamps`, behind the gate."""
    return after_gate(
        lambda plan, wildcards: [
            ancient(stamp) for stamp in plan.stamps(select(plan, wildcards))
        ]
    )


def script(name):
    """Parameter function: path of a rule's script (takes output: never compared by Snakemake)."""
    return lambda wildcards, output: SCRIPTS / f"{name}.py"


def frozen_run(wildcards, output):
    """Parameter function: the run folder with the frozen configuration and sheets."""
    return RUN.folder


def python(wildcards, output):
    """Parameter function: the interpreter of the jobs, the one that runs Snakemake."""
    return sys.executable


# The two hooks below leave by sys.exit: to other exceptions Snakemake adds lines of the Snakefile.
def start_run():
    """Lock the output folder, freeze configuration and sheets."""
    try:
        RUN.start()
    except FinalcharError as error:
        sys.exit(f"error: {error}")


def end_run():
    """Print the outcomes; an error status of a detector is an error of the run."""
    if sentence := RUN.outcomes():
        sys.exit(f"error: {sentence}")


def show_outcomes():
    """Print the outcomes of a run in which a job failed."""
    RUN.outcomes()
