"""Columns of the star table: names, types, order, units, for the reference's and for production's input."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from finalchar.config import Config
from finalchar.formats.lsst_sources import read_source_table
from finalchar.formats.parquet import write_table
from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.measure.schema import expand_aliases, make_output_table
from finalchar.parity.reference import find_configurations

DATA = Path(__file__).parents[2] / "tests/data"
SMALL = DATA / "golden_small"
SRC = SMALL / "survey/src_2026011500101_0.fits"
NUMBERS = {"default": 788, "color_sky_fgcm": 805, "sky_oversampled": 800}
PRODUCTION_APERTURES = (3, 6, 9, 12, 17, 25, 35, 50, 70)
ARROW_TYPES = {"double": "float64", "float": "float32", "string": "<U10"}
ASTROPY_UNITS = {"count": "ct", "pixel": "pix", "pixel^2": "pix2", "radian": "rad"}


def configuration(name, compatibility="lsst"):
    (reference,) = find_configurations(SMALL, [name])
    return Config.from_lsst_overrides(
        reference.settings(), drop_unimplemented=True, compatibility=compatibility
    )


def make_table(config, selected, *, alias_columns=True):
    table = make_output_table(
        selected=selected,
        settings=config.measurement,
        sky_moments=config.do_add_sky_moments,
        fgcm_bands=config.fgcmPhotometryBands if config.do_add_fgcm_photometry else (),
        compatibility=config.compatibility,
    )
    return expand_aliases(table, alias_columns=alias_columns)


@pytest.fixture(scope="module", name="selected")
def rows_of_the_reference():
    return read_source_table(SRC).select(np.arange(5))


def dtypes(table):
    return ["<U10" if values.dtype.kind == "U" else str(values.dtype) for values in table.columns.values()]


@pytest.mark.parametrize("name", NUMBERS)
def test_columns_of_the_reference(selected, name):
    table = make_table(configuration(name), selected)
    reference = pq.read_schema(SMALL / name / "measured.parquet")
    own = ("_visit", "_detector")  # keys that the dump of the reference adds
    wanted = [field for field in reference if field.name not in own]
    assert len(table.columns) == NUMBERS[name]
    assert list(table) == [field.name for field in wanted]
    for field, dtype in zip(wanted, dtypes(table), strict=True):
        arrow = ARROW_TYPES.get(str(field.type), str(field.type))
        assert arrow == dtype, field.name


def test_units_and_sentences_of_the_reference(selected):
    table = make_table(configuration("default"), selected)
    wanted = json.loads((SMALL / "default/measured_columns.json").read_text())
    assert list(table) == [name for name in wanted if name in table.columns]
    for name in table:
        info = table.info.get(name, ColumnInfo())
        assert info.unit == wanted[name]["unit"], name
        assert info.description == wanted[name]["doc"], name


@pytest.mark.parametrize("compatibility", ["lsst", "fixed"])
def test_the_product_of_a_detector_has_these_columns(tmp_path, compatibility):
    """Not only the empty table: also what is written after all steps have filled their columns."""
    from golden_detectors import characterized

    from finalchar.formats.products import write_detector_products

    visit, detector = 2026011500101, 0
    config = configuration("default", compatibility)
    config.output.alias_columns = True
    result = characterized(SMALL, visit, detector, config)
    assert result.status.status == "ok", result.status.sentence
    write_detector_products(result, tmp_path / "psf.fits", tmp_path / "table.parquet")
    written = pq.read_schema(tmp_path / "table.parquet")
    reference = [
        field
        for field in pq.read_schema(SMALL / "default/measured.parquet")
        if field.name not in ("_visit", "_detector")
    ]
    assert [(field.name, field.type) for field in written][: len(reference)] == [
        (field.name, field.type) for field in reference
    ]
    own = written.names[len(reference) :]
    assert bool(own) == (compatibility == "fixed")
    assert all(name.startswith("finalchar_") for name in own)


def production_input(selected):
    """The reference's input with the apertures and the calibrated columns of production."""
    rows = len(selected)
    columns, info = {}, dict(selected.info)
    for name, values in selected.columns.items():
        if name.startswith("base_CircularApertureFlux_"):
            continue
        if name == "apcorr_base_CircularApertureFlux_12_0_used":
            for radius in PRODUCTION_APERTURES:
                columns |= _aperture_columns(
                    f"base_CircularApertureFlux_{radius}_0", radius <= 12, rows, info
                )
        columns[name] = values
    bases = [name.removesuffix("_instFlux") for name in columns if name.endswith("_instFlux")]
    for base in sorted(bases):
        for column, unit in (("flux", "nJy"), ("mag", "mag(AB)"), ("fluxErr", "nJy"), ("magErr", "mag(AB)")):
            columns[f"{base}_{column}"] = np.ones(rows)
            info[f"{base}_{column}"] = ColumnInfo(unit, "calibrated")
    return SourceTable(columns, info, selected.aliases)


def _aperture_columns(name, sinc, rows, info):
    flags = ["flag", "flag_apertureTruncated", *(["flag_sincCoeffsTruncated"] if sinc else [])]
    info[f"{name}_instFlux"] = info[f"{name}_instFluxErr"] = ColumnInfo("ct", "flux in a circle")
    numbers = {f"{name}_{column}": np.ones(rows) for column in ("instFlux", "instFluxErr")}
    return numbers | {f"{name}_{column}": np.zeros(rows, dtype=bool) for column in flags}


def test_columns_of_production(selected):
    with gzip.open(DATA / "production_columns.csv.gz", "rt", encoding="utf-8") as file:
        wanted = list(csv.DictReader(file))
    table = make_table(configuration("default"), production_input(selected))
    assert len(wanted) == 850
    assert list(table) == [row["name"] for row in wanted]
    assert dtypes(table) == [row["dtype"] for row in wanted]
    for row in wanted:
        unit = table.info.get(row["name"], ColumnInfo()).unit
        assert unit == ASTROPY_UNITS.get(row["unit"], row["unit"]), row["name"]


def test_copied_flags_show_under_all_their_names(selected):
    """A flagged centroid is seen as `base_PsfFlux_flag_badCentroid`, its kinds as ..._edge (0.3)."""
    copied = ("base_SdssCentroid_", "base_CircularApertureFlux_", "base_NormalizedCompensatedTophatFlux_")
    for name in [one for one in selected.columns if one.startswith(copied)]:
        if selected.columns[name].dtype == bool:
            selected = selected.with_columns({name: np.ones(len(selected), dtype=bool)})
    table = make_table(configuration("default"), selected)
    shown = {name for name, values in table.columns.items() if values.dtype == bool and values.all()}
    kinds = [name.removeprefix("base_SdssCentroid_flag") for name in shown if name.startswith(copied[0])]
    assert len(kinds) == 8
    for alias, target in make_table(configuration("default"), selected, alias_columns=False).aliases.items():
        if target == "base_SdssCentroid_flag":
            assert {f"{alias}{kind}" for kind in kinds} <= shown
    assert {f"slot_ApFlux_{name}" for name in ("flag", "flag_apertureTruncated")} <= shown
    assert "slot_CalibFlux_flag" in shown
    measured = {name for name in shown if not name.startswith((*copied, "slot_ApFlux_", "slot_CalibFlux_"))}
    assert all("Centroid" in name for name in measured)  # nothing else is set before it is measured


def test_without_alias_columns_only_true_names_are_left(selected):
    config = configuration("default")
    everything, plain = make_table(config, selected), make_table(config, selected, alias_columns=False)
    assert len(plain.columns) < len(everything.columns)
    assert list(plain) == [name for name in everything if name in plain.columns]
    assert not any(name.startswith("slot_") for name in plain.columns)
    assert "slot_PsfFlux_instFlux" in plain  # still known by its alias


def test_columns_of_our_own_follow_and_only_in_fixed(selected):
    reference = make_table(configuration("default"), selected)
    fixed = make_table(configuration("default", "fixed"), selected)
    own = list(fixed)[len(reference.columns) :]
    assert list(fixed)[: len(reference.columns)] == list(reference)
    assert own
    assert all(name.startswith("finalchar_") for name in own)
    assert not any(name.startswith("finalchar_") for name in reference)


def test_astropy_reads_units_and_descriptions_back(selected, tmp_path):
    from astropy.table import Table

    table = make_table(configuration("default"), selected)
    write_table(replace(table), tmp_path / "table.parquet")
    back = Table.read(tmp_path / "table.parquet")
    assert back.colnames == list(table)
    for name in table:
        info = table.info.get(name, ColumnInfo())
        assert str(back[name].unit or "") == info.unit, name
        assert (back[name].description or "") == info.description, name
    assert all(back[name].description for name in back.colnames)
