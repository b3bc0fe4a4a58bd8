"""What the job of a tract does: the reserve draws in all bands of the survey."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finalchar import plan, provenance
from finalchar.errors import InputError
from finalchar.provenance import Inputs
from finalchar.work.files import remove
from finalchar.work.job import Job
from finalchar.work.screen import say
from finalchar.work.unit import make_unit

__all__ = ["reserve_stars"]


def reserve_stars(stamp: str, run_folder: str) -> None:
    """Make one tract: its reserve draws in all bands of the survey."""
    job = Job("tract", stamp, run_folder)
    tract = int(job.name.removeprefix("tract_"))
    want = {**job.wanted, "sheet": provenance.digest(job.run.bands)}
    job.settle(lambda: want)
    folder = job.layout.reserve_folder
    product = job.layout.reserved_stars(tract)
    inputs = Inputs(job.run.survey_folder, plan.tract_files(job.run.tracts[tract]))

    def compute() -> Mapping[str, Any]:
        from finalchar.config import Config
        from finalchar.stars import tract as science

        config = Config(**job.run.config)
        try:
            figures = science.reserve_stars(
                tract=tract,
                star_table=Path(inputs.folder, inputs.files["isolated_star_cat"]),
                source_table=Path(inputs.folder, inputs.files["isolated_star_sources"]),
                bands=job.run.bands,
                settings=config.reserve_selection,
                id_column=config.id_column,
                output=Path(folder, product),
            )
        except InputError as error:  # damage is local: its visits get a status, the others run
            traceback.print_exc()
            say(f"error: tract {tract}: {error}")
            remove(f"{folder}/{product}")
            return {"bands": {}, "broken": f"tract {tract}: {error}"}
        say(figures["sentence"])
        return {key: figures[key] for key in ("bands", "visits", "sentence") if key in figures}

    make_unit(job, want, inputs, folder, {"reserved_stars": product}, compute)
