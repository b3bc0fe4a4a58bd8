"""Selector ``objectSize``: the smallest sizes of bright sources (selection specification 3.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.config_base import Field, NameSet, Section
from finalchar.errors import NoWorkError
from finalchar.stars.selectors import limits

__all__ = ["NAME", "Settings", "select"]

NAME = "objectSize"

LOOKS_AT_WHOLE_CATALOGUE = True  # whether a source is selected depends on the others

NUMBER_OF_CLUSTERS = 4
FEWEST_TO_IMPROVE = 5
MOST_ROUNDS = 10
SIGMA_PER_QUARTILE_RANGE = 0.741

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


class Settings(Section):
    """Settings of the selector ``objectSize``."""

    doFluxLimit: bool = Field(False, description="apply fluxMin and fluxMax")
    fluxMin: float = Field(12500.0, ge=0, description="least flux")
    fluxMax: float = Field(0.0, ge=0, description="greatest flux; 0: no limit")
    doSignalToNoiseLimit: bool = Field(True, description="apply signalToNoiseMin and signalToNoiseMax")
    signalToNoiseMin: float = Field(50.0, ge=0, description="least signal-to-noise")
    signalToNoiseMax: float = Field(0.0, ge=0, description="greatest signal-to-noise; 0: no limit")
    widthMin: float = Field(0.9, ge=0, description="least width, pixels")
    widthMax: float = Field(10.0, ge=0, description="greatest width, pixels")
    sourceFluxField: str = Field("base_PsfFlux_instFlux", description="column of the flux")
    widthStdAllowed: float = Field(0.15, ge=0, description="scatter of the widths of stars, relative")
    nSigmaClip: float = Field(2.0, ge=0, description="level of rejection from the cluster")
    badFlags: NameSet = Field(
        default_factory=lambda: [
            "base_PixelFlags_flag_edge",
            "base_PixelFlags_flag_nodata",
            "base_PixelFlags_flag_interpolatedCenter",
            "base_PixelFlags_flag_saturatedCenter",
            "base_PixelFlags_flag_crCenter",
            "base_PixelFlags_flag_bad",
            "base_PixelFlags_flag_interpolated",
            "slot_Centroid_flag",
        ],
        description="flags of which none may be set",
    )

    def check_together(self) -> None:
        """Refuse empty intervals."""
        limits.demand_order(self, "widthMin", "widthMax")
        for limited in ("flux", "signalToNoise"):
            if getattr(self, f"{limited}Max") > 0:
                limits.demand_order(self, f"{limited}Min", f"{limited}Max")


def select(table: Any, settings: Any, exposure: Any = None, compatibility: str = "fixed") -> BoolArray:
    """Select the sources whose width is that of stars.

    Parameters
    ----------
    table : SourceTable
    settings : Settings
    exposure : Exposure, optional
        With ``fixed``, its field angles take the distortion out of the widths [S-Q7].
    compatibility : {'fixed', 'lsst'}

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    NoWorkError
        If the table is empty, or no source is good enough to look at.
    InputError
        If a column is missing.
    """
    number = len(limits.every_row(table))
    width = _widths(table, settings, exposure, compatibility)
    good = ~_bad_sources(table, settings, width)
    if not number:
        raise NoWorkError("no_selected_sources", "the source catalogue is empty")
    if not good.any():
        raise NoWorkError("no_selected_sources", f"No good star candidates out of {number} input sources")
    rows = np.flatnonzero(good)
    cluster, centers = _assign_clusters(width[rows], settings.widthStdAllowed)
    cluster = _improve_first_cluster(width[rows], cluster, centers, settings)
    selected = np.zeros(number, dtype=bool)
    selected[rows[cluster == 0]] = True
    return selected


def _widths(table: Any, settings: Any, exposure: Any, compatibility: str) -> FloatArray:
    """Half the trace of the second moments, square-rooted; pixels."""
    xx, yy = (limits.column(table, settings, "", f"slot_Shape_{moment}") for moment in ("xx", "yy"))
    with np.errstate(invalid="ignore"):
        if compatibility == "lsst" or exposure is None or exposure.field_angle is None:
            pixel_width: FloatArray = np.sqrt(0.5 * (xx + yy))
            return pixel_width
        xy = limits.column(table, settings, "", "slot_Shape_xy")
        jacobian = _tangent_jacobian(table, settings, exposure)
        moments = np.stack([np.stack([xx, xy], axis=-1), np.stack([xy, yy], axis=-1)], axis=-2)
        moments = jacobian @ moments @ np.swapaxes(jacobian, -1, -2)
        width: FloatArray = np.sqrt(0.5 * (moments[:, 0, 0] + moments[:, 1, 1]))
        return width


def _tangent_jacobian(table: Any, settings: Any, exposure: Any) -> FloatArray:
    """Jacobian of pixels to undistorted pixels: field angles over their scale at the detector's centre."""
    x, y = (limits.column(table, settings, "", f"slot_Centroid_{axis}").astype(np.float64) for axis in "xy")
    center_x, center_y = exposure.box.centre
    area = abs(np.linalg.det(exposure.field_angle.jacobian(x=center_x, y=center_y)))
    jacobian: FloatArray = exposure.field_angle.jacobian(x=x, y=y) / np.sqrt(area)
    return jacobian


def _bad_sources(table: Any, settings: Any, width: FloatArray) -> BoolArray:
    flux = limits.column(table, settings, "sourceFluxField")
    bad = ~np.isfinite(width) | ~np.isfinite(flux)
    for name in settings.badFlags:
        bad |= limits.column(table, settings, "badFlags", name).astype(bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        if settings.doFluxLimit:
            bad |= _outside(flux, settings.fluxMin, settings.fluxMax)
        if settings.doSignalToNoiseLimit:
            error = f"{settings.sourceFluxField}Err"
            ratio = flux / limits.column(table, settings, "sourceFluxField", error)
            bad |= _outside(ratio, settings.signalToNoiseMin, settings.signalToNoiseMax)
        bad |= (width < settings.widthMin) | (width > settings.widthMax)
    return np.asarray(bad, dtype=np.bool_)


def _outside(values: npt.NDArray[Any], minimum: float, maximum: float) -> BoolArray:
    """Whether values are outside [minimum, maximum]; NaN is not; a maximum of 0 is none."""
    outside = values < minimum
    return np.asarray(outside | (values > maximum) if maximum > 0 else outside)


def _assign_clusters(width: FloatArray, scatter: float) -> tuple[IntArray, FloatArray]:
    """Cluster the widths about four medians, until the assignment stays."""
    seed = np.sort(width)[len(width) // 10]
    centers = seed + 2.0 * seed * scatter * np.arange(NUMBER_OF_CLUSTERS)
    before = np.full(len(width), -1)
    while True:
        distance = np.abs(width[np.newaxis] - centers[:, np.newaxis])
        cluster = np.argmin(np.where(np.isnan(distance), np.inf, distance), axis=0)
        if np.array_equal(cluster, before):
            return cluster, centers
        before = cluster
        members = [width[cluster == k] for k in range(NUMBER_OF_CLUSTERS)]
        centers = np.array([np.median(values) if len(values) else np.nan for values in members])


def _improve_first_cluster(
    width: FloatArray, cluster: IntArray, centers: FloatArray, settings: Any
) -> IntArray:
    """Reject outlying members of cluster 0; they get the cluster -1."""
    cluster = cluster.copy()
    number = int((cluster == 0).sum())
    if number < FEWEST_TO_IMPROVE:
        return cluster
    for _ in range(MOST_ROUNDS):
        values = np.sort(width[cluster == 0])
        center = np.median(values)
        quartiles = values[int(0.75 * number)] - values[int(0.25 * number)]
        deviation = min(np.std(values), SIGMA_PER_QUARTILE_RANGE * quartiles)
        middle = values[int(0.5 * number)]
        cluster[(cluster == 0) & ~(np.abs(width - center) < settings.nSigmaClip * deviation)] = -1
        remaining = int((cluster == 0).sum())
        if remaining in (number, 0) or deviation < settings.widthStdAllowed * middle:
            break
        number = remaining
    return cluster
