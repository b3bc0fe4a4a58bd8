"""The tasks for Python: names and calls as in the reference, the same code path as the workflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finalchar.characterize import (
    DetectorInputs,
    DetectorResult,
    Subtasks,
    characterize_detector,
    standard_star_bands,
)
from finalchar.config import Config
from finalchar.consolidate import stack_tables
from finalchar.errors import InputError
from finalchar.formats import products
from finalchar.formats.exposure import Exposure
from finalchar.formats.exposure_catalog import DETECTOR_COMMENTS, VISIT_COMMENTS, ExposureRecord
from finalchar.formats.sources import ColumnInfo, Footprints, SourceTable
from finalchar.psf_ap_corr import PsfApCorrCatalog, catalog_of
from finalchar.status import DetectorStatus

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "CharacterizationResult",
    "ConsolidateFinalizeCharacterizationDetectorTask",
    "ConsolidationResult",
    "FinalizeCharacterizationDetectorTask",
    "SourceCatalog",
    "read_source_catalog",
]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class SourceCatalog:
    """A source catalogue: its table and its footprints, row by row; None: found by segmentation."""

    table: SourceTable
    footprints: Footprints | None = None


def read_source_catalog(path: PathLike) -> SourceCatalog:
    """Read an LSST ``src`` catalogue with its footprints, if it has any."""
    from finalchar.formats.lsst_sources import find_footprints, read_source_table

    return SourceCatalog(read_source_table(path), find_footprints(path))


@dataclass(frozen=True)
class CharacterizationResult:
    """Result of a detector: catalogue and table are None where there is nothing; `status` says why."""

    psf_ap_corr_cat: PsfApCorrCatalog | None
    output_table: Table | None
    status: DetectorStatus
    result: DetectorResult

    def write(self, psf_ap_corr: PathLike, table: PathLike) -> None:
        """Write the two products as the workflow does."""
        products.write_detector_products(self.result, Path(psf_ap_corr), Path(table))


class FinalizeCharacterizationDetectorTask:
    """Final PSF, aperture corrections and star measurements of one detector.

    Parameters
    ----------
    config : Config, optional
        The configuration; it may be changed through the attribute `config` until `run`.

    Attributes
    ----------
    source_selector, make_psf_candidates, psf_determiner, measurement, measure_ap_corr, apply_ap_corr
        The subtasks. None takes what the configuration names; a callable (see
        `finalchar.characterize.Subtasks`) replaces that step.
    """

    ConfigClass = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = config if config is not None else Config()
        self.source_selector: Callable[..., Any] | None = None
        self.make_psf_candidates: Callable[..., Any] | None = None
        self.psf_determiner: Callable[..., Any] | None = None
        self.measurement: Callable[..., Any] | None = None
        self.measure_ap_corr: Callable[..., Any] | None = None
        self.apply_ap_corr: Callable[..., Any] | None = None

    def run(
        self,
        visit: int,
        band: str,
        detector: int,
        isolated_star_cat_dict: Mapping[int, Any],
        isolated_star_source_dict: Mapping[int, Any],
        src: SourceCatalog | PathLike,
        exposure: Exposure | PathLike,
        fgcm_standard_star_dict: Mapping[int, Any] | None = None,
    ) -> CharacterizationResult:
        """Characterise one detector.

        Parameters
        ----------
        visit, band, detector
            Which detector.
        isolated_star_cat_dict, isolated_star_source_dict : mapping of int to table or path
            By tract: astropy or pandas tables, or parquet files.
        src : SourceCatalog or path
            The source catalogue with its footprints.
        exposure : Exposure or path
            The exposure.
        fgcm_standard_star_dict : mapping of int to table or path, optional
            Needed for colours and magnitudes only.

        Returns
        -------
        CharacterizationResult
            Every outcome of the data is a status, not an exception.

        Raises
        ------
        InputError
            If an input is missing or broken.
        ConfigError
            If the configuration is impossible.
        """
        config = self.config.checked()
        isolated = _isolated_stars(
            config,
            isolated_star_cat_dict,
            isolated_star_source_dict,
            fgcm_standard_star_dict,
            band=band,
            visit=visit,
            detector=detector,
        )
        inputs = DetectorInputs(visit, detector, band, isolated)
        if len(isolated):
            catalog = src if isinstance(src, SourceCatalog) else read_source_catalog(src)
            inputs = DetectorInputs(
                visit, detector, band, isolated, _exposure(exposure), catalog.table, catalog.footprints
            )
        result = characterize_detector(inputs=inputs, config=config, subtasks=self._subtasks())
        return CharacterizationResult(
            None if result.record is None else catalog_of([result.record], DETECTOR_COMMENTS),
            None if result.table is None else to_astropy(result.table),
            result.status,
            result,
        )

    def _subtasks(self) -> Subtasks:
        return Subtasks(
            self.source_selector,
            self.make_psf_candidates,
            self.psf_determiner,
            self.measurement,
            self.measure_ap_corr,
            self.apply_ap_corr,
        )


def _exposure(exposure: Exposure | PathLike) -> Exposure:
    if isinstance(exposure, Exposure):
        return exposure
    from finalchar.formats.lsst_exposure import read_exposure

    return read_exposure(exposure)


def _isolated_stars(
    config: Config,
    stars: Mapping[int, Any],
    sources: Mapping[int, Any],
    fgcm: Mapping[int, Any] | None,
    *,
    band: str,
    visit: int,
    detector: int,
) -> Any:
    """Draw the reserved stars and return the detector's rows."""
    from finalchar.stars.visit_list import concatenate_isolated_stars

    bands = standard_star_bands(config, band)
    if bands and fgcm is None:
        raise InputError(
            "colours or FGCM magnitudes are asked for (useColor, do_add_fgcm_photometry), but "
            "fgcm_standard_star_dict is not given"
        )
    return concatenate_isolated_stars(
        stars,
        sources,
        band=band,
        visit=visit,
        detector=detector,
        settings=config.reserve_selection,
        id_column=config.id_column,
        fgcm_standard_star_dict=fgcm,
        fgcm_bands=bands,
    )


@dataclass(frozen=True)
class ConsolidationResult:
    """Catalogue and star table of a visit."""

    psf_ap_corr_cat: PsfApCorrCatalog
    output_table: Table


class ConsolidateFinalizeCharacterizationDetectorTask:
    """Put the results of the detectors of a visit together, in detector order.

    Parameters
    ----------
    config : Config, optional
        `compatibility` decides the comment of the catalogue [S-Q3].
    """

    ConfigClass = Config

    def __init__(self, config: Config | None = None) -> None:
        self.config = config if config is not None else Config()

    def run(
        self,
        psf_ap_corr_detector_dict: Mapping[int, PsfApCorrCatalog | PathLike],
        src_detector_table_dict: Mapping[int, Any],
    ) -> ConsolidationResult:
        """Consolidate a visit (selection specification 10.4).

        Parameters
        ----------
        psf_ap_corr_detector_dict : mapping of int to PsfApCorrCatalog or path
            By detector.
        src_detector_table_dict : mapping of int to table or path
            By detector.

        Raises
        ------
        InputError
            If there is nothing, or the two mappings or the tables do not agree.
        """
        detectors = sorted(psf_ap_corr_detector_dict)
        if not detectors:
            raise InputError("there is no detector to consolidate")
        if detectors != sorted(src_detector_table_dict):
            raise InputError(
                f"catalogues are given for the detectors {detectors} but tables for "
                f"{sorted(src_detector_table_dict)}"
            )
        records = [_record_of(psf_ap_corr_detector_dict[detector], detector) for detector in detectors]
        tables = [_table_of(src_detector_table_dict[detector]) for detector in detectors]
        comments = DETECTOR_COMMENTS if self.config.compatibility == "lsst" else VISIT_COMMENTS
        return ConsolidationResult(catalog_of(records, comments), to_astropy(stack_tables(tables)))


def _record_of(catalog: PsfApCorrCatalog | PathLike, detector: int) -> ExposureRecord:
    """Return the record of a detector, from a catalogue or a file."""
    if isinstance(catalog, PsfApCorrCatalog):
        if detector not in catalog:
            raise InputError(f"the catalogue given for detector {detector} has no entry of that detector")
        return catalog[detector].record
    record = products.read_detector_record(Path(catalog))
    if record.detector != detector:
        raise InputError(f"{catalog} is of detector {record.detector}, not of detector {detector}")
    return record


def _table_of(table: Any) -> SourceTable:
    """Return a star table from a path, a `SourceTable`, an astropy or a pandas table."""
    if isinstance(table, SourceTable):
        return table
    if isinstance(table, str | os.PathLike):
        return products.read_star_table(Path(table))
    from astropy.table import Table

    return from_astropy(table if isinstance(table, Table) else Table.from_pandas(table))


def to_astropy(table: SourceTable) -> Table:
    """Return a table as an astropy Table with units and descriptions."""
    from astropy.table import Table

    converted = Table(table.columns, copy=True)
    for name, info in table.info.items():
        if name in converted.colnames:
            converted[name].unit = info.unit or None
            converted[name].description = info.description or None
    return converted


def from_astropy(table: Table) -> SourceTable:
    """Return an astropy Table as a `SourceTable`."""
    import numpy as np

    columns = {name: np.asarray(table[name]) for name in table.colnames}
    info = {
        name: ColumnInfo(str(table[name].unit or ""), table[name].description or "")
        for name in table.colnames
    }
    return SourceTable(columns, info)
