"""Tables of isolated stars and standard stars of the simulated surveys, in the columns of the LSST tasks.

The truth says which sources are the same star, so no positions have to be matched; everything else follows
the isolated-star association (selection specification 1.5, 1.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import SourceTable
from finalchar.simulate.render import ObjectsOnDetector
from finalchar.simulate.sky import BANDS, Sky
from finalchar.simulate.streams import stream
from finalchar.simulate.surveys import SkyPlan

__all__ = [
    "BAND_ORDER",
    "DetectorSources",
    "IsolatedTables",
    "associate",
    "match_to_truth",
    "standard_stars",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray]  # type: ignore[type-arg]

BAND_ORDER = ("i", "z", "r", "g", "y", "u")
ID_FACTOR = 100_000
ISOLATION_RADIUS = 2.0
MATCH_RADIUS_PIXELS = 2.0
BAD_FLAGS = (
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_interpolatedCenter",
    "base_PixelFlags_flag_saturatedCenter",
    "base_PixelFlags_flag_crCenter",
    "base_PixelFlags_flag_bad",
    "base_PixelFlags_flag_interpolated",
    "base_PixelFlags_flag_saturated",
    "base_SdssCentroid_flag",
    "base_NormalizedCompensatedTophatFlux_flag",
)
# Column of the isolated-star sources -> column of the source catalogue.
SOURCE_COLUMNS = {
    "normCompTophatFlux_instFlux": "base_NormalizedCompensatedTophatFlux_instFlux",
    "normCompTophatFlux_instFluxErr": "base_NormalizedCompensatedTophatFlux_instFluxErr",
    "x": "slot_Centroid_x",
    "y": "slot_Centroid_y",
    "xErr": "slot_Centroid_xErr",
    "yErr": "slot_Centroid_yErr",
    "apFlux_12_0_instFlux": "base_CircularApertureFlux_12_0_instFlux",
    "apFlux_12_0_instFluxErr": "base_CircularApertureFlux_12_0_instFluxErr",
    "apFlux_12_0_flag": "base_CircularApertureFlux_12_0_flag",
    "apFlux_17_0_instFlux": "base_CircularApertureFlux_17_0_instFlux",
    "apFlux_17_0_instFluxErr": "base_CircularApertureFlux_17_0_instFluxErr",
    "apFlux_17_0_flag": "base_CircularApertureFlux_17_0_flag",
    "localBackground_instFlux": "base_LocalBackground_instFlux",
    "localBackground_flag": "base_LocalBackground_flag",
    "ixx": "slot_Shape_xx",
    "iyy": "slot_Shape_yy",
    "ixy": "slot_Shape_xy",
}


@dataclass(frozen=True)
class DetectorSources:
    """The source catalogue of one detector with the truth of each source.

    `object_row` is the row in the sky's truth table of the object a source is, -1 for none.
    """

    visit: int
    detector: int
    band: str
    table: SourceTable
    object_row: IntArray


@dataclass(frozen=True)
class IsolatedTables:
    """Isolated stars and their sources, by tract; `object_row` is the truth of each star."""

    stars: Columns
    sources: Columns
    object_row: IntArray


def match_to_truth(table: SourceTable, objects: ObjectsOnDetector) -> IntArray:
    """Return for each source the truth row of the brightest object within 2 pixels, -1 if there is none."""
    from scipy.spatial import cKDTree

    found = np.full(len(table), -1, dtype=np.int64)
    if not len(objects.row):
        return found
    tree = cKDTree(np.column_stack([objects.x, objects.y]))
    centres = np.column_stack([table["slot_Centroid_x"], table["slot_Centroid_y"]])
    for index, near in enumerate(tree.query_ball_point(centres, MATCH_RADIUS_PIXELS)):
        if near:
            found[index] = objects.row[max(near, key=lambda k: objects.flux[k])]
    found[table["deblend_nChild"] > 0] = -1
    return found


def select_isolated(sources: DetectorSources, sky: Sky) -> npt.NDArray[np.bool_]:
    """Mark the sources of a detector that may belong to an isolated star."""
    table = sources.table
    good = (table["parent"] == 0) & (table["deblend_nChild"] == 0) & table["detect_isPrimary"]
    for name in BAD_FLAGS:
        good &= ~table[name]
    flux = table["base_NormalizedCompensatedTophatFlux_instFlux"]
    with np.errstate(invalid="ignore"):
        ratio = flux / table["base_NormalizedCompensatedTophatFlux_instFluxErr"]
        good &= (ratio > 8.0) & (ratio < 1000.0)
        good &= table["base_ClassificationSizeExtendedness_value"] < 0.1
    return np.asarray(good & (sources.object_row >= 0))


def associate(catalogues: list[DetectorSources], sky: Sky, plan: SkyPlan) -> dict[int, IsolatedTables]:
    """Make the isolated-star tables of both tracts.

    Parameters
    ----------
    catalogues : list of DetectorSources
        In order of visit and detector.
    sky : Sky
        The truth.
    plan : SkyPlan
        Numbers and common boundary of the tracts.
    """
    columns, objects = _stack_sources(catalogues, sky)
    rows, member = np.unique(objects, return_inverse=True)
    ra, dec, primary = _mean_positions(columns, member, len(rows))
    alone = _isolated(ra, dec)
    result = {}
    for tract, inside in zip(plan.tracts, (ra < plan.boundary_ra, ra >= plan.boundary_ra), strict=True):
        keep = np.flatnonzero(inside & alone)
        result[tract] = _tract_tables(tract, keep, rows, ra, dec, primary, columns, member)
    return result


def _stack_sources(catalogues: list[DetectorSources], sky: Sky) -> tuple[Columns, IntArray]:
    """Return the columns of all selected sources and their objects."""
    parts: list[Columns] = []
    objects: list[IntArray] = []
    row_in_visit: dict[int, int] = {}
    for sources in catalogues:
        start = row_in_visit.get(sources.visit, 0)
        row_in_visit[sources.visit] = start + len(sources.table)
        chosen = np.flatnonzero(select_isolated(sources, sky))
        parts.append(_source_columns(sources, chosen, start))
        objects.append(sources.object_row[chosen])
    stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return stacked, np.concatenate(objects)


def _source_columns(sources: DetectorSources, chosen: IntArray, first_row: int) -> Columns:
    table, number = sources.table, len(chosen)
    columns: Columns = {
        "sourceId": table["id"][chosen],
        "visit": np.full(number, sources.visit, dtype=np.int64),
        "detector": np.full(number, sources.detector, dtype=np.int16),
        "ra": np.degrees(table["coord_ra"][chosen]),
        "dec": np.degrees(table["coord_dec"][chosen]),
        "physical_filter": np.full(number, f"{sources.band}_synth"),
        "band": np.full(number, sources.band),
    }
    columns.update({name: table[origin][chosen] for name, origin in SOURCE_COLUMNS.items()})
    columns["source_row"] = (first_row + chosen).astype(np.int32)
    return columns


def _mean_positions(
    columns: Columns, member: IntArray, number: int
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.str_]]:
    """Return mean RA and Dec of each star in its primary band, the first of `BAND_ORDER` it is seen in."""
    rank = np.array([BAND_ORDER.index(band) for band in columns["band"]])
    first = np.full(number, len(BAND_ORDER))
    np.minimum.at(first, member, rank)
    counts = rank == first[member]
    weight = np.bincount(member, counts, number)
    ra = np.bincount(member, np.where(counts, columns["ra"], 0.0), number) / weight
    dec = np.bincount(member, np.where(counts, columns["dec"], 0.0), number) / weight
    return ra, dec, np.array(BAND_ORDER)[first]


def _isolated(ra: FloatArray, dec: FloatArray) -> npt.NDArray[np.bool_]:
    """Mark stars without another one within the isolation radius."""
    from scipy.spatial import cKDTree

    flat = np.column_stack([ra * np.cos(np.radians(dec.mean())), dec]) * 3600.0
    pairs = cKDTree(flat).query_pairs(ISOLATION_RADIUS, output_type="ndarray")
    alone = np.ones(len(ra), dtype=bool)
    alone[pairs.ravel()] = False
    return alone


def _tract_tables(
    tract: int,
    keep: IntArray,
    rows: IntArray,
    ra: FloatArray,
    dec: FloatArray,
    primary: npt.NDArray[np.str_],
    columns: Columns,
    member: IntArray,
) -> IsolatedTables:
    position = np.full(len(rows), -1)
    position[keep] = np.arange(len(keep))
    chosen = np.flatnonzero(position[member] >= 0)
    star = position[member[chosen]]
    rank = np.array([BAND_ORDER.index(band) for band in columns["band"][chosen]], dtype=np.int64)
    order = np.lexsort((chosen, rank, star))
    sources = {name: values[chosen[order]] for name, values in columns.items()}
    sources["obj_index"] = star[order].astype(np.int32)
    stars: Columns = {
        "isolated_star_id": (np.arange(len(keep), dtype=np.int64) + 1) * ID_FACTOR + tract,
        "ra": ra[keep],
        "dec": dec[keep],
        "primary_band": primary[keep],
    }
    stars.update(_slices(star, rank, len(keep)))
    return IsolatedTables(stars, sources, rows[keep])


def _slices(star: IntArray, rank: IntArray, number: int) -> Columns:
    """Return where the sources of each star stand: all bands, then band by band."""
    counts = np.zeros((number, len(BAND_ORDER)), dtype=np.int32)
    np.add.at(counts, (star, rank), 1)
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    starts = (ends - counts).astype(np.int32)
    columns: Columns = {
        "source_cat_index": starts[:, 0].copy(),
        "nsource": counts.sum(axis=1).astype(np.int32),
    }
    for index, band in enumerate(BAND_ORDER):
        columns[f"source_cat_index_{band}"] = starts[:, index].copy()
        columns[f"nsource_{band}"] = counts[:, index].copy()
    return columns


def standard_stars(tract: int, tables: IsolatedTables, sky: Sky, seed: int) -> Columns:
    """Make the FGCM standard stars of a tract: truth with noise, some absent or without a magnitude."""
    draw = stream(seed, "standard stars", tract)
    number = len(tables.object_row)
    present = np.flatnonzero(draw.uniform(size=number) > 0.08)
    truth = tables.object_row[present]
    offset = draw.normal(0.0, 0.03 / 3600.0, (2, len(present)))
    columns: Columns = {
        "fgcm_id": np.arange(1, len(present) + 1, dtype=np.int32),
        "isolated_star_id": tables.stars["isolated_star_id"][present],
        "ra": sky.ra[truth] + offset[0] / np.cos(np.radians(sky.dec[truth])),
        "dec": sky.dec[truth] + offset[1],
    }
    for band in BANDS:
        magnitude = sky.magnitude(band)[truth] + draw.normal(0.0, 0.006, len(present))
        columns[f"mag_{band}"] = magnitude.astype(np.float32)
        columns[f"magErr_{band}"] = np.full(len(present), 0.006, dtype=np.float32)
        columns[f"ngood_{band}"] = np.full(len(present), 3, dtype=np.int32)
    columns["mag_g"][draw.uniform(size=len(present)) < 0.03] = np.nan
    columns["mag_y"][draw.uniform(size=len(present)) < 0.10] = 99.0
    return columns
