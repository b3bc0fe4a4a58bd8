"""A survey whose sheet gives regions of tracts instead of tables: the stars are found by the workflow.

The source tables of the micro survey are made of the sources of its isolated stars, so that the same stars
must be found; the products are those of a plain run that associates in one process.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import VISITS
from trial import Trial, expect, nothing

pytestmark = pytest.mark.xdist_group("association")  # one run follows on the other

BOUNDARY = 150.5607476635514  # of the two tracts of the micro survey
REGIONS = {4906: (148.9, BOUNDARY, -29.8, -28.2), 4907: (BOUNDARY, 152.3, -29.8, -28.2)}
SETTINGS = """isolated_star_association:
  source_selector:
    name: "null"
"""


def source_table(visit: int) -> str:
    return f"source_table_visit_{visit}.parquet"


def star_table(folder: Path, tract: int) -> pd.DataFrame:
    table = pd.read_parquet(folder / f"isolated_star_cat_{tract}.parquet")
    return table.sort_values(["ra", "dec"]).reset_index(drop=True)


@pytest.fixture(name="survey", scope="module")
def _survey(tmp_path_factory: pytest.TempPathFactory, micro_survey: Path) -> Path:
    """The micro survey with source tables, and sheets that name them and the regions of the tracts."""
    folder = tmp_path_factory.mktemp("regions")
    for path in micro_survey.iterdir():
        if path.suffix != ".csv" and not path.name.startswith("isolated_star"):
            (folder / path.name).symlink_to(path)
    parts = [pd.read_parquet(micro_survey / f"isolated_star_sources_{tract}.parquet") for tract in REGIONS]
    sources = pd.concat(parts).drop(columns=["source_row", "obj_index"]).sort_values("sourceId")
    for visit in VISITS:
        sources[sources["visit"] == visit].to_parquet(folder / source_table(visit), index=False)
    with open(micro_survey / "detectors.csv") as file:
        rows = [{**row, "source_table": source_table(int(row["visit"]))} for row in csv.DictReader(file)]
    pd.DataFrame(rows).to_csv(folder / "detectors.csv", index=False)
    tracts = pd.DataFrame([(tract, *map(repr, limits)) for tract, limits in REGIONS.items()])
    tracts.columns = pd.Index(["tract", "ra_min", "ra_max", "dec_min", "dec_max"])
    tracts.to_csv(folder / "tracts.csv", index=False)
    return folder


@pytest.fixture(name="trial", scope="module")
def _trial(tmp_path_factory: pytest.TempPathFactory, survey: Path, references: Path) -> Trial:
    trial = Trial.make(tmp_path_factory.mktemp("association"), survey, references=references)
    trial.add_config(SETTINGS)
    return trial


def test_stars_are_found_and_the_products_are_those_of_a_plain_run(trial: Trial, micro_survey: Path) -> None:
    assert "due: 2 tracts, 2 of 2 visit lists" in trial.finalchar("status").stdout
    outcome = trial.run()
    assert outcome.status == 0, outcome.text[-3000:]
    assert outcome.computed["association"] == outcome.computed["tract"] == 2
    assert trial.differences() == []
    for tract in REGIONS:
        found, simulated = (
            star_table(folder, tract) for folder in (trial.output / "isolated_stars", micro_survey)
        )
        assert np.allclose(found["ra"], simulated["ra"], rtol=0, atol=1e-12)  # means in another order
        assert list(found["nsource"]) == list(simulated["nsource"])
    expect(trial, nothing())


def test_unused_column_and_lost_table_cost_the_stars_and_nothing_else(trial: Trial) -> None:
    path = trial.survey / source_table(VISITS[0])
    pd.read_parquet(path).assign(unused=1.0).to_parquet(path, index=False)
    (trial.output / "isolated_stars" / "isolated_star_cat_4907.parquet").unlink()
    assert "isolated_star_cat_4907.parquet is missing" in trial.finalchar("verify").stdout
    outcome = trial.run()
    assert outcome.status == 0, outcome.text[-3000:]
    assert outcome.computed == {"association": 2}
    assert trial.differences() == []


def test_missing_source_table_and_one_without_a_column(trial: Trial) -> None:
    """K24: a sentence at planning; a broken table is the status of the visits, and no run is good."""
    path = trial.survey / source_table(VISITS[1])
    sound = path.read_bytes()
    path.unlink()
    assert f"the file {path.name} of tract 4906 is missing" in trial.finalchar("status").stdout
    path.write_bytes(sound)
    pd.read_parquet(path).drop(columns="ixx").to_parquet(path, index=False)
    outcome = trial.run()
    assert outcome.status == 1
    assert (
        f"{path.name}: the column 'ixx' is missing, which isolated_star_association.extra_columns"
        in outcome.text
    )
    summary = pd.read_parquet(trial.output / str(VISITS[0]) / "summary.parquet")
    assert set(summary["status"]) == {"input_broken"}
    path.write_bytes(sound)
    outcome = trial.run()
    assert outcome.status == 0, outcome.text[-3000:]
    assert trial.differences() == []
