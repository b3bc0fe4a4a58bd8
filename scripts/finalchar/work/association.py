"""What the job of a tract's isolated stars does, where the sheet gives a region instead of tables."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finalchar import plan
from finalchar.errors import InputError
from finalchar.work.files import remove
from finalchar.work.job import Job
from finalchar.work.screen import say
from finalchar.work.unit import make_unit

__all__ = ["associate_isolated_stars"]


def associate_isolated_stars(stamp: str, run_folder: str) -> None:
    """Find the isolated stars of one tract in the source tables of the visits."""
    job = Job("association", stamp, run_folder)
    tract = int(job.name.removeprefix("tract_"))
    row = job.run.tracts[tract]
    want = plan.association_wanted(job.wanted, row)
    job.settle(lambda: want)
    folder = job.layout.isolated_star_folder
    products = job.layout.isolated_star_tables(tract)
    inputs = plan.association_inputs(job.run.survey_folder, row)

    def compute() -> Mapping[str, Any]:
        from finalchar.config import Config
        from finalchar.stars import association as science

        config = Config(**job.run.config)
        tables = {int(visit): Path(inputs.folder, path) for visit, path in row["source_tables"].items()}
        try:
            figures = science.write_isolated_stars(
                source_tables=tables,
                geometry=science.TractGeometry.of_region(tract, row["region"]),
                settings=config.isolated_star_association,
                compatibility=config.compatibility,
                star_table=Path(folder, products["isolated_star_cat"]),
                source_table=Path(folder, products["isolated_star_sources"]),
            )
        except InputError as error:  # damage is local: the visits of the tract get a status, the others run
            traceback.print_exc()
            say(f"error: tract {tract}: {error}")
            for name in products.values():
                remove(f"{folder}/{name}")
            return {"broken": str(error)}
        say(str(figures["sentence"]))
        return {"sentence": figures["sentence"]}

    make_unit(job, want, inputs, folder, products, compute)
