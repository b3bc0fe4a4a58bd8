"""All checks of `make lint`; silent when all is well, otherwise what failed and status 1."""

import json
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

# What `snakemake --lint` finds and we keep, each with its reason.
ACCEPTED_LINTS = {
    "No log directive defined": "only for rules without a job of their own (all, the gate)",
    "Specify a conda environment or container for each rule.": "one for all rules",
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
    return subprocess.run([PYTHON, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)


def _import_direction() -> list[str]:
    result = subprocess.run(
        [PYTHON, ".ci/import_direction.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return (result.stdout + result.stderr).splitlines()


def _snakemake_lint() -> list[str]:
    """Findings of `snakemake --lint` that are not accepted."""
    result = _module(["snakemake", "--lint", "json"])
    start = result.stdout.find("{")
    if start < 0:
        return [] if result.returncode == 0 else (result.stdout + result.stderr).splitlines()
    report = json.loads(result.stdout[start:])
    found = []
    for scope in ("snakefiles", "rules"):
        for item in report.get(scope, []):
            name = item.get("rule") or item.get("snakefile", "")
            for lint in item.get("lints", []):
                if lint["title"] not in ACCEPTED_LINTS:
                    found.append(f"{scope[:-1]} {name}: {lint['title']} {lint['body']}")
    return found


if __name__ == "__main__":
    sys.exit(main())
