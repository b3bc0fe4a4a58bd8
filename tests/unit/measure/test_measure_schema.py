"""Columns, slots and aliases of the star table."""

from __future__ import annotations

import numpy as np
import pytest

from finalchar.errors import ConfigError, InputError
from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.measure import expand_aliases, make_output_table, plugins
from finalchar.measure.schema import aliases_of


@pytest.fixture(name="selected")
def selected_rows(scene_of):
    return scene_of(x=[60.0, 150.0], y=[70.0, 120.0], flux=[2e4, 3e4]).catalogue()


def test_copied_columns_come_first_in_the_order_of_the_specification(selected, settings_of):
    table = make_output_table(selected=selected, settings=settings_of(), compatibility="lsst")
    assert list(table)[:15] == [
        "id",
        "coord_ra",
        "coord_dec",
        "parent",
        "base_SdssCentroid_x",
        "base_SdssCentroid_y",
        "base_SdssCentroid_flag",  # only because an alias of the apertures points to it: M-Q1
        "base_SdssCentroid_flag_edge",
        "base_CircularApertureFlux_12_0_instFlux",
        "base_CircularApertureFlux_12_0_flag",
        "base_NormalizedCompensatedTophatFlux_instFlux",
        "base_NormalizedCompensatedTophatFlux_instFluxErr",
        "base_NormalizedCompensatedTophatFlux_flag",
        "calib_psf_selection_flux",
        "calib_psf_selection_flux_err",
    ]
    for name in list(table)[:13]:
        assert np.array_equal(table[name], selected[name])
        assert not np.shares_memory(table.columns[name], selected.columns[name])
    assert np.array_equal(table["calib_psf_selection_flux"], selected["base_GaussianFlux_instFlux"])
    assert "deblend_nChild" not in table.columns


def test_without_that_alias_the_centroid_has_no_flag(selected, settings_of):
    del selected.aliases["base_CircularApertureFlux_flag_badCentroid"]
    table = make_output_table(selected=selected, settings=settings_of(), compatibility="lsst")
    assert "base_SdssCentroid_flag" not in table.columns
    assert "slot_Centroid_flag" not in table


def test_defaults_say_that_nothing_was_measured(selected, settings_of):
    table = make_output_table(selected=selected, settings=settings_of(), compatibility="fixed")
    assert np.isnan(table["base_PsfFlux_instFlux"]).all()
    assert not table["base_PsfFlux_flag"].any()
    assert table["base_PsfFlux_npixels"].tolist() == [0, 0]
    assert table["psf_color_type"].tolist() == ["", ""]
    assert table["psf_color_type"].dtype == np.dtype("U10")
    assert table["detector"].dtype == np.int32
    assert all(len(table[name]) == 2 for name in table)


def test_optional_columns(selected, settings_of):
    plain = make_output_table(selected=selected, settings=settings_of(), compatibility="lsst")
    full = make_output_table(
        selected=selected,
        settings=settings_of(),
        sky_moments=True,
        fgcm_bands=["g", "y"],
        compatibility="lsst",
    )
    added = [name for name in full if name not in plain.columns]
    assert added == [
        *("shape_Iuu", "shape_Ivv", "shape_Iuv", "psfShape_Iuu", "psfShape_Ivv", "psfShape_Iuv"),
        *("shape_Ialtalt", "shape_Iazaz", "shape_Ialtaz"),
        *("psfShape_Ialtalt", "psfShape_Iazaz", "psfShape_Ialtaz"),
        *("fgcm_mag_g", "fgcm_mag_y"),
    ]
    assert all(full[name].dtype == np.float32 for name in added)
    names = list(full)
    assert names[names.index("shape_Iuu") - 1] == "psf_max_value"
    assert names[names.index("fgcm_mag_y") + 1] == "base_FPPosition_x"


def test_fewer_plugins_give_fewer_columns_and_corrections(selected, settings_of):
    settings = settings_of(names=["base_PsfFlux"])
    table = make_output_table(selected=selected, settings=settings, compatibility="lsst")
    assert "base_GaussianFlux_instFlux" not in table.columns
    assert [name for name in table if name.startswith("apcorr_")] == [
        "apcorr_slot_CalibFlux_used",
        "apcorr_base_PsfFlux_used",
    ]
    assert list(table)[-3:] == [
        "base_PsfFlux_apCorr",
        "base_PsfFlux_apCorrErr",
        "base_PsfFlux_flag_apCorr",
    ]


def test_slots_and_aliases(selected, settings_of):
    aliases = aliases_of(selected, settings_of(), "lsst")
    assert aliases["slot_Centroid"] == "base_SdssCentroid"
    assert aliases["slot_Shape"] == "ext_shapeHSM_HsmSourceMoments"  # not the input's
    assert aliases["base_GaussianFlux_flag_badShape"] == "ext_shapeHSM_HsmSourceMoments_flag"
    for name in ("base_PsfFlux", "ext_shapeHSM_HsmPsfMoments", "ext_shapeHSM_HigherOrderMomentsPSF"):
        assert aliases[f"{name}_flag_badCentroid"] == "base_SdssCentroid_flag"
    for name in ("base_FPPosition", "ext_shapeHSM_HigherOrderMomentsSource"):
        assert f"{name}_flag_badCentroid" not in aliases
    assert "base_CircularApertureFlux_flag_badCentroid" not in aliases


def test_a_slot_of_the_configuration_overrides_the_input(selected, settings_of):
    selected["base_NaiveCentroid_x"] = np.zeros(2)
    selected["base_NaiveCentroid_y"] = np.zeros(2)
    settings = settings_of()
    settings.slots.centroid = "base_NaiveCentroid"
    table = make_output_table(selected=selected, settings=settings, compatibility="lsst")
    assert table.resolve("slot_Centroid_x") == "base_NaiveCentroid_x"
    assert "base_SdssCentroid_x" not in table.columns


def test_aliases_are_expanded_by_plain_prefix_in_ascii_order():
    columns = {name: np.arange(2) for name in ("a_flag", "ab_x", "a", "z")}
    info = {"ab_x": ColumnInfo("pix", "a place")}
    table = SourceTable(columns, info, {"slot_A": "a", "Slot": "ab", "b": "a_f", "none": "missing"})
    shown = expand_aliases(table)
    assert list(shown.columns) == [
        *("a_flag", "blag", "slot_A_flag"),
        *("ab_x", "Slot_x", "slot_Ab_x"),
        *("a", "slot_A", "z"),
    ]
    assert shown.columns["Slot_x"] is columns["ab_x"]
    assert shown.info["slot_Ab_x"] == ColumnInfo("pix", "a place")
    assert shown.aliases == {}


def test_alias_columns_can_be_left_out(selected, settings_of):
    table = make_output_table(selected=selected, settings=settings_of(), compatibility="fixed")
    assert expand_aliases(table, alias_columns=False) is table
    assert "slot_ShapeRound_xx" in expand_aliases(table).columns  # M-Q2


@pytest.mark.parametrize("slot", ["slot_Centroid", "slot_ApFlux", "slot_CalibFlux"])
def test_a_missing_slot_is_named(selected, settings_of, slot):
    del selected.aliases[slot]
    with pytest.raises(InputError, match=slot):
        make_output_table(selected=selected, settings=settings_of(), compatibility="lsst")


@pytest.mark.parametrize(
    "column", ["coord_ra", "parent", "base_SdssCentroid_y", "base_GaussianFlux_instFluxErr"]
)
def test_a_missing_column_is_named(selected, settings_of, column):
    del selected.columns[column]
    with pytest.raises(InputError, match=column):
        make_output_table(selected=selected, settings=settings_of(), compatibility="lsst")


def test_two_measurements_of_one_column_are_refused(selected, settings_of):
    selected["base_CircularApertureFlux_12_0_x"] = np.zeros(2)
    columns = selected.columns
    columns["base_PsfFlux_instFlux"] = np.zeros(2)
    selected.aliases["slot_CalibFlux"] = "base_PsfFlux"
    with pytest.raises(InputError, match="'base_PsfFlux_instFlux' is copied from there and measured as well"):
        make_output_table(selected=selected, settings=settings_of(), compatibility="lsst")


@pytest.mark.parametrize("name", plugins.names())
def test_every_plugin_describes_its_columns(name):
    module = plugins.get(name)
    plugin = module.Plugin(name, module.Settings())
    fields = plugin.fields()
    assert len({field.name for field in fields}) == len(fields)
    for field in fields:
        assert field.name.startswith(name)
        assert field.description
        assert np.dtype(field.dtype)
    flags = {field.name for field in fields if field.dtype == "bool"}
    # the aperture plugins have a general flag per radius, as in the reference
    per_radius = {
        f"{field.name.removesuffix('_instFlux')}_flag" for field in fields if "_instFlux" in field.name
    }
    assert f"{name}_flag" in flags or {one for one in per_radius if "Err" not in one} <= flags
    for flux in plugin.fluxes():
        assert {f"{flux}_instFlux", f"{flux}_instFluxErr", f"{flux}_flag"} <= {f.name for f in fields}


def test_settings_refuse_unknown_fields():
    with pytest.raises(ConfigError):
        plugins.get("base_PsfFlux").Settings().badMaskPlane = ["BAD"]
