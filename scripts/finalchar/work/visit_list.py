"""What the job of a visit's list does: the only thing of the tracts that its detectors read."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import InputError, StaleRunError
from finalchar.provenance import Inputs
from finalchar.work.files import AGAIN, remove
from finalchar.work.job import Job
from finalchar.work.screen import say
from finalchar.work.unit import make_unit

__all__ = ["list_visit"]


def list_visit(stamp: str, run_folder: str) -> None:
    """Make one visit's reserve list: the only thing of the tracts that its detectors read."""
    job = Job("list", stamp, run_folder)
    work = ListWork(job)
    job.settle(work.promise)
    folder = job.layout.visit_folder(work.visit)
    if sentence := work.missing():
        inputs = plan.blocked_inputs(sentence)
        make_unit(job, work.wanted, inputs, folder, {}, lambda: work.blocked("missing", sentence))
    else:
        products = {"list": job.layout.visit_list}
        make_unit(job, work.wanted, work.inputs(), folder, products, work.compute)


class ListWork:
    """The list of one visit: what it is made from, and the making."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.visit = int(job.unit)
        self.rows = job.run.rows(self.visit)
        self.band = str(self.rows[0]["band"])
        self.tracts = plan.tracts_of_visit(self.rows, job.run.tracts)
        self.wanted = plan.list_wanted(job.wanted, self.rows)
        self.fgcm_bands = plan.fgcm_bands(job.run.settings("list"), self.band)

    def record_of(self, tract: int) -> Any:
        """Record of a tract."""
        return records.tract_record(self.job.layout.record("reserve", f"tract_{tract}"))

    def missing(self) -> str | None:
        """A sentence about a missing tract file, if one keeps the list from being made."""
        return plan.blocked_by_files(self.job.run.survey_folder, self.visit, self.tracts, self.record_of)

    def promise(self) -> object:
        """What the token stands for: see `Plan.visit_list`."""
        missing = self.missing()
        tokens = {
            str(tract): self.record_of(tract)["token"]
            for tract, row in self.tracts.items()
            if not missing and not plan.missing_tract_files(self.job.run.survey_folder, row)
        }
        return [self.wanted, tokens, missing]

    def inputs(self) -> Inputs:
        """What the list is made from."""
        return plan.list_inputs(
            self.job.run.survey_folder,
            self.visit,
            self.tracts,
            self.record_of,
            with_fgcm=bool(self.fgcm_bands),
        )

    def blocked(self, kind: str, sentence: str) -> Mapping[str, Any]:
        """Keep in the record why there is no list; every detector of the visit gets it as its status."""
        remove(f"{self.job.layout.visit_folder(self.visit)}/{self.job.layout.visit_list}")
        say(f"error: visit {self.visit}: {sentence}")
        return {"rows": {}, "blocked": {"status": f"input_{kind}", "sentence": sentence}}

    def compute(self) -> Mapping[str, Any]:
        """Write the list; return the digests of the rows of its detectors."""
        from finalchar.stars import visit_list as science

        try:
            digests = science.make_visit_list(
                visit=self.visit,
                band=self.band,
                tracts=[
                    science.TractInputs(tract=tract, reserved=path, fgcm=fgcm)
                    for tract, path, fgcm in self._tract_products()
                ],
                output=Path(self.job.layout.visit_folder(self.visit), self.job.layout.visit_list),
                fgcm_bands=self.fgcm_bands,
            )
        except InputError as error:  # damage is local: the detectors get a status
            traceback.print_exc()
            return self.blocked("broken", str(error))
        rows = {str(detector): value for detector, value in digests.items()}
        return {"rows": rows, "draws": self.draws()}

    def draws(self) -> dict[str, str]:
        """Digests, by tract, of the reserve draws of the visit's band."""
        found = {}
        for tract in self.tracts:
            record = self.record_of(tract)
            if plan.tract_digest(record, self.visit) != plan.NO_ROWS and self.band in record["bands"]:
                found[str(tract)] = str(record["bands"][self.band]["digest"])
        return found

    def _tract_products(self) -> Iterator[tuple[int, Path, Path | None]]:
        """Tract, reserve product and standard stars of the tracts that concern the visit."""
        for tract, row in self.tracts.items():
            record = self.record_of(tract)
            if plan.tract_digest(record, self.visit) == plan.NO_ROWS:
                continue
            if "broken" in record:
                raise InputError(record["broken"])
            product = os.path.join(self.job.layout.reserve_folder, record["outputs"]["reserved_stars"][0])
            if provenance.hash_file(product) != record["outputs"]["reserved_stars"][3]:
                raise StaleRunError(f"{product} is not what its record describes: {AGAIN}")
            fgcm = row.get("fgcm_standard_star")
            yield tract, Path(product), Path(self.job.run.survey_folder, fgcm) if fgcm else None
