"""SExtractor catalogues: columns, ids, flags, positions."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest

from finalchar.config import Config
from finalchar.errors import ConfigError, InputError, MissingColumnError
from finalchar.formats.ast_text import sky_wcs_from_cards
from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.sextractor import combined_id, read_sextractor

SIDE, SIGMA, FLUX = 200, 1.8, 2e4
PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "SUSPECT": 7, "NO_DATA": 8}
KEYWORDS = {"CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 100.0, "CRPIX2": 100.0, "CD1_1": -7e-5, "CD2_2": 7e-5}
CARDS = [f"CTYPE{k}  = '{name}---TAN'".ljust(80) for k, name in ((1, "RA"), (2, "DEC"))]
CARDS[1] = "CTYPE2  = 'DEC--TAN'".ljust(80)
CARDS += [f"{name:<8}= {value}".ljust(80) for name, value in KEYWORDS.items()]


@pytest.fixture(name="truth")
def positions_of_stars() -> np.ndarray:
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(np.arange(20, 190, 30), np.arange(20, 190, 30)), axis=-1).reshape(-1, 2)
    return grid + rng.uniform(-0.5, 0.5, grid.shape)


@pytest.fixture(name="exposure")
def image_of_stars(truth: np.ndarray) -> Exposure:
    rng = np.random.default_rng(6)
    image = rng.normal(0.0, 5.0, (SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE]
    for star_x, star_y in truth:
        profile = np.exp(-0.5 * ((x - star_x) ** 2 + (y - star_y) ** 2) / SIGMA**2)
        image += FLUX * profile / (2 * np.pi * SIGMA**2)
    return Exposure(
        image=image.astype(np.float32),
        mask=np.zeros((SIDE, SIDE), np.int32),
        variance=np.full((SIDE, SIDE), 25.0, np.float32),
        mask_planes=PLANES,
        box=Box(0, 0, SIDE - 1, SIDE - 1),
        wcs=sky_wcs_from_cards(CARDS),
    )


def rows_of(truth: np.ndarray, first_pixel: int = 1) -> np.ndarray:
    columns = [("NUMBER", "i4"), ("FLAGS", "i2"), ("XWIN_IMAGE", "f8"), ("YWIN_IMAGE", "f8")]
    columns += [(f"ERR{part}WIN_IMAGE", "f4") for part in ("A", "B", "THETA")]
    columns += [(f"{axis}2WIN_IMAGE", "f8") for axis in ("X", "Y")] + [("XYWIN_IMAGE", "f8")]
    columns += [
        ("FLUX_AUTO", "f4"),
        ("FLUXERR_AUTO", "f4"),
        ("FLUX_APER", "f4", (2,)),
        ("NAME", "S4"),
        ("CLASS_STAR", "f4"),
    ]
    rows = np.zeros(len(truth), dtype=columns)
    rows["NUMBER"] = np.arange(1, len(truth) + 1)
    rows["XWIN_IMAGE"], rows["YWIN_IMAGE"] = (truth + first_pixel).T
    rows["ERRAWIN_IMAGE"], rows["ERRBWIN_IMAGE"], rows["ERRTHETAWIN_IMAGE"] = 0.03, 0.01, 90.0
    rows["FLUX_AUTO"], rows["FLUXERR_AUTO"] = FLUX, 100.0
    return rows


def write_ldac(path: Path, rows: np.ndarray) -> Path:
    with fitsio.FITS(path, "rw", clobber=True) as file:
        file.write(np.zeros(1, dtype=[("Field Header Card", "S80")]), extname="LDAC_IMHEAD")
        file.write(rows, extname="LDAC_OBJECTS")
    return path


def settings(**changes: object):
    images = {"weight_kind": "variance"}
    return Config(input={"preset": "sextractor", "images": images, "catalogue": changes}).input.catalogue


def read(path: Path, exposure: Exposure, visit: int = 241238, detector: int = 1, **changes: object):
    return read_sextractor(path, settings(**changes), exposure, visit=visit, detector=detector)


@pytest.mark.parametrize("form", ["ldac", "plain", "plain.gz"])
def test_columns(tmp_path: Path, truth: np.ndarray, exposure: Exposure, form: str) -> None:
    rows = rows_of(truth)
    rows["FLAGS"][:4] = [1, 2, 4, 8]
    if form == "ldac":
        path = write_ldac(tmp_path / "cat.fits", rows)
    else:
        path = tmp_path / f"cat.fits{form.removeprefix('plain')}"
        fitsio.write(path, rows)
    table = read(path, exposure)
    np.testing.assert_allclose(table["slot_Centroid_x"], truth[:, 0], rtol=0, atol=1e-12)  # rounding
    np.testing.assert_allclose(table["slot_Centroid_y"], truth[:, 1], rtol=0, atol=1e-12)
    assert table["id"].dtype == np.int64
    assert table["id"][:2].tolist() == [241238001000001, 241238001000002]
    assert not table["parent"].any()
    ra, dec = exposure.wcs.pixel_to_sky(x=truth[:, 0], y=truth[:, 1])
    np.testing.assert_allclose(table["coord_ra"], ra, rtol=0, atol=1e-15)
    np.testing.assert_allclose(table["coord_dec"], dec, rtol=0, atol=1e-15)
    # The ellipse stands upright: its long axis is along y; single precision.
    assert table["slot_Centroid_xErr"][0] == pytest.approx(0.01, rel=1e-6)
    assert table["slot_Centroid_yErr"][0] == pytest.approx(0.03, rel=1e-6)
    assert table["catalogue_flag_blended"][:5].tolist() == [True, True, False, False, False]
    assert table["catalogue_flag_saturated"][:5].tolist() == [False, False, True, False, False]
    assert table["catalogue_flag_truncated"][:5].tolist() == [False, False, False, True, False]
    assert table["catalogue_Flux_instFlux"][0] == FLUX
    assert table.info["coord_ra"].unit == "rad"
    assert {"slot_Shape_xx", "slot_Centroid_flag"} & set(table.aliases) == set()
    shaped = read(path, exposure, shape=["X2WIN_IMAGE", "Y2WIN_IMAGE", "XYWIN_IMAGE"])
    assert shaped["slot_Shape_yy"].tolist() == rows["Y2WIN_IMAGE"].tolist()


@pytest.mark.parametrize(("written", "read_as", "offset"), [(0, 1, "-1.0"), (1, 0, r"\+1.0")])
def test_a_wrong_origin_of_the_positions_is_found(
    tmp_path: Path, truth: np.ndarray, exposure: Exposure, written: int, read_as: int, offset: str
) -> None:
    """K09: a median offset of a pixel between positions and light."""
    path = write_ldac(tmp_path / "cat.fits", rows_of(truth, written))
    message = rf"cat\.fits: the positions lie {offset}\d, {offset}\d pixels in x, y from the light"
    with pytest.raises(InputError, match=message):
        read(path, exposure, first_pixel=read_as)
    assert len(read(path, exposure, first_pixel=written)) == len(truth)


def test_the_catalogue_of_another_image_is_found(
    tmp_path: Path, truth: np.ndarray, exposure: Exposure
) -> None:
    """K09: bright sources where there is only sky; some lie on a star by chance."""
    elsewhere = truth + np.array([14.0, 9.0])
    elsewhere[:8] = truth[:8]
    path = write_ldac(tmp_path / "cat.fits", rows_of(elsewhere))
    with pytest.raises(InputError, match=r"cat\.fits: at 2\d of 3\d bright sources the image has no light"):
        read(path, exposure)
    elsewhere[:24] = truth[:24]  # many faint ones that moved, but most are there
    assert len(read(write_ldac(tmp_path / "most.fits", rows_of(elsewhere)), exposure)) == len(truth)


def test_pixel_flags(tmp_path: Path, truth: np.ndarray, exposure: Exposure) -> None:
    near = np.rint(truth[:3]).astype(int)
    exposure.mask[near[0, 1], near[0, 0] + 1] |= 1 << PLANES["SAT"]
    exposure.mask[near[1, 1] + 4, near[1, 0]] |= 1 << PLANES["CR"]
    exposure.mask[near[2, 1] + 6, near[2, 0]] |= 1 << PLANES["BAD"]
    moved = truth.copy()
    moved[3:7] = [[3.0, 50.0], [50.0, 196.0], [-7.0, 50.0], [np.nan, 5.0]]
    table = read(write_ldac(tmp_path / "cat.fits", rows_of(moved)), exposure)

    def flagged(name: str) -> list[int]:
        return np.flatnonzero(table[f"base_PixelFlags_flag_{name}"]).tolist()

    assert flagged("saturatedCenter") == flagged("saturated") == [0]
    assert (flagged("cr"), flagged("crCenter")) == ([1], [])
    assert flagged("bad") == []  # farther away than the radius
    assert flagged("edge") == [3, 4, 5, 6]
    assert flagged("offimage") == [5, 6]
    assert np.flatnonzero(table["slot_Centroid_flag"]).tolist() == [6]
    wide = read(tmp_path / "cat.fits", exposure, flag_radius=7.0)
    assert np.flatnonzero(wide["base_PixelFlags_flag_bad"]).tolist() == [2]


def test_ids_are_exact(tmp_path: Path, truth: np.ndarray, exposure: Exposure) -> None:
    """K10: no id passes through floating point, whatever the type of the column."""
    rows = rows_of(truth)
    as_given = np.zeros(len(truth), dtype=[*rows.dtype.descr, ("ID", "u8")])
    for name in rows.dtype.names:
        as_given[name] = rows[name]
    as_given["ID"] = 592916301234567890 + np.arange(len(truth))
    path = write_ldac(tmp_path / "cat.fits", as_given)
    table = read(path, exposure, id="ID", id_rule="as_given")
    assert table["id"].tolist() == as_given["ID"].tolist()
    with pytest.raises(InputError, match="not all between 0 and 999999"):
        read(path, exposure, id="ID")
    with pytest.raises(InputError, match=r"'FLUX_AUTO' \(input.catalogue.id\) does not hold whole numbers"):
        read(path, exposure, id="FLUX_AUTO")
    with pytest.raises(InputError, match=r"the id 0 stands 36 times in the column 'FLAGS'"):
        read(path, exposure, id="FLAGS")


def test_parts_of_ids_that_do_not_fit() -> None:
    number = np.array([17])
    assert combined_id(number, visit=9_223_372_035, detector=999, origin="c")[0] == 9223372035999000017
    with pytest.raises(InputError, match="the visit 2026011500101 is too long"):
        combined_id(number, visit=2026011500101, detector=1, origin="cat.fits")
    with pytest.raises(InputError, match="the detector 1000 is above 999"):
        combined_id(number, visit=1, detector=1000, origin="cat.fits")


def test_one_sentence_for_each_defect(tmp_path: Path, truth: np.ndarray, exposure: Exposure) -> None:
    path = write_ldac(tmp_path / "cat.fits", rows_of(truth))
    similar = (
        r"cat\.fits: the column 'FLUX_AUT' is missing, which input\.catalogue\.flux asks for.*'FLUX_AUTO'"
    )
    with pytest.raises(MissingColumnError, match=similar):
        read(path, exposure, flux="FLUX_AUT")
    with pytest.raises(
        MissingColumnError, match=r"'IMAFLAGS_ISO' is missing, which .*\.flags\.ghost asks for"
    ):
        read(path, exposure, flags={"ghost": "IMAFLAGS_ISO & 4"})
    with pytest.raises(InputError, match=r"'FLUX_APER' has \(2,\) values per source"):
        read(path, exposure, flux="FLUX_APER")
    with pytest.raises(InputError, match=r"'NAME' .* is not numeric"):
        read(path, exposure, flux="NAME")
    with pytest.raises(InputError, match=r"nothing\.fits does not exist"):
        read(tmp_path / "nothing.fits", exposure)
    with pytest.raises(InputError, match="not a FITS file with a table in HDU 7"):
        read(path, exposure, hdu=7)
    fitsio.write(tmp_path / "image.fits", np.zeros((4, 4)))
    with pytest.raises(InputError, match="not a FITS file with a table"):
        read(tmp_path / "image.fits", exposure)
    (tmp_path / "text.fits").write_text("NUMBER X Y\n1 2 3\n")
    with pytest.raises(InputError, match="not a FITS file with a table"):
        read(tmp_path / "text.fits", exposure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ["X2_IMAGE"]}, "shape must name three columns"),
        ({"flags": {"bad": "FLAGS > 3"}}, "flags.bad must read like 'FLAGS & 3'"),
        ({"ra": "ALPHA_J2000"}, "ra and dec must be named together"),
        ({"x": None}, r"catalogue\.x must name a column"),
    ],
)
def test_settings_that_cannot_be_meant(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_an_empty_catalogue(tmp_path: Path, truth: np.ndarray, exposure: Exposure) -> None:
    table = read(write_ldac(tmp_path / "cat.fits", rows_of(truth)[:0]), exposure)
    assert len(table) == 0
    assert table["id"].dtype == np.int64
    assert table["catalogue_flag_blended"].dtype == bool


def test_nulls_of_whole_numbers(tmp_path: Path, truth: np.ndarray, exposure: Exposure) -> None:
    """K10: a null is refused where a whole number is needed, and NaN where a number is."""
    from astropy.io import fits

    rows = rows_of(truth)
    number = rows["NUMBER"].astype(np.int64) + 592916301234567890
    number[3] = -99
    flux = rows["FLUX_AUTO"].astype(np.int32)
    flux[5] = -1
    columns = [
        fits.Column("ID", "K", null=-99, array=number),
        fits.Column("FLUX", "J", null=-1, array=flux),
        *(fits.Column(name, "D", array=rows[name]) for name in ("XWIN_IMAGE", "YWIN_IMAGE", "FLUXERR_AUTO")),
        *(fits.Column(name, "J", array=rows[name]) for name in ("NUMBER", "FLAGS")),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "cat.fits")
    changes = {"flux": "FLUX", "error_ellipse": [], "columns": {}}
    with pytest.raises(InputError, match=r"cat\.fits: the column 'ID' has nulls"):
        read(tmp_path / "cat.fits", exposure, id="ID", id_rule="as_given", **changes)
    table = read(tmp_path / "cat.fits", exposure, **changes)
    assert np.flatnonzero(np.isnan(table["catalogue_Flux_instFlux"])).tolist() == [5]


def test_null_of_an_unsigned_column(tmp_path: Path, truth: np.ndarray, exposure: Exposure) -> None:
    """K10: unsigned columns are stored with a zero point, and TNULL is the number as it is stored."""
    from astropy.io import fits

    rows = rows_of(truth)
    number = rows["NUMBER"].astype(np.uint32)
    number[3] = 4_000_000_000
    numbers = ("XWIN_IMAGE", "YWIN_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO")
    columns = [
        fits.Column("NUMBER", "J", bzero=2**31, null=4_000_000_000 - 2**31, array=number),
        *(fits.Column(name, "D", array=rows[name]) for name in numbers),
        fits.Column("FLAGS", "J", array=rows["FLAGS"]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "cat.fits")
    with pytest.raises(InputError, match=r"cat\.fits: the column 'NUMBER' has nulls"):
        read(tmp_path / "cat.fits", exposure, error_ellipse=[], columns={})
