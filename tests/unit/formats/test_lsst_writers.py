"""Exposures and source catalogues written here: read back, and laid out as the stack needs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finalchar.formats.bounded_fields import ChebyshevField
from finalchar.formats.exposure import Box
from finalchar.formats.fits_file import FitsFile
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_exposure_writer import CameraGeometry, ExposureParts, write_exposure
from finalchar.formats.lsst_source_writer import FootprintExtras, write_source_catalogue
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.formats.sources import ColumnInfo, Footprints, SourceTable

X0, Y0 = 12, -5


@pytest.fixture
def parts() -> ExposureParts:
    """Give a small exposure whose origin is not (0, 0)."""
    draw = np.random.default_rng(3)
    shape = (40, 64)
    box = Box(X0, Y0, X0 + shape[1] - 1, Y0 + shape[0] - 1)
    image = draw.normal(0.0, 12.0, shape).astype(np.float32)
    image[:, 0] = np.nan
    image[5, 5] = 0.0
    mask = draw.integers(0, 2, shape).astype(np.int32) << 3
    mask[:, 0] = 1 << 8
    mask[3, 4] = np.int32(-(2**31))
    kernel = np.exp(-0.5 * (np.add.outer(np.arange(-3, 4) ** 2, np.arange(-3, 4) ** 2)) / 2.0)
    return ExposureParts(
        image=image,
        mask=mask,
        variance=draw.uniform(140.0, 150.0, shape).astype(np.float32),
        mask_planes={"CR": 3, "NO_DATA": 8, "UNMASKEDNAN": 31},
        box=box,
        wcs_cards={
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRPIX1": 20.5,
            "CRPIX2": 11.25,
            "CRVAL1": 359.999,
            "CRVAL2": -30.5,
            "CD1_1": -5.5e-5,
            "CD1_2": 0.0,
            "CD2_1": 0.0,
            "CD2_2": 5.5e-5,
            "RADESYS": "ICRS",
        },
        visit_cards={"EXPTIME": 30.0, "BORE-RA": 10.0, "INSTRUMENT": "SynthCam", "EXPID": 2**54 + 1},
        band="i",
        physical_filter="i_synth",
        calibration_mean=0.83,
        calibration_error=0.002,
        ap_corr_map={
            "base_PsfFlux_instFlux": ChebyshevField(box, np.array([[1.02, 0.01], [0.002, 0.0]])),
            "base_PsfFlux_instFluxErr": ChebyshevField(box, np.array([[0.003]])),
        },
        kernel=kernel / kernel.sum(),
        camera=CameraGeometry(
            name="S01",
            serial="",
            number=1,
            box=box,
            pixel_size=0.01,
            position=(3.0, -2.0),
            reference=(X0 + 31.5, Y0 + 19.5),
            plate_scale=9.7e-5,
            distortion=1.1e-5,
            gain=1.7,
        ),
    )


@pytest.mark.parametrize("compression", ["none", "lossless"])
def test_planes_survive_exactly(tmp_path: Path, parts: ExposureParts, compression: str) -> None:
    write_exposure(tmp_path / "calexp.fits", parts, compression=compression)
    read = read_exposure(tmp_path / "calexp.fits")
    np.testing.assert_array_equal(read.image, parts.image)
    np.testing.assert_array_equal(read.variance, parts.variance)
    np.testing.assert_array_equal(read.mask, parts.mask)
    assert read.mask.dtype == np.int32
    assert dict(read.mask_planes) == dict(parts.mask_planes)
    assert read.box == parts.box


def test_lossy_planes_are_within_half_a_step(tmp_path: Path, parts: ExposureParts) -> None:
    write_exposure(tmp_path / "calexp.fits", parts, compression="lossy")
    read = read_exposure(tmp_path / "calexp.fits")
    step = FitsFile(tmp_path / "calexp.fits").hdu(1).header.number("UZSCALE")
    good = np.isfinite(parts.image)
    np.testing.assert_array_equal(np.isfinite(read.image), good)
    # Dithered quantisation: at most half a step, and float32 rounding of values around 50.
    assert np.abs(read.image - parts.image)[good].max() <= 0.5 * step + 1e-5
    assert step == pytest.approx(12.0 / 16.0, rel=0.1)  # sigma / 16 with the sigma of 2500 pixels
    assert read.image[5, 5] == 0.0, "an exact zero stays zero"
    np.testing.assert_array_equal(read.mask, parts.mask)


def test_plane_without_scatter_is_lossless(tmp_path: Path, parts: ExposureParts) -> None:
    flat = replace(parts, variance=np.full_like(parts.variance, 145.5))
    write_exposure(tmp_path / "calexp.fits", flat, compression="lossy")
    np.testing.assert_array_equal(read_exposure(tmp_path / "calexp.fits").variance, flat.variance)


def test_components_survive(tmp_path: Path, parts: ExposureParts) -> None:
    write_exposure(tmp_path / "calexp.fits", parts)
    read = read_exposure(tmp_path / "calexp.fits")
    assert (read.band, read.physical_filter, read.gain) == ("i", "i_synth", 1.7)
    assert read.visit_info.exposure_id == 2**54 + 1
    assert read.calibration is not None
    assert read.calibration.evaluate(x=20.0, y=3.0) == 0.83
    assert read.initial_ap_corr is not None
    for name, field in parts.ap_corr_map.items():
        ours = read.initial_ap_corr[name].evaluate(x=[13.0, 70.0], y=[-4.0, 30.0])
        np.testing.assert_array_equal(ours, field.evaluate(x=[13.0, 70.0], y=[-4.0, 30.0]))
    assert read.focal_plane is not None
    # The reference point lies at the detector's position; 10 pixels are 0.1 mm.
    place = read.focal_plane.apply(x=X0 + 41.5, y=Y0 + 19.5)
    np.testing.assert_allclose(place, (3.1, -2.0), rtol=1e-12)


def test_astrometry_is_in_parent_pixels(tmp_path: Path, parts: ExposureParts) -> None:
    write_exposure(tmp_path / "calexp.fits", parts)
    wcs = read_exposure(tmp_path / "calexp.fits").wcs
    # CRPIX counts local pixels from 1.
    ra, dec = wcs.pixel_to_sky(x=X0 + 19.5, y=Y0 + 10.25)
    np.testing.assert_allclose((ra, dec), np.radians((359.999, -30.5)), rtol=1e-14)
    x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
    np.testing.assert_allclose((x, y), (X0 + 19.5, Y0 + 10.25), atol=1e-8)


def test_flag_cards_stand_where_the_stack_counts_them(tmp_path: Path, parts: ExposureParts) -> None:
    """F-18: classes read by fixed position need their flags between the columns."""
    write_exposure(tmp_path / "calexp.fits", parts)
    orders = _orders_of_fields(tmp_path / "calexp.fits")
    calib = next(order for order in orders if "calibrationMean" in order)
    assert calib == ["calibrationMean", "calibrationErr", "isConstant", "field", "version"]
    label = next(order for order in orders if "physical" in order)
    assert label == ["band_exists", "band", "physical_exists", "physical"]


def _orders_of_fields(path: Path) -> list[list[str]]:
    file = FitsFile(path)
    orders = []
    for number in range(4, len(file)):
        cards = [card for card in file.hdu(number).header if card.keyword.startswith(("TTYPE", "TFLAG"))]
        orders.append([str(card.value) for card in cards if card.value != "flags"])
    return orders


def test_empty_strings_are_one_nul_byte(tmp_path: Path, parts: ExposureParts) -> None:
    """F-19: the stack cannot read a variable-length string of no bytes."""
    import fitsio

    write_exposure(tmp_path / "calexp.fits", parts)
    with fitsio.FITS(tmp_path / "calexp.fits") as file:
        detector = next(hdu for hdu in file[4:] if "serial" in hdu.get_colnames())
        start = detector.get_info()["hdunum"]
    unit = FitsFile(tmp_path / "calexp.fits").hdu(start - 1)
    raw = bytes(unit.file.buffer[unit.data_start : unit.data_start + unit.data_size])
    width = unit.header.integer("NAXIS1")
    offset = 16 + 4 + 4  # name (a descriptor), id and type come before serial
    length, place = np.frombuffer(raw[offset : offset + 16], ">i8")
    assert length == 1
    assert raw[width + place : width + place + 1] == b"\0"


@pytest.fixture
def catalogue() -> tuple[SourceTable, Footprints, FootprintExtras]:
    """Give a parent with two peaks, its two children (one of them empty) and a single star."""
    ids = 2**55 + np.arange(1, 5)
    table = SourceTable(
        {
            "id": ids,
            "coord_ra": np.array([0.1, 0.2, 0.3, 6.2]),
            "coord_dec": np.array([-0.1, 0.2, -0.3, 0.0]),
            "parent": np.array([0, 0, ids[0], ids[0]]),
            "good": np.array([True, False, True, False]),
            "size": np.array([1.5, np.nan, -np.inf, 0.0], dtype=np.float32),
            "number": np.arange(4, dtype=np.int32),
        },
        {"size": ColumnInfo("pixel", "a size")},
        {"slot_Shape": "size"},
    )
    footprints = Footprints(
        source_id=ids,
        parent=table["parent"],
        span_offset=np.array([0, 2, 3, 5, 5]),
        span_y=np.array([4, 5, 9, 4, 5], dtype=np.int32),
        span_x0=np.array([2, 2, 7, 2, 3], dtype=np.int32),
        span_x1=np.array([4, 5, 7, 3, 4], dtype=np.int32),
        peak_offset=np.array([0, 2, 3, 4, 5]),
        peak_x=np.array([3, 5, 7, 3, 5], dtype=np.int32),
        peak_y=np.array([4, 5, 9, 4, 5], dtype=np.int32),
        peak_f_x=np.array([3.1, 5.0, 7.0, 3.1, 5.0], dtype=np.float32),
        peak_f_y=np.array([4.0, 5.2, 9.0, 4.0, 5.2], dtype=np.float32),
        heavy=np.array([False, False, True, True]),
        heavy_offset=np.array([0, 0, 0, 4, 4]),
        heavy_image=np.array([1.0, 2.5, -3.0, 4.0], dtype=np.float32),
    )
    extras = FootprintExtras(
        peak_value=np.arange(5, dtype=np.float32),
        peak_significance=np.arange(5.0),
        mask=np.arange(120, dtype=np.int32).reshape(10, 12),
        variance=np.ones((10, 12), dtype=np.float32),
    )
    return table, footprints, extras


def test_source_catalogue_survives(
    tmp_path: Path, catalogue: tuple[SourceTable, Footprints, FootprintExtras]
) -> None:
    table, footprints, extras = catalogue
    write_source_catalogue(tmp_path / "src.fits", table, footprints, extras)
    read = read_source_table(tmp_path / "src.fits")
    assert set(read) == set(table)
    for name in table:
        np.testing.assert_array_equal(read[name], table[name])
        assert read[name].dtype == table[name].dtype
    assert read.aliases == table.aliases
    back = read_footprints(tmp_path / "src.fits")
    for name in Footprints.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(footprints, name), err_msg=name)


def test_heavy_footprints_copy_mask_and_variance(
    tmp_path: Path, catalogue: tuple[SourceTable, Footprints, FootprintExtras]
) -> None:
    from finalchar.formats.archive import Archive

    table, footprints, extras = catalogue
    write_source_catalogue(tmp_path / "src.fits", table, footprints, extras)
    archive = Archive(FitsFile(tmp_path / "src.fits"), 2)
    heavy = archive.index.object_id[archive.index.name == "HeavyFootprintF"]
    _, _, catalogues = archive.catalogues(int(heavy[0]))
    np.testing.assert_array_equal(catalogues[2].one("mask"), extras.mask[footprints.pixels(2)])


def test_source_catalogue_without_footprints(
    tmp_path: Path, catalogue: tuple[SourceTable, Footprints, FootprintExtras]
) -> None:
    table, _, _ = catalogue
    write_source_catalogue(tmp_path / "src.fits", table)
    file = FitsFile(tmp_path / "src.fits")
    assert len(file) == 2
    assert "AR_HDU" not in file.hdu(1).header
    assert "footprint" not in read_source_table(tmp_path / "src.fits")


def test_source_catalogue_needs_its_first_columns(tmp_path: Path) -> None:
    table = SourceTable({"parent": np.zeros(1, dtype=np.int64), "id": np.ones(1, dtype=np.int64)})
    with pytest.raises(ValueError, match="begins with the columns id, coord_ra"):
        write_source_catalogue(tmp_path / "src.fits", table)
    assert not list(tmp_path.iterdir())


GOLDEN = Path(__file__).parents[2] / "data" / "golden_small" / "survey"


def _layout(path: Path, first_hdu: int) -> dict[str, list[list[tuple[str, ...]]]]:
    """Return, by class name, the fields of the archive tables: kind, name, form and template."""
    file = FitsFile(path)
    layouts: dict[str, list[list[tuple[str, ...]]]] = {}
    for number in range(first_hdu, len(file)):
        header = file.hdu(number).header
        rows: list[tuple[str, ...]] = []
        for card in header:
            if card.keyword.startswith(("TTYPE", "TFLAG")):
                rows.append((card.keyword[:5], str(card.value)))
            elif card.keyword.startswith(("TFORM", "TCCLS")):
                rows[-1] += (str(card.value).split("(")[0],)
        layouts.setdefault(header.text("EXTNAME"), []).append(rows)
    return {name: sorted(tables) for name, tables in layouts.items()}


def test_archive_is_laid_out_as_by_the_stack(tmp_path: Path, parts: ExposureParts) -> None:
    """Readers of the stack compare columns, order and types (specification 8.3, 9.1)."""
    reference = _layout(next(iter(sorted(GOLDEN.glob("calexp_*_0.fits")))), 4)
    write_exposure(tmp_path / "calexp.fits", parts)
    ours = _layout(tmp_path / "calexp.fits", 4)
    for name in ("ApCorrMap", "FilterLabel", "KernelPsf", "PhotoCalib", "SkyWcs", "TransformMap"):
        assert ours[name] == reference[name], name
    for name in ("ARCHIVE_INDEX", "Detector", "TransformPoint2ToPoint2"):
        assert ours[name] == reference[name], name


def test_source_archive_is_laid_out_as_by_the_stack(
    tmp_path: Path, catalogue: tuple[SourceTable, Footprints, FootprintExtras]
) -> None:
    reference = _layout(next(iter(sorted(GOLDEN.glob("src_*_0.fits")))), 2)
    table, footprints, extras = catalogue
    write_source_catalogue(tmp_path / "src.fits", table, footprints, extras)
    assert _tables(_layout(tmp_path / "src.fits", 2)) == _tables(reference)


def _tables(layout: dict[str, list[list[tuple[str, ...]]]]) -> list[list[tuple[str, ...]]]:
    """Return the tables alone: which of its classes a shared table is named after does not matter."""
    return sorted(table for tables in layout.values() for table in tables)
