"""The only place that knows where products, records, stamps and logs lie.

All paths are plain strings below the output folder: planning makes hundreds of thousands of them.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["GROUP_PREFIX", "Layout", "group_name"]

GROUP_PREFIX = "d"


def group_name(detector: int, detectors_per_job: int) -> str:
    """Return the name of the job group of a detector: its block of detector *numbers*.

    Blocks of the number, not of the position in the sheet: a detector that is added later then changes
    one group only (workflow specification 2).
    """
    first = detector // detectors_per_job * detectors_per_job
    return f"{GROUP_PREFIX}{first:03d}-{first + detectors_per_job - 1:03d}"


@dataclass(frozen=True)
class Layout:
    """Names of all files of one output folder."""

    output: str

    # -- products ----------------------------------------------------------------------------------
    @property
    def isolated_star_folder(self) -> str:
        """Folder of the tables of isolated stars that are made here."""
        return f"{self.output}/isolated_stars"

    @staticmethod
    def isolated_star_tables(tract: int) -> dict[str, str]:
        """File names, in `isolated_star_folder`, of the tables of a tract."""
        return {name: f"{name}_{tract}.parquet" for name in ("isolated_star_cat", "isolated_star_sources")}

    @property
    def reserve_folder(self) -> str:
        """Folder of the tract products."""
        return f"{self.output}/reserve"

    def reserved_stars(self, tract: int) -> str:
        """File name, in `reserve_folder`, of a tract's sources with their reserve draw."""
        return f"reserved_stars_{tract}.parquet"

    def visit_folder(self, visit: int) -> str:
        """Folder of the products of a visit."""
        return f"{self.output}/{visit}"

    visit_list = "visit_list.parquet"
    """File name, in a visit's folder, of its reserve list."""

    visit_products = (
        "finalized_psf_ap_corr_catalog.fits",
        "finalized_src_table.parquet",
        "summary.parquet",
    )
    """File names, in a visit's folder, of what consolidation writes."""

    @staticmethod
    def piff_files(visit: int, detectors: Sequence[int], wanted: str) -> tuple[str, ...]:
        """File names, in a visit's folder, of the files for Piff (setting ``output.piff``)."""
        each = tuple(f"psf_{visit}_{detector:03d}.piff" for detector in detectors)
        return {"none": (), "visit": (f"psf_{visit}.piff",), "detector": each}[wanted]

    def detector_folder(self, visit: int) -> str:
        """Folder of the products of the detectors of a visit."""
        return f"{self.output}/{visit}/detectors"

    def aside_folder(self, visit: int) -> str:
        """Folder of finished products of a visit whose input files are absent for now."""
        return f"{self.output}/state/{visit}/aside"

    def detector_products(self, visit: int, detector: int) -> tuple[str, str]:
        """File names, in `detector_folder`, of the PSF/aperture-correction catalogue and the star table."""
        return (
            f"psf_ap_corr_{visit}_{detector:03d}.fits",
            f"finalized_src_{visit}_{detector:03d}.parquet",
        )

    survey_summary = "survey_summary.parquet"
    """File name, in the output folder, of the table of all detectors of the survey."""

    # -- records, stamps, logs -----------------------------------------------------------------------
    @property
    def state(self) -> str:
        """Folder of records and stamps."""
        return f"{self.output}/state"

    @property
    def lock(self) -> str:
        """File that one run at a time locks."""
        return f"{self.output}/state/lock"

    @property
    def run_record(self) -> str:
        """Record that names the run in progress."""
        return f"{self.output}/state/run.json"

    @property
    def progress(self) -> str:
        """File that grows by one byte per finished detector of the run."""
        return f"{self.output}/state/progress"

    @property
    def digest_cache(self) -> str:
        """File digests, by path, size and time stamp."""
        return f"{self.output}/state/cache/digests.jsonl"

    @property
    def code_cache(self) -> str:
        """Digests of library modules, by the digest of their bytes."""
        return f"{self.output}/state/cache/code.json"

    @property
    def ingredients(self) -> str:
        """Folder of what the digests of code, configuration and software stand for."""
        return f"{self.output}/state/ingredients"

    def run_folder(self, digest: str) -> str:
        """Frozen configuration and sheets of a run."""
        return f"{self.output}/state/runs/{digest}"

    def folder(self, unit: int | str) -> str:
        """Folder of records and stamps of a visit, or of ``associate``, ``reserve``, ``gate``, ``survey``."""
        return f"{self.output}/state/{unit}"

    def record(self, folder: int | str, name: str) -> str:
        """Record of a unit."""
        return f"{self.output}/state/{folder}/{name}.json"

    def log_folder(self, folder: int | str) -> str:
        """Folder of the logs that belong to `folder`."""
        return f"{self.output}/logs/{folder}"
