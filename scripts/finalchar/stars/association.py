"""Association of isolated stars: from the source tables of the visits to the tables of a tract.

Stars are found band by band: sources within a match radius of each other are one star, at the mean position
in the first band of `band_order` that has it; stars with a neighbour within the isolation radius are left
out, and those that another tract owns; the sources of every band within the match radius are a star's
sources.  Selection specification 1.5 and 1.6, whose numbers the comments give.

``compatibility: lsst`` gives the reference's rows in its order, as far as the processor sorts alike.
``fixed`` has the same stars [S-Q2]: ties in the greedy grouping are broken by a stated rule, nothing depends
on the order of rows in the source tables, groups do not end at the pixels into which the tract is split
(``nside_split`` says only in which order the stars stand), positions are averaged rightly across RA 0 and at
the poles, and the flag and the error of another ``inst_flux_field`` are looked at [S-Q1].
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import ConfigError, NoWorkError
from finalchar.formats.parquet import write_table
from finalchar.formats.sources import SourceTable
from finalchar.stars import selectors
from finalchar.stars.association_tables import Stars, make_tables
from finalchar.stars.greedy_groups import Groups, greedy_groups
from finalchar.stars.healpix import in_or_beside, nested_pixel, pixel_size_arcsec
from finalchar.stars.sphere import chord_of, mean_directions, unit_vectors
from finalchar.stars.tract_geometry import TractGeometry
from finalchar.stars.visit_sources import TractSources, read_tract_sources

__all__ = [
    "Association",
    "TractGeometry",
    "associate",
    "associate_isolated_stars",
    "write_isolated_stars",
]

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LSST_FLUX_FIELD = "normCompTophatFlux_instFlux"
"""The flux for which the names of flag, flux and error in the selector are written."""

WIDE_IN_RA = 1.0
"""A group that spans more degrees of RA crosses RA 0 or is at a pole."""


@dataclass(frozen=True)
class Association:
    """Isolated stars of a tract.

    Attributes
    ----------
    stars, sources : SourceTable
        Selection specification 1.1 and 1.2.
    figures : dict
        ``selected`` {visit: number of sources}, ``rows_read``, ``rows``, ``found`` {band: stars found in it
        first}, ``not_isolated``, ``of_other_tracts``, ``stars``, ``sources``, ``several_in_a_visit`` (stars
        with two sources or more in some visit), ``bands_ignored`` and ``sentence``.
    """

    stars: SourceTable
    sources: SourceTable
    figures: Mapping[str, Any]


def associate_isolated_stars(
    *,
    source_tables: Mapping[int, str | Path],
    geometry: TractGeometry,
    settings: Any,
    compatibility: str = "fixed",
) -> Association:
    """Make the tables of isolated stars of a tract.

    Parameters
    ----------
    source_tables : mapping of int to path
        The source table of each visit that may touch the tract.
    geometry : TractGeometry
    settings : IsolatedStarAssociation
        The section ``isolated_star_association``.
    compatibility : {'fixed', 'lsst'}
        See the module.

    Returns
    -------
    Association

    Raises
    ------
    InputError
        If there is no source table, or one is broken or lacks a column.
    ConfigError
        If the number of the tract is beyond ``number_of_tracts``.
    """
    if geometry.tract >= settings.number_of_tracts:
        raise ConfigError(
            f"isolated_star_association.number_of_tracts is {settings.number_of_tracts}, but there is a "
            f"tract {geometry.tract}; set it to the number of tracts of the sky map."
        )
    select, whole_tables = _selection(settings, compatibility)
    sources = read_tract_sources(
        source_tables, geometry, settings, select, whole_tables=whole_tables, compatibility=compatibility
    )
    return associate(sources, geometry, settings, compatibility=compatibility)


def write_isolated_stars(*, star_table: Path, source_table: Path, **arguments: Any) -> Mapping[str, Any]:
    """Write the tables of isolated stars of a tract as parquet files; return the figures.

    Parameters
    ----------
    star_table, source_table : Path
        What is written, whole or not at all.
    **arguments
        As of `associate_isolated_stars`.
    """
    made = associate_isolated_stars(**arguments)
    write_table(made.stars, star_table)
    write_table(made.sources, source_table)
    return made.figures


def associate(
    sources: TractSources, geometry: TractGeometry, settings: Any, *, compatibility: str = "fixed"
) -> Association:
    """Make the tables of isolated stars of selected sources; see `associate_isolated_stars`."""
    ra, dec = (_degrees(sources, name) for name in (settings.ra_column, settings.dec_column))
    band = sources.columns["band" if compatibility == "lsst" else settings.band_column]
    primaries = _merge_bands(ra, dec, band, settings, compatibility)
    isolated = primaries.select(_isolated(primaries, settings.isolation_radius))  # 1.6.6
    stars = isolated.select(geometry.owns(ra=isolated.ra, dec=isolated.dec))  # 1.6.7
    tables = make_tables(sources, stars, tract=geometry.tract, settings=settings, band=band)
    ignored = sorted(set(np.unique(band).tolist()) - set(settings.band_order))
    for name in ignored:
        log.warning("tract %d: sources of band %s are ignored; it is not in band_order", geometry.tract, name)
    figures = {
        "selected": {str(visit): number for visit, number in sources.selected.items()},
        "rows_read": sources.rows_read,
        "rows": sources.rows,
        "found": {name: int((primaries.band == name).sum()) for name in settings.band_order},
        "not_isolated": len(primaries) - len(isolated),
        "of_other_tracts": len(isolated) - len(stars),
        "stars": len(stars),
        "sources": len(tables.sources),
        "several_in_a_visit": tables.several_in_a_visit,
        "bands_ignored": ignored,
    }
    return Association(
        tables.stars, tables.sources, {**figures, "sentence": _sentence(geometry.tract, figures)}
    )


def _selection(settings: Any, compatibility: str) -> tuple[Callable[[Any], BoolArray], bool]:
    """The selector, and whether it looks at a visit as a whole."""
    chosen = settings.source_selector
    selector = selectors.get(chosen.name)
    section = getattr(chosen, chosen.name)
    if compatibility != "lsst" and chosen.name == "science":
        section = _for_flux(section, settings.inst_flux_field)

    def select(table: Any) -> BoolArray:
        try:
            return np.asarray(selector.select(table, section, compatibility=compatibility), dtype=bool)
        except NoWorkError:  # of a visit without any source that the selector can judge
            return np.zeros(len(table), dtype=bool)

    return select, getattr(selector, "LOOKS_AT_WHOLE_CATALOGUE", False)


def _for_flux(section: Any, flux: str) -> Any:
    """The settings of the selector with flux, error and flag of another ``inst_flux_field`` [S-Q1]."""
    if flux == LSST_FLUX_FIELD:
        return section
    names = {
        LSST_FLUX_FIELD: flux,
        f"{LSST_FLUX_FIELD}Err": f"{flux}Err",
        _flag(LSST_FLUX_FIELD): _flag(flux),
    }
    section = section.model_copy(deep=True)
    noise, flags = section.signalToNoise, section.flags
    noise.fluxField = names.get(noise.fluxField, noise.fluxField)
    noise.errField = names.get(noise.errField, noise.errField)
    flags.bad = list(dict.fromkeys(names.get(name, name) for name in flags.bad))
    return section


def _flag(flux: str) -> str:
    return flux.removesuffix("instFlux") + "flag"


def _degrees(sources: TractSources, name: str) -> FloatArray:
    return np.asarray(sources.columns[name], dtype=np.float64)


def _merge_bands(
    ra: FloatArray, dec: FloatArray, band: npt.NDArray[Any], settings: Any, compatibility: str
) -> Stars:
    """Stars of all bands: of each band those that no band before it has (1.6.5)."""
    from scipy.spatial import cKDTree

    chord = chord_of(settings.match_radius)
    width = max((len(name) for name in settings.band_order), default=1)
    found = Stars(np.zeros(0), np.zeros(0), np.zeros(0, dtype=f"U{width}"))
    find = _find_by_pixel if compatibility == "lsst" else _find
    for name in settings.band_order:
        rows = band == name
        if not rows.any():
            continue
        positions = find(ra[rows], dec[rows], settings)
        if len(found) and len(positions):
            tree = cKDTree(unit_vectors(ra=found.ra, dec=found.dec))
            distance, _ = tree.query(unit_vectors(ra=positions[:, 0], dec=positions[:, 1]))
            positions = positions[distance > chord]
        log.info("Found %d primary stars in %s band", len(positions), name)
        names = np.full(len(positions), name, dtype=found.band.dtype)
        found = Stars(
            np.concatenate([found.ra, positions[:, 0]]),
            np.concatenate([found.dec, positions[:, 1]]),
            np.concatenate([found.band, names]),
        )
    return found


def _find(ra: FloatArray, dec: FloatArray, settings: Any) -> FloatArray:
    """Mean positions of the groups of a band, in the order of the pixels into which the tract is split."""
    groups = greedy_groups(unit_vectors(ra=ra, dec=dec), chord_of(settings.match_radius))
    positions = _means(ra, dec, groups)
    pixel = nested_pixel(settings.nside_split, ra=positions[:, 0], dec=positions[:, 1])
    return positions[np.argsort(pixel, kind="stable")]


def _means(ra: FloatArray, dec: FloatArray, groups: Groups) -> FloatArray:
    """Mean RA and Dec of groups, in degrees; as directions where RA is not a coordinate to be averaged."""
    ra, dec = ra[groups.member], dec[groups.member]
    number = np.diff(groups.start, append=len(ra))
    positions = np.stack([np.add.reduceat(values, groups.start) / number for values in (ra, dec)], axis=1)
    width = np.maximum.reduceat(ra, groups.start) - np.minimum.reduceat(ra, groups.start)
    wide = np.flatnonzero(width > WIDE_IN_RA)
    if len(wide):
        rows = np.flatnonzero(np.repeat(width > WIDE_IN_RA, number))
        start = np.cumsum(number[wide]) - number[wide]
        positions[wide] = mean_directions(ra=ra[rows], dec=dec[rows], start=start)
    return positions


def _find_by_pixel(ra: FloatArray, dec: FloatArray, settings: Any) -> FloatArray:
    """Mean positions of the groups of a band as the reference finds them, pixel by pixel (1.6.2, 1.6.3)."""
    split, fine = settings.nside_split, _fine_nside(settings.nside_split, settings.match_radius)
    found = [np.zeros((0, 2))]
    for pixel in np.unique(nested_pixel(split, ra=ra, dec=dec)).tolist():
        near = in_or_beside(pixel, split, fine, ra=ra, dec=dec)
        positions = _means_by_coordinate(ra[near], dec[near], settings.match_radius)
        own = nested_pixel(split, ra=positions[:, 0], dec=positions[:, 1]) == pixel
        found.append(positions[own])
    return np.concatenate(found)


def _fine_nside(nside_split: int, match_radius: float) -> int:
    """Resolution of the boundaries of the pixels (1.6.2)."""
    nside = nside_split
    while pixel_size_arcsec(nside) > 10.0 * match_radius:
        nside *= 2
    return nside // 2


def _means_by_coordinate(ra: FloatArray, dec: FloatArray, match_radius: float) -> FloatArray:
    """Group positions and average their coordinates; RA is unwrapped if the pixel is at RA 0 (1.6.3)."""
    groups = greedy_groups(unit_vectors(ra=ra, dec=dec), chord_of(match_radius), compatibility="lsst")
    across_zero = bool(ra.min() < 60.0 and ra.max() > 300.0)
    if across_zero:
        ra = (ra + 180.0) % 360.0 - 180.0
    number = np.diff(groups.start, append=len(groups.member))
    means = [np.add.reduceat(values[groups.member], groups.start) / number for values in (ra, dec)]
    return np.stack([means[0] % 360.0 if across_zero else means[0], means[1]], axis=1)


def _isolated(stars: Stars, isolation_radius: float) -> BoolArray:
    """Whether stars have no other within the isolation radius (1.6.6)."""
    from scipy.spatial import cKDTree

    alone = np.ones(len(stars), dtype=bool)
    if len(stars):
        tree = cKDTree(unit_vectors(ra=stars.ra, dec=stars.dec))
        alone[tree.query_pairs(chord_of(isolation_radius), output_type="ndarray").ravel()] = False
    return alone


def _sentence(tract: int, figures: Mapping[str, Any]) -> str:
    if not sum(figures["selected"].values()):
        return f"tract {tract}: no selected sources in {len(figures['selected'])} visits"
    found = ", ".join(f"{number} in {band}" for band, number in figures["found"].items() if number)
    return (
        f"tract {tract}: {figures['stars']} isolated stars with {figures['sources']} sources; "
        f"found first: {found or 'none'}; "
        f"{figures['not_isolated']} not isolated, {figures['of_other_tracts']} of other tracts"
    )
