"""Run a configuration of a reference directory and compare every detector, two at a time."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import MissingProgramError, NotYetImplementedError
from finalchar.formats.sources import SourceTable
from finalchar.parity import compare, given_reference
from finalchar.parity.deviations import Deviations, Tolerance, Verdict, verdicts
from finalchar.parity.reference import DetectorReference, ReferenceConfiguration
from finalchar.parity.tally import ReportOnly, Tally, tally
from finalchar.parity.tolerances import known_cause
from finalchar.programs import needed_programs

__all__ = ["Outcome", "run_configuration"]

SLOT_OF_PLUGIN = {"modelfit_CModel": ("slot_ModelFlux",)}
"""Slots whose columns are absent while the plugin they point to is not implemented."""


@dataclass(frozen=True)
class Outcome:
    """The verdicts of a configuration; `not_implemented` says what is missing if it could not be run."""

    configuration: str
    verdicts: tuple[Verdict, ...] = ()
    not_implemented: str = ""

    @property
    def tally(self) -> Tally:
        """How many columns miss their target."""
        return tally(self.verdicts)

    @property
    def ok(self) -> bool:
        """Whether every quantity is within its tolerance or has a stated cause.

        In the default configuration no cause excuses the columns that may never be out, nor too many others.
        """
        explained = all(verdict.ok or verdict.cause for verdict in self.verdicts)
        return explained and (self.configuration != "default" or (self.tally.ok and self.tally.few))


@dataclass(frozen=True)
class _Task:
    """One detector to run: picklable."""

    reference: ReferenceConfiguration
    detector: DetectorReference
    settings: dict[str, Any]
    not_implemented: dict[str, str]


@dataclass(frozen=True)
class _Compared:
    """Deviations of one detector and the ids of its rows."""

    detector: DetectorReference
    deviations: list[Deviations]
    ids: npt.NDArray[np.int64]


def run_configuration(
    reference: ReferenceConfiguration, *, processes: int = 2, report_only: ReportOnly | None = None
) -> Outcome:
    """Run all detectors of a configuration with ``compatibility: lsst`` and compare them.

    Parameters
    ----------
    reference : ReferenceConfiguration
        The configuration folder.
    processes : int
        Detectors worked on at the same time.
    report_only : ReportOnly, optional
        Columns that are not judged; default none.
    """
    from finalchar.config import Config

    flat = reference.settings()
    try:
        config = Config.from_lsst_overrides(flat, drop_unimplemented=True, compatibility="lsst")
        for program in needed_programs(config.to_plain()):
            program.find()
    except (NotYetImplementedError, MissingProgramError) as error:
        return Outcome(reference.name, not_implemented=str(error))
    missing = _missing_plugins(flat, config)
    tasks = [_Task(reference, detector, config.to_plain(), missing) for detector in reference.detectors()]
    results = list(_run(tasks, processes))
    deviations = [each for result in results for each in result.deviations]
    deviations += _compare_visits(reference, results)
    judged = verdicts(deviations, partial(known_cause, reference.name))
    return Outcome(reference.name, tuple((report_only or ReportOnly()).apply(judged)))


def _missing_plugins(flat: dict[str, Any], config: Any) -> dict[str, str]:
    """Return prefix of column names -> cause, for plugins that the reference ran and we lack."""
    there = set(config.measurement.plugins.names)
    missing = [name for name in flat["measurement.plugins.names"] if name not in there]
    causes = {name: f"not_implemented: plugin {name}" for name in missing}
    for name in missing:
        causes |= {slot: causes[name] for slot in SLOT_OF_PLUGIN.get(name, ())}
    return causes


def _run(tasks: list[_Task], processes: int) -> Iterator[_Compared]:
    """Yield the comparisons in order."""
    if processes == 1:
        yield from map(_compare_detector, tasks)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_compare_detector, tasks)


def _one_thread() -> None:
    """Keep numerical libraries of a worker to one thread; show the worker's errors only."""
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.getLogger("finalchar").setLevel(logging.CRITICAL)


def _compare_detector(task: _Task) -> _Compared:
    """Characterise one detector and compare it."""
    from finalchar.config import Config

    config = Config(**task.settings)
    result = _characterize(task, config)
    wanted = task.detector
    deviations = list(_compare_outcome(result, wanted))
    if task.reference.has_catalogue(wanted.visit):
        record = task.reference.record(wanted.visit, wanted.detector)
        deviations += compare.compare_record(result.record, record, task.not_implemented)
    ids = np.empty(0, dtype=np.int64)
    if result.table is not None and wanted.rows is not None:
        ids = result.table["id"]
        reference = task.reference.table(wanted.visit, wanted.detector)
        deviations += compare.compare_flags(result.table, reference)
        if np.array_equal(ids, reference["id"]):
            deviations += _compare_columns(result, reference, task, config)
        deviations += _compare_models(result, task)
    return _Compared(wanted, deviations, ids)


def _compare_columns(result: Any, reference: SourceTable, task: _Task, config: Any) -> Iterator[Deviations]:
    """Compare the tables, and fluxes before their corrections where the reference keeps its own."""
    runs_cmodel = "modelfit_CModel" in config.measurement.plugins.names
    settings = config.measurement.plugins.modelfit_CModel if runs_cmodel else None
    given = given_reference.columns_given_reference(reference, settings)
    yield from compare.compare_table(result.table, reference, task.not_implemented, given)
    wanted = task.reference.record(task.detector.visit, task.detector.detector)
    ours, theirs = (getattr(record, "ap_corr_map", None) for record in (result.record, wanted))
    if ours and theirs:
        yield from given_reference.compare_uncorrected(result.table, reference, ours, theirs)


def _characterize(task: _Task, config: Any) -> Any:
    """Run the detector on the files of the survey, as the workflow does."""
    from finalchar import characterize
    from finalchar.parity.survey import isolated_stars, paths_of

    visit, detector = task.detector.visit, task.detector.detector
    exposure, src, band = paths_of(task.reference.root, visit, detector)
    try:
        isolated = isolated_stars(task.reference.root, visit, detector, band, config)
        inputs = characterize.read_detector(
            visit=visit, detector=detector, band=band, exposure=exposure, src=src, isolated=isolated
        )
    except Exception as error:
        return characterize.failed_result(visit=visit, detector=detector, band=band, error=error)
    return characterize.characterize_detector(inputs=inputs, config=config)


def _compare_outcome(result: Any, wanted: DetectorReference) -> Iterator[Deviations]:
    """Compare what the detector came to: rows or none, class of the PSF."""
    where = f"{wanted.visit}_{wanted.detector}: "
    has_rows = f"{where}{'rows' if result.table is not None else 'no rows'}"
    yield compare.outcome("has_rows", has_rows, f"{where}{'rows' if wanted.rows is not None else 'no rows'}")
    psf = getattr(result.fit, "persisted_class", None)
    yield compare.outcome("psf_class", f"{where}{psf}", f"{where}{wanted.psf_class}")
    has_map = result.record is not None and result.record.ap_corr_map is not None
    yield compare.outcome("has_ap_corr_map", f"{where}{has_map}", f"{where}{wanted.map_entries > 0}")


def _compare_models(result: Any, task: _Task) -> Iterator[Deviations]:
    """Compare PSF (drawn from its stored form) and aperture-correction map."""
    from finalchar.psf.stored import model_from_stored

    visit, detector = task.detector.visit, task.detector.detector
    psf = task.reference.psf(visit, detector)
    if psf is not None and result.record.psf is not None:
        model = model_from_stored(result.record.psf, compatibility="lsst")
        yield from compare.compare_psf(model, psf)
    ap_corr = task.reference.ap_corr(visit, detector)
    if ap_corr is not None and ap_corr.values and result.record.ap_corr_map is not None:
        yield from compare.compare_ap_corr(result.record.ap_corr_map, ap_corr, task.not_implemented)


def _compare_visits(reference: ReferenceConfiguration, results: Iterable[_Compared]) -> Iterator[Deviations]:
    """Compare rows, detectors and the digest of the ids of the consolidated tables."""
    by_visit: dict[str, list[_Compared]] = {}
    for result in results:
        by_visit.setdefault(str(result.detector.visit), []).append(result)
    for visit, wanted in reference.consolidated().items():
        parts = [result for result in by_visit.get(visit, []) if result.ids.size]
        ids = np.concatenate([np.empty(0, dtype="<i8"), *(part.ids for part in parts)]).astype("<i8")
        detectors = [part.detector.detector for part in parts]
        yield compare.outcome(
            "consolidated_detectors", f"{visit}: {detectors}", f"{visit}: {wanted['detectors']}"
        )
        digest = hashlib.sha256(ids.tobytes()).hexdigest()
        yield compare.outcome("consolidated_ids", f"{visit}: {digest}", f"{visit}: {wanted['id_sha256']}")


def not_implemented_verdict(outcome: Outcome) -> Verdict:
    """Return the one entry of a configuration that cannot be run yet."""
    kind = Tolerance("report").kind
    return Verdict(
        "not_implemented", 0, None, None, None, True, f"not_implemented: {outcome.not_implemented}", kind
    )
