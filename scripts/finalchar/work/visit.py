"""What the job of a visit does: one set of catalogues from all its detectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import StaleRunError
from finalchar.frozen import Row
from finalchar.layout import GROUP_PREFIX
from finalchar.work.files import AGAIN, remove
from finalchar.work.job import Job
from finalchar.work.screen import say
from finalchar.work.unit import make_unit

__all__ = ["consolidate"]


def consolidate(stamp: str, run_folder: str) -> None:
    """Make one visit from all its detectors, those without products included."""
    job = Job("visit", stamp, run_folder)
    visit = int(job.unit)
    rows = job.run.rows(visit)
    groups = list(plan.groups_of(rows, int(job.run.config["detectors_per_job"])))

    def token_of(group: str) -> object:
        path = f"{job.folder}/{group}.json"
        return records.known(records.group_record(path), f"visit {visit} {group}")["token"]

    def promise() -> object:
        return [job.wanted, {name: token_of(name) for name in groups}]

    job.settle(promise)
    detectors = sound_detectors(job, visit, rows, groups)
    made = {number: provenance.product_digest(record) for number, record in detectors.items()}
    draws = (records.list_record(job.layout.record(visit, "list")) or {}).get("draws", {})
    folder = job.layout.visit_folder(visit)

    def compute() -> Mapping[str, Any]:
        check_products(job, visit, detectors)
        return write_visit(job, visit, rows, detectors, draws)

    piff = job.layout.piff_files(visit, [row["detector"] for row in rows], job.run.config["output"]["piff"])
    products = {name.split(".")[0]: name for name in (*job.layout.visit_products, *piff)}
    make_unit(job, job.wanted, plan.visit_inputs(made, draws), folder, products, compute)
    remove_other_groupings(job.folder, groups)
    remove_other_groupings(job.layout.log_folder(visit), groups)


def remove_other_groupings(folder: str, groups: Sequence[str]) -> None:
    """Remove records, stamps and logs of groups that no job has any more."""
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name.startswith(GROUP_PREFIX) and name.split(".")[0] not in groups:
            remove(f"{folder}/{name}")


def sound_detectors(job: Job, visit: int, rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Any]:
    """Return the records of all detectors of a visit, each made with what this run wants.

    Raises
    ------
    StaleRunError
        If one was made with other code, configuration or rows.
    """
    reader = provenance.CodeReader(job.layout.code_cache)
    stage = job.wanted_of(provenance.ingredients("detector", job.run.settings("detector"), reader))
    list_record = records.known(records.list_record(job.layout.record(visit, "list")), f"list of {visit}")
    found: dict[str, Any] = {}
    for name in groups:
        found.update((records.group_record(f"{job.folder}/{name}.json") or {"detectors": {}})["detectors"])
    wrong = []
    for row in rows:
        number = str(row["detector"])
        want = plan.detector_wanted(stage, list_record, row)
        if number not in found or not want.items() <= found[number]["wanted"].items():
            wrong.append(number)
    if wrong:
        raise StaleRunError(
            f"visit {visit}: detectors {', '.join(wrong)} were made with other code, configuration or rows: "
            "run again"
        )
    return {str(row["detector"]): found[str(row["detector"])] for row in rows}


def check_products(job: Job, visit: int, detectors: Mapping[str, Any]) -> None:
    """Check that every detector product has the recorded bytes.

    Raises
    ------
    StaleRunError
    """
    folder = job.layout.detector_folder(visit)
    for number, record in detectors.items():
        for item in record["outputs"].values():
            path = f"{folder}/{item[0]}"
            if not os.path.exists(path) or provenance.hash_file(path) != item[3]:
                raise StaleRunError(
                    f"visit {visit} detector {number}: {item[0]} is not what its record describes: {AGAIN}"
                )


def write_visit(
    job: Job, visit: int, rows: Sequence[Row], detectors: Mapping[str, Any], draws: Mapping[str, str]
) -> Mapping[str, Any]:
    """Consolidate a visit; return what its record keeps."""
    from finalchar import consolidate as science
    from finalchar.config import Config
    from finalchar.status import DetectorStatus

    config = Config(**job.run.config)
    folder = Path(job.layout.detector_folder(visit))
    inputs = [
        science.DetectorProducts(
            status=DetectorStatus.from_dict(record["status"]),
            psf_ap_corr=product_path(folder, record, "psf_ap_corr"),
            table=product_path(folder, record, "finalized_src"),
        )
        for record in detectors.values()
    ]
    summary = science.consolidate_visit(
        visit=visit,
        band=str(rows[0]["band"]),
        detectors=inputs,
        reserve_digests={int(tract): value for tract, value in draws.items()},
        config=config,
        output=Path(job.layout.visit_folder(visit)),
    )
    say(summary.sentence)
    return {"sentence": summary.sentence}


def product_path(folder: Path, record: Mapping[str, Any], name: str) -> Path | None:
    """Path of a product of a detector, None if it has none."""
    return folder / record["outputs"][name][0] if name in record["outputs"] else None
