"""Write a simulated survey: exposures, source catalogues, tract tables, sheets, configuration and truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import Box
from finalchar.formats.fits_file import write_atomically
from finalchar.formats.lsst_exposure_writer import (
    CameraGeometry,
    Compression,
    ExposureParts,
    write_exposure,
)
from finalchar.formats.lsst_source_writer import FootprintExtras, write_source_catalogue
from finalchar.formats.parquet import write_table
from finalchar.formats.sources import ColumnInfo, SourceTable
from finalchar.simulate.association import (
    DetectorSources,
    IsolatedTables,
    associate,
    match_to_truth,
    standard_stars,
)
from finalchar.simulate.catalogue import InitialCorrections, make_source_table
from finalchar.simulate.detection import Detections, detect_sources
from finalchar.simulate.optics import TruePsf, make_psf
from finalchar.simulate.pointing import DetectorPointing, point_detector
from finalchar.simulate.render import (
    MASK_PLANES,
    READ_VARIANCE,
    ObjectsOnDetector,
    Planes,
    find_objects,
    render_detector,
)
from finalchar.simulate.sky import BANDS, Sky, make_sky, zero_point
from finalchar.simulate.surveys import SURVEYS, SurveyPlan, VisitPlan, exposure_id

__all__ = ["DEFAULT_SEED", "write_survey"]

Columns = dict[str, npt.NDArray]  # type: ignore[type-arg]
FloatArray = npt.NDArray[np.float64]

DEFAULT_SEED = 20260115
KERNEL_SIZE = 41


@dataclass(frozen=True)
class _SimulatedDetector:
    """One detector as simulated and measured."""

    sources: DetectorSources
    truth: Columns
    summary: str


def write_survey(
    plan: SurveyPlan | str,
    folder: Path,
    seed: int = DEFAULT_SEED,
    report: Callable[[str], None] | None = None,
) -> None:
    """Simulate a survey and write it to a folder.

    Parameters
    ----------
    plan : SurveyPlan or str
        The survey, or the name of one of `SURVEYS`.
    folder : Path
        Where to write; made if needed, files of the same name are replaced.
    seed : int
        Names the sky, the noise and everything else that is drawn.
    report : callable, optional
        Gets one line per detector and table.
    """
    plan = SURVEYS[plan] if isinstance(plan, str) else plan
    tell = report or (lambda line: None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sky = make_sky(plan.sky, seed)
    detectors = []
    for visit in plan.visits:
        for detector in range(plan.camera.n_detectors):
            detectors.append(_simulate_detector(plan, sky, visit, detector, folder, seed))
            tell(f"visit {visit.visit} detector {detector} ({visit.band}): {detectors[-1].summary}")
    tables = associate([detector.sources for detector in detectors], sky, plan.sky)
    for tract, isolated in tables.items():
        _write_tract(folder, tract, isolated, sky, seed)
        tell(f"tract {tract}: {len(isolated.object_row)} isolated stars")
    _write_truth(folder, sky, [detector.truth for detector in detectors])
    _write_text(folder / "config.yaml", _configuration(plan))
    _write_sheets(folder, plan)


def _simulate_detector(
    plan: SurveyPlan, sky: Sky, visit: VisitPlan, detector: int, folder: Path, seed: int
) -> _SimulatedDetector:
    """Render, detect, measure and write one detector."""
    camera = plan.camera
    pointing = point_detector(plan.sky, camera, visit, detector)
    psf = make_psf(camera, visit, seed, origin_x=pointing.reference_x, origin_y=pointing.reference_y)
    objects = find_objects(sky, pointing, camera, visit, detector)
    planes = render_detector(sky, objects, psf, pointing, camera, visit, detector, seed)
    first_id = exposure_id(visit.visit, detector) << 23
    detections = detect_sources(planes, psf.fwhm / 2.355, first_id)
    kernel = _initial_kernel(psf, 0.5 * (camera.width - 1), 0.5 * (camera.height - 1))
    table, corrections = make_source_table(planes, detections, psf, kernel, pointing)
    parts = _exposure_parts(plan, visit, detector, planes, pointing, kernel, corrections)
    name = f"{visit.visit}_{detector}.fits"
    write_exposure(folder / f"calexp_{name}", parts, compression=_compression(plan, detector))
    extras = FootprintExtras(
        detections.peak_value, detections.peak_significance, planes.mask, planes.variance
    )
    write_source_catalogue(folder / f"src_{name}", table, detections.footprints, extras)
    object_row = match_to_truth(table, objects)
    sources = DetectorSources(visit.visit, detector, visit.band, table, object_row)
    truth = _truth_of_detector(sources, sky, objects, psf, planes)
    return _SimulatedDetector(sources, truth, _summary(detections, table))


def _summary(detections: Detections, table: SourceTable) -> str:
    blends = int((detections.n_child > 0).sum())
    return f"{len(table)} sources, {blends} blends, {int(table['calib_psf_used'].sum())} bright stars"


def _compression(plan: SurveyPlan, detector: int) -> Compression:
    """Let the detectors of a survey differ in how their images are stored, as archives do."""
    if plan.lossy:
        return "lossy"
    return "none" if detector == 0 else "lossless"


def _initial_kernel(psf: TruePsf, x: float, y: float) -> FloatArray:
    """Draw the PSF that the exposure comes with: the true one at the centre of the detector."""
    import galsim

    image = psf.profile(x=x, y=y).drawImage(galsim.ImageD(KERNEL_SIZE, KERNEL_SIZE), scale=1.0)
    return np.asarray(image.array / image.array.sum())


def _exposure_parts(
    plan: SurveyPlan,
    visit: VisitPlan,
    detector: int,
    planes: Planes,
    pointing: DetectorPointing,
    kernel: FloatArray,
    corrections: InitialCorrections,
) -> ExposureParts:
    camera = plan.camera
    box = Box(0, 0, camera.width - 1, camera.height - 1)
    throughput = visit.throughput.get(detector, 1.0)
    calibration = 10.0 ** (-0.4 * (zero_point(visit.band) - 31.4)) / throughput
    return ExposureParts(
        image=planes.image,
        mask=planes.mask,
        variance=planes.variance,
        mask_planes=MASK_PLANES,
        box=box,
        wcs_cards=pointing.header_cards(),
        visit_cards=_visit_cards(plan, visit, detector, pointing),
        band=visit.band,
        physical_filter=f"{visit.band}_synth",
        calibration_mean=calibration,
        calibration_error=0.003 * calibration,
        ap_corr_map=_ap_corr_map(corrections, box),
        kernel=kernel,
        camera=_camera_geometry(plan, detector, pointing, box),
    )


def _ap_corr_map(corrections: InitialCorrections, box: Box) -> dict[str, ChebyshevField]:
    fields = {}
    for name, (value, error) in corrections.values.items():
        fields[f"{name}_instFlux"] = ChebyshevField(box, np.array([[value]]))
        fields[f"{name}_instFluxErr"] = ChebyshevField(box, np.array([[error]]))
    return fields


def _camera_geometry(plan: SurveyPlan, detector: int, pointing: DetectorPointing, box: Box) -> CameraGeometry:
    camera = plan.camera
    x, y = box.centre
    return CameraGeometry(
        name=f"S{detector:02d}",
        serial=f"S{detector}",
        number=detector,
        box=box,
        pixel_size=camera.pixel_size,
        position=(
            (x - pointing.reference_x) * camera.pixel_size,
            (y - pointing.reference_y) * camera.pixel_size,
        ),
        reference=(x, y),
        plate_scale=float(np.radians(pointing.scale)) / camera.pixel_size,
        distortion=camera.distortion / camera.pixel_size**2,
        read_noise=float(np.sqrt(READ_VARIANCE)),
    )


def _visit_cards(
    plan: SurveyPlan, visit: VisitPlan, detector: int, pointing: DetectorPointing
) -> dict[str, bool | int | float | str]:
    """Cards of the visit information; the field passes the meridian two hours after the exposure."""
    text = str(visit.visit)
    longitude = -70.7494
    era = (pointing.boresight_ra - 30.0 - longitude) % 360.0
    return {
        "EXPTIME": 30.0,
        "DARKTIME": 30.7,
        "DATE-AVG": f"{text[:4]}-{text[4:6]}-{text[6:8]}T04:31:15.500000000",
        "TIMESYS": "TAI",
        "AVG-ERA": era,
        "BORE-RA": pointing.boresight_ra,
        "BORE-DEC": pointing.boresight_dec,
        "BORE-AZ": 95.0,
        "BORE-ALT": 63.9,
        "BORE-AIRMASS": 1.113,
        "BORE-ROTANG": visit.rotation,
        "ROTTYPE": "SKY",
        "OBS-LONG": longitude,
        "OBS-LAT": -30.2446,
        "OBS-ELEV": 2663.0,
        "AIRTEMP": 9.5,
        "AIRPRESS": 74000.0,
        "HUMIDITY": 35.0,
        "INSTRUMENT": plan.camera.instrument,
        "IDNUM": exposure_id(visit.visit, 0) // 256,
        "FOCUSZ": 0.01,
        "OBSTYPE": "science",
        "PROGRAM": plan.name,
        "REASON": "simulated survey",
        "OBJECT": "field",
        "HAS-SIMULATED-CONTENT": True,
        "EXPID": exposure_id(visit.visit, detector),
    }


# -------------------------------------------------------------------------------------------- tables


def _write_tract(folder: Path, tract: int, isolated: IsolatedTables, sky: Sky, seed: int) -> None:
    write_table(SourceTable(isolated.stars), folder / f"isolated_star_cat_{tract}.parquet")
    write_table(SourceTable(isolated.sources), folder / f"isolated_star_sources_{tract}.parquet")
    standards = standard_stars(tract, isolated, sky, seed)
    write_table(SourceTable(standards), folder / f"fgcm_standard_star_{tract}.parquet")


TRUTH_INFO = {
    "ra": ColumnInfo("deg", "right ascension"),
    "dec": ColumnInfo("deg", "declination"),
    "color": ColumnInfo("mag", "g - i"),
    "half_light_radius": ColumnInfo("arcsec", "of galaxies, 0 for stars"),
    "g1": ColumnInfo("", "shear of galaxies towards east"),
    "g2": ColumnInfo("", "shear of galaxies towards north-east"),
}
PLACE_INFO = {
    "object": ColumnInfo("", "number of the object in truth_objects.parquet"),
    "source_id": ColumnInfo("", "id of the source in the catalogue that is this object, 0 for none"),
    "x": ColumnInfo("pix", "true position, first pixel (0, 0)"),
    "y": ColumnInfo("pix", "true position, first pixel (0, 0)"),
    "flux": ColumnInfo("ct", "true total flux"),
    "psf_fwhm": ColumnInfo("pix", "true PSF at the place and colour of the object"),
    "psf_g1": ColumnInfo("", "shear of the true PSF along x"),
    "psf_g2": ColumnInfo("", "shear of the true PSF along the diagonal"),
}


def _truth_of_detector(
    sources: DetectorSources, sky: Sky, objects: ObjectsOnDetector, psf: TruePsf, planes: Planes
) -> Columns:
    """Return the true place, flux and PSF of the objects on a detector."""
    height, width = planes.image.shape
    on = (objects.x > -0.5) & (objects.x < width - 0.5) & (objects.y > -0.5) & (objects.y < height - 0.5)
    row, x, y = objects.row[on], objects.x[on], objects.y[on]
    fwhm, g1, g2 = psf.parameters(x=x, y=y, color=sky.color[row])
    source_of = np.zeros(len(sky), dtype=np.int64)
    known = sources.object_row >= 0
    source_of[sources.object_row[known]] = sources.table["id"][known]
    return {
        "visit": np.full(len(row), sources.visit, dtype=np.int64),
        "detector": np.full(len(row), sources.detector, dtype=np.int32),
        "object": sky.number[row],
        "is_star": sky.is_star[row],
        "source_id": source_of[row],
        "x": x,
        "y": y,
        "flux": objects.flux[on],
        "color": sky.color[row],
        "psf_fwhm": fwhm,
        "psf_g1": g1,
        "psf_g2": g2,
    }


def _write_truth(folder: Path, sky: Sky, places: list[Columns]) -> None:
    columns: Columns = {
        "object": sky.number,
        "is_star": sky.is_star,
        "ra": sky.ra,
        "dec": sky.dec,
        "color": sky.color,
        "half_light_radius": sky.half_light_radius,
        "g1": sky.g1,
        "g2": sky.g2,
    }
    columns.update({f"mag_{band}": sky.magnitude(band) for band in BANDS})
    write_table(SourceTable(columns, TRUTH_INFO), folder / "truth_objects.parquet")
    stacked = {name: np.concatenate([place[name] for place in places]) for name in places[0]}
    info = {**PLACE_INFO, "color": TRUTH_INFO["color"]}
    write_table(SourceTable(stacked, info), folder / "truth_sources.parquet")


def _write_sheets(folder: Path, plan: SurveyPlan) -> None:
    """Write the sheets, the one of the detectors last: where it is, the survey is complete."""
    lines = ["tract,isolated_star_cat,isolated_star_sources,fgcm_standard_star"]
    for tract in plan.sky.tracts:
        tables = ("isolated_star_cat", "isolated_star_sources", "fgcm_standard_star")
        lines.append(",".join([str(tract), *(f"{table}_{tract}.parquet" for table in tables)]))
    _write_text(folder / "tracts.csv", "\n".join(lines) + "\n")
    lines = ["visit,detector,band,exposure,src"]
    for visit in plan.visits:
        for detector in range(plan.camera.n_detectors):
            name = f"{visit.visit}_{detector}.fits"
            lines.append(f"{visit.visit},{detector},{visit.band},calexp_{name},src_{name}")
    _write_text(folder / "detectors.csv", "\n".join(lines) + "\n")


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, [text.encode("utf-8")])


def _configuration(plan: SurveyPlan) -> str:
    """Return a configuration whose science suits the number of stars; `survey` is for the user to set."""
    order = plan.psf_order
    lines = [
        f"# Settings for the simulated survey {plan.name!r}; `survey` is the folder of this file.",
        "survey: .",
        "psf_determiner:",
        "  piff:",
        f"    spatialOrder: {order}",
        "measure_ap_corr:",
        "  fitConfig:",
        f"    orderX: {order}",
        f"    orderY: {order}",
    ]
    return "\n".join(lines) + "\n"
