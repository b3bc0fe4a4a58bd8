"""Changes of the tract tables of the micro survey."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

TRACT = 4906
VISITS = (2026011500101, 2026011500188)


def change_table(path: Path, change: Callable[[Any], Any]) -> None:
    """Read a parquet table, change it, write it again."""
    table = pd.read_parquet(path)
    pd.DataFrame(change(table)).to_parquet(path)


def sources(survey: Path, tract: int = TRACT) -> Path:
    return survey / f"isolated_star_sources_{tract}.parquet"


def stars(survey: Path, tract: int = TRACT) -> Path:
    return survey / f"isolated_star_cat_{tract}.parquet"


def lose_one_source(survey: Path, visit: int, detector: int) -> None:
    """Let one source of one detector have another id, so that only this detector sees another list."""

    def change(table: Any) -> Any:
        mine = table.index[(table["visit"] == visit) & (table["detector"] == detector)]
        assert len(mine)
        table.loc[mine[0], "sourceId"] += 1
        return table

    change_table(sources(survey), change)


def change_unused_column(survey: Path) -> None:
    change_table(sources(survey), lambda table: table.assign(unused=1.0))


def add_unused_row(survey: Path) -> None:
    """Add a source of a visit that is not in the sheet."""

    def change(table: Any) -> Any:
        row = table.iloc[[0]].assign(visit=999, sourceId=table["sourceId"].max() + 1000)
        return pd.concat([table, row], ignore_index=True)

    change_table(sources(survey), change)


def add_unused_star(survey: Path) -> None:
    """Add a star without any source."""

    def change(table: Any) -> Any:
        row = table.iloc[[0]].copy()
        row["isolated_star_id"] = table["isolated_star_id"].max() + 1
        for name in table.columns:
            if name.startswith("nsource"):
                row[name] = 0
        return pd.concat([table, row.astype(table.dtypes)], ignore_index=True)

    change_table(stars(survey), change)
