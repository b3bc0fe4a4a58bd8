"""The published schemas of what users write: the configuration and the two sheets.

    python -m finalchar.schemas [--check]

writes ``workflow/schemas`` from the models, or only tells whether the files there are current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finalchar.config import Config
from finalchar.sheets import DETECTOR_COLUMNS, OPTIONAL_TRACT_COLUMNS, TRACT_COLUMNS

__all__ = ["main", "schemas"]

FOLDER = Path(__file__).resolve().parent.parent.parent / "workflow" / "schemas"

_COLUMNS = {
    "visit": "identifier of the visit, decimal digits",
    "detector": "identifier of the detector, decimal digits",
    "band": "band of the visit",
    "exposure": "path of the exposure, relative to `survey`",
    "src": "path of the source catalogue, relative to `survey`",
    "tract": "identifier of the tract, decimal digits",
    "isolated_star_cat": "path of the table of isolated stars, relative to `survey`",
    "isolated_star_sources": "path of the table of their sources, relative to `survey`",
    "fgcm_standard_star": "path of the table of standard stars, relative to `survey`; may be empty",
}
_IDENTIFIERS = ("visit", "detector", "tract")


def schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas by file name."""
    detectors = _sheet("detectors.csv", "One row per exposure of a detector.", DETECTOR_COLUMNS, ())
    tracts = _sheet("tracts.csv", "One row per tract.", TRACT_COLUMNS, OPTIONAL_TRACT_COLUMNS)
    return {
        "config.schema.json": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **Config.model_json_schema(),
        },
        "detectors.schema.json": detectors,
        "tracts.schema.json": tracts,
    }


def _sheet(title: str, text: str, required: Iterable[str], optional: Iterable[str]) -> dict[str, Any]:
    columns = {}
    for name in [*required, *optional]:
        columns[name] = {"type": "string", "description": _COLUMNS[name]}
        if name in _IDENTIFIERS:
            columns[name]["pattern"] = "^[0-9]+$"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": text + " Every value is text; further columns are allowed.",
        "type": "object",
        "required": list(required),
        "properties": columns,
    }


def main(arguments: list[str]) -> int:
    """Write the schemas; with ``--check`` compare only and return 1 if one is not current."""
    stale = []
    for name, schema in schemas().items():
        path, text = FOLDER / name, json.dumps(schema, indent=1) + "\n"
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"workflow/schemas: {', '.join(stale)} differ from the models; run `make schemas`.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
