"""Filter, polygon and visit information of LSST exposures (file-format specification 1.6, 6.4, 6.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import VisitInfo
from finalchar.formats.fits_file import Header

if TYPE_CHECKING:
    from finalchar.formats.afw_table import AfwTable
    from finalchar.formats.archive import Archive

__all__ = ["FilterLabel", "parallactic_angle", "visit_info_from_cards"]


@dataclass(frozen=True)
class FilterLabel:
    """Band and physical filter; None where the exposure does not say."""

    band: str | None = None
    physical: str | None = None


def read_filter_label(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> FilterLabel:
    """Make a `FilterLabel` from its archive row."""
    row = catalogues[0]
    return FilterLabel(
        str(row.one("band")) if row.one("band_exists") else None,
        str(row.one("physical")) if row.one("physical_exists") else None,
    )


def read_polygon(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> npt.NDArray[np.float64]:
    """Return the vertices, shape (n, 2), the last one equal to the first."""
    return np.stack([catalogues[0]["vertices_x"], catalogues[0]["vertices_y"]], axis=1)


def parallactic_angle(hour_angle: float, declination: float, latitude: float) -> float:
    """Parallactic angle, radians (specification 1.6); NaN if anything is unknown."""
    return float(
        np.arctan2(
            np.sin(hour_angle),
            np.cos(declination) * np.tan(latitude) - np.sin(declination) * np.cos(hour_angle),
        )
    )


def visit_info_from_cards(header: Header) -> VisitInfo:
    """Return the visit information of the primary header; NaN where a card is missing."""
    ra, dec, era, longitude, latitude = (
        np.deg2rad(header.number(card)) for card in ("BORE-RA", "BORE-DEC", "AVG-ERA", "OBS-LONG", "OBS-LAT")
    )
    exposure_id = header.get("EXPID")
    return VisitInfo(
        exposure_id=exposure_id if isinstance(exposure_id, int) else None,
        boresight_ra=float(ra),
        boresight_dec=float(dec),
        boresight_parallactic_angle=parallactic_angle(era + longitude - ra, dec, latitude),
        boresight_airmass=header.number("BORE-AIRMASS"),
        exposure_time_seconds=header.number("EXPTIME"),
        instrument=header.text("INSTRUMENT"),
    )


def read_visit_info(name: str, catalogues: Sequence[AfwTable], archive: Archive) -> VisitInfo:
    """Make a `VisitInfo` from its archive row (exposure catalogues store it so)."""
    row = catalogues[0]
    ra, dec = float(row.one("boresightradec_ra")), float(row.one("boresightradec_dec"))
    hour_angle = float(row.one("era")) + float(row.one("longitude")) - ra
    return VisitInfo(
        boresight_ra=ra,
        boresight_dec=dec,
        boresight_parallactic_angle=parallactic_angle(hour_angle, dec, float(row.one("latitude"))),
        boresight_airmass=float(row.one("boresightairmass")),
        exposure_time_seconds=float(row.one("exposuretime")),
        instrument=str(row.one("instrumentlabel")) if "instrumentlabel" in row else "",
    )
