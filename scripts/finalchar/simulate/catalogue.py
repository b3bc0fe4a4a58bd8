"""The source catalogue of a simulated detector: the columns, flags and slots of an LSST `src`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.formats.sources import ColumnInfo, Footprints, SourceTable
from finalchar.simulate import photometry
from finalchar.simulate.detection import Detections
from finalchar.simulate.optics import TruePsf
from finalchar.simulate.pointing import DetectorPointing
from finalchar.simulate.render import MASK_PLANES, Planes

__all__ = ["APERTURES", "InitialCorrections", "make_source_table"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

APERTURES = (3.0, 6.0, 9.0, 12.0, 17.0, 25.0)
TOPHAT_RADIUS, TOPHAT_OUTER = 12.0, 1.7
SLOTS = {
    "slot_ApFlux": "base_CircularApertureFlux_12_0",
    "slot_CalibFlux": "base_NormalizedCompensatedTophatFlux",
    "slot_Centroid": "base_SdssCentroid",
    "slot_GaussianFlux": "base_GaussianFlux",
    "slot_ModelFlux": "base_GaussianFlux",
    "slot_PsfFlux": "base_PsfFlux",
    "slot_PsfShape": "ext_shapeHSM_HsmPsfMoments",
    "slot_Shape": "ext_shapeHSM_HsmSourceMoments",
}
BAD_CENTROID = (
    "base_CircularApertureFlux",
    "base_GaussianFlux",
    "base_LocalBackground",
    "base_PsfFlux",
    "base_SdssShape",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMoments",
)
PIXEL_FLAGS = {
    "edge": "EDGE",
    "nodata": "NO_DATA",
    "interpolated": "INTRP",
    "saturated": "SAT",
    "cr": "CR",
    "bad": "BAD",
    "suspect": "SUSPECT",
}


@dataclass(frozen=True)
class InitialCorrections:
    """Constant aperture corrections of the first characterisation: name -> (value, error)."""

    values: dict[str, tuple[float, float]]


class _Columns:
    """Columns of a growing table, each with unit and description."""

    def __init__(self) -> None:
        self.columns: dict[str, npt.NDArray] = {}  # type: ignore[type-arg]
        self.info: dict[str, ColumnInfo] = {}

    def add(self, name: str, values: npt.NDArray, unit: str = "", text: str = "") -> None:  # type: ignore[type-arg]
        self.columns[name] = values
        self.info[name] = ColumnInfo(unit, text)

    def add_flux(self, name: str, flux: tuple[FloatArray, FloatArray], text: str) -> None:
        self.add(f"{name}_instFlux", flux[0].astype(np.float64), "count", text)
        self.add(f"{name}_instFluxErr", flux[1].astype(np.float64), "count", "1-sigma instFlux uncertainty")


def make_source_table(
    planes: Planes,
    detections: Detections,
    psf: TruePsf,
    kernel: FloatArray,
    pointing: DetectorPointing,
) -> tuple[SourceTable, InitialCorrections]:
    """Measure all sources of a detector.

    Parameters
    ----------
    planes, detections : Planes, Detections
        The image and what was found in it.
    psf : TruePsf
        The true PSF (only its size at mean colour is used, for the star-galaxy separation).
    kernel : ndarray, float64, shape (n, n)
        Initial PSF of the exposure.
    pointing : DetectorPointing
        The astrometry.

    Returns
    -------
    table : SourceTable
        In catalogue order; flags as bool columns.
    corrections : InitialCorrections
        The exposure's aperture-correction map.
    """
    footprints = detections.footprints
    stamps = photometry.cut_stamps(planes, footprints)
    columns = _Columns()
    first = footprints.peak_offset[:-1]
    start = (footprints.peak_x[first].astype(float), footprints.peak_y[first].astype(float))
    x, y, lost = photometry.measure_centroids(stamps, x=start[0], y=start[1], psf_sigma=psf.fwhm / 2.355)
    _add_identity(columns, footprints, detections, pointing, x, y)
    _add_centroids(columns, x, y, lost)
    moments = photometry.measure_moments(stamps, x=x, y=y, psf_sigma=psf.fwhm / 2.355)
    _add_shapes(columns, moments, _psf_moments(psf, kernel, planes, x, y))
    _add_apertures(columns, stamps, planes, x, y)
    corrections = _add_fluxes(columns, stamps, moments, kernel, planes, x, y)
    _add_centroid_errors(columns)
    _add_pixel_flags(columns, planes, footprints, x, y)
    _add_detection_flags(columns, footprints, detections)
    _add_first_psf_flags(columns)
    aliases = {f"{name}_flag_badCentroid": "base_SdssCentroid_flag" for name in BAD_CENTROID}
    aliases["base_GaussianFlux_flag_badShape"] = "ext_shapeHSM_HsmSourceMoments_flag"
    return SourceTable(columns.columns, columns.info, dict(sorted({**aliases, **SLOTS}.items()))), corrections


def _add_identity(
    columns: _Columns,
    footprints: Footprints,
    detections: Detections,
    pointing: DetectorPointing,
    x: FloatArray,
    y: FloatArray,
) -> None:
    ra, dec = pointing.pixel_to_sky(x=x, y=y)
    columns.add("id", footprints.source_id, "", "unique ID")
    columns.add("coord_ra", np.radians(ra), "rad", "position in ra/dec")
    columns.add("coord_dec", np.radians(dec), "rad", "position in ra/dec")
    columns.add("parent", footprints.parent, "", "unique ID of parent source")
    columns.add(
        "deblend_nChild", detections.n_child, "", "Number of children this object has (defaults to 0)"
    )
    n_peaks = np.diff(footprints.peak_offset).astype(np.int32)
    columns.add(
        "deblend_nPeaks", np.where(n_peaks > 1, n_peaks, 0).astype(np.int32), "", "Peaks in the blend"
    )


def _add_centroids(columns: _Columns, x: FloatArray, y: FloatArray, lost: BoolArray) -> None:
    columns.add("base_SdssCentroid_x", x, "pixel", "centroid from Sdss Centroid algorithm")
    columns.add("base_SdssCentroid_y", y, "pixel", "centroid from Sdss Centroid algorithm")
    empty = np.full(len(x), np.nan, dtype=np.float32)
    columns.add("base_SdssCentroid_xErr", empty, "pixel", "1-sigma uncertainty on x position")
    columns.add("base_SdssCentroid_yErr", empty, "pixel", "1-sigma uncertainty on y position")
    columns.add("base_SdssCentroid_flag", lost, "", "General Failure Flag")
    columns.add("base_SdssCentroid_flag_resetToPeak", lost, "", "set if the centroid was reset to the peak")


def _add_shapes(columns: _Columns, moments: photometry.Moments, psf: tuple[FloatArray, ...]) -> None:
    psf_xx, psf_yy, psf_xy = psf
    for name, text in (
        ("base_SdssShape", "elliptical Gaussian adaptive moments"),
        ("ext_shapeHSM_HsmSourceMoments", "Adaptive moments of the source via the HSM shape algorithm"),
    ):
        columns.add(f"{name}_x", moments.x, "pixel", text)
        columns.add(f"{name}_y", moments.y, "pixel", text)
        for axis in ("xx", "yy", "xy"):
            columns.add(f"{name}_{axis}", getattr(moments, axis), "pixel^2", text)
        columns.add(f"{name}_flag", moments.flag, "", "General failure flag, set if anything went wrong")
    text = "Adaptive moments of the PSF via the HSM shape algorithm"
    for axis, values in (("xx", psf_xx), ("yy", psf_yy), ("xy", psf_xy)):
        columns.add(f"ext_shapeHSM_HsmPsfMoments_{axis}", values, "pixel^2", text)
    columns.add("ext_shapeHSM_HsmPsfMoments_flag", np.zeros(len(psf_xx), dtype=bool), "", "General flag")
    ratio = (psf_xx + psf_yy) / (moments.xx + moments.yy)
    columns.add(
        "base_ClassificationSizeExtendedness_value",
        np.clip(1.0 - ratio, 0.0, 1.0),
        "",
        "Measure of being a galaxy based on trace of second order moments",
    )
    columns.add(
        "base_ClassificationSizeExtendedness_flag", moments.flag, "", "Moments-based classification failed"
    )


def _psf_moments(
    psf: TruePsf, kernel: FloatArray, planes: Planes, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return adaptive moments of the true PSF, scaled from those measured on its kernel at the centre."""
    import galsim

    height, width = planes.image.shape
    centre_fwhm, _, _ = psf.parameters(x=0.5 * (width - 1), y=0.5 * (height - 1))
    measured = galsim.hsm.FindAdaptiveMom(galsim.ImageD(kernel)).moments_sigma ** 2
    fwhm, g1, g2 = psf.parameters(x=x, y=y)
    shear2 = g1 * g1 + g2 * g2
    half_trace = measured * (fwhm / centre_fwhm) ** 2 * (1.0 + shear2) / (1.0 - shear2)
    e1, e2 = 2.0 * g1 / (1.0 + shear2), 2.0 * g2 / (1.0 + shear2)
    return half_trace * (1.0 + e1), half_trace * (1.0 - e1), half_trace * e2


def _add_apertures(
    columns: _Columns, stamps: photometry.Stamps, planes: Planes, x: FloatArray, y: FloatArray
) -> None:
    for radius in APERTURES:
        name = f"base_CircularApertureFlux_{radius:.1f}".replace(".", "_")
        flux = photometry.aperture_flux(stamps, x=x, y=y, radius=radius)
        columns.add_flux(name, flux, f"instFlux within {radius:f}-pixel aperture")
        truncated = _near_edge(planes, x, y, radius)
        columns.add(f"{name}_flag", truncated, "", "General Failure Flag")
        columns.add(
            f"{name}_flag_apertureTruncated", truncated, "", "aperture did not fit within measurement image"
        )


def _near_edge(planes: Planes, x: FloatArray, y: FloatArray, distance: float) -> BoolArray:
    height, width = planes.image.shape
    return np.asarray(
        (x < distance) | (y < distance) | (x > width - 1 - distance) | (y > height - 1 - distance)
    )


def _add_fluxes(
    columns: _Columns,
    stamps: photometry.Stamps,
    moments: photometry.Moments,
    kernel: FloatArray,
    planes: Planes,
    x: FloatArray,
    y: FloatArray,
) -> InitialCorrections:
    """Add Gaussian, PSF and compensated fluxes; correct them to the compensated aperture."""
    gaussian = photometry.gaussian_flux(stamps, moments, x=x, y=y)
    point = photometry.psf_flux(stamps, kernel, x=x, y=y)
    tophat = _compensated_tophat(stamps, x, y)
    aperture = photometry.aperture_flux(stamps, x=x, y=y, radius=TOPHAT_RADIUS)
    truncated = _near_edge(planes, x, y, np.ceil(TOPHAT_RADIUS * TOPHAT_OUTER))
    too_close = _near_edge(planes, x, y, 0.5 * kernel.shape[0])
    bright = ~moments.flag & ~truncated & (point[0] > 100.0 * point[1])
    norm = _median_ratio(aperture[0], tophat[0], bright)
    calibration = (tophat[0] * norm[0], tophat[1] * norm[0])
    values = {
        "base_CompensatedTophatFlux_12": norm,
        "base_GaussianFlux": _median_ratio(calibration[0], gaussian[0], bright),
        "base_PsfFlux": _median_ratio(calibration[0], point[0], bright),
    }
    _add_flux(columns, "base_CompensatedTophatFlux_12", tophat, truncated, 1.0)
    _add_flux(columns, "base_GaussianFlux", gaussian, moments.flag, values["base_GaussianFlux"][0])
    _add_flux(columns, "base_PsfFlux", point, np.zeros(len(x), dtype=bool), values["base_PsfFlux"][0])
    columns.add("base_PsfFlux_flag_edge", too_close, "", "object was too close to the edge")
    _add_flux(columns, "base_NormalizedCompensatedTophatFlux", calibration, truncated, 1.0)
    background = photometry.local_background(stamps, x=x, y=y, inner=28.0, outer=40.0)
    _add_flux(columns, "base_LocalBackground", background, np.zeros(len(x), dtype=bool), 1.0)
    return InitialCorrections(values)


def _add_flux(
    columns: _Columns, name: str, flux: tuple[FloatArray, FloatArray], flag: BoolArray, correction: float
) -> None:
    columns.add_flux(name, (flux[0] * correction, flux[1] * correction), f"instFlux of {name}")
    columns.add(f"{name}_flag", flag, "", "General Failure Flag")


def _compensated_tophat(
    stamps: photometry.Stamps, x: FloatArray, y: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Aperture minus scaled annulus (measurement specification 12.5)."""
    inner = photometry.aperture_flux(stamps, x=x, y=y, radius=TOPHAT_RADIUS)
    outer = photometry.aperture_flux(stamps, x=x, y=y, radius=TOPHAT_RADIUS * TOPHAT_OUTER)
    scale = 1.0 / (TOPHAT_OUTER**2 - 1.0)
    variance = inner[1] ** 2 + scale**2 * (outer[1] ** 2 - inner[1] ** 2)
    return inner[0] - scale * (outer[0] - inner[0]), np.sqrt(variance)


def _median_ratio(reference: FloatArray, flux: FloatArray, chosen: BoolArray) -> tuple[float, float]:
    """Median correction and its error; (1, 0.01) where fewer than three stars say."""
    if chosen.sum() < 3:
        return 1.0, 0.01
    ratio = reference[chosen] / flux[chosen]
    middle = float(np.median(ratio))
    return middle, float(1.4826 * np.median(np.abs(ratio - middle)) / np.sqrt(chosen.sum()))


def _add_centroid_errors(columns: _Columns) -> None:
    """Set the errors to size over signal-to-noise, the bound for a Gaussian on a flat background."""
    table = columns.columns
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = np.abs(table["base_PsfFlux_instFluxErr"] / table["base_PsfFlux_instFlux"])
        for axis in ("x", "y"):
            size = np.sqrt(table[f"base_SdssShape_{axis}{axis}"])
            table[f"base_SdssCentroid_{axis}Err"] = (size * noise).astype(np.float32)


def _add_pixel_flags(
    columns: _Columns, planes: Planes, footprints: Footprints, x: FloatArray, y: FloatArray
) -> None:
    anywhere = np.zeros(len(footprints), dtype=np.int32)
    for index in range(len(footprints)):
        anywhere[index] = np.bitwise_or.reduce(planes.mask[footprints.pixels(index)], initial=0)
    padded = np.pad(planes.mask, 1)
    row, column = _pixel(y, planes.mask.shape[0]), _pixel(x, planes.mask.shape[1])
    box = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))[row, column].reshape(len(x), 9)
    some, every = np.bitwise_or.reduce(box, axis=1), np.bitwise_and.reduce(box, axis=1)
    columns.add("base_PixelFlags_flag", np.zeros(len(x), dtype=bool), "", "General failure flag")
    columns.add(
        "base_PixelFlags_flag_offimage", _near_edge(planes, x, y, 0.0), "", "Source center is off image"
    )
    for suffix, bits, where in (
        ("", anywhere, "in the Source footprint"),
        ("Center", some, "in the 3x3 region around the centroid"),
        ("CenterAll", every, "in all of the 3x3 region around the centroid"),
    ):
        for name, plane in PIXEL_FLAGS.items():
            hit = (bits & np.int32(1 << MASK_PLANES[plane])) != 0
            columns.add(f"base_PixelFlags_flag_{name}{suffix}", hit, "", f"{plane} pixel {where}")


def _pixel(position: FloatArray, size: int) -> npt.NDArray[np.int64]:
    return np.clip(np.floor(position + 0.5), 0, size - 1).astype(np.int64)


def _add_detection_flags(columns: _Columns, footprints: Footprints, detections: Detections) -> None:
    single = detections.n_child == 0
    child = footprints.parent != 0
    columns.add("detect_isPrimary", single, "", "True if source has no children and is not a sky source.")
    columns.add("detect_isDeblendedSource", single, "", "True if source has no children.")
    columns.add("detect_fromBlend", child, "", "Deblended from a parent with more than one child.")
    columns.add("detect_isIsolated", single & ~child, "", "This source is not a part of a blend.")


def _add_first_psf_flags(columns: _Columns) -> None:
    """Mark the stars of the first PSF: bright, unblended, unresolved, clean."""
    table = columns.columns
    clean = table["detect_isIsolated"] & (table["base_ClassificationSizeExtendedness_value"] < 0.1)
    for name in ("edge", "interpolated", "saturated", "bad"):
        clean &= ~table[f"base_PixelFlags_flag_{name}"]
    chosen = clean & (table["base_PsfFlux_instFlux"] > 50.0 * table["base_PsfFlux_instFluxErr"])
    none = np.zeros(len(chosen), dtype=bool)
    columns.add(
        "calib_psf_candidate", chosen, "", "Flag set if the source was a candidate for PSF determination"
    )
    columns.add("calib_psf_used", chosen, "", "Flag set if the source was used for PSF determination")
    columns.add("calib_psf_reserved", none, "", "set if source was reserved from PSF determination")
