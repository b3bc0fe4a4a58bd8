"""Stored PSFs: the allow-list of pickles, the bytes we write, and what an archive gives back."""

from __future__ import annotations

import pickle
import pickletools
import sys
from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError, PsfError
from finalchar.formats.archive import Archive, ArchiveWriter
from finalchar.formats.exposure_catalog import read_exposure_catalog
from finalchar.formats.fits_file import FitsFile, primary_hdu
from finalchar.formats.psfs import (
    ChebyshevFunction,
    DoubleGaussianFunction,
    FixedKernel,
    GaussianFunction,
    GaussianPsf,
    KernelPsf,
    LinearCombinationKernel,
    PolynomialFunction,
    PsfexPsf,
    StoredPsf,
    dumps_piff,
    loads_piff,
    read_stored_psf,
)
from finalchar.formats.psfs_writer import add_psf

GOLDEN = Path(__file__).resolve().parents[2] / "data/golden_small"


def stored(configuration: str) -> bytes:
    catalogue = read_exposure_catalog(GOLDEN / configuration / "psf_ap_corr_2026011500101.fits")
    return catalogue.records[0].psf.pickle


def again(tmp_path: Path, psf: StoredPsf) -> StoredPsf:
    writer = ArchiveWriter()
    number = add_psf(writer, psf)
    (tmp_path / "a.fits").write_bytes(b"".join([primary_hdu(), *writer.hdus()]))
    return read_stored_psf(Archive(FitsFile(tmp_path / "a.fits"), 1), number)


class Evil:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (Evil(), "builtins.eval"),
        (np.load, "numpy.load"),
        (pickle.loads, "_pickle.loads"),
        (Path("a"), "pathlib.PosixPath"),
        (np.random.default_rng, "numpy.random.default_rng"),
    ],
)
def test_pickles_load_nothing_but_the_allowed_classes(thing: object, name: str) -> None:
    with pytest.raises(InputError, match=f"the class {name} is not allowed"):
        loads_piff(pickle.dumps((25, 25, thing)))


def test_names_that_are_attributes_are_not_followed() -> None:
    """Protocol 4 may name `a.b` within a module; only whole names of the list pass."""
    content = b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.tofile.__cal\x93."
    with pytest.raises(InputError, match="not allowed"):
        loads_piff(content)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(3), pickle.dumps((1, 2))])
def test_broken_pickles_are_one_sentence(content: bytes) -> None:
    with pytest.raises(InputError, match="a stored Piff PSF cannot be read"):
        loads_piff(content)


def test_truncated_pickles_are_one_sentence() -> None:
    content = stored("default")
    with pytest.raises(InputError, match="a stored Piff PSF cannot be read"):
        loads_piff(content[: len(content) // 2])


@pytest.mark.parametrize("configuration", ["default", "sky_oversampled", "color_sky_fgcm", "field_variant"])
def test_what_we_write_is_the_same_psf(configuration: str) -> None:
    width, _, psf = loads_piff(stored(configuration))
    content = dumps_piff(width, psf)
    assert content == dumps_piff(width, psf)
    again_width, again_height, again_psf = loads_piff(content)
    assert again_width == again_height == width
    color = {"colorValue": 1.0} if "colorValue" in psf.interp_property_names else {}
    for center in (True, None):
        before = psf.draw(310.25, 400.5, stamp_size=width, center=center, **color).array
        after = again_psf.draw(310.25, 400.5, stamp_size=width, center=center, **color).array
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("configuration", ["default", "sky_oversampled", "field_variant"])
def test_only_names_that_the_stack_knows_are_written(configuration: str) -> None:
    """Nothing of this library stands in the bytes, and the names we lend are taken back."""
    width, _, psf = loads_piff(stored(configuration))
    content = dumps_piff(width, psf)
    assert b"finalchar" not in content
    assert not any(name.split(".")[0] in ("lsst", "astshim") for name in sys.modules)
    texts = {argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
    assert ("lsst.meas.extensions.piff.wcs_wrapper" in texts) == (configuration != "default")
    assert pickletools.optimize(content)[:2] == b"\x80\x04"


def test_the_psf_that_is_written_keeps_its_star_images() -> None:
    import galsim
    import piff

    width, _, psf = loads_piff(stored("default"))
    image = galsim.Image(np.ones((5, 5)), scale=0.2)
    star = piff.Star(piff.StarData(image, galsim.PositionD(2.0, 2.0)), None)
    psf.stars = [*psf.stars, star]
    dumps_piff(width, psf)
    assert psf.stars[-1] is star
    assert star.data.image is image


def test_foreign_objects_in_a_psf_are_refused() -> None:
    width, _, psf = loads_piff(stored("default"))
    psf.extra = Path("a")
    with pytest.raises(PsfError, match=r"the PSF cannot be stored: the class pathlib\.PosixPath"):
        dumps_piff(width, psf)


def test_old_numpy_names_are_understood() -> None:
    content = pickle.dumps((25, 25, np.arange(3.0)), protocol=4)
    old = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    if old == content:
        pytest.fail("the pickle of an array does not name the modules that this test is about")
    # framing counts bytes: drop the frame, which is optional
    old = old[:2] + old[11:]
    with pytest.raises(InputError, match="AttributeError"):  # an array is no PSF, but it was loaded
        loads_piff(old)


# ------------------------------------------------------------------------------------ other stored PSFs


def kernel(value: float) -> FixedKernel:
    return FixedKernel(np.full((3, 5), value), (2, 1))


PSFS = [
    KernelPsf(kernel(1.0), (10.0, 20.0)),
    KernelPsf(
        LinearCombinationKernel(
            (kernel(1.0), kernel(2.0)),
            (2, 1),
            (5, 3),
            functions=(
                PolynomialFunction(np.array([1.0, 2.0, 3.0])),
                ChebyshevFunction(np.array([1.0]), 0.0, 0.0, 10.0, 20.0),
            ),
        ),
        (1.0, 2.0),
        "PcaPsf",
    ),
    KernelPsf(
        LinearCombinationKernel((kernel(1.0),), (2, 1), (5, 3), amplitudes=np.array([0.5])), (1.0, 2.0)
    ),
    GaussianPsf((25, 25), DoubleGaussianFunction(1.5, 1.0, 0.0)),
    GaussianPsf((25, 25), DoubleGaussianFunction(1.5, 3.0, 0.1), "DoubleGaussianPsf"),
    PsfexPsf(
        np.arange(18, dtype=np.float32).reshape(1, 6, 3),
        np.array([0], dtype=np.int32),
        np.array([0, 0], dtype=np.int32),
        np.array([1.0, 2.0]),
        np.array([3.0, 4.0]),
        0.75,
        (5.0, 6.0),
    ),
]


@pytest.mark.parametrize("psf", PSFS, ids=lambda psf: type(psf).__name__)
def test_other_psfs_come_back(tmp_path: Path, psf: StoredPsf) -> None:
    assert_equal(again(tmp_path, psf), psf)


def assert_equal(found: object, expected: object) -> None:
    assert type(found) is type(expected)
    if hasattr(expected, "__dataclass_fields__"):
        for name in expected.__dataclass_fields__:
            assert_equal(getattr(found, name), getattr(expected, name))
    elif isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_array_equal(found, expected)


def test_terms_of_polynomials() -> None:
    """Order (x, y): 1; x; y; x^2; x y; y^2."""
    x, y = np.array([0.5, -2.0]), np.array([3.0, 0.25])
    terms = np.array([np.ones(2), x, y, x * x, x * y, y * y])
    for k in range(6):
        value = PolynomialFunction(np.eye(6)[k]).evaluate(x=x, y=y)
        np.testing.assert_allclose(value, terms[k], rtol=1e-15)
    chebyshev = ChebyshevFunction(np.eye(6)[3], 0.0, 0.0, 10.0, 20.0)
    np.testing.assert_allclose(chebyshev.evaluate(x=7.5, y=1.0), 2 * 0.5**2 - 1.0)
    with pytest.raises(InputError, match="4 coefficients, which fits no order"):
        PolynomialFunction(np.ones(4)).evaluate(x=0.0, y=0.0)


def test_gaussians_integrate_to_one() -> None:
    x, y = np.meshgrid(np.arange(-40, 41), np.arange(-40, 41))
    # sampling a Gaussian of sigma > 1.5 sums to its integral within 1e-8 (Poisson summation)
    for function in (GaussianFunction(2.0, 3.0, 0.4), DoubleGaussianFunction(2.0, 4.0, 0.1)):
        assert function.evaluate(x=x, y=y).sum() == pytest.approx(1.0, abs=1e-7)
