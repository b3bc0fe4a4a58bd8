"""Records as they are read back: what is damaged or of another shape counts as no record.

A unit without a record is made again, so that no damage below ``state/`` costs more than that.  Imported by
the planner and by every job; standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from finalchar import provenance
from finalchar.errors import StaleRunError
from finalchar.layout import GROUP_PREFIX
from finalchar.status import Status

__all__ = [
    "association_record",
    "group_record",
    "group_records",
    "ingredients_record",
    "known",
    "list_record",
    "run_record",
    "stage_record",
    "tract_record",
    "unit_record",
]

Record = dict[str, Any]
STATUSES = frozenset(str(status) for status in Status)


# -- shapes ----------------------------------------------------------------------------------------------
def _is_mapping_of(kind: type, value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())


def _is_entry(value: Any) -> bool:
    """Whether a value is what a record knows of a file, see `provenance.Entry`."""
    if not (isinstance(value, list) and len(value) == 4 and isinstance(value[0], str)):
        return False
    size, stamp, digest = value[1:]
    if size is None:
        return stamp is None and digest is None
    return isinstance(size, int) and isinstance(stamp, int) and isinstance(digest, str)


def _is_made(record: Any) -> bool:
    """Whether a record tells what something was made from and what was made."""
    if not (isinstance(record, dict) and isinstance(record.get("product"), str)):
        return False
    inputs, outputs = record.get("inputs"), record.get("outputs")
    return (
        _is_mapping_of(str, record.get("wanted"))
        and isinstance(inputs, dict)
        and all(isinstance(item, str) or _is_entry(item) for item in inputs.values())
        and isinstance(outputs, dict)
        and all(_is_entry(item) and item[1] is not None for item in outputs.values())
    )


def _is_tract(record: Record) -> bool:
    bands, visits = record.get("bands"), record.get("visits", [])
    return (
        isinstance(bands, dict)
        and all(isinstance(band, dict) and isinstance(band.get("digest"), str) for band in bands.values())
        and isinstance(visits, list)
        and all(isinstance(visit, int) for visit in visits)
        and (
            isinstance(record["broken"], str) if "broken" in record else "reserved_stars" in record["outputs"]
        )
    )


def _is_association(record: Record) -> bool:
    if "broken" in record:
        return isinstance(record["broken"], str)
    return all(name in record["outputs"] for name in ("isolated_star_cat", "isolated_star_sources"))


def _is_list(record: Record) -> bool:
    blocked = record.get("blocked")
    return (
        _is_mapping_of(str, record.get("rows"))
        and _is_mapping_of(str, record.get("draws", {}))
        and (blocked is None or (_is_mapping_of(str, blocked) and {"status", "sentence"} <= blocked.keys()))
    )


def _is_status(value: Any) -> bool:
    """Whether `DetectorStatus.from_dict` takes a value."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), int) for name in ("visit", "detector"))
        and all(isinstance(value.get(name), str) for name in ("band", "status", "sentence"))
        and value["status"] in STATUSES
        and all(isinstance(value.get(name, {}), dict) for name in ("counts", "figures", "software"))
        and isinstance(value.get("warnings", []), list)
    )


def _is_detector(record: Any) -> bool:
    """Whether a record is one of a detector, and so is what it keeps aside."""
    if not (_is_made(record) and _is_status(record.get("status"))):
        return False
    return "aside" not in record or _is_detector(record["aside"])


def _is_attempts(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("run"), str)
        and isinstance(value.get("jobs"), int)
        and _is_mapping_of(int, value.get("deaths"))
        and isinstance(value.get("suspects"), list)
        and all(isinstance(detector, str) for detector in value["suspects"])
        and isinstance(value.get("at"), str | None)
    )


# -- reading ---------------------------------------------------------------------------------------------
def _read(path: str, is_sound: Callable[[Record], bool]) -> Record | None:
    record = provenance.load(path)
    if not (_is_made(record) and isinstance(record.get("token"), str) and is_sound(record)):
        return None
    return dict(record)


def unit_record(path: str) -> Record | None:
    """Return the record of a visit or of the survey; None when there is no sound one."""
    return _read(path, lambda record: True)


def tract_record(path: str) -> Record | None:
    """Return the record of a tract; None when there is no sound one."""
    return _read(path, _is_tract)


def association_record(path: str) -> Record | None:
    """Return the record of a tract's isolated stars; None when there is no sound one."""
    return _read(path, _is_association)


def list_record(path: str) -> Record | None:
    """Return the record of a visit's list; None when there is no sound one."""
    return _read(path, _is_list)


def stage_record(stage: str, path: str) -> Record | None:
    """Return the record of a tract, list, visit or the survey; None when there is no sound one."""
    readers = {"association": association_record, "tract": tract_record, "list": list_record}
    return readers.get(stage, unit_record)(path)


def known(record: Record | None, what: str) -> Record:
    """Return a record that an earlier job of the run must have written.

    Raises
    ------
    StaleRunError
        If it is not there, or is damaged.
    """
    if record is None:
        raise StaleRunError(f"{what}: there is no sound record: start again")
    return record


def group_record(path: str) -> Record | None:
    """Return the record of a group with its sound detectors; None when it is no record of a group."""
    record = provenance.load(path)
    if not isinstance(record, dict) or not isinstance(record.get("detectors"), dict):
        return None
    detectors = {name: item for name, item in record["detectors"].items() if _is_detector(item)}
    token, owner, attempts = record.get("token"), record.get("owner"), record.get("attempts")
    is_whole = isinstance(token, str) and len(detectors) == len(record["detectors"])
    return {
        "token": token if is_whole else None,
        "owner": owner if isinstance(owner, str) else "",
        "detectors": detectors,
        **({"attempts": attempts} if _is_attempts(attempts) else {}),
    }


def group_records(folder: str) -> dict[str, Record]:
    """Return the records of all job groups in a visit's state folder, whatever the grouping, by name."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    records = {
        name.removesuffix(".json"): group_record(f"{folder}/{name}")
        for name in names
        if name.startswith(GROUP_PREFIX) and name.endswith(".json")
    }
    return {name: record for name, record in records.items() if record}


def run_record(path: str) -> Record:
    """Return the record of the run in progress: its digits, digests and number of due detectors."""
    record = provenance.load(path)
    is_sound = (
        isinstance(record, dict)
        and isinstance(record.get("id"), str)
        and _is_mapping_of(dict, record.get("wanted"))
        and isinstance(record.get("due"), int)
    )
    return record if is_sound else {"id": None, "wanted": {}, "due": 0}


def ingredients_record(path: str) -> Mapping[str, Any] | None:
    """Return what a digest of code, settings or software stands for; None when it is not known."""
    record = provenance.load(path)
    return record if isinstance(record, dict) else None
