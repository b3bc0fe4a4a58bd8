"""All checks of `make lint`; silent when all is well, otherwise what failed and status 1."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable

CODE = ["scripts", "tests", ".ci", "envs"]
COMMANDS = {
    "ruff check": ["ruff", "check", "--quiet", *CODE],
    "ruff format": ["ruff", "format", "--check", "--quiet", *CODE],
    "mypy": ["mypy", "--no-error-summary"],
    "snakefmt": ["snakefmt", "--check", "--compact-diff", "Snakefile", "workflow/rules"],
    "generated schemas": ["finalchar.schemas", "--check"],
}

# What `snakemake --lint` finds and we keep: (rule or "*", title) and the reason.
ACCEPTED_LINTS = {
    ("*", "Specify a conda environment or container for each rule.:"): "one environment for all, see envs/",
    ("reserve_gate", "No log directive defined:"): "the gate is local and prints nothing",
}


def main() -> int:
    """Run all checks and print the output of those that fail."""
    failed = []
    for name, command in COMMANDS.items():
        result = _module(command)
        if result.returncode:
            failed.append(name)
            print(f"== {name}\n{result.stdout}{result.stderr}")
    for name, sentences in (
        ("import direction", _import_direction()),
        ("snakemake --lint", _snakemake_lint()),
    ):
        if sentences:
            failed.append(name)
            print(f"== {name}\n" + "\n".join(sentences))
    if failed:
        print("make lint: failed: " + ", ".join(failed))
    return bool(failed)


def _module(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run(
        [PYTHON, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def _import_direction() -> list[str]:
    result = subprocess.run(
        [PYTHON, ".ci/import_direction.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return (result.stdout + result.stderr).splitlines()


def _snakemake_lint() -> list[str]:
    """Findings of `snakemake --lint` that are not accepted, or all its output if it found nothing to list."""
    result = _module(["snakemake", "--lint", "--workflow-profile", "none"])
    found, rule, findings = [], "", 0
    for line in result.stderr.splitlines():
        if line.startswith("Lints for "):
            rule = line.split()[3]
        elif line.startswith("    * "):
            findings += 1
            title = line[6:].strip()
            if (rule, title) not in ACCEPTED_LINTS and ("*", title) not in ACCEPTED_LINTS:
                found.append(f"rule {rule}: {title}")
    if result.returncode and not findings:
        return (result.stdout + result.stderr).splitlines()
    return found


if __name__ == "__main__":
    sys.exit(main())
