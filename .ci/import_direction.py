"""The import direction of the rooms: a room imports only from rooms before it.

    python .ci/import_direction.py

prints each import that goes the other way and ends with status 1; `make lint` and a test call it.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent.parent / "scripts" / "finalchar"

# In the order in which data flows.  Modules of one line may import each other.
ROOMS = (
    ("errors", "status", "strict_yaml", "config_base", "programs", "hdu_names"),
    ("sheets", "layout", "tract_regions"),
    ("formats",),
    ("stars",),
    ("psf",),
    ("psf_ap_corr",),
    ("measure",),
    ("apcorr",),
    ("sky_moments", "stamps"),
    ("characterize",),
    ("consolidate",),
    ("export", "source_tables"),
    ("task",),
    ("report",),
    ("simulate",),
)
# The configuration composes the choices of the rooms, and is imported only by what is above the science.
CONFIGURATION = (
    "config",
    "config_association",
    "config_checks",
    "config_choices",
    "config_fixed",
    "config_input",
    "config_lsst",
    "config_sites",
    "config_stages",
    "config_text",
    "schemas",
)
# Records, plans and commands: they call the science, the science never imports them.
HOUSEKEEPING = (
    "provenance",
    "records",
    "plan",
    "work",
    "frozen",
    "tabulated",
    "commands",
    "__main__",
    "parity",
)

# Imports against the direction, each with its reason.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("task", "config"): "the Python interface is given a configuration",
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first part below `finalchar` of every import in a module, also those inside functions."""
    package = path.relative_to(LIBRARY.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: -node.level]) if node.level else []
            start = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*start, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "finalchar" and len(name) > 1:
                yield node.lineno, name[1]


def rank(room: str) -> int | None:
    """Place of a room in the order of the data; None for what stands beside the science."""
    return next((i for i, line in enumerate(ROOMS) if room in line), None)


def faults() -> list[str]:
    """A sentence for every import against the direction, and for every room without a place."""
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        room = path.relative_to(LIBRARY).with_suffix("").parts[0]
        if room == "__init__":
            continue
        if rank(room) is None and room not in CONFIGURATION + HOUSEKEEPING:
            found.append(
                f"{path.name}: '{room}' has no place in the order of the rooms (.ci/import_direction.py)."
            )
        found += [f"{path}:{line}: {why}" for line, why in _against(path, room)]
    return found


def _against(path: Path, room: str) -> Iterator[tuple[int, str]]:
    own = rank(room)
    for line, target in imports(path):
        if target == room or (room, target) in EXCEPTIONS or room in HOUSEKEEPING:
            continue
        other = rank(target)
        if target in HOUSEKEEPING:
            yield line, f"'{room}' imports '{target}'; only commands and planners may."
        elif target in CONFIGURATION and room not in CONFIGURATION:
            yield (
                line,
                f"'{room}' imports '{target}'; sections are given to it (config_base alone may be imported).",
            )
        elif own is not None and other is not None and other > own:
            yield line, f"'{room}' imports '{target}', which comes after it."


if __name__ == "__main__":
    sentences = faults()
    print("\n".join(sentences), end="\n" if sentences else "")
    sys.exit(bool(sentences))
