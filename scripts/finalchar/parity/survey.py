"""Where the inputs of a reference survey are, and which of its stars are isolated on a detector."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from finalchar.errors import InputError

__all__ = ["isolated_stars", "paths_of"]


def paths_of(root: Path, visit: int, detector: int) -> tuple[Path, Path, str]:
    """Return exposure, source catalogue and band of a detector."""
    survey = root / "survey"
    bands = _bands(survey)
    if (visit, detector) not in bands:
        raise InputError(
            f"{survey / 'inputs.json'} does not say the band of visit {visit} detector {detector}"
        )
    return (
        survey / f"calexp_{visit}_{detector}.fits",
        survey / f"src_{visit}_{detector}.fits",
        bands[visit, detector],
    )


@cache
def _bands(survey: Path) -> dict[tuple[int, int], str]:
    entries = json.loads((survey / "inputs.json").read_text(encoding="utf-8"))
    return {(entry["visit"], entry["detector"]): entry["band"] for entry in entries.values()}


def isolated_stars(root: Path, visit: int, detector: int, band: str, config: Any) -> Any:
    """Draw the reserved stars of all tracts and return the rows of a detector, with its standard stars."""
    from finalchar.characterize import standard_star_bands
    from finalchar.stars.visit_list import concatenate_isolated_stars

    tables = {
        name: {
            int(path.stem.rsplit("_", 1)[1]): path
            for path in sorted((root / "survey").glob(f"{name}_*.parquet"))
        }
        for name in ("isolated_star_cat", "isolated_star_sources", "fgcm_standard_star")
    }
    return concatenate_isolated_stars(
        tables["isolated_star_cat"],
        tables["isolated_star_sources"],
        band=band,
        visit=visit,
        detector=detector,
        settings=config.reserve_selection,
        id_column=config.id_column,
        fgcm_standard_star_dict=tables["fgcm_standard_star"] or None,
        fgcm_bands=standard_star_bands(config, band),
    )
