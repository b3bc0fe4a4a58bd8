"""What the job of a tract does: the reserve draws in all bands of the survey."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finalchar import plan, provenance, records
from finalchar.errors import InputError, StaleRunError
from finalchar.work.files import AGAIN, remove
from finalchar.work.job import Job
from finalchar.work.screen import say
from finalchar.work.unit import make_unit

__all__ = ["reserve_stars"]


def reserve_stars(stamp: str, run_folder: str) -> None:
    """Make one tract: its reserve draws in all bands of the survey."""
    job = Job("tract", stamp, run_folder)
    tract = int(job.name.removeprefix("tract_"))
    want = {**job.wanted, "sheet": provenance.digest(job.run.bands)}
    row = job.run.tracts[tract]
    job.settle(lambda: plan.tract_promise(want, row, plan.token_of(stars_of(job, tract))))
    folder = job.layout.reserve_folder
    product = job.layout.reserved_stars(tract)
    stars = stars_of(job, tract) if row.get("region") else None
    inputs = plan.tract_inputs(job.run.survey_folder, row, stars)

    def compute() -> Mapping[str, Any]:
        from finalchar.config import Config
        from finalchar.stars import tract as science

        config = Config(**job.run.config)
        try:
            star_table, source_table = tables_of(job, tract, stars)
            figures = science.reserve_stars(
                tract=tract,
                star_table=star_table,
                source_table=source_table,
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


def stars_of(job: Job, tract: int) -> Mapping[str, Any] | None:
    """Record of the isolated stars of a tract, None if they were not made here."""
    return records.association_record(job.layout.record("associate", f"tract_{tract}"))


def tables_of(job: Job, tract: int, stars: Mapping[str, Any] | None) -> tuple[Path, Path]:
    """Tables of isolated stars and of their sources: of the sheet, or as their record describes them.

    Raises
    ------
    InputError
        If they could not be made.
    StaleRunError
        If they are not what the record describes.
    """
    if stars is None:
        files = plan.tract_files(job.run.tracts[tract])
        folder = job.run.survey_folder
        return Path(folder, files["isolated_star_cat"]), Path(folder, files["isolated_star_sources"])
    if "broken" in stars:
        raise InputError(stars["broken"])
    for file, _, _, digest in stars["outputs"].values():
        if provenance.hash_file(f"{job.layout.isolated_star_folder}/{file}") != digest:
            raise StaleRunError(f"{file} is not what its record describes: {AGAIN}")
    star_table, source_table = job.layout.isolated_star_tables(tract).values()
    return Path(job.layout.isolated_star_folder, star_table), Path(
        job.layout.isolated_star_folder, source_table
    )
