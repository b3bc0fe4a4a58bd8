"""Command ``python -m finalchar.parity DIR``: run, compare, print the table, write ``parity.json``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from finalchar.errors import FinalcharError
from finalchar.parity.reference import find_configurations
from finalchar.parity.run import Outcome, not_implemented_verdict, run_configuration
from finalchar.parity.table import outcome_lines, summary_line
from finalchar.parity.tally import REPORT_ONLY, read_report_only


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return 0 if nothing is out without a stated cause, and few enough columns are."""
    options = _parse(arguments)
    names = [name for word in options.configs or [] for name in word.split(",") if name] or None
    outcomes = []
    try:
        report_only = read_report_only(options.report_only)
        for reference in find_configurations(options.reference, names):
            started = time.monotonic()
            outcome = run_configuration(reference, processes=options.processes, report_only=report_only)
            outcomes.append(outcome)
            for line in outcome_lines(outcome, every=options.all):
                print(line)
            print(f"({time.monotonic() - started:.0f} s)", flush=True)
            _write(options.json, outcomes)
    except FinalcharError as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    print(summary_line(outcomes, options.json))
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m finalchar.parity", description=__doc__)
    parser.add_argument("reference", type=Path, help="directory with survey/ and a folder per configuration")
    parser.add_argument("--configs", nargs="+", help="names of configurations (default: all)")
    parser.add_argument("--json", type=Path, default=Path("build/parity.json"), help="where the figures go")
    parser.add_argument(
        "--report-only",
        type=Path,
        default=REPORT_ONLY,
        help="list of columns that are printed and not judged",
    )
    parser.add_argument("--processes", type=int, default=2, help="detectors worked on at the same time")
    parser.add_argument(
        "--all", action="store_true", help="print every column, also those that agree exactly"
    )
    return parser.parse_args(arguments)


def _write(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write {configuration: {quantity: figures}}."""
    data = {}
    for outcome in outcomes:
        entries = [not_implemented_verdict(outcome)] if outcome.not_implemented else outcome.verdicts
        data[outcome.configuration] = {entry.name: entry.to_dict() for entry in entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
