"""The detector stage: from an exposure, its sources and its reserve list to PSF, measured stars, corrections.

`characterize_detector` reads like the science (selection specification 4).  Every outcome is a status with
one sentence and counts; what a status means for rows and catalogue entries is the truth table 4.10.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from finalchar.apcorr.apply import apply_ap_corr, positions
from finalchar.apcorr.measure import demand_reference_flux, measure_ap_corr
from finalchar.errors import (
    ApCorrError,
    ConfigError,
    FinalcharError,
    InputError,
    MeasurementError,
    NoWorkError,
    PsfError,
)
from finalchar.formats.exposure import BoundedField, Exposure
from finalchar.formats.exposure_catalog import ExposureRecord
from finalchar.formats.sources import Footprints, SourceTable
from finalchar.formats.stamps import StampSet
from finalchar.programs import needed_programs
from finalchar.status import DetectorStatus, Status

if TYPE_CHECKING:
    from finalchar.formats.image_set import ImageSet
    from finalchar.formats.psf_errors import PredictedErrors
    from finalchar.psf.model import PsfFit
    from finalchar.stars.candidates import Candidates
    from finalchar.stars.isolated_sources import IsolatedSources

__all__ = [
    "DetectorInputs",
    "DetectorResult",
    "Subtasks",
    "characterize_detector",
    "failed_result",
    "load_detector_inputs",
    "read_detector",
    "standard_star_bands",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

PACKAGES = (
    *("numpy", "scipy", "Piff", "GalSim", "astropy", "fitsio", "pyarrow", "starlink-pyast", "sep"),
    *("LSSTDESC.Coord", "treegp", "pyerfa"),
)
"""Libraries whose versions are kept with every result."""


@dataclass(frozen=True)
class DetectorInputs:
    """Everything a detector needs, each file read once.

    `exposure`, `sources` and `footprints` are None where no isolated star is on the detector: then nothing
    is read.  `footprints` is None too where the catalogue has none: they are found by segmentation.
    """

    visit: int
    detector: int
    band: str
    isolated: IsolatedSources
    exposure: Exposure | None = None
    sources: SourceTable | None = None
    footprints: Footprints | None = None


@dataclass(frozen=True)
class DetectorResult:
    """What a detector gives: its status and, where the truth table has them, record, rows and stamps."""

    status: DetectorStatus
    record: ExposureRecord | None = None
    table: SourceTable | None = None
    stamps: StampSet | None = None
    fit: PsfFit | None = None

    @property
    def psf_errors(self) -> PredictedErrors | None:
        """Predicted errors of the PSF, where the fit gives them."""
        evidence = None if self.fit is None else self.fit.evidence
        return None if evidence is None else evidence.errors


@dataclass(frozen=True)
class Subtasks:
    """The replaceable steps; None takes what the configuration says.

    Attributes
    ----------
    source_selector : callable, optional
        ``(sources, exposure) -> boolean mask`` of the sources that may become candidates.
    make_psf_candidates : callable, optional
        ``(table, footprints, exposure, settings) -> Candidates``.
    psf_determiner : callable, optional
        ``(candidates, exposure, settings, *, band, compatibility) -> PsfFit``.
    measurement : callable, optional
        As `finalchar.measure.run.run_measurement`.
    measure_ap_corr, apply_ap_corr : callable, optional
        As `finalchar.apcorr.measure.measure_ap_corr` and `finalchar.apcorr.apply.apply_ap_corr`.
    """

    source_selector: Callable[..., Any] | None = None
    make_psf_candidates: Callable[..., Any] | None = None
    psf_determiner: Callable[..., Any] | None = None
    measurement: Callable[..., Any] | None = None
    measure_ap_corr: Callable[..., Any] | None = None
    apply_ap_corr: Callable[..., Any] | None = None


def load_detector_inputs(
    *,
    visit: int,
    detector: int,
    band: str,
    exposure: Path,
    src: Path,
    visit_list: Path,
    config: Any,
    survey: Path = Path(),
    row: Mapping[str, Any] | None = None,
) -> DetectorInputs:
    """Read the inputs of a detector; the image only if there is an isolated star on it.

    Parameters
    ----------
    visit, detector, band
        Of the exposure.
    exposure, src, visit_list : Path
        Files.
    config : Config
        The configuration; `input` tells what the files are.
    survey : Path, optional
        Folder that the paths in `row` are relative to.
    row : mapping, optional
        The row of the sheet, which names the other files of plain images.

    Raises
    ------
    InputError
        If a file is missing or broken.
    """
    from finalchar.stars.list_rows import read_detector_rows

    isolated = read_detector_rows(visit_list, detector)
    if config.input.kind == "lsst" or len(isolated) == 0:
        return read_detector(
            visit=visit, detector=detector, band=band, exposure=exposure, src=src, isolated=isolated
        )
    from finalchar.formats.image_rows import image_set_of_row

    images = image_set_of_row(exposure, row or {}, survey=survey, band=band, settings=config.input.images)
    return _read_images(DetectorInputs(visit, detector, band, isolated), images, src, config.input.catalogue)


def read_detector(
    *, visit: int, detector: int, band: str, exposure: Path, src: Path, isolated: IsolatedSources
) -> DetectorInputs:
    """Read exposure and sources of a detector whose isolated stars are known."""
    inputs = DetectorInputs(visit, detector, band, isolated)
    if len(isolated) == 0:
        return inputs
    from finalchar.formats.fits_file import FitsFile
    from finalchar.formats.lsst_exposure import read_exposure
    from finalchar.formats.lsst_sources import find_footprints, read_source_table

    image, catalogue = read_exposure(exposure), FitsFile(src)
    inputs = _with_files(inputs, image, read_source_table(catalogue), exposure, src)
    return replace(inputs, footprints=find_footprints(catalogue))


def _read_images(inputs: DetectorInputs, images: ImageSet, src: Path, settings: Any) -> DetectorInputs:
    """Read plain images and a SExtractor catalogue."""
    from finalchar.formats.image_set import read_image_set
    from finalchar.formats.sextractor import read_sextractor

    image = read_image_set(images)
    sources = read_sextractor(src, settings, image, visit=inputs.visit, detector=inputs.detector)
    return _with_files(inputs, image, sources, images.image.path, src)


def _with_files(
    inputs: DetectorInputs, image: Exposure, sources: SourceTable, exposure: Path, src: Path
) -> DetectorInputs:
    """Add what was read, which must belong together."""
    from finalchar.stars import identity

    identity.check_exposure(image, path=exposure, detector=inputs.detector, band=inputs.band)
    identity.check_catalogue(sources, image, exposure_path=exposure, src_path=src)
    if "id" in sources:
        identity.check_isolated_ids(sources["id"], inputs.isolated, src_path=src)
    return replace(inputs, exposure=image, sources=sources)


def standard_star_bands(config: Any, band: str) -> list[str]:
    """Return the bands of FGCM magnitudes that the detectors of a band need: for colours, for the table."""
    needed = set(config.fgcmPhotometryBands) if config.do_add_fgcm_photometry else set()
    determiner = config.psf_determiner.active
    if getattr(determiner, "useColor", False):
        needed |= {part.strip() for part in determiner.color.get(band, "").split("-")} - {""}
    return sorted(needed)


def characterize_detector(
    *, inputs: DetectorInputs, config: Any, subtasks: Subtasks | None = None
) -> DetectorResult:
    """Characterise one detector (selection specification 4).

    Parameters
    ----------
    inputs : DetectorInputs
        Exposure, sources, footprints and reserve list.
    config : Config
        The configuration.
    subtasks : Subtasks, optional
        Steps to be done by something else than what the configuration names.

    Returns
    -------
    DetectorResult
        Every outcome is a status, unexpected errors too.

    Raises
    ------
    ConfigError
        If the configuration is impossible, which no detector can help.
    """
    work = _Characterization(inputs, config, subtasks or Subtasks())
    try:
        work.check_isolated_stars()
        work.select_sources()
        work.match_isolated_stars()
        work.start_table()
        work.demand_columns()
        work.add_colors()
        work.find_footprints()
        work.make_candidates()
        work.determine_psf()
        work.measure_stars()
        work.add_sky_moments()
        work.measure_ap_corr()
        work.apply_ap_corr()
        return work.result(Status.OK)
    except NoWorkError as error:
        return work.result(Status(error.status), str(error))
    except PsfError as error:
        work.figures |= getattr(error, "figures", {})  # a PSF that was made and refused tells why
        return work.result(_psf_status(error), str(error))
    except MeasurementError as error:
        return work.result(Status.MEASUREMENT_FAILED, str(error))
    except ApCorrError as error:
        work.flag_uncorrected_fluxes()
        return work.result(Status.AP_CORR_FAILED, str(error))
    except ConfigError:
        raise
    except Exception as error:
        return failed_result(
            visit=inputs.visit, detector=inputs.detector, band=inputs.band, error=error, counts=work.counts
        )


def failed_result(
    *, visit: int, detector: int, band: str, error: Exception, counts: Mapping[str, int] | None = None
) -> DetectorResult:
    """Return the result of a detector that an error ended: no rows, a sentence, the traceback in the log."""
    if isinstance(error, FinalcharError):
        status, sentence = Status.INPUT_BROKEN, str(error)
    else:
        status, sentence = Status.INTERNAL_ERROR, f"{type(error).__name__}: {error} (see the log)"
    logger.error("visit %s detector %s: %s", visit, detector, sentence, exc_info=error)
    return DetectorResult(
        DetectorStatus(
            visit, detector, band, status, sentence, counts=dict(counts or {}), software=library_versions()
        )
    )


def _psf_status(error: PsfError) -> Status:
    """Tell a PSF without finite size from one that could not be made."""
    return Status(getattr(error, "status", Status.PSF_FAILED))


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that make the numbers; absent ones are left out."""
    return {package: version for package in PACKAGES if (version := _version(package)) is not None}


@cache
def _version(package: str) -> str | None:
    """Version of an installed package; looked up once per process."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class _Characterization:
    """The state of one detector as it goes through the steps, each named after its section of 4."""

    def __init__(self, inputs: DetectorInputs, config: Any, subtasks: Subtasks) -> None:
        self.inputs = inputs
        self.subtasks = subtasks
        self.config = config
        self.compatibility: str = config.compatibility
        self.counts: dict[str, int] = {}
        self.figures: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._selected: SourceTable | None = None
        self._table: SourceTable | None = None
        self._candidates: Candidates | None = None
        self._footprints: Footprints | None = None
        self.fit: PsfFit | None = None
        self.ap_corr_map: dict[str, BoundedField] | None = None

    # ---------------------------------------------------------------------------------------- selection

    def check_isolated_stars(self) -> None:
        """End where no tract has an isolated star with a source on this detector."""
        self.counts["isolated_sources"] = len(self.inputs.isolated)
        if len(self.inputs.isolated) == 0:
            raise NoWorkError(Status.NO_ISOLATED_STARS, "no isolated star has a source on this detector")

    def select_sources(self) -> None:
        """Keep the sources that pass the configured selector (4.2)."""
        sources = _present(self.inputs.sources)
        self.counts["sources"] = len(sources)
        own = self.subtasks.source_selector
        select = self._select(self.config.source_selector)
        keep = select(sources) if own is None else own(sources, self.exposure)
        self.counts["selected"] = int(keep.sum())
        if not keep.any():
            name = self.config.source_selector.name
            raise NoWorkError(
                Status.NO_SELECTED_SOURCES,
                f"none of {len(sources)} sources passes the source selector {name!r}",
            )
        self._selected = sources.select(keep)

    def match_isolated_stars(self) -> None:
        """Keep the selected sources that belong to isolated stars: the candidates (4.3)."""
        from finalchar.stars.matching import candidate_table, match_isolated_sources

        matches = match_isolated_sources(
            source_id=self.selected["id"],
            isolated=self.inputs.isolated,
            catalogue_id=_present(self.inputs.sources)["id"],
            compatibility=self.compatibility,
        )
        self.counts |= matches.counts
        if not len(matches):
            raise NoWorkError(
                Status.NO_MATCHED_SOURCES,
                f"none of {len(self.selected)} selected sources belongs to an isolated star; an earlier "
                "failure of the astrometry is the usual reason",
            )
        self._selected = candidate_table(self.selected, matches)

    # -------------------------------------------------------------------------------------------- table

    def start_table(self) -> None:
        """Make the output table of the candidates, copied columns filled (4.4)."""
        from finalchar.measure.schema import make_output_table
        from finalchar.stars.usable import selection_flux_fields

        config = self.config
        flux, error = selection_flux_fields(config.source_selector, compatibility=self.compatibility)
        table = make_output_table(
            selected=self.selected,
            settings=config.measurement,
            selection_flux_field=flux,
            selection_flux_err_field=error,
            sky_moments=config.do_add_sky_moments,
            fgcm_bands=config.fgcmPhotometryBands if config.do_add_fgcm_photometry else (),
            compatibility=self.compatibility,
        )
        rows = len(table)
        self._table = table.with_columns(
            {
                "calib_psf_candidate": self.selected["calib_psf_candidate"],
                "calib_psf_reserved": self.selected["calib_psf_reserved"],
                "visit": np.full(rows, self.inputs.visit, dtype=np.int64),
                "detector": np.full(rows, self.inputs.detector, dtype=np.int32),
            }
        )

    def demand_columns(self) -> None:
        """End before the fit if a later step asks for a column that the table will never have.

        The table has all its columns already; where one is missing it is missing on every detector.
        """
        no_rows = self.table.select(np.zeros(len(self.table), dtype=bool))
        if self.subtasks.measure_ap_corr is None:
            settings = self.config.measure_ap_corr
            demand_reference_flux(no_rows, settings.refFluxName)
            with suppress(NoWorkError):  # of selectors that cannot do without rows
                self._select(settings.sourceSelector)(no_rows)
        if self.subtasks.apply_ap_corr is None:
            positions(no_rows, self.config.apply_ap_corr)

    def add_colors(self) -> None:
        """Attach colours for the PSF and FGCM magnitudes where they are asked for (4.5)."""
        columns = self._color_columns() | self._magnitude_columns()
        self._table = self.table.with_columns(columns)

    def _color_columns(self) -> dict[str, npt.NDArray[Any]]:
        from finalchar.stars.colors import assign_colors

        settings = self.config.psf_determiner.active
        stars = self.inputs.isolated.fgcm
        if stars is None or not getattr(settings, "useColor", False):
            return {}
        ra, dec = self._sky_degrees()
        colors = assign_colors(
            ra=ra,
            dec=dec,
            stars=stars,
            band=str(self._exposure_band),
            color=settings.color,
            compatibility=self.compatibility,
        )
        self.counts |= colors.counts
        return {"psf_color_value": colors.value, "psf_color_type": colors.kind.astype("U10")}

    def _magnitude_columns(self) -> dict[str, npt.NDArray[Any]]:
        from finalchar.stars.colors import matched_magnitudes

        if not self.config.do_add_fgcm_photometry or self.inputs.isolated.fgcm is None:
            return {}
        ra, dec = self._sky_degrees()
        magnitudes, _ = matched_magnitudes(
            ra=ra, dec=dec, stars=self.inputs.isolated.fgcm, compatibility=self.compatibility
        )
        wanted = self.config.fgcmPhotometryBands
        return {f"fgcm_mag_{band}": magnitudes[band] for band in wanted if band in magnitudes}

    def _sky_degrees(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return np.degrees(self.table["coord_ra"]), np.degrees(self.table["coord_dec"])

    # ---------------------------------------------------------------------------------------------- PSF

    def find_footprints(self) -> None:
        """Take the footprints of the catalogue, or find them by segmentation of the image (K20)."""
        given = self.inputs.footprints
        self._footprints = self._footprints_by_segmentation() if given is None else given
        if "DETECTED" not in self.exposure.mask_planes and self.compatibility != "lsst":
            from finalchar.measure.segments import with_detected

            self.inputs = replace(self.inputs, exposure=with_detected(self.exposure, self.footprints))

    def _footprints_by_segmentation(self) -> Footprints:
        if self.compatibility == "lsst":
            raise InputError(
                "the source catalogue was written without footprints, where the reference stops; "
                "'compatibility: fixed' finds them by segmentation of the image"
            )
        from finalchar.measure.segmentation import footprints_of_catalogue

        sources = _present(self.inputs.sources)
        owned = footprints_of_catalogue(self.exposure, sources, self.config.measurement.segmentation)
        self.counts |= {
            "sources_without_segment": int(owned.without_segment.sum()),
            "sources_sharing_segment": int(owned.sharing.sum()),
            "segments_without_source": owned.unclaimed,
        }
        return owned.footprints

    def make_candidates(self) -> None:
        """Cut the stamps of the candidates (4.6, 5)."""
        from finalchar.stars.candidates import make_psf_candidates

        make = self.subtasks.make_psf_candidates or make_psf_candidates
        candidates = make(self.table, self.footprints, self.exposure, self.config.make_psf_candidates)
        self._candidates = candidates.with_catalogue(self.selected)
        self.counts["good_stamps"] = len(self.candidates)
        maximum = self.table["psf_max_value"].copy()
        maximum[self.candidates.index] = self.candidates.psf_max_value
        self._table = self.table.with_columns({"psf_max_value": maximum})

    def determine_psf(self) -> None:
        """Fit the PSF to the stars that are not reserved, and judge it (4.7)."""
        from finalchar.psf import acceptance, determiners

        choice = self.config.psf_determiner
        offered = self.candidates.select(self._may_be_fitted()[self.candidates.index])
        self.counts["available"] = len(offered)
        determine = self.subtasks.psf_determiner or determiners.get(choice.name).determine
        fit = determine(
            offered, self.exposure, choice.active, band=self._exposure_band, compatibility=self.compatibility
        )
        self.figures |= dict(fit.figures)
        self.figures |= acceptance.check_psf(
            fit, self.exposure, self.config.psf_acceptance, compatibility=self.compatibility
        )
        if self.figures.get("poorly_determined"):
            self.warnings.append(f"PSF poorly determined: {self.figures['poorly_determined_because']}")
        used = np.zeros(len(self.table), dtype=bool)
        used[offered.index[fit.used]] = True
        self.fit = fit
        self.counts["used"] = int(used.sum())
        self._table = self.table.with_columns({"calib_psf_used": used, **self._errors_at_stars()})

    def _errors_at_stars(self) -> dict[str, npt.NDArray[Any]]:
        """Return the predicted errors of the PSF at the stars (not in the reference)."""
        from finalchar.psf import acceptance

        evidence = _present(self.fit).evidence
        if evidence is None or self.compatibility == "lsst":
            return {}
        x, y = self.table["slot_Centroid_x"], self.table["slot_Centroid_y"]
        with np.errstate(invalid="ignore"):  # stars without place
            errors = acceptance.predicted_errors(evidence, x=x, y=y)
        names = ("psfSizeError", "psfE1Error", "psfE2Error")
        return {
            f"finalchar_Plausibility_{name}": values.astype(np.float32)
            for name, values in zip(names, errors, strict=True)
        }

    def _may_be_fitted(self) -> npt.NDArray[np.bool_]:
        """Return the rows that are not reserved and whose numbers are sound (known failure K12)."""
        from finalchar.stars.usable import selection_flux_fields, usable_for_fit

        free: npt.NDArray[np.bool_] = ~self.table["calib_psf_reserved"]
        if self.compatibility == "lsst":
            return free
        flux, error = selection_flux_fields(self.config.source_selector)
        usability = usable_for_fit(self.selected, flux_field=flux, error_field=error)
        self.counts |= {f"unusable_{reason}": number for reason, number in usability.counts.items() if number}
        return free & usability.usable

    @property
    def _exposure_band(self) -> str | None:
        """The band the exposure states; the visit's where it states none (not in the reference)."""
        if self.exposure.band is None and self.compatibility != "lsst":
            return self.inputs.band
        return self.exposure.band

    # ------------------------------------------------------------------------------------- measurement

    def measure_stars(self) -> None:
        """Measure all candidates, reserved ones too, with the new PSF (4.8)."""
        from finalchar.measure.run import run_measurement

        measure = self.subtasks.measurement or run_measurement
        self._table = measure(
            exposure=self.exposure,
            psf=_present(self.fit).model,
            footprints=self.footprints,
            table=self.table,
            settings=self.config.measurement,
            compatibility=self.compatibility,
        )
        self.counts["measured"] = len(self.table)
        if not self.config.output.record_time:
            self._table = _without_times(self.table)

    def add_sky_moments(self) -> None:
        """Turn the moments to the sky and to alt/az where they are asked for (4.9)."""
        if not self.config.do_add_sky_moments:
            return
        from finalchar.sky_moments import add_sky_moments

        self._table = add_sky_moments(
            self.table,
            self.exposure.wcs,
            self.exposure.visit_info.boresight_parallactic_angle,
            compatibility=self.compatibility,
        )

    # ------------------------------------------------------------------------------ aperture corrections

    def measure_ap_corr(self) -> None:
        """Measure the aperture corrections and add the entries the exposure came with (4.8, 9)."""
        settings = self.config.measure_ap_corr
        measure = self.subtasks.measure_ap_corr or measure_ap_corr
        self._table, measured = measure(
            self.table,
            self.exposure.box,
            settings,
            self._flux_names,
            select=self._select(settings.sourceSelector),
            compatibility=self.compatibility,
            limits=self.config.ap_corr_acceptance,
        )
        self.figures |= measured.figures
        if measured.suspect:
            self.warnings.append(f"aperture corrections not believable: {', '.join(measured.suspect)}")
        self.ap_corr_map = {**self._initial_ap_corr(), **measured.fields}

    def _initial_ap_corr(self) -> Mapping[str, BoundedField]:
        """Return the map the exposure came with; without one the reference fails [S-Q10, M-Q21]."""
        initial = self.exposure.initial_ap_corr
        if initial is None and self.compatibility == "lsst":
            raise InputError(
                "the exposure has no aperture-correction map, where the reference stops; "
                "'compatibility: fixed' takes it as an empty map"
            )
        return initial or {}

    def apply_ap_corr(self) -> None:
        """Correct the fluxes; what stays uncorrected is named (known failure K22)."""
        apply = self.subtasks.apply_ap_corr or apply_ap_corr
        self._table, applied = apply(
            self.table,
            _present(self.ap_corr_map),
            self.config.apply_ap_corr,
            self._flux_names,
            compatibility=self.compatibility,
        )
        self.figures["ap_corr_uncorrected"] = ",".join(applied.uncorrected)
        if applied.uncorrected:
            self.warnings.append(f"fluxes not aperture-corrected: {', '.join(applied.uncorrected)}")
        for name, rows in applied.rows_without_factor.items():
            self.warnings.append(f"{rows} stars have no positive aperture correction of {name}")

    def flag_uncorrected_fluxes(self) -> None:
        """Say of every flux that it is not corrected (K22); the reference leaves the flags unset [M-Q31]."""
        if self.compatibility == "lsst":
            return
        names = [f"{name}_flag_apCorr" for name in self._flux_names]
        everything = np.ones(len(self.table), dtype=bool)
        self._table = self.table.with_columns(
            {name: everything.copy() for name in names if name in self.table}
        )

    @property
    def _flux_names(self) -> Sequence[str]:
        from finalchar.measure.schema import correctable_fluxes

        return correctable_fluxes(self.config.measurement, self.compatibility)

    # ------------------------------------------------------------------------------------------- result

    def result(self, status: Status, sentence: str = "") -> DetectorResult:
        """Package what the truth table 4.10 gives for a status."""
        if status.has_rows:
            self.counts.setdefault("used", 0)
        self.figures |= {"has_psf": self.fit is not None, "has_ap_corr": self.ap_corr_map is not None}
        stated = DetectorStatus(
            self.inputs.visit,
            self.inputs.detector,
            self.inputs.band,
            status,
            sentence,
            counts=self.counts,
            figures=self.figures,
            warnings=tuple(self.warnings),
            software={**library_versions(), **self._program_versions()},
        )
        if sentence:
            logger.warning("visit %s detector %s: %s", self.inputs.visit, self.inputs.detector, sentence)
        if not status.has_rows:
            return DetectorResult(stated)
        return DetectorResult(stated, self._record(), self._export(), self._stamps(), self.fit)

    def _program_versions(self) -> dict[str, str]:
        """Return the versions of programs outside Python that the configuration asks for."""
        if self.subtasks.psf_determiner is not None:
            return {}
        asked = {"psf_determiner": {"name": self.config.psf_determiner.name}}
        return {program.name: program.version() for program in needed_programs(asked)}

    def _record(self) -> ExposureRecord:
        stored = None if self.fit is None else stored_psf(self.fit)
        return ExposureRecord(
            self.inputs.detector, self.inputs.visit, psf=stored, ap_corr_map=self.ap_corr_map
        )

    def _export(self) -> SourceTable:
        from finalchar.measure.schema import expand_aliases

        return expand_aliases(self.table, alias_columns=self.config.output.alias_columns)

    def _stamps(self) -> StampSet | None:
        from finalchar.stamps import best_and_worst

        if self.fit is None or self._candidates is None:
            return None
        return best_and_worst(self.candidates, self.table, self.fit.model, self.exposure)

    # ------------------------------------------------------------------------------------------ shortcuts

    def _select(self, choice: Any) -> Callable[[SourceTable], npt.NDArray[np.bool_]]:
        """Return the configured source selector as a function of a table."""
        from finalchar.stars import selectors

        select = selectors.get(choice.name).select

        def apply(table: SourceTable) -> npt.NDArray[np.bool_]:
            mask: npt.NDArray[np.bool_] = select(table, choice.active, self.exposure, self.compatibility)
            return mask

        return apply

    @property
    def exposure(self) -> Exposure:
        """The exposure."""
        return _present(self.inputs.exposure)

    @property
    def footprints(self) -> Footprints:
        """Footprints of all sources."""
        return _present(self._footprints)

    @property
    def selected(self) -> SourceTable:
        """Selected sources, all input columns."""
        return _present(self._selected)

    @property
    def table(self) -> SourceTable:
        """The output table."""
        return _present(self._table)

    @property
    def candidates(self) -> Candidates:
        """The candidates' stamps."""
        return _present(self._candidates)


def _present(value: T | None) -> T:
    """Return a value that an earlier step has set."""
    if value is None:
        raise RuntimeError("a step of the characterisation was called before the one it needs")
    return value


def _without_times(table: SourceTable) -> SourceTable:
    """Return a table whose wall-time columns are NaN: the same inputs give the same bytes."""
    times = {
        name: np.full_like(values, np.nan)
        for name, values in table.columns.items()
        if name.endswith("_time") and values.dtype.kind == "f"
    }
    return table.with_columns(times)


def stored_psf(fit: PsfFit) -> Any:
    """Return the persisted form of a fitted PSF."""
    from finalchar.formats.psfs import PiffPsf

    return PiffPsf(fit.serialized) if isinstance(fit.serialized, bytes) else fit.serialized
