"""A simulated survey in the form of surveys without the LSST stack.

The same pixels, positions and isolated stars, written as plain images (image, weight, flag image) and
SExtractor catalogues in FITS_LDAC form.  Visits get their sequence number, because ids of sources are made of
visit, detector and number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import Exposure
from finalchar.formats.fits_file import FitsFile, write_atomically
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_source_table
from finalchar.formats.parquet import read_columns, write_table
from finalchar.formats.sextractor import combined_id
from finalchar.formats.sources import SourceTable
from finalchar.sheets import DetectorRow, TractRow, read_detectors, read_tracts

__all__ = ["write_plain_form"]

FLAG_BITS = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "NO_DATA": 5}
"""Bits of the flag images by mask plane."""
_ASTROMETRY = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CUNIT)[12] *=|CD[12]_[12] *=|(A|B|AP|BP)_(ORDER|\d_\d) *=|(RADESYS|EQUINOX) *="
)
_SEQUENCE = 100_000
Columns = dict[str, npt.NDArray[Any]]


def write_plain_form(survey: Path, folder: Path) -> None:
    """Write a survey in LSST form again in plain form.

    Parameters
    ----------
    survey : Path
        Folder of the simulated survey, LSST form.
    folder : Path
        Where to write images, catalogues, tract tables, sheets and configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_detectors(survey / "detectors.csv")
    ids: dict[int, int] = {}
    for row in rows:
        ids |= _write_detector(survey, folder, row)
    tracts = read_tracts(survey / "tracts.csv")
    for tract in tracts:
        _write_tract(survey, folder, tract, ids)
    _write_text(folder / "config.yaml", _configuration((survey / "config.yaml").read_text()))
    _write_text(folder / "tracts.csv", _tract_sheet(tracts))
    _write_text(folder / "detectors.csv", _detector_sheet(rows))


def _plain_visit(visit: int) -> int:
    return visit % _SEQUENCE


def _write_detector(survey: Path, folder: Path, row: DetectorRow) -> dict[int, int]:
    """Write images and catalogue of a detector; return the new id of each of its sources."""
    import fitsio

    exposure = read_exposure(survey / row.exposure)
    sources = read_source_table(survey / row.src)
    visit = _plain_visit(row.visit)
    name = f"{visit}_{row.detector}.fits"
    header = fitsio.FITSHDR()
    for card in _astrometry_cards(survey / row.exposure):
        header.add_record(card)
    good = np.isfinite(exposure.image) & (exposure.variance > 0.0)
    planes = {
        "image": np.where(good, exposure.image, np.float32(0.0)),
        "weight": np.where(good, 1.0 / exposure.variance, 0.0).astype(np.float32),
        "flag": _flag_image(exposure),
    }
    for plane, pixels in planes.items():
        fitsio.write(folder / f"{plane}_{name}", pixels, header=header, clobber=True)
    _write_catalogue(folder / f"cat_{name}", sources)
    numbers = np.arange(1, len(sources) + 1, dtype=np.int64)
    new = combined_id(numbers, visit=visit, detector=row.detector, origin=row.src)
    return dict(zip(sources["id"].tolist(), new.tolist(), strict=True))


def _astrometry_cards(path: Path) -> list[str]:
    unit = FitsFile(path).hdu(1)
    block = unit.file.buffer[unit.header_start : unit.data_start].decode("latin-1")
    cards = [block[start : start + 80] for start in range(0, len(block), 80)]
    return [card for card in cards if _ASTROMETRY.match(card)]


def _flag_image(exposure: Exposure) -> npt.NDArray[np.int16]:
    flags = np.zeros(exposure.mask.shape, dtype=np.int16)
    for name, bit in FLAG_BITS.items():
        flags[(exposure.mask & exposure.mask_bits([name])) != 0] |= np.int16(1 << bit)
    return flags


def _write_catalogue(path: Path, sources: SourceTable) -> None:
    """Write a FITS_LDAC catalogue with the columns and conventions of SExtractor."""
    import fitsio

    rows = np.zeros(
        len(sources),
        dtype=[("NUMBER", "i4"), ("FLAGS", "i2")]
        + [(f"{axis}WIN_IMAGE", "f8") for axis in "XY"]
        + [(f"ERR{part}WIN_IMAGE", "f4") for part in ("A", "B", "THETA")]
        + [(name, "f8") for name in ("FLUX_AUTO", "FLUXERR_AUTO")]
        + [("CLASS_STAR", "f4")],
    )
    rows["NUMBER"] = np.arange(1, len(sources) + 1)
    blended = (sources["parent"] != 0) | (sources["deblend_nChild"] > 0)
    rows["FLAGS"] = 2 * blended + 4 * sources["base_PixelFlags_flag_saturated"]
    for axis in "XY":
        rows[f"{axis}WIN_IMAGE"] = sources[f"slot_Centroid_{axis.lower()}"] + 1.0
    for part, axis in (("A", "x"), ("B", "y")):
        rows[f"ERR{part}WIN_IMAGE"] = sources[f"slot_Centroid_{axis}Err"]
    rows["FLUX_AUTO"] = sources["base_GaussianFlux_instFlux"]
    rows["FLUXERR_AUTO"] = sources["base_GaussianFlux_instFluxErr"]
    rows["CLASS_STAR"] = 1.0 - sources["base_ClassificationSizeExtendedness_value"]
    header = np.zeros(1, dtype=[("Field Header Card", "S80", (2,))])
    header["Field Header Card"] = [["SIMPLE  =                    T", "END"]]
    with fitsio.FITS(path, "rw", clobber=True) as file:
        file.write(header, extname="LDAC_IMHEAD")
        file.write(rows, extname="LDAC_OBJECTS")


def _write_tract(survey: Path, folder: Path, tract: TractRow, ids: Mapping[int, int]) -> None:
    """Write the tables of a tract with the new visits and ids."""
    for name in (tract.isolated_star_cat, tract.isolated_star_sources, tract.fgcm_standard_star):
        if name is not None:
            columns: Columns = dict(read_columns(survey / name, None).columns)
            if "sourceId" in columns:
                columns["sourceId"] = np.array([ids[k] for k in columns["sourceId"].tolist()], dtype=np.int64)
                columns["visit"] = columns["visit"] % _SEQUENCE
            write_table(SourceTable(columns), folder / name)


def _tract_sheet(tracts: list[TractRow]) -> str:
    lines = ["tract,isolated_star_cat,isolated_star_sources,fgcm_standard_star"]
    for row in tracts:
        names = row.isolated_star_cat, row.isolated_star_sources, row.fgcm_standard_star or ""
        lines.append(",".join([str(row.tract), *names]))
    return "\n".join(lines) + "\n"


def _detector_sheet(rows: list[DetectorRow]) -> str:
    lines = ["visit,detector,band,exposure,src,weight,flag,gain,source_table"]
    for row in rows:
        visit = _plain_visit(row.visit)
        name = f"{visit}_{row.detector}.fits"
        files = f"image_{name}[0],cat_{name},weight_{name}[0],flag_{name}"
        lines.append(f"{visit},{row.detector},{row.band},{files},1.0,source_table_{visit}.parquet")
    return "\n".join(lines) + "\n"


def _configuration(lsst: str) -> str:
    """Return the configuration of the survey with what plain images need."""
    lines = ["input:", "  preset: sextractor", "  images:", "    weight_kind: inverse_variance", "    flags:"]
    lines += [f"      {name}: [{bit}]" for name, bit in FLAG_BITS.items()]
    return lsst + "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, [text.encode("utf-8")])
