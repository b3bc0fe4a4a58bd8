"""Source tables of visits, made of positions: what the tests of the association read."""

import numpy as np

from finalchar.config import Config
from finalchar.formats.parquet import write_table
from finalchar.formats.sources import SourceTable
from finalchar.stars.association import associate_isolated_stars
from finalchar.stars.tract_geometry import TractGeometry
from finalchar.stars.visit_sources import persisted_columns

ARCSEC = 1.0 / 3600.0
AROUND_ZERO = TractGeometry(7, 359.0, 1.0, -1.0, 1.0)


def settings(**changes):
    section = Config().isolated_star_association
    for name, value in changes.items():
        setattr(section, name, value)
    return section


def source_table(ra, dec, *, visit=1, band="i", columns=None):
    """Good sources of a visit: a column as the defaults of the association need it, or as given."""
    number = len(ra)
    section = settings()
    table = {
        "sourceId": visit * 1000 + np.arange(number),
        "visit": np.full(number, visit),
        "detector": np.zeros(number, np.int16),
        "ra": np.array(ra, dtype=float),
        "dec": np.array(dec, dtype=float),
        "physical_filter": np.full(number, f"{band}_test", dtype="U6"),
        "band": np.full(number, band, dtype=f"U{len(band)}"),
        "parentSourceId": np.zeros(number, np.int64),
        "deblend_nChild": np.zeros(number, np.int32),
        "detect_isPrimary": np.ones(number, bool),
        "sizeExtendedness": np.zeros(number),
        "normCompTophatFlux_instFlux": np.full(number, 1000.0),
        "normCompTophatFlux_instFluxErr": np.full(number, 10.0),
    }
    table |= {name: np.zeros(number, bool) for name in section.source_selector.science.flags.bad}
    for name in persisted_columns(section):
        table.setdefault(name, np.zeros(number, bool) if name.endswith("flag") else np.arange(float(number)))
    return SourceTable({**table, **(columns or {})})


def write(folder, *tables):
    """Write source tables under the visits of their rows, or under the numbers from 1 on."""
    paths = {}
    for number, table in enumerate(tables, 1):
        visit = int(table["visit"][0]) if len(table) else number
        paths[visit] = folder / f"source_table_visit_{visit}.parquet"
        write_table(table, paths[visit])
    return paths


def associated(folder, *tables, geometry=AROUND_ZERO, compatibility="fixed", **changes):
    return associate_isolated_stars(
        source_tables=write(folder, *tables),
        geometry=geometry,
        settings=settings(**changes),
        compatibility=compatibility,
    )


def scattered(number, *, seed=1, centre=(0.0, 0.0), half=0.5):
    """Positions of stars in a square around a centre, degrees."""
    draw = np.random.default_rng(seed)
    ra = (centre[0] + draw.uniform(-half, half, number) / np.cos(np.radians(centre[1]))) % 360.0
    return ra, centre[1] + draw.uniform(-half, half, number)


def offset(ra, dec, arcsec, seed):
    """Positions moved by Gaussian offsets in both directions."""
    draw = np.random.default_rng(seed)
    moved = draw.normal(0.0, arcsec * ARCSEC, (2, len(ra)))
    return (ra + moved[0] / np.cos(np.radians(dec))) % 360.0, dec + moved[1]
