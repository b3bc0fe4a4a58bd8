"""Source tables that ``finalchar tabulate`` wrote: of what each was made, so that an old one is told.

They are inputs of the survey, made on request and never by the workflow; without this a run would find
isolated stars in tables of files that have changed since, and nothing would say so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finalchar import provenance, records, sheets
from finalchar.errors import FinalcharError
from finalchar.frozen import Row, Survey, lock_is_held
from finalchar.provenance import CodeReader, FileDigests, Inputs
from finalchar.tract_regions import SOURCE_TABLE

__all__ = ["outdated_table", "tabulate"]


def tabulate(survey: Survey, settings: Any) -> list[str]:
    """Write the source table of every visit and a record of what it was made from; a line for each.

    Parameters
    ----------
    survey : Survey
        Configuration and sheets.
    settings : section
        Configuration section ``input``.

    Raises
    ------
    InputError
        As `finalchar.source_tables.write_source_tables`.
    FinalcharError
        If a run is reading the tables.
    """
    from finalchar.source_tables import write_source_tables

    if lock_is_held(survey.layout.lock):
        raise FinalcharError("a run is working on this output: wait for it or stop it")
    reader, lines = CodeReader(survey.layout.code_cache), []
    for visit, rows in survey.visits.items():
        inputs = _inputs(survey, rows)
        made_from = {role: _entry(inputs.folder, path) for role, path in inputs.files.items()}
        lines += write_source_tables({visit: rows}, survey=Path(survey.folder), settings=settings)
        made = {
            "wanted": _wanted(survey, rows, reader),
            "inputs": made_from,
            "outputs": {"source_table": _entry(survey.folder, _table_of(rows))},
            "token": "",
        }
        provenance.save(_path(survey, visit), provenance.with_product_digest(made))
    return lines


def outdated_table(survey: Survey, visit: int, reader: CodeReader, digests: FileDigests) -> str | None:
    """Return a sentence about a source table that was made of other files or settings than today's.

    None if it is not one of ours, or no tract is given by its region.
    """
    if not any(str(visit) in row.get("source_tables", {}) for row in survey.tracts.values()):
        return None
    record = records.unit_record(_path(survey, visit))
    if record is None:
        return None
    rows = survey.visits[visit]
    want, inputs = _wanted(survey, rows, reader), _inputs(survey, rows)
    found = provenance.reasons(record, want, inputs, survey.folder, digests)
    why = [reason for reason in found if "staleness.hash_limit_gb" not in reason]
    if not why or any(reason.startswith("product ") for reason in why):
        return None  # what somebody else has written is no concern of ours
    return (
        f"visit {visit}: the source table {_table_of(rows)} is of before a change ({'; '.join(why[:3])}): "
        "write it again with `finalchar tabulate`"
    )


def _path(survey: Survey, visit: int) -> str:
    return survey.layout.record("tabulate", str(visit))


def _table_of(rows: Sequence[Row]) -> str:
    return str(rows[0].get(SOURCE_TABLE) or "")


def _inputs(survey: Survey, rows: Sequence[Row]) -> Inputs:
    """Files of all detectors of a visit."""
    return Inputs(
        survey.folder,
        {
            f"{role} of detector {row['detector']}": path
            for row in rows
            for role, path in sheets.detector_files(row).items()
        },
    )


def _wanted(survey: Survey, rows: Sequence[Row], reader: CodeReader) -> dict[str, str]:
    """What a table is compared by: code, settings, and what the sheet says beside paths."""
    details = [[row["detector"], row["band"], sheets.image_details(row)] for row in rows]
    return {
        "code": provenance.digest(reader.closure(["source_tables"])),
        "config": provenance.digest(survey.settings["detector"]["input"]),
        "sheet": provenance.digest(details),
    }


def _entry(folder: str, path: str) -> provenance.Entry:
    file = provenance.located(folder, path)
    if not os.path.exists(file):
        return provenance.absent(path)
    return provenance.entry(folder, path, provenance.hash_file(file))
