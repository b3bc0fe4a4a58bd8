"""What the job of the survey does: one table of all detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finalchar import plan, provenance, records
from finalchar.work.job import Job
from finalchar.work.screen import say
from finalchar.work.unit import make_unit

__all__ = ["summarize_survey"]


def summarize_survey(stamp: str, run_folder: str) -> None:
    """Make the table of all detectors of the survey and check that the visits' reserve lists agree."""
    job = Job("survey", stamp, run_folder)
    visits = job.run.visits

    def record_of(visit: int) -> Any:
        return records.known(records.unit_record(job.layout.record(visit, "visit")), f"visit {visit}")

    job.settle(lambda: [job.wanted, {str(visit): record_of(visit)["token"] for visit in visits}])
    made = {str(visit): provenance.product_digest(record_of(visit)) for visit in visits}
    product = job.layout.survey_summary

    def compute() -> Mapping[str, Any]:
        from finalchar import consolidate as science

        paths = [Path(job.layout.visit_folder(visit), job.layout.visit_products[2]) for visit in visits]
        sentences = science.summarize_survey(summaries=paths, output=Path(job.layout.output, product))
        for sentence in sentences:
            say(f"warning: {sentence}")
        return {"sentences": sentences}

    make_unit(job, job.wanted, plan.survey_inputs(made), job.layout.output, {"summary": product}, compute)
