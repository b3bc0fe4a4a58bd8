"""The Exposure contract filled from plain images: weights, flags, header astrometry."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.image_set import ImageSet, Plane, read_catalogue, read_image_set

RNG_SEED = 7


def survey(tmp_path: Path, compress: str | None = None) -> tuple[ImageSet, np.ndarray, np.ndarray]:
    """Write an image set of 100 x 100 pixels; return it, its weights, and where they are zero."""
    rng = np.random.default_rng(RNG_SEED)
    weight = rng.normal(0.04, 0.001, (100, 100)).astype(np.float32)
    zero = rng.random(weight.shape) < 0.1
    weight[zero] = 0.0
    image = rng.normal(0.0, 5.0, weight.shape).astype(np.float32)
    image[zero] = np.where(rng.random(np.sum(zero)) < 0.5, np.nan, 1e6)
    header = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 150.0,
        "CRVAL2": 2.0,
        "CRPIX1": 50.0,
        "CRPIX2": 50.0,
        "CD1_1": -7e-5,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": 7e-5,
        "EXPTIME": 30.0,
    }
    flags = np.zeros(weight.shape, dtype=np.int16)
    flags[3, 4] = 2
    fitsio.write(tmp_path / "image.fits", image, header=header, clobber=True)
    options = (
        {} if compress is None else {"compress": compress, "qlevel": 4, "qmethod": "SUBTRACTIVE_DITHER_1"}
    )
    fitsio.write(tmp_path / "weight.fits", weight, clobber=True, **options)
    fitsio.write(tmp_path / "flags.fits", flags, clobber=True)
    images = ImageSet(
        image=Plane(tmp_path / "image.fits"),
        weight=Plane(tmp_path / "weight.fits", 0 if compress is None else 1),
        weight_kind="inverse_variance",
        flags=Plane(tmp_path / "flags.fits"),
        flag_planes={"SAT": 1},
        band="r",
        calibration=2.0,
    )
    return images, weight, zero


def test_the_contract_is_filled(tmp_path: Path) -> None:
    images, weight, zero = survey(tmp_path)
    exposure = read_image_set(images)
    no_data = (exposure.mask & exposure.mask_bits(["NO_DATA"])) != 0
    np.testing.assert_array_equal(no_data, zero)
    np.testing.assert_allclose(exposure.variance[~zero], 1.0 / weight[~zero], rtol=1e-6)
    assert np.isnan(exposure.image[zero]).all()
    assert np.isnan(exposure.variance[zero]).all()
    assert np.argwhere((exposure.mask & exposure.mask_bits(["SAT"])) != 0).tolist() == [[3, 4]]
    assert (exposure.image.dtype, exposure.mask.dtype, exposure.variance.dtype) == (
        np.float32,
        np.int32,
        np.float32,
    )
    assert (exposure.box.width, exposure.box.height, exposure.band) == (100, 100, "r")
    assert exposure.calibration.evaluate(x=1.0, y=1.0) == 2.0
    assert exposure.visit_info.exposure_time_seconds == 30.0
    np.testing.assert_allclose(
        exposure.wcs.sky_to_pixel(ra=np.radians(150.0), dec=np.radians(2.0)), [49.0, 49.0]
    )
    assert exposure.initial_psf is None


def test_zeros_of_a_quantised_weight_map_stay_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """K07: after SUBTRACTIVE_DITHER_1 no zero is left, half of them are small and positive."""
    images, _, zero = survey(tmp_path, "rice")
    stored = fitsio.read(tmp_path / "weight.fits", ext=1)
    assert not np.any(stored == 0.0)
    assert np.sum(stored[zero] > 0.0) > 100
    exposure = read_image_set(images)
    np.testing.assert_array_equal((exposure.mask & exposure.mask_bits(["NO_DATA"])) != 0, zero)
    assert not np.any(np.abs(exposure.image[np.isfinite(exposure.image)]) > 1e5)
    assert "quantised weights count as zero" in caplog.text


@pytest.mark.parametrize(
    ("kind", "power"), [("inverse_variance", 1.0), ("variance", -1.0), ("standard_deviation", -0.5)]
)
def test_what_the_weight_means_is_stated(tmp_path: Path, kind: str, power: float) -> None:
    """K08: the same noise, said in three ways."""
    images, weight, zero = survey(tmp_path)
    with np.errstate(divide="ignore"):
        plane = np.where(zero, 0.0, weight.astype(np.float64) ** power)
    fitsio.write(tmp_path / "weight.fits", plane, clobber=True)
    from dataclasses import replace

    exposure = read_image_set(replace(images, weight_kind=kind))
    np.testing.assert_allclose(exposure.variance[~zero], 1.0 / weight[~zero], rtol=1e-5)


def test_one_sentence_for_each_defect(tmp_path: Path) -> None:
    from dataclasses import replace

    images, weight, _ = survey(tmp_path)
    fitsio.write(tmp_path / "weight.fits", weight[:50], clobber=True)
    with pytest.raises(InputError, match=r"weight\.fits has shape \(50, 100\), the image \(100, 100\)"):
        read_image_set(images)
    fitsio.write(tmp_path / "weight.fits", np.zeros_like(weight), clobber=True)
    with pytest.raises(InputError, match="no pixel has a finite value and a positive weight"):
        read_image_set(images)
    images, weight, _ = survey(tmp_path)
    fitsio.write(tmp_path / "flags.fits", weight, clobber=True)
    with pytest.raises(InputError, match=r"flags\.fits is not an image of integers"):
        read_image_set(images)
    images, _, _ = survey(tmp_path)
    with pytest.raises(InputError, match="a bit twice"):
        read_image_set(replace(images, flag_planes={"A": 1, "B": 1}))
    fitsio.write(tmp_path / "image.fits", weight, clobber=True)
    with pytest.raises(InputError, match="has no astrometry"):
        read_image_set(images)


def test_catalogue_positions_count_from_zero(tmp_path: Path) -> None:
    """K09: the origin of the positions is stated."""
    rows = np.zeros(2, dtype=[("NUMBER", "i4"), ("XWIN_IMAGE", "f8"), ("YWIN_IMAGE", "f8")])
    rows["XWIN_IMAGE"], rows["YWIN_IMAGE"] = [1.0, 10.5], [2.0, 20.25]
    fitsio.write(tmp_path / "cat.fits", rows)
    names = {"id": "NUMBER", "slot_Centroid_x": "XWIN_IMAGE", "slot_Centroid_y": "YWIN_IMAGE"}
    table = read_catalogue(tmp_path / "cat.fits", names, first_pixel=1)
    assert table["slot_Centroid_x"].tolist() == [0.0, 9.5]
    assert table["slot_Centroid_y"].tolist() == [1.0, 19.25]
    assert read_catalogue(tmp_path / "cat.fits", names, first_pixel=0)["slot_Centroid_x"].tolist() == [
        1.0,
        10.5,
    ]
    with pytest.raises(InputError, match=r"\.fits: the column 'ALPHA' is missing"):
        read_catalogue(tmp_path / "cat.fits", {"ra": "ALPHA"}, first_pixel=1)
