"""Source tables of plain images, and the isolated stars that are found in them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finalchar.config import load_config
from finalchar.errors import FinalcharError, InputError
from finalchar.formats.parquet import read_columns
from finalchar.frozen import Configured, hold_lock
from finalchar.layout import Layout
from finalchar.provenance import CodeReader, FileDigests
from finalchar.simulate import make_survey
from finalchar.source_tables import write_source_tables
from finalchar.stars.association import TractGeometry, associate_isolated_stars
from finalchar.tabulated import outdated_table, tabulate

SCRIPTS = Path(__file__).parents[3] / "scripts"
VISITS = (101, 188)


@pytest.fixture(scope="module", name="survey")
def plain_survey(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    make_survey("micro", folder, report=None, form="images")
    command = [sys.executable, "-m", "finalchar", "tabulate", "--config", folder / "config.yaml"]
    done = subprocess.run(command, env={"PYTHONPATH": str(SCRIPTS)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"visit {VISITS[0]}: ")
    assert done.stdout.splitlines()[0].endswith(f"sources of 3 detectors in source_table_{VISITS[0]}.parquet")
    return folder


def test_tables_hold_the_sources_of_all_detectors(survey):
    table = read_columns(survey / "source_table_101.parquet", None)
    assert {*np.unique(table["visit"])} == {101}
    assert np.unique(table["detector"]).tolist() == [0, 1, 2]
    assert table["sourceId"].dtype == np.int64
    assert len(np.unique(table["sourceId"])) == len(table)
    assert table["ra"] == pytest.approx(np.full(len(table), 150.56), abs=0.1)
    assert set(table["band"]) == {"r"}


def test_isolated_stars_are_those_of_the_truth(survey):
    """The tables that come with the simulated survey are made from the truth."""
    settings = load_config(survey / "config.yaml").isolated_star_association
    tables = {visit: survey / f"source_table_{visit}.parquet" for visit in VISITS}
    found, given = set(), set()
    for tract, ra in ((4906, (149.0, 150.5607476635514)), (4907, (150.5607476635514, 152.0))):
        made = associate_isolated_stars(
            source_tables=tables, geometry=TractGeometry(tract, *ra, -30.0, -28.0), settings=settings
        )
        found |= set(np.asarray(made.sources["sourceId"]).tolist())
        truth = read_columns(survey / f"isolated_star_sources_{tract}.parquet", ["sourceId"])
        given |= set(truth["sourceId"].tolist())
    # Blends are told by other measures here.  Those beside are stars near edges and defects, which LSST's
    # flags of whole footprints leave out and those of a circle do not.
    assert len(found & given) > 0.9 * len(given)
    assert len(found - given) < 0.5 * len(given)


def test_what_cannot_be_tabulated(survey):
    configured = Configured.read(survey / "config.yaml", [f"survey={survey}"])
    visits, settings = configured.survey().visits, configured.config.input
    nameless = {101: [{**row, "source_table": ""} for row in visits[101]]}
    with pytest.raises(InputError, match="visit 101 has not one source table"):
        write_source_tables(nameless, survey=survey, settings=settings)
    settings.kind = "lsst"
    with pytest.raises(InputError, match="surveys of LSST bring theirs along"):
        write_source_tables(visits, survey=survey, settings=settings)


def outdated(survey, visit, *overrides):
    """What is said of a visit's table if a tract is given by its region."""
    configured = Configured.read(survey / "config.yaml", [f"survey={survey}", *overrides])
    tables = {str(each): f"source_table_{each}.parquet" for each in VISITS}
    with_region = replace(configured.survey(), tracts={7: {"tract": 7, "source_tables": tables}})
    with_region = replace(with_region, layout=Layout(str(survey / "output")))
    return outdated_table(with_region, visit, CodeReader(), FileDigests())


def test_a_table_that_was_made_of_other_files_is_told(survey):
    """The workflow does not make these tables: without a word old ones would be taken for good."""
    assert outdated(survey, 101) is None
    assert "config changed" in outdated(survey, 101, "input.images.offset=1")
    assert outdated(survey, 101, "compatibility=lsst") is None
    path = survey / "flag_101_1.fits"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\1")
    told = outdated(survey, 101)
    assert "visit 101: the source table source_table_101.parquet" in told
    assert "flag of detector 1 flag_101_1.fits has other content" in told
    assert "finalchar tabulate" in told
    assert outdated(survey, 188) is None
    path.write_bytes(content)
    os.utime(path, (1, 1))
    assert outdated(survey, 101) is None


def test_a_table_of_somebody_else_is_no_concern(survey):
    path = survey / "source_table_188.parquet"
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    assert outdated(survey, 188, "input.images.offset=1") is None
    path.write_bytes(content)
    assert outdated(survey, 188, "input.images.offset=1") is not None


def test_tables_are_not_written_under_a_run(survey, tmp_path):
    configured = Configured.read(survey / "config.yaml", [f"survey={survey}", f"output={tmp_path / 'out'}"])
    with (
        hold_lock(configured.layout.lock),
        pytest.raises(FinalcharError, match="a run is working on this output"),
    ):
        tabulate(configured.survey(), configured.config.input)
