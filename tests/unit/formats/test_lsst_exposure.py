"""LSST exposures: what is refused, and with which sentence; layouts older than today's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.exposure import Exposure
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table

SURVEY = Path(__file__).resolve().parents[2] / "data/golden_small/survey"
PLAIN = SURVEY / "calexp_2026011500188_3.fits"
"""Not compressed, so that pixels can be changed in place."""
SMALL = SURVEY / "calexp_2026020300212_3.fits"

Edit = Callable[[Path], None]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(PLAIN, tmp_path / "calexp.fits"))


def change(path: Path, before: bytes, after: bytes) -> None:
    """Replace one piece of a header, length unchanged."""
    content = path.read_bytes()
    assert before in content
    assert len(before) == len(after)
    path.write_bytes(content.replace(before, after))


def planes(path: Path) -> dict[str, np.ndarray]:
    """Writable views of the planes of an uncompressed exposure."""
    from finalchar.formats.fits_file import FitsFile

    file = FitsFile(path)
    size = (480, 500)
    return {
        name: np.memmap(path, dtype, "r+", file.hdu(number).data_start, size)
        for number, name, dtype in ((1, "image", ">f4"), (2, "mask", ">i4"), (3, "variance", ">f4"))
    }


def test_the_unchanged_file_reads(plain: Path) -> None:
    assert isinstance(read_exposure(plain), Exposure)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.fits does not exist"):
        read_exposure(tmp_path / "none.fits")


@pytest.mark.parametrize("path", [PLAIN, SMALL], ids=["plain", "compressed"])
@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.7, 0.95, 0.995])
def test_a_truncated_file_is_broken_wherever_it_ends(tmp_path: Path, path: Path, fraction: float) -> None:
    content = path.read_bytes()
    cut = tmp_path / "cut.fits"
    cut.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=r"cut\.fits"):
        read_exposure(cut)


@pytest.mark.parametrize("name", [SMALL.name, "calexp_2026011500101_0.fits"], ids=["gzip", "rice"])
@pytest.mark.parametrize("filling", [b"\xff", b"\x00", b"\x1f\x8b\x08"])
def test_garbage_in_compressed_pixels_ends_at_once(tmp_path: Path, name: str, filling: bytes) -> None:
    """CFITSIO does not come back from damaged gzip; damage within RICE tiles is not always detectable."""
    from finalchar.formats.fits_file import FitsFile

    path = Path(shutil.copyfile(SURVEY / name, tmp_path / "calexp.fits"))
    unit = FitsFile(path).hdu(1)
    content = bytearray(path.read_bytes())
    middle = unit.data_start + unit.data_size // 2
    content[middle : middle + 21000] = filling * (21000 // len(filling))
    path.write_bytes(bytes(content))
    if name == SMALL.name:
        with pytest.raises(InputError, match="the compressed HDU 1 cannot be read"):
            read_exposure(path)
        return
    try:
        damaged = read_exposure(path).image
    except InputError:
        return
    assert not np.array_equal(damaged, read_exposure(SURVEY / name).image)


def test_all_pixels_nan(plain: Path) -> None:
    planes(plain)["image"][:] = np.nan
    with pytest.raises(InputError, match="no pixel of the image is finite"):
        read_exposure(plain)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_variance_is_nowhere_positive(plain: Path, value: float) -> None:
    planes(plain)["variance"][:] = value
    with pytest.raises(InputError, match="variance is not positive anywhere"):
        read_exposure(plain)


def test_single_bad_pixels_pass_as_they_are(plain: Path) -> None:
    """K19: one pixel that is NaN, infinite or without variance costs nobody the detector."""
    views = planes(plain)
    views["image"][10, 20], views["variance"][11, 21] = np.inf, 0.0
    del views
    exposure = read_exposure(plain)
    assert exposure.image[10, 20] == np.inf
    assert exposure.variance[11, 21] == 0.0


def test_planes_of_different_shape(plain: Path) -> None:
    content = plain.read_bytes()
    position = content.index(b"XTENSION", content.index(b"XTENSION") + 1)  # the header of HDU 2
    wide = b"NAXIS1  =                  500 /"
    assert content.index(wide, position) < position + 2880
    cut = content[:position] + content[position:].replace(wide, b"NAXIS1  =                  499 /", 1)
    plain.write_bytes(cut)
    with pytest.raises(InputError, match="the plane MASK has shape"):
        read_exposure(plain)


def test_first_hdu_is_another_plane(plain: Path) -> None:
    change(plain, b"EXTTYPE = 'IMAGE   '", b"EXTTYPE = 'OTHER   '")
    with pytest.raises(InputError, match=r"HDU 1 of .* is OTHER, IMAGE is needed"):
        read_exposure(plain)


def test_layouts_of_the_future_are_refused(plain: Path) -> None:
    change(plain, b"HIERARCH EXPINFO_V =         2", b"HIERARCH EXPINFO_V =         3")
    with pytest.raises(InputError, match="exposure layout 3; layouts up to 2"):
        read_exposure(plain)


def test_a_catalogue_is_not_an_exposure() -> None:
    with pytest.raises(InputError, match=r"HDU 1 of .* is not an image; is the file in the right column"):
        read_exposure(SURVEY / "src_2026011500188_3.fits")


def test_an_exposure_is_not_a_catalogue() -> None:
    with pytest.raises(InputError, match=r"HDU 1 of .* is not a binary table"):
        read_source_table(PLAIN)


def test_double_mask_planes_are_corrupt(plain: Path) -> None:
    change(plain, b"MP_SAT  =                    1", b"MP_SAT  =                    0")
    with pytest.raises(InputError, match="MP_SAT = 0 is impossible or double"):
        read_exposure(plain)


def test_bit_31_is_a_bit_like_the_others(plain: Path) -> None:
    """F-1: the sign bit of the mask."""
    change(plain, b"HIERARCH MP_STREAK =        10", b"HIERARCH MP_STREAK =        31")
    planes(plain)["mask"][5, 6] = -(2**31)
    exposure = read_exposure(plain)
    found = (exposure.mask & exposure.mask_bits(["STREAK"])) != 0
    assert np.argwhere(found).tolist() == [[5, 6]]


def test_a_plane_that_is_asked_for_must_exist(plain: Path) -> None:
    with pytest.raises(InputError, match="mask plane 'INJECTED' is not defined"):
        read_exposure(plain).mask_bits(["BAD", "INJECTED"])


def test_the_parent_frame_is_that_of_the_a_wcs(plain: Path) -> None:
    change(plain, b"CRVAL1A =                   0.", b"CRVAL1A =                 -12.")
    change(plain, b"CRVAL2A =                   0.", b"CRVAL2A =                   7.")
    box = read_exposure(plain).box
    assert (box.min_x, box.min_y, box.max_x, box.max_y) == (-12, 7, 487, 486)


@pytest.mark.parametrize("component", ["SKYWCS", "PSF", "PHOTOCALIB", "DETECTOR", "AP_CORR_MAP", "FILTER"])
def test_components_may_be_missing(plain: Path, component: str) -> None:
    content = plain.read_bytes()
    for card in (f"HIERARCH ARCHIVE_ID_{component} ", f"HIERARCH {component}_ID ", f"{component}_ID  ="):
        content = content.replace(card.encode(), card.replace(component, "X" * len(component)).encode())
    plain.write_bytes(content)
    exposure, complete = read_exposure(plain), read_exposure(PLAIN)
    attribute = {
        "PSF": "initial_psf",
        "PHOTOCALIB": "calibration",
        "DETECTOR": "field_angle",
        "AP_CORR_MAP": "initial_ap_corr",
        "FILTER": "band",
    }.get(component)
    if attribute:
        assert getattr(complete, attribute) is not None
        assert getattr(exposure, attribute) is None
    else:  # the header of the image has the same astrometry, to the digits of its cards
        found = exposure.wcs.pixel_to_sky(x=[0.0, 499.0], y=[479.0, 10.0])
        expected = complete.wcs.pixel_to_sky(x=[0.0, 499.0], y=[479.0, 10.0])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_zero_point_cards_of_old_files(plain: Path) -> None:
    change(plain, b"HIERARCH ARCHIVE_ID_PHOTOCALIB", b"HIERARCH ARCHIVE_ID_XXXXXXXXXX")
    change(plain, b"HIERARCH PHOTOCALIB_ID", b"HIERARCH XXXXXXXXXX_ID")
    change(plain, b"BGMEAN  =", b"FLUXMAG0=")
    calibration = read_exposure(plain).calibration
    from finalchar.formats.fits_file import FitsFile

    zero_point = FitsFile(plain).hdu(0).header.number("FLUXMAG0")
    assert calibration.mean == pytest.approx(3.63078054770101342e12 / zero_point)


def test_sources_without_footprints(tmp_path: Path) -> None:
    from finalchar.formats.afw_table import AfwTable, fields_of, write_table

    columns = {
        "id": np.array([1, 2]),
        "coord_ra": np.zeros(2),
        "coord_dec": np.zeros(2),
        "parent": np.array([0, 0]),
    }
    path = tmp_path / "src.fits"
    write_table(AfwTable(fields_of(columns), columns, afw_type="SOURCE"), path)
    assert len(read_source_table(path)) == 2
    with pytest.raises(InputError, match="written without footprints"):
        read_footprints(path)


def test_catalogues_of_other_kinds_are_refused(tmp_path: Path) -> None:
    from finalchar.formats.afw_table import AfwTable, fields_of, write_table

    write_table(
        AfwTable(fields_of({"a": np.zeros(1)}), {"a": np.zeros(1)}, afw_type="PEAK"), tmp_path / "a.fits"
    )
    with pytest.raises(InputError, match="catalogue of type PEAK"):
        read_source_table(tmp_path / "a.fits")
    write_table(AfwTable(fields_of({"a": np.zeros(1)}), {"a": np.zeros(1)}), tmp_path / "a.fits")
    with pytest.raises(InputError, match=r"a\.fits: the column 'id' is missing; it is not a source"):
        read_source_table(tmp_path / "a.fits")


def test_the_footprints_of_a_cut_file_are_broken(tmp_path: Path) -> None:
    content = (SURVEY / "src_2026011500101_0.fits").read_bytes()
    cut = tmp_path / "src.fits"
    cut.write_bytes(content[: int(0.6 * len(content))])
    assert len(read_source_table(cut)) > 100  # the catalogue itself is complete
    with pytest.raises(InputError, match="truncated"):
        read_footprints(cut)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["scaled", "unsigned 16", "unsigned 32", "double", "undefined"])
def test_every_kind_of_pixel_is_read_as_the_number_it_stands_for(
    tmp_path: Path, kind: str, compressed: bool
) -> None:
    """K07: scaled and unsigned integers, and pixels that an integer image calls undefined (BLANK)."""
    from astropy.io import fits

    from finalchar.formats.fits_file import FitsFile
    from finalchar.formats.lsst_exposure import read_image

    truth = np.arange(1200.0).reshape(30, 40) + 40000.0
    header = fits.Header()
    if kind == "undefined":
        truth -= 40000.0
        header["BLANK"] = -99999
    types = {"unsigned 16": np.uint16, "unsigned 32": np.uint32, "double": np.float64, "undefined": np.int32}
    pixels = truth.astype(types.get(kind, np.int16), casting="unsafe")
    if kind == "scaled":
        pixels = ((truth - 40000.0) * 2.0).astype(np.int16)
        header["BSCALE"], header["BZERO"] = 0.5, 40000.0
    if kind == "undefined":
        pixels[3, 4], truth[3, 4] = -99999, np.nan
    image = (fits.CompImageHDU if compressed else fits.ImageHDU)(pixels, header)
    if kind == "scaled":  # astropy takes the numbers for unscaled ones and drops the cards
        image.header["BSCALE"], image.header["BZERO"] = 0.5, 40000.0
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "image.fits")
    # Lossy compression of floating-point images is not meant here: its quantum is far below 1.
    np.testing.assert_allclose(read_image(FitsFile(tmp_path / "image.fits").hdu(1)), truth, atol=0.2)
