"""K05: every setting of the association changes its tables, or is refused."""

from fnmatch import fnmatchcase

import numpy as np
import pytest
from made_source_tables import ARCSEC, AROUND_ZERO, settings, source_table, write

from finalchar.config_text import section_in
from finalchar.errors import ConfigError, MissingColumnError
from finalchar.stars.association import associate_isolated_stars

SCIENCE = "source_selector.science"

# Another value of each setting that acts on the tables below.
OTHER = {
    "inst_flux_field": "other_instFlux",
    "match_radius": 0.3,
    "nside_split": 4096,
    "isolation_radius": 5.0,
    "band_order": ["r", "i"],
    "id_column": "otherId",
    "ra_column": "other_ra",
    "dec_column": "other_dec",
    "physical_filter_column": "other_filter",
    "band_column": "other_band",
    "extra_columns": ["x"],
    "source_selector.name": "null",
    "number_of_tracts": 99,
    f"{SCIENCE}.doFluxLimit": True,
    f"{SCIENCE}.doSkySources": True,
    f"{SCIENCE}.doCentroidErrorLimit": True,
    f"{SCIENCE}.*.minimum": 60.0,
    f"{SCIENCE}.*.maximum": 90.0,
    f"{SCIENCE}.unresolved.maximum": 0.9,
    f"{SCIENCE}.unresolved.minimum": -0.5,
    f"{SCIENCE}.centroidErrorLimit.m*mum": 0.15,
    f"{SCIENCE}.fluxLimit.minimum": 600.0,
    f"{SCIENCE}.fluxLimit.maximum": 900.0,
    f"{SCIENCE}.centroidErrorLimit.centroidField": "other",
    f"{SCIENCE}.signalToNoise.fluxField": "other_instFlux",
    f"{SCIENCE}.signalToNoise.errField": "other_instFluxErr",
    f"{SCIENCE}.fluxLimit.fluxField": "other_instFlux",
    f"{SCIENCE}.*.good": ["detect_isOther"],
    f"{SCIENCE}.*.bad": ["detect_isOther"],
    f"{SCIENCE}.unresolved.name": "otherExtendedness",
    f"{SCIENCE}.isolated.parentName": "otherParentId",
    f"{SCIENCE}.isolated.nChildName": "other_nChild",
    f"{SCIENCE}.requireFiniteRaDec.raColName": "nan_ra",
    f"{SCIENCE}.requireFiniteRaDec.decColName": "nan_ra",
    f"{SCIENCE}.requirePrimary.primaryColName": "detect_isOther",
}
# What must be set besides: the switch that makes a block active, and a limit.
BESIDE = {
    f"{SCIENCE}.doFluxLimit": {f"{SCIENCE}.fluxLimit.minimum": 600.0},
    f"{SCIENCE}.fluxLimit.fluxField": {
        f"{SCIENCE}.doFluxLimit": True,
        f"{SCIENCE}.fluxLimit.minimum": 600.0,
    },
    f"{SCIENCE}.fluxLimit.*": {f"{SCIENCE}.doFluxLimit": True},
    f"{SCIENCE}.skyFlag.*": {f"{SCIENCE}.doSkySources": True},
    f"{SCIENCE}.centroidErrorLimit.*": {f"{SCIENCE}.doCentroidErrorLimit": True},
}
# Cuts that remove nothing that the tract looks at, with the reason.
WITHOUT_EFFECT = {f"{SCIENCE}.doRequireFiniteRaDec": "positions that are not finite are in no tract"}


def leaves(section=None, prefix=""):
    """Names of the settings of the section and of the selector science."""
    section = section or settings()
    for name, field in type(section).model_fields.items():
        if section_in(field.annotation) is None:
            yield f"{prefix}{name}"
        elif name in ("source_selector", "science") or prefix.startswith(SCIENCE):
            yield from leaves(getattr(section, name), f"{prefix}{name}.")


def fitting(table, path):
    return table.get(path) or next((v for pattern, v in table.items() if fnmatchcase(path, pattern)), None)


def visits():
    """Two visits of 16 stars, each of another kind, and pairs at 0.5 and 4 arcsec."""
    number = 16
    kind = np.arange(number)
    ra = 0.05 * (1 + kind)
    dec = np.where(kind == 1, 0.5 * ARCSEC, np.where(kind == 3, 4.0 * ARCSEC, 0.01 * kind))
    ra[1], ra[3], dec[0], dec[2] = ra[0], ra[2], 0.0, 0.0
    own = {
        "normCompTophatFlux_instFlux": np.where(
            kind == 4, 40.0, np.where(kind == 5, 50_000.0, 100.0 * (kind + 1))
        ),
        "sizeExtendedness": np.where(kind == 6, 0.5, np.where(kind == 14, -1.0, 0.0)),
        "parentSourceId": np.where(kind == 7, 5, 0),
        "deblend_nChild": np.where(kind == 8, 2, 0).astype(np.int32),
        "detect_isPrimary": kind != 9,
        "centroid_flag": kind == 10,
        "sky_source": kind == 9,
        "slot_Centroid_xErr": np.where(kind == 11, 5.0, 0.1 + 0.01 * kind),
        "slot_Centroid_yErr": np.full(number, 0.1),
        "slot_CalibFlux_instFlux": 100.0 * (kind + 1.0),
    }
    other = {
        "other_instFlux": 5.0 * (kind + 1),
        "other_instFluxErr": np.where(kind == 12, 1000.0, 5.0),
        "other_flag": kind == 12,
        "otherId": 7 * kind,
        "other_ra": ra + 0.01,
        "other_dec": dec + 0.01,
        "other_filter": np.full(number, "f"),
        "detect_isOther": (kind % 2 == 0) | (kind == 9),
        "otherExtendedness": 0.02 * kind,
        "otherParentId": np.where(kind == 13, 1, 0),
        "other_nChild": np.where(kind == 13, 1, 0),
        "nan_ra": np.where(kind == 13, np.nan, ra),
        "other_xErr": np.where(kind == 2, 5.0, 0.1),
        "other_yErr": np.full(number, 0.1),
    }
    for visit, band in ((1, "i"), (2, "r")):
        columns = {**own, **other, "other_band": np.full(number, "z"), "otherId": 7 * kind + 1000 * visit}
        yield source_table(ra, dec + 0.1 * visit * ARCSEC, visit=visit, band=band, columns=columns)


@pytest.fixture(name="tables", scope="module")
def _tables(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tables"), *visits())


def assign(section, path, value):
    *above, leaf = path.split(".")
    for part in above:
        section = getattr(section, part)
    setattr(section, leaf, value)


def outcome(tables, changes):
    section = settings()
    for path, value in changes.items():
        assign(section, path, value)
    made = associate_isolated_stars(source_tables=tables, geometry=AROUND_ZERO, settings=section)
    return [(name, table[name].tolist()) for table in (made.stars, made.sources) for name in table]


@pytest.mark.parametrize("path", list(leaves()))
def test_setting_acts(tables, path):
    before = fitting(BESIDE, path) or {}
    value = fitting(OTHER, path)
    if value is None:  # the switches that are on
        value = False
    acts = outcome(tables, before) != outcome(tables, {**before, path: value})
    assert acts != (path in WITHOUT_EFFECT), path


def test_lists_name_existing_settings():
    names = list(leaves())
    assert len(names) > 40
    for table in (OTHER, BESIDE, WITHOUT_EFFECT):
        assert all(any(fnmatchcase(name, pattern) for name in names) for pattern in table)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inst_flux_field", "psfFlux"),
        ("match_radius", 0.0),
        ("nside_split", 33),
        ("band_order", []),
        ("band_order", ["i", "i"]),
        ("number_of_tracts", 0),
    ],
)
def test_impossible_values_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"isolated_star_association.*{name}|{name}"):
        setattr(settings(), name, value)


@pytest.mark.parametrize("name", ["flagged", "objectSize", "references", "null"])
def test_other_selectors(tmp_path, name):
    """All of them run; what they need and is not there is named."""
    section = settings()
    section.source_selector.name = name
    columns = {
        "calib_psf_used": np.arange(16) % 2 == 0,
        "coord_ra": np.zeros(16),
        "coord_dec": np.zeros(16),
    }
    table = next(iter(visits()))
    tables = write(tmp_path, table.with_columns(columns))
    if name == "objectSize":
        with pytest.raises(MissingColumnError, match=r"slot_Shape_xx' is missing, which isolated_star_assoc"):
            associate_isolated_stars(source_tables=tables, geometry=AROUND_ZERO, settings=section)
        return
    made = associate_isolated_stars(source_tables=tables, geometry=AROUND_ZERO, settings=section)
    assert len(made.sources) == {"flagged": 8, "references": 16, "null": 16}[name]
