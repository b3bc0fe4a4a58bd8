"""The visit stage: one PSF catalogue, one star table and one summary of all detectors (specification 10.4).

Rows and catalogue entries come in detector order.  A detector without work is absent from both and present,
with its reason, in the summary; PSF bytes are copied, never pickled again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats import products
from finalchar.formats.exposure_catalog import ExposureRecord
from finalchar.formats.psfs import PiffPsf
from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.status import DetectorStatus, Status

__all__ = [
    "DetectorProducts",
    "VisitSummary",
    "check_reserve_digests",
    "consolidate_visit",
    "stack_tables",
    "summarize_survey",
    "summary_table",
]

COUNTS = (
    "sources",
    "selected",
    "isolated_sources",
    "candidates",
    "reserved",
    "good_stamps",
    "available",
    "used",
    "measured",
)
"""Counts of every detector, in the order of the way; -1 where the detector did not come so far."""

VISIT_FILES = {
    "psf_ap_corr": "finalized_psf_ap_corr_catalog.fits",
    "table": "finalized_src_table.parquet",
    "summary": "summary.parquet",
}


@dataclass(frozen=True)
class DetectorProducts:
    """What consolidation gets of a detector: its status and the paths of its products (None: it has none)."""

    status: DetectorStatus
    psf_ap_corr: Path | None = None
    table: Path | None = None


@dataclass(frozen=True)
class VisitSummary:
    """The outcome of a visit: is it complete, how many rows and PSFs, one sentence, and the warnings."""

    visit: int
    band: str
    complete: bool
    detectors: int
    rows: int
    psfs: int
    sentence: str
    warnings: tuple[str, ...] = ()


def consolidate_visit(
    *,
    visit: int,
    band: str,
    detectors: Sequence[DetectorProducts],
    reserve_digests: Mapping[int, str],
    config: Any,
    output: Path,
) -> VisitSummary:
    """Write the products of a visit from those of all its detectors.

    Parameters
    ----------
    visit : int
        Visit number.
    band : str
        Band of the visit.
    detectors : sequence of DetectorProducts
        Every detector of the sheet, with or without products.
    reserve_digests : mapping of int to str
        Digest of the reserve list of each tract in this band.
    config : Config
        `compatibility` and `output.piff` are used.
    output : Path
        Folder of the visit.

    Returns
    -------
    VisitSummary
        What was made.

    Raises
    ------
    InputError
        If the products do not agree with each other (columns, types, detectors).
    """
    detectors = sorted(detectors, key=lambda each: each.status.detector)
    output.mkdir(parents=True, exist_ok=True)
    paths = {name: output / file for name, file in VISIT_FILES.items()}
    with_rows = [each for each in detectors if each.psf_ap_corr is not None]
    _check_pairs(with_rows)
    tables = [products.read_star_table(each.table) for each in with_rows if each.table is not None]
    rows = _write_stars(tables, paths["table"])
    records = _write_catalogue(with_rows, paths["psf_ap_corr"], config.compatibility)
    warnings = (
        *_write_piff_files(records, visit, output, config.output.piff),
        *_software_differences(detectors),
        *_far_corrections(detectors),
    )
    table = summary_table(detectors, reserve_digests)
    products.write_table(table, paths["summary"])
    return _summary(visit, band, detectors, rows, warnings)


def _write_stars(tables: Sequence[SourceTable], path: Path) -> int:
    """Write the star table; without any row there is no table (an older one is removed)."""
    if not tables:
        path.unlink(missing_ok=True)
        return 0
    stacked = stack_tables(tables)
    products.write_table(stacked, path)
    return len(stacked)


def _write_catalogue(
    detectors: Sequence[DetectorProducts], path: Path, compatibility: str
) -> list[ExposureRecord]:
    """Write the catalogue; without any record there is none (an older one is removed)."""
    records = [products.read_detector_record(each.psf_ap_corr) for each in detectors if each.psf_ap_corr]
    for each, record in zip(detectors, records, strict=True):
        if (record.visit, record.detector) != (each.status.visit, each.status.detector):
            raise InputError(
                f"{each.psf_ap_corr} is of visit {record.visit} detector {record.detector}, not of visit "
                f"{each.status.visit} detector {each.status.detector}; make the detector again"
            )
    if records:
        products.write_visit_catalogue(records, path, compatibility=compatibility)
    else:
        path.unlink(missing_ok=True)
    return records


def _write_piff_files(records: Sequence[ExposureRecord], visit: int, folder: Path, wanted: str) -> list[str]:
    """Write files that ``piff.read`` opens, one per detector or one per visit; older ones are removed."""
    for path in folder.glob("psf_*.piff"):
        path.unlink()
    models = {each.detector: each.psf.pickle for each in records if isinstance(each.psf, PiffPsf)}
    if wanted == "none" or not models:
        return []
    from finalchar.psf.piff_store import export_piff, export_piff_visit

    try:
        if wanted == "visit":
            export_piff_visit(models, folder / f"psf_{visit}.piff")
        else:
            for detector, model in models.items():
                export_piff(model, folder / f"psf_{visit}_{detector:03d}.piff")
    except InputError as error:
        return [f"no file for Piff was written: {error}"]
    return []


def _check_pairs(detectors: Sequence[DetectorProducts]) -> None:
    """Refuse a catalogue without a star table or the other way round."""
    for each in detectors:
        if each.table is None:
            raise InputError(
                f"visit {each.status.visit} detector {each.status.detector} has a PSF catalogue but no star "
                "table; make the detector again"
            )


# ------------------------------------------------------------------------------------------- star table


def stack_tables(tables: Sequence[SourceTable]) -> SourceTable:
    """Stack star tables one below the other, in the order given (specification 10.4).

    Raises
    ------
    InputError
        If names, order or types of the columns differ; the column is named.
    """
    if not tables:
        raise InputError("there is no star table to stack")
    filled = [table for table in tables if len(table)] or [tables[0]]
    first = filled[0]
    for table in filled[1:]:
        _check_same_columns(first, table)
    columns = {name: _join([table.columns[name] for table in filled]) for name in first}
    return SourceTable(columns, dict(first.info), dict(first.aliases))


def _join(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts)


def _check_same_columns(first: SourceTable, other: SourceTable) -> None:
    """Refuse tables of different shape, naming the first column that differs."""
    names, others = list(first), list(other)
    if names != others:
        differing = sorted(set(names) ^ set(others)) or [
            a for a, b in zip(names, others, strict=True) if a != b
        ]
        raise InputError(
            f"the star tables of the visit have different columns ({', '.join(differing[:5])}); make all "
            "detectors with the same configuration"
        )
    for name in names:
        a, b = first.columns[name].dtype, other.columns[name].dtype
        if a != b and not (a.kind == b.kind == "U"):
            raise InputError(
                f"column {name!r} is {a} on one detector and {b} on another; make all detectors with "
                "the same configuration"
            )


# ---------------------------------------------------------------------------------------------- summary


def summary_table(detectors: Sequence[DetectorProducts], reserve_digests: Mapping[int, str]) -> SourceTable:
    """Return the summary: one row per detector of the sheet, those without products included.

    Columns: visit, detector, band, status, sentence, warnings, has_psf, has_ap_corr, the counts (-1 where a
    detector did not come so far), every figure (NaN or empty where a detector has none), the deviation of
    each aperture correction from the other detectors of the visit, library versions and reserve digests.
    """
    statuses = [each.status for each in detectors]
    columns: dict[str, npt.NDArray[Any]] = {
        "visit": np.array([each.visit for each in statuses], dtype=np.int64),
        "detector": np.array([each.detector for each in statuses], dtype=np.int32),
        "band": _texts(each.band for each in statuses),
        "status": _texts(str(each.status) for each in statuses),
        "sentence": _texts(each.sentence for each in statuses),
        "warnings": _texts("; ".join(each.warnings) for each in statuses),
        "has_psf": np.array([_has(each, "has_psf") for each in statuses], dtype=bool),
        "has_ap_corr": np.array([_has(each, "has_ap_corr") for each in statuses], dtype=bool),
    }
    for name in COUNTS:
        columns[f"n_{name}"] = np.array([each.counts.get(name, -1) for each in statuses], dtype=np.int32)
    columns |= _figure_columns(statuses)
    columns |= _deviation_columns(statuses)
    columns["software"] = _texts(_json(each.software) for each in statuses)
    digests = _json({str(tract): digest for tract, digest in sorted(reserve_digests.items())})
    columns["reserve_digests"] = _texts(digests for _ in statuses)
    info = {name: info for name, info in _SUMMARY_INFO.items() if name in columns}
    return SourceTable(columns, info | _correction_info(columns))


_SUMMARY_INFO = {
    "status": ColumnInfo("", "How the characterisation of the detector ended."),
    "sentence": ColumnInfo("", "One sentence about the outcome."),
    "has_psf": ColumnInfo("", "The catalogue has a PSF for the detector."),
    "has_ap_corr": ColumnInfo("", "The catalogue has an aperture-correction map for the detector."),
    "software": ColumnInfo("", "Versions of the libraries, JSON."),
    "reserve_digests": ColumnInfo("", "Digest of the reserve list of each tract in this band, JSON."),
    **{
        f"n_{name}": ColumnInfo("", f"Number of {name.replace('_', ' ')}; -1: not reached.")
        for name in COUNTS
    },
}
_CORRECTION_INFO = {
    "stars": "Stars used in the aperture correction of {0}.",
    "rejected": "Stars rejected from the aperture correction of {0}.",
    "centre": "Aperture correction of {0} at the centre of the detector.",
    "range": "Largest minus smallest aperture correction of {0} over the detector.",
    "scatter": "Robust standard deviation of the stars about the aperture correction of {0}.",
    "deviation": "Aperture correction of {0} at the centre minus the median of the visit's other detectors.",
}
FLAG_FIGURES = ("has_psf", "has_ap_corr")


def _correction_info(names: Collection[str]) -> dict[str, ColumnInfo]:
    """Return what the figures of the aperture corrections mean (known failure K21)."""
    info = {"ap_corr_reference_stars": ColumnInfo("", "Stars with a good reference flux.")}
    for name in names:
        flux, _, figure = name.removeprefix("ap_corr_").rpartition("_")
        if name.startswith("ap_corr_") and flux and figure in _CORRECTION_INFO:
            info.setdefault(name, ColumnInfo("", _CORRECTION_INFO[figure].format(flux)))
    return {name: each for name, each in info.items() if name in names}


def _has(status: DetectorStatus, name: str) -> bool:
    return bool(status.figures.get(name, False))


def _texts(values: Any) -> npt.NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(dict(data), sort_keys=True, separators=(",", ":"))


def _figure_columns(statuses: Sequence[DetectorStatus]) -> dict[str, npt.NDArray[Any]]:
    """Return one column per figure that any detector has; text stays text, all else becomes float64."""
    names = list(
        dict.fromkeys(name for each in statuses for name in each.figures if name not in FLAG_FIGURES)
    )
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        values = [each.figures.get(name) for each in statuses]
        if any(isinstance(value, str) for value in values):
            columns[name] = _texts("" if value is None else str(value) for value in values)
        else:
            columns[name] = np.array([np.nan if v is None else float(v) for v in values], dtype=np.float64)
    return columns


def _centres(statuses: Sequence[DetectorStatus]) -> dict[str, npt.NDArray[np.float64]]:
    """Return, by flux, the correction at the centre of each detector (NaN where there is none)."""
    names = {
        name.removeprefix("ap_corr_").removesuffix("_centre")
        for each in statuses
        for name in each.figures
        if name.startswith("ap_corr_") and name.endswith("_centre")
    }
    return {
        name: np.array(
            [float(each.figures.get(f"ap_corr_{name}_centre", np.nan)) for each in statuses], dtype=np.float64
        )
        for name in sorted(names)
    }


def _deviation_columns(statuses: Sequence[DetectorStatus]) -> dict[str, npt.NDArray[np.float64]]:
    """Return, by flux, the correction at the centre minus the median of the other detectors (K21)."""
    return {f"ap_corr_{name}_deviation": _deviations(values) for name, values in _centres(statuses).items()}


def _deviations(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return each value minus the median of the other finite ones; NaN where there is no other."""
    deviations = np.full(values.size, np.nan)
    finite = np.isfinite(values)
    for index in np.flatnonzero(finite):
        others = np.delete(values, index)[np.delete(finite, index)]
        if others.size:
            deviations[index] = values[index] - np.median(others)
    return deviations


# --------------------------------------------------------------------------------------------- sentences


def _software_differences(detectors: Sequence[DetectorProducts]) -> list[str]:
    """Return a sentence for each library of which the detectors used several versions."""
    versions: dict[str, set[str]] = {}
    for each in detectors:
        for library, version in each.status.software.items():
            versions.setdefault(library, set()).add(version)
    return [
        f"detectors were made with different versions of {library}: {', '.join(sorted(found))}"
        for library, found in sorted(versions.items())
        if len(found) > 1
    ]


FAR_FROM_OTHERS = 0.1
"""Aperture corrections further than this from the visit's other detectors are named."""


def _far_corrections(detectors: Sequence[DetectorProducts]) -> list[str]:
    """Return a sentence for each detector whose corrections are far from those of the others."""
    statuses = [each.status for each in detectors]
    far: dict[int, list[str]] = {}
    for name, values in _centres(statuses).items():
        for index in np.flatnonzero(np.abs(np.nan_to_num(_deviations(values))) > FAR_FROM_OTHERS):
            far.setdefault(statuses[index].detector, []).append(name)
    return [
        f"detector {detector}: aperture corrections far from those of the other detectors: {', '.join(names)}"
        for detector, names in sorted(far.items())
    ]


def _summary(
    visit: int, band: str, detectors: Sequence[DetectorProducts], rows: int, warnings: tuple[str, ...]
) -> VisitSummary:
    """Say whether the visit is complete and how its detectors ended."""
    outcomes = Counter(each.status.status for each in detectors)
    complete = not any(status.is_error for status in outcomes)
    parts = ", ".join(f"{outcomes[status]} {status}" for status in Status if outcomes[status])
    psfs = sum(_has(each.status, "has_psf") for each in detectors)
    sentence = (
        f"visit {visit} ({band}): {'complete' if complete else 'partial'}, {len(detectors)} detectors "
        f"({parts}), {psfs} PSFs, {rows} stars"
    )
    return VisitSummary(
        visit, band, complete, len(detectors), rows, psfs, "; ".join([sentence, *warnings]), warnings
    )


# ------------------------------------------------------------------------------------------- the survey


def check_reserve_digests(summaries: Sequence[SourceTable]) -> list[str]:
    """Return a sentence for each (tract, band) whose reserve list is not the same in all visits."""
    seen: dict[tuple[str, str], dict[str, list[int]]] = {}
    for table in summaries:
        for visit, band, text in sorted(
            set(
                zip(
                    table["visit"].tolist(),
                    table["band"].tolist(),
                    table["reserve_digests"].tolist(),
                    strict=True,
                )
            )
        ):
            for tract, digest in json.loads(text).items():
                seen.setdefault((tract, band), {}).setdefault(digest, []).append(visit)
    sentences = []
    for (tract, band), digests in sorted(seen.items()):
        if len(digests) > 1:
            groups = " and ".join(f"[{', '.join(map(str, visits))}]" for visits in sorted(digests.values()))
            sentences.append(
                f"tract {tract} band {band}: the visits {groups} were made with different reserve lists; "
                "run again"
            )
    return sentences


def summarize_survey(*, summaries: Sequence[Path], output: Path) -> list[str]:
    """Write the table of all detectors of the survey and check that the reserve lists agree.

    Parameters
    ----------
    summaries : sequence of Path
        ``summary.parquet`` of every visit.
    output : Path
        Table to write: the columns that all visits share, in visit and detector order.

    Returns
    -------
    list of str
        Sentences about (tract, band) pairs whose reserve lists differ between visits.
    """
    tables = [products.read_star_table(path) for path in summaries]
    sentences = check_reserve_digests(tables)
    if tables:
        products.write_table(_survey_table(tables), output)
    return sentences


def _survey_table(tables: Sequence[SourceTable]) -> SourceTable:
    """Stack summaries: all columns of all visits, NaN or empty where a visit has none."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        example = next(table.columns[name] for table in tables if name in table.columns)
        columns[name] = np.concatenate(
            [table.columns.get(name, _nothing(example, len(table))) for table in tables]
        )
    order = np.lexsort((columns["detector"], columns["visit"]))
    info = {name: info for table in tables for name, info in table.info.items()}
    return SourceTable({name: values[order] for name, values in columns.items()}, info)


def _nothing(example: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return a column that says "no figure" in the type of `example`."""
    if example.dtype.kind == "U":
        return np.full(rows, "", dtype=example.dtype)
    return np.full(rows, np.nan if example.dtype.kind == "f" else -1, dtype=example.dtype)
