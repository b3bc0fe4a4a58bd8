"""Making a unit that has one set of products."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from finalchar import provenance, records
from finalchar.provenance import Inputs, tally
from finalchar.work.files import InputFiles, product_entries, remove, remove_halves, renewed
from finalchar.work.job import Job

__all__ = ["Compute", "make_unit"]

Compute = Callable[[], Mapping[str, Any]]


def make_unit(
    job: Job,
    want: Mapping[str, str],
    inputs: Inputs,
    product_folder: str,
    products: Mapping[str, str],
    compute: Compute,
) -> None:
    """Make a unit that has one set of products, unless its record holds.

    `compute` writes the products and returns what the record keeps beside them.
    """
    record = records.stage_record(job.stage, job.record_path)
    if record is None or provenance.reasons(record, want, inputs, product_folder, job.digests):
        job.check_settled()
        files = InputFiles.look(inputs)
        job.remove_other_stamps()
        job.stop_if_left_over()
        remove(job.record_path)
        os.makedirs(product_folder, exist_ok=True)
        remove_halves(product_folder, list(products.values()))
        kept = compute()
        files.check_unchanged()
        job.stop_if_left_over()
        tally("did", job.stage, job.unit, job.name)
        made = {
            "wanted": {**job.noted, **want},
            "inputs": files.entries,
            "outputs": product_entries(product_folder, products),
        }
        record = {**provenance.with_product_digest(made), **kept}
    else:
        record = renewed(record, inputs, product_folder)
    job.finish(record)
