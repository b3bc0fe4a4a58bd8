"""A catalogue that was written without footprints: the same detector, footprints by segmentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gaussian_psf import gaussian_determiner, quick_config

from finalchar import FinalizeCharacterizationDetectorTask, read_source_catalog
from finalchar.formats.afw_table import AfwTable, read_table, write_table
from finalchar.status import Status

SURVEY = Path(__file__).parents[3] / "tests/data/golden_small/survey"
VISIT, BAND = 2026011500101, "g"
TRACTS = (4906, 4907)
SRC = SURVEY / f"src_{VISIT}_0.fits"


def run(src, **changes):
    task = FinalizeCharacterizationDetectorTask(quick_config(**changes))
    task.psf_determiner = gaussian_determiner
    cats, sources = (
        {tract: SURVEY / f"{name}_{tract}.parquet" for tract in TRACTS}
        for name in ("isolated_star_cat", "isolated_star_sources")
    )
    return task.run(VISIT, BAND, 0, cats, sources, src, SURVEY / f"calexp_{VISIT}_0.fits")


@pytest.fixture(scope="module", name="without")
def catalogue_without_footprints(tmp_path_factory):
    path = tmp_path_factory.mktemp("src") / "src.fits"
    table = read_table(SRC)
    fields = tuple(field for field in table.fields if field.name != "footprint")
    columns = {name: values for name, values in table.columns.items() if name != "footprint"}
    write_table(AfwTable(fields, columns, table.aliases, "SOURCE"), path)
    return path


def test_fluxes_are_those_with_the_footprints_of_the_catalogue(without):
    given, own = run(SRC), run(without)
    assert own.status.status is Status.OK
    counts = own.status.counts
    assert counts["sources_without_segment"] < 0.1 * counts["sources"]
    assert "sources_sharing_segment" in counts
    flux, error = (given.output_table[f"base_PsfFlux_instFlux{end}"] for end in ("", "Err"))
    deviation = np.abs(own.output_table["base_PsfFlux_instFlux"] - flux) / error
    # The wings of faint neighbours that no segment holds, and other noise in the place of neighbours.
    assert np.median(deviation) < 0.1
    assert np.mean(deviation < 0.5) > 0.9
    assert not own.output_table["finalchar_Plausibility_flag_noFootprint"].any()


def test_the_reference_stops(without):
    result = run(without, compatibility="lsst")
    assert result.status.status is Status.INPUT_BROKEN
    assert "without footprints" in result.status.sentence


def test_a_table_without_footprints_from_python(without):
    catalog = read_source_catalog(without)
    assert catalog.footprints is None
    again = replace(read_source_catalog(SRC), footprints=None)
    first, second = run(catalog), run(again)
    np.testing.assert_array_equal(
        first.output_table["base_PsfFlux_instFlux"], second.output_table["base_PsfFlux_instFlux"]
    )
