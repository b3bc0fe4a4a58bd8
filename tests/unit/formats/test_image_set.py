"""The Exposure contract filled from plain images: weights, flags, header astrometry."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import fitsio
import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.image_set import Background, ImageSet, Plane, read_image_set

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
        flag_planes={"SAT": [1]},
        band="r",
        zero_point=31.4 - 2.5 * np.log10(2.0),
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
    assert "DETECTED" not in exposure.mask_planes  # found with the footprints
    assert (exposure.box.width, exposure.box.height, exposure.band) == (100, 100, "r")
    assert exposure.calibration.evaluate(x=1.0, y=1.0) == pytest.approx(2.0, rel=1e-12)  # rounding
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
    exposure = read_image_set(replace(images, weight_kind=kind))
    np.testing.assert_allclose(exposure.variance[~zero], 1.0 / weight[~zero], rtol=1e-5)


def test_one_sentence_for_each_defect(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"input\.images\.flags: there is no bit 63"):
        read_image_set(replace(images, flag_planes={"A": [1, 63]}))
    with pytest.raises(InputError, match="the gain must be known"):
        read_image_set(replace(images, add_photon_noise=True))
    fitsio.write(tmp_path / "image.fits", weight, clobber=True)
    with pytest.raises(InputError, match="has no astrometry"):
        read_image_set(images)


@pytest.mark.parametrize("kind", ["variance", "standard_deviation"])
def test_a_statement_that_contradicts_the_pixels_is_refused(tmp_path: Path, kind: str) -> None:
    """K08: an inverse variance of 0.04 is no variance; both numbers are told."""
    images, _, _ = survey(tmp_path)
    with pytest.raises(
        InputError, match=rf"weight\.fits: read as {kind} .* scatter by 0\.\d+ .* by [45]\.\d+"
    ):
        read_image_set(replace(images, weight_kind=kind))


def test_a_weight_of_zero_and_one_is_refused(tmp_path: Path) -> None:
    """K08: which pixels are good is not what they are worth."""
    images, weight, _ = survey(tmp_path)
    fitsio.write(tmp_path / "weight.fits", (weight > 0).astype(np.uint8), clobber=True)
    with pytest.raises(InputError, match="should scatter by 1 counts"):
        read_image_set(images)


def test_bits_and_codes(tmp_path: Path) -> None:
    """Several bits may mean one plane; unsigned images and codes instead of bits are understood."""
    images, _, _ = survey(tmp_path)
    flags = np.zeros((100, 100), dtype=np.uint16)
    flags[10, 10], flags[10, 11], flags[10, 12], flags[10, 13] = 1, 2, 32768, 3
    fitsio.write(tmp_path / "flags.fits", flags, clobber=True)

    def pixels(name: str, **changes: object) -> list[list[int]]:
        exposure = read_image_set(replace(images, **changes))
        return np.argwhere((exposure.mask & exposure.mask_bits([name])) != 0).tolist()

    by_bits = {"SAT": [0, 15], "GHOST": [1]}
    assert pixels("SAT", flag_planes=by_bits) == [[10, 10], [10, 12], [10, 13]]
    assert pixels("GHOST", flag_planes=by_bits) == [[10, 11], [10, 13]]
    by_values = {"SAT": [3], "BAD": [1, 2]}
    assert pixels("SAT", flag_planes=by_values, flag_kind="values") == [[10, 13]]
    assert pixels("BAD", flag_planes=by_values, flag_kind="values") == [[10, 10], [10, 11]]


def test_offset_saturation_background_and_photon_noise(tmp_path: Path) -> None:
    images, _, zero = survey(tmp_path)
    image, header = fitsio.read(tmp_path / "image.fits", header=True)
    clean = np.where(zero, 0.0, image).astype(np.float32)
    sky = 1000.0 + 300.0
    clean[50, 50] = 40000.0
    fitsio.write(tmp_path / "image.fits", clean + sky, header=header, clobber=True)
    # sky included, offset taken off, and the level itself is saturated
    raw = replace(images, offset=1000.0, saturation=40300.0, gain=4.0, background=Background(50, 3))
    exposure = read_image_set(raw)
    assert np.argwhere((exposure.mask & exposure.mask_bits(["SAT"])) != 0).tolist() == [[3, 4], [50, 50]]
    # The mean of 2500 pixels that scatter by 5 is known to 0.1.
    assert np.nanmedian(exposure.image) == pytest.approx(0.0, abs=0.5)
    assert exposure.image[50, 50] == pytest.approx(40000.0, abs=2.0)
    noisy = read_image_set(replace(raw, add_photon_noise=True))
    good = ~zero
    added = (noisy.variance - exposure.variance)[good]
    np.testing.assert_allclose(added, np.maximum(exposure.image[good], 0.0) / 4.0, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("hdu", [0, 1])
def test_the_first_image_is_found(tmp_path: Path, hdu: int) -> None:
    """An empty primary HDU is passed over; an HDU that is named is taken."""
    images, weight, zero = survey(tmp_path)
    with fitsio.FITS(tmp_path / "planes.fits", "rw", clobber=True) as file:
        if hdu == 1:
            file.write(None)
        file.write(weight)
        file.write(np.full_like(weight, -1.0))
    exposure = read_image_set(replace(images, weight=Plane(tmp_path / "planes.fits")))
    np.testing.assert_array_equal(np.isfinite(exposure.variance), ~zero)
    with pytest.raises(InputError, match="no pixel has a finite value and a positive weight"):
        read_image_set(replace(images, weight=Plane(tmp_path / "planes.fits", hdu + 1)))


def test_field_angles_are_the_tangent_plane_in_arcsec(tmp_path: Path) -> None:
    images, _, _ = survey(tmp_path)
    exposure = read_image_set(images)
    u, v = exposure.field_angle.apply(x=[49.0, 59.0], y=[49.0, 69.0])
    # The tangent point, and 7e-5 degrees per pixel; rounding.
    np.testing.assert_allclose(u, [0.0, -10 * 7e-5 * 3600], atol=1e-9)
    np.testing.assert_allclose(v, [0.0, 20 * 7e-5 * 3600], atol=1e-9)
    pickle.loads(pickle.dumps(exposure.field_angle))
