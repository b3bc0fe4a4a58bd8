"""Readers and writers against what the LSST stack says of the files it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finalchar.formats.afw_table import read_table, table_hdu
from finalchar.formats.exposure import ARCSEC_PER_RADIAN, Exposure
from finalchar.formats.exposure_catalog import read_exposure_catalog, write_exposure_catalog
from finalchar.formats.fits_file import FitsFile, Header
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.formats.psfs import PiffPsf, PsfexPsf, loads_piff

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = [
    path for path in (ROOT / "tests/data/golden_small", ROOT.parent / "shared/golden") if path.is_dir()
]


def inputs(root: Path) -> dict[str, Any]:
    """What the stack says of each input."""
    said: dict[str, Any] = json.loads((root / "survey/inputs.json").read_text())
    return said


def detectors() -> list[tuple[Path, str]]:
    """All (reference, visit_detector)."""
    return [(root, key) for root in REFERENCES for key in inputs(root)]


def catalogues() -> list[Path]:
    """All catalogues that the stack wrote itself."""
    return [path for root in REFERENCES for path in sorted(root.glob("*/psf_ap_corr_*.fits"))]


@pytest.fixture(params=detectors(), ids=lambda each: f"{each[0].name}-{each[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


class Case:
    """One detector: what the stack says, and what we read."""

    def __init__(self, root: Path, key: str) -> None:
        self.survey, self.key = root / "survey", key
        self.said = inputs(root)[key]
        with np.load(self.survey / "inputs_check.npz") as data:
            self.arrays = {
                name.split("|", 1)[1]: data[name] for name in data.files if name.startswith(f"{key}|")
            }
        self.x, self.y = self.arrays["probe_xy"].T

    def exposure(self) -> Exposure:
        return read_exposure(self.survey / f"calexp_{self.key}.fits")

    @property
    def src(self) -> Path:
        return self.survey / f"src_{self.key}.fits"


def test_a_reference_is_part_of_the_repository() -> None:
    assert REFERENCES
    assert REFERENCES[0].name == "golden_small"


def test_planes(case: Case) -> None:
    exposure = case.exposure()
    box = exposure.box
    assert [box.min_x, box.min_y, box.width, box.height] == case.said["bbox"]
    assert dict(exposure.mask_planes) == case.said["mask_planes"]
    for name, count in case.said["mask_counts"].items():
        assert np.sum((exposure.mask & exposure.mask_bits([name])) != 0) == count
    assert np.sum(np.isnan(exposure.image)) == case.said["n_nan"]
    x, y = case.arrays["pix_xy"].T
    for plane in ("image", "mask", "variance"):  # bit for bit, quantised planes too
        np.testing.assert_array_equal(getattr(exposure, plane)[y, x], case.arrays[f"pix_{plane}"])


def test_astrometry(case: Case) -> None:
    wcs = case.exposure().wcs
    ra, dec = wcs.pixel_to_sky(x=case.x, y=case.y)
    # 1e-12 degrees: rounding of one ulp of 150 degrees
    np.testing.assert_allclose(np.degrees([ra, dec]).T, case.arrays["probe_radec_deg"], rtol=0, atol=1e-12)
    x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
    # AST iterates the inverse of a polynomial until it is good to about 1e-9 pixel
    np.testing.assert_allclose([x, y], [case.x, case.y], rtol=0, atol=5e-9)
    scale = [wcs.pixel_scale(x=x, y=y) for x, y in case.arrays["probe_xy"]]
    np.testing.assert_allclose(scale, case.arrays["pixel_scale_arcsec"], rtol=1e-13)
    cd = wcs.local_cd_matrix(x=case.x, y=case.y)
    # AST estimates the derivative numerically; the last digits depend on the history of the mapping
    np.testing.assert_allclose(cd, case.arrays["cd_matrix_deg"], rtol=0, atol=1e-9 * np.abs(cd).max())
    np.testing.assert_allclose(np.degrees(wcs.sky_origin), case.said["sky_origin_deg"], rtol=1e-15)


def test_camera_transforms_and_calibration(case: Case) -> None:
    exposure = case.exposure()
    focal_plane = np.stack(exposure.focal_plane.apply(x=case.x, y=case.y), axis=1)
    np.testing.assert_allclose(focal_plane, case.arrays["focal_plane_mm"], rtol=1e-14)
    field = np.stack(exposure.field_angle.apply(x=case.x, y=case.y), axis=1)
    np.testing.assert_allclose(field, case.arrays["field_angle_rad"] * ARCSEC_PER_RADIAN, rtol=1e-13)
    assert exposure.calibration.mean == case.said["photo_calib_mean"]
    assert exposure.calibration.error == case.said["photo_calib_err"]
    polygon = case.said["valid_polygon"]
    assert (exposure.valid_polygon is None) == (polygon is None)
    if polygon is not None:
        np.testing.assert_array_equal(exposure.valid_polygon[: len(polygon)], polygon)


def test_visit_and_filter(case: Case) -> None:
    exposure, said = case.exposure(), case.said["visit_info"]
    info = exposure.visit_info
    assert (exposure.band, exposure.physical_filter) == (case.said["band"], case.said["physical_filter"])
    assert info.exposure_id == case.said["exposure_id"]
    parallactic = np.degrees(info.boresight_parallactic_angle)
    assert parallactic == pytest.approx(said["par_angle_deg"], abs=1e-10)  # degrees
    assert np.degrees([info.boresight_ra, info.boresight_dec]) == pytest.approx(said["boresight_radec_deg"])
    assert info.boresight_airmass == said["airmass"]


def test_initial_aperture_corrections(case: Case) -> None:
    found = case.exposure().initial_ap_corr
    expected = {name.split("|")[1]: v for name, v in case.arrays.items() if name.startswith("apcorr|")}
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].evaluate(x=case.x, y=case.y), values, rtol=1e-14)


def test_sources(case: Case) -> None:
    table = read_source_table(case.src)
    for name in ("id", "parent"):
        np.testing.assert_array_equal(table[name], case.arrays[f"src_{name}"])
    centroid = np.stack([table["slot_Centroid_x"], table["slot_Centroid_y"]], axis=1)
    np.testing.assert_array_equal(centroid, case.arrays["src_xy"])
    for name, values in zip(case.arrays["src_flag_names"], case.arrays["src_flags"], strict=True):
        np.testing.assert_array_equal(table[str(name)], values)
    assert table.aliases == case.said["aliases"]
    assert len(table.columns) == case.said["src_fields"]


def test_footprints(case: Case) -> None:
    footprints = read_footprints(case.src)
    said = case.arrays
    np.testing.assert_array_equal(footprints.source_id, said["src_id"])
    np.testing.assert_array_equal(footprints.heavy, said["src_fp_heavy"])
    np.testing.assert_array_equal(np.diff(footprints.peak_offset), said["src_fp_npeak"])
    for index in range(len(footprints)):
        y, x = footprints.pixels(index)
        assert len(y) == said["src_fp_area"][index]
        if len(y):
            box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert box == said["src_fp_bbox"][index].tolist()
        if footprints.heavy[index]:
            total = footprints.heavy_pixels(index).sum(dtype=np.float64)
            assert total == pytest.approx(said["src_fp_heavy_sum"][index], rel=1e-12)


def hdus(path: Path) -> Iterator[tuple[Header, bytes, bytes]]:
    """Header, header bytes and data bytes of each HDU."""
    file = FitsFile(path)
    for number in range(len(file)):
        unit = file.hdu(number)
        yield (
            unit.header,
            file.buffer[unit.header_start : unit.data_start],
            file.buffer[unit.data_start : unit.end],
        )


@pytest.mark.parametrize(
    "path", catalogues(), ids=lambda path: f"{path.parts[-3]}-{path.parent.name}-{path.stem}"
)
def test_a_catalogue_written_again_is_the_same_file(path: Path, tmp_path: Path) -> None:
    """Cards and data equal those of the stack, byte for byte, except where they say so themselves."""
    catalogue = read_exposure_catalog(path)
    write_exposure_catalog(tmp_path / "again.fits", catalogue.records, comments=catalogue.comments)
    before, after = list(hdus(path)), list(hdus(tmp_path / "again.fits"))
    assert len(before) == len(after)
    for number, ((header, cards, data), (new_header, new_cards, new_data)) in enumerate(
        zip(before, after, strict=True)
    ):
        if number == 0:  # two COMMENT cards about FITS
            continue
        if number == 1:  # the visit form has EXPTABLE_VER twice, in another place
            assert set(header.cards) == set(new_header.cards)
        else:
            assert cards == new_cards
        psfex = header.text("EXTNAME") == "PsfexPsf"  # scratch columns `basis` and `coeff` are left over
        index = number == 2  # the stack's index is in the order of storing, ours sorted by id
        assert psfex or index or data == new_data


@pytest.mark.parametrize(
    "path", catalogues(), ids=lambda path: f"{path.parts[-3]}-{path.parent.name}-{path.stem}"
)
def test_stored_psfs_open(path: Path) -> None:
    for record in read_exposure_catalog(path):
        if isinstance(record.psf, PiffPsf):
            width, height, psf = loads_piff(record.psf.pickle)
            assert width == height
            assert width % 2 == 1
            assert type(psf).__name__ == "SimplePSF"
        elif isinstance(record.psf, PsfexPsf):
            assert np.isfinite(record.psf.components).all()


@pytest.mark.parametrize("kind", ["calexp", "src"])
@pytest.mark.parametrize("root", REFERENCES, ids=lambda path: path.name)
def test_every_table_of_the_stack_is_written_as_it_was(root: Path, kind: str) -> None:
    """Schema cards, their order, flags, strings and alignment of all archive tables."""
    checked = 0
    for path in sorted((root / "survey").glob(f"{kind}_*.fits"))[:4]:
        file = FitsFile(path)
        for number in range(len(file)):
            unit = file.hdu(number)
            if unit.header.text("XTENSION") != "BINTABLE" or unit.header.get("ZIMAGE"):
                continue
            archive = unit.header.get("AR_HDU")
            written = table_hdu(read_table(unit), archive_hdu=archive if isinstance(archive, int) else None)
            header = file.buffer[unit.header_start : unit.data_start]
            assert written[: len(header)] == header
            # the stack leaves gaps in the heap of tables with several variable-length columns
            ragged = sum("Q" in str(card.value) for card in unit.header if card.keyword.startswith("TFORM"))
            assert ragged > 1 or written[len(header) :] == file.buffer[unit.data_start : unit.end]
            checked += 1
    assert checked > 10
