"""The command line: ``python -m finalchar COMMAND``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TypeAlias

from finalchar.errors import FinalcharError

__all__ = ["main"]

CONFIG = Path("config.yaml")
CLONE = Path(__file__).resolve().parents[2]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def arguments_of(words: list[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="finalchar", description="Make and look after the products of a survey; see README.md."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands_on_survey(commands)
    add_export(commands)
    add_simulate(commands)
    given, others = parser.parse_known_args(words)
    if others and given.command != "run":
        parser.error(f"unknown words: {' '.join(others)}")
    given.snakemake = [word for word in others if word != "--"]
    return given


def add_commands_on_survey(commands: Commands) -> None:
    """Add the commands that need a configuration."""

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument(
            "--config",
            type=Path,
            default=CONFIG,
            metavar="FILE",
            help="default: config.yaml here",
        )
        added.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            dest="overrides",
            help="change a setting",
        )
        return added

    command("run", "show what is due, run the workflow, show the outcomes; other words go to snakemake")
    command("status", "show what is due and why")
    explain = command("explain", "show why a detector is due, or that it is not")
    redo = command("redo", "make a visit or a detector again at the next run")
    explain.add_argument("visit", type=int)
    explain.add_argument("detector", type=int)
    redo.add_argument("visit", type=int)
    redo.add_argument("detector", type=int, nargs="?")
    command("tabulate", "write the source tables of the visits of plain images, named in detectors.csv")
    command("verify", "hash every input and product and compare with the records")


def add_export(commands: Commands) -> None:
    """Add the command that writes PSFs for other programs."""
    export = commands.add_parser("export", help="write files for the plain PSF libraries")
    export.add_argument("format", choices=["piff", "psfex"])
    export.add_argument("path", type=Path, help="a product (FITS), or a visit's folder")
    export.add_argument("output", type=Path, nargs="?", help="file to write, default: beside the product")


def add_simulate(commands: Commands) -> None:
    """Add the command that writes a simulated survey."""
    simulate = commands.add_parser("simulate", help="write a simulated survey")
    simulate.add_argument("kind", choices=["demo", "micro"])
    simulate.add_argument("folder", type=Path)
    simulate.add_argument(
        "--form",
        choices=["lsst", "images"],
        default="lsst",
        help="images: plain images and SExtractor catalogues instead of files of the LSST stack",
    )
    simulate.add_argument(
        "--if-configured",
        action="store_true",
        help="only if the sheet of config.yaml is the one of this folder, and is not there yet",
    )


def perform(given: argparse.Namespace) -> int:
    """Do what the command says; return the exit status."""
    if given.command == "simulate":
        if given.if_configured and not is_wanted(given.folder):
            return 0
        from finalchar.simulate import make_survey

        make_survey(given.kind, given.folder, form=given.form)
        return 0
    if given.command == "export":
        from finalchar.psf import export

        write = {"piff": export.export_piff, "psfex": export.export_psfex}[given.format]
        print(f"wrote {write(given.path, given.output)}")
        return 0
    return perform_on_survey(given)


def is_wanted(folder: Path) -> bool:
    """Whether config.yaml works on the sheet of a folder, and the sheet is not there yet."""
    from finalchar.frozen import Configured

    sheet = folder / "detectors.csv"
    return not sheet.exists() and sheet.resolve() == Configured.read(CONFIG).sheets[0].resolve()


def perform_on_survey(given: argparse.Namespace) -> int:
    """Do a command that needs a configuration, in the folder of the configuration."""
    from finalchar import commands, plan
    from finalchar.frozen import Configured

    if not given.config.is_file():
        reason = "is not a file" if given.config.exists() else "does not exist"
        raise FinalcharError(f"{given.config} {reason}: go to its folder or give --config FILE")
    os.chdir(given.config.resolve().parent)
    config = Path(given.config.name)
    if given.command == "run":
        return commands.run(CLONE, config, given.overrides, given.snakemake)
    configured = Configured.read(config, given.overrides)
    survey = configured.survey()
    if given.command == "status":
        lines = commands.status(plan.Plan(survey))
    elif given.command == "explain":
        lines = commands.explain(plan.Plan(survey), given.visit, given.detector)
    elif given.command == "redo":
        lines = commands.redo(survey, given.visit, given.detector)
    elif given.command == "tabulate":
        from finalchar.tabulated import tabulate

        lines = tabulate(survey, configured.config.input)
    else:
        lines, is_sound = commands.verify(survey)
        print("\n".join(lines))
        return 0 if is_sound else 1
    print("\n".join(lines))
    return 0


def main(words: list[str] | None = None) -> int:
    """Run a command; errors are one sentence and exit status 1."""
    try:
        return perform(arguments_of(words))
    except FinalcharError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
