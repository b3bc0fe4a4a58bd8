"""Frames of the real sky as plain images: our fit against that of plain Piff, headers against GalSim.

The frames are beside the project and are used in place; where they are absent the same checks run on a small
simulated frame only.  Reference values: table 1.4 of the description that lies with the frames.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import fitsio
import galsim
import numpy as np
import pytest

from finalchar.characterize import characterize_detector, load_detector_inputs
from finalchar.config import Config
from finalchar.formats.image_set import Background, ImageSet, Plane, read_image_set
from finalchar.formats.parquet import write_table
from finalchar.formats.sextractor import combined_id, read_sextractor
from finalchar.formats.sources import SourceTable
from finalchar.psf.determiners.piff import Settings
from finalchar.psf.piff_fit import run_fit
from finalchar.psf.piff_frame import piff_frame
from finalchar.psf.piff_plan import plan_fit
from finalchar.psf.piff_result import make_psf_fit
from finalchar.psf.piff_stars import StarStamps, piff_stars, usable_stars
from finalchar.stars.candidates import extract_stamps
from finalchar.stars.tract import reserve_stars
from finalchar.stars.visit_list import TractInputs, make_visit_list
from finalchar.status import Status

REAL = Path(__file__).resolve().parents[3] / "shared/real"
real_sky = pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not beside the project")
EVERYTHING = os.environ.get("FINALCHAR_REAL_SKY") == "full"  # the frames in i, 30 s each, are tried too
PLACES = ((300, 300), (1024, 744), (1750, 1200))
# visit, band, gain, saturation; stars used; (sigma, e1, e2) of plain Piff, order 2, at the three places
FRAMES = {
    "004192-r4-0300": (
        (41924, "r", 4.76, 43653),
        36,
        "1.0836 -.0824 -.0008  1.1147 -.0742 -.0192  1.1540 -.0515 -.0268",
    ),
    "004192-i4-0300": (
        (41923, "i", 4.885, 23653),
        43,
        "1.0183 -.0525 -.0493  1.0822 -.0659 -.0152  1.0878 -.0585 -.0001",
    ),
    "006377-r4-0399": (
        (63774, "r", 4.76, 43653),
        43,
        "1.0760 -.0693 -.0492  1.0390 -.0800 -.0325  1.0409 -.0687 -.0223",
    ),
    "006377-i4-0399": (
        (63773, "i", 4.885, 23653),
        50,
        "1.0014 -.0618 -.0441  1.0182 -.0762 -.0518  1.0552 .0008 -.0485",
    ),
}
FLAGS = {"INTRP": [0], "SAT": [1], "CR": [9]}


@dataclass(frozen=True)
class Frame:
    """Images of a frame, its stars (positions from 1), its gain."""

    images: ImageSet
    stars: Path
    gain: float
    order: int
    scale: float
    model: int = 25
    stamp: int = 27


def table_of(name):
    return np.array(FRAMES[name][2].split(), dtype=float).reshape(3, 3)


def sdss_frame(name):
    (_, band, gain, _), _, _ = FRAMES[name]
    folder = REAL / "sdss"
    images = ImageSet(
        Plane(folder / f"fpC-{name}.fit.gz"),
        Plane(folder / f"weight-{name}.fits.gz"),
        "inverse_variance",
        Plane(folder / f"flag-{name}.fits.gz"),
        FLAGS,
        band=band,
        offset=1000.0,
        background=Background(128, 3),
    )
    return Frame(images, folder / f"stars-{name}.fits", gain, 2, 0.396)


@pytest.fixture(scope="module", name="simulated")
def simulated_frame(tmp_path_factory):
    """A frame of 300 x 300 pixels whose x axis runs along declination, as those of SDSS."""
    folder = tmp_path_factory.mktemp("frame")
    rng = np.random.default_rng(11)
    grid = np.stack(np.meshgrid(np.linspace(25, 275, 5), np.linspace(25, 275, 5)), axis=-1).reshape(-1, 2)
    stars = np.zeros(len(grid), dtype=[("x", "f8"), ("y", "f8"), ("sky", "f4")])
    stars["x"], stars["y"] = (grid + rng.uniform(-0.5, 0.5, grid.shape)).T
    sky, gain = 120.0, 4.0
    image = galsim.ImageD(np.full((300, 300), sky))
    for x, y, flux in zip(stars["x"], stars["y"], rng.uniform(5e3, 1e5, len(stars)), strict=True):
        profile = galsim.Moffat(beta=3.5, fwhm=2.8).shear(g1=0.03 * x / 300, g2=-0.02)
        profile.withFlux(flux).drawImage(image, center=galsim.PositionD(x, y), scale=1.0, add_to_image=True)
    pixels = (rng.poisson(image.array * gain) / gain).astype(np.float32)
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 351.6, "CRVAL2": 0.1}
    header |= {"CRPIX1": 150.5, "CRPIX2": 150.5, "CD1_1": 0.0, "CD1_2": 1.1e-4, "CD2_1": 1.1e-4, "CD2_2": 0.0}
    fitsio.write(folder / "image.fits", pixels - np.float32(sky), header=header)
    fitsio.write(folder / "weight.fits", np.full((300, 300), gain / sky, np.float32))
    fitsio.write(folder / "stars.fits", stars)
    images = ImageSet(Plane(folder / "image.fits"), Plane(folder / "weight.fits"), "inverse_variance")
    return Frame(images, folder / "stars.fits", gain, 1, 0.396, model=15, stamp=19)


def fit(frame, *, poisson, solver):
    """Our fit to the given stars in sky coordinates; `poisson`: with the changing weights of plain Piff."""
    exposure = read_image_set(frame.images)
    exposure = replace(exposure, mask_planes={**exposure.mask_planes, "DETECTED": 5})
    stars = fitsio.read(frame.stars)
    n = len(stars)
    x, y = stars["x"] - 1.0, stars["y"] - 1.0
    cut = extract_stamps(exposure, x=x, y=y, size=frame.stamp)
    assert len(cut) == n
    nothing = np.full(n, np.nan)
    planes = (cut.image, cut.mask, cut.variance, cut.x0, cut.y0)
    stamps = StarStamps(np.arange(n), x, y, *planes, nothing, [""] * n)
    bad = exposure.mask_bits(["INTRP", "SAT", "CR", "NO_DATA"])
    usable = usable_stars(
        stamps, bad_bits=bad, minimum_unmasked_fraction=0.0, max_snr=200.0, compatibility="fixed"
    )
    settings = Settings(
        spatialOrder=frame.order, modelSize=frame.model, stampSize=37, useCoordinates="sky", solver=solver
    )
    coordinates = piff_frame(exposure, "sky")
    made = piff_stars(stamps, usable, coordinates, color=nothing, color_type=[""] * n, compatibility="fixed")
    if poisson:
        for star in made:
            star.data.properties["gain"] = frame.gain
        made = [star.addPoisson() for star in made]
    plan = plan_fit(settings, coordinates, made, band=None, compatibility="fixed")
    plan.config["model"]["scale"] = frame.scale
    outcome = run_fit(plan, made, coordinates, settings, cut.variance.astype(np.float64))
    return make_psf_fit(outcome, stamps, usable, settings, compatibility="fixed"), len(outcome.used)


def shapes(model, places):
    """(sigma, e1, e2) of the PSF at places that count from 1."""
    drawn = [model.kernel_image(x=x - 1.0, y=y - 1.0).array for x, y in places]
    found = [galsim.hsm.FindAdaptiveMom(galsim.ImageD(np.ascontiguousarray(array))) for array in drawn]
    return np.array([(m.moments_sigma, m.observed_shape.e1, m.observed_shape.e2) for m in found])


def plain_piff(frame, places):
    """What Piff itself makes of the same files; (used, shapes)."""
    import piff

    files = {"image_file_name": str(frame.images.image.path), "image_hdu": 0}
    files |= {"weight_file_name": str(frame.images.weight.path), "weight_hdu": 0}
    files |= {
        "cat_file_name": str(frame.stars),
        "x_col": "x",
        "y_col": "y",
        "gain": frame.gain,
        "stamp_size": 27,
    }
    model = {
        "type": "PixelGrid",
        "scale": frame.scale,
        "size": frame.model,
        "interp": "Lanczos(11)",
        "centered": True,
    }
    psf = {
        "type": "Simple",
        "model": model,
        "interp": {"type": "BasisPolynomial", "order": frame.order, "solver": "scipy"},
        "outliers": {"type": "Chisq", "nsigma": 4.0, "max_remove": 0.05},
        "max_iter": 15,
    }
    made = piff.process({"input": files, "select": {"max_snr_weight": 200}, "psf": psf})
    found = [galsim.hsm.FindAdaptiveMom(made.draw(x, y, stamp_size=frame.model)) for x, y in places]
    used = sum(not star.is_flagged for star in made.stars)
    return used, np.array([(m.moments_sigma, m.observed_shape.e1, m.observed_shape.e2) for m in found])


# With the same stars, weights and coordinates (the aim): implementations of one model agree to 1e-3.
TOLERANCE = 1e-3


@pytest.mark.filterwarnings("ignore")
def test_a_simulated_frame_gives_what_plain_piff_gives(simulated):
    places = ((60, 60), (150, 150), (250, 120))
    used, expected = plain_piff(simulated, places)
    ours, used_here = fit(simulated, poisson=True, solver="scipy")
    assert used_here == used
    np.testing.assert_allclose(shapes(ours.model, places), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore")
def test_the_separable_solver_gives_the_same_on_the_simulated_frame(simulated):
    places = ((60, 60), (150, 150), (250, 120))
    found = [
        shapes(fit(simulated, poisson=False, solver=name)[0].model, places) for name in ("scipy", "separable")
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=TOLERANCE)


@real_sky
@pytest.mark.parametrize("name", FRAMES if EVERYTHING else [name for name in FRAMES if "-r" in name])
@pytest.mark.filterwarnings("ignore")
def test_a_real_frame_gives_what_plain_piff_gave(name):
    ours, used = fit(sdss_frame(name), poisson=True, solver="scipy")
    assert used == FRAMES[name][1]
    np.testing.assert_allclose(shapes(ours.model, PLACES), table_of(name), rtol=0, atol=TOLERANCE)


@real_sky
@pytest.mark.filterwarnings("ignore")
def test_the_separable_solver_gives_the_same_on_a_real_frame():
    frame = sdss_frame("006377-r4-0399")
    found = [
        shapes(fit(frame, poisson=False, solver=name)[0].model, PLACES) for name in ("scipy", "separable")
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=TOLERANCE)


# ------------------------------------------------------------------------------------------- whole detectors


def configuration():
    images = {"weight_kind": "inverse_variance", "flags": FLAGS, "offset": 1000.0}
    return Config(
        input={"preset": "sextractor", "images": {**images, "photon_noise": "add", "background": "subtract"}},
        reserve_selection={"reserve_fraction": 0.0},
        source_selector={"science": {"doFlags": False, "doSignalToNoise": False}},
        psf_determiner={"piff": {"spatialOrder": 2, "modelSize": 25, "stampSize": 27}},
        measurement={
            "plugins": {"names": ["base_CircularApertureFlux", "base_GaussianFlux", "base_PsfFlux", *HSM]}
        },
    )


HSM = ["ext_shapeHSM_HsmSourceMoments", "ext_shapeHSM_HsmPsfMoments"]


def write_isolated_stars(name, visit, band, folder):
    """Tables of isolated stars from the list of selected stars: each is the nearest of the catalogue."""
    stars = fitsio.read(REAL / f"sdss/stars-{name}.fits")
    catalogue = fitsio.read(REAL / f"sdss/cat-{name}.fits.gz", ext=2)
    offset = np.hypot(
        stars["x"][:, None] - catalogue["XWIN_IMAGE"], stars["y"][:, None] - catalogue["YWIN_IMAGE"]
    )
    assert offset.min(axis=1).max() < 0.3
    n, number = len(stars), catalogue["NUMBER"][offset.argmin(axis=1)].astype(np.int64)
    ids = combined_id(number, visit=visit, detector=0, origin=name)
    cat = {"isolated_star_id": np.arange(n) + 1, "ra": stars["ra"], "dec": stars["dec"]}
    write_table(SourceTable({**cat, f"nsource_{band}": np.ones(n, np.int32)}), folder / "cat.parquet")
    sources = {"sourceId": ids, "visit": np.full(n, visit), "detector": np.zeros(n, np.int16)}
    write_table(
        SourceTable({**sources, "obj_index": np.arange(n, dtype=np.int32)}), folder / "sources.parquet"
    )


@real_sky
@pytest.mark.parametrize("name", FRAMES)
def test_a_real_frame_goes_all_the_way(name, tmp_path):
    (visit, band, gain, saturation), _, _ = FRAMES[name]
    config, folder = configuration(), REAL / "sdss"
    write_isolated_stars(name, visit, band, tmp_path)
    reserve_stars(
        tract=1,
        star_table=tmp_path / "cat.parquet",
        source_table=tmp_path / "sources.parquet",
        bands=[band],
        settings=config.reserve_selection,
        id_column=config.id_column,
        output=tmp_path / "reserved.parquet",
    )
    tracts = [TractInputs(tract=1, reserved=tmp_path / "reserved.parquet")]
    make_visit_list(visit=visit, band=band, tracts=tracts, output=tmp_path / "list.parquet")
    inputs = load_detector_inputs(
        visit=visit,
        detector=0,
        band=band,
        exposure=folder / f"fpC-{name}.fit.gz",
        src=folder / f"cat-{name}.fits.gz",
        visit_list=tmp_path / "list.parquet",
        config=config,
        survey=folder,
        row={
            "weight": f"weight-{name}.fits.gz",
            "flag": f"flag-{name}.fits.gz",
            "gain": str(gain),
            "saturation": str(saturation),
        },
    )
    result = characterize_detector(inputs=inputs, config=config)
    assert result.status.status is Status.OK, result.status.sentence
    assert result.status.counts["used"] == len(inputs.isolated)
    # Weights are constant over a star here, those of the table hold its photons; two outliers stay in: 0.5 %.
    np.testing.assert_allclose(shapes(result.fit.model, PLACES), table_of(name), rtol=0, atol=0.007)
    fluxes = result.table["base_PsfFlux_instFlux"] / result.table["base_CircularApertureFlux_12_0_instFlux"]
    # Aperture-corrected to that circle; stars of S/N 50 to 1000.
    assert np.nanmedian(fluxes) == pytest.approx(1.0, abs=0.01)


# ----------------------------------------------------------------------------------------- files of others


@real_sky
@pytest.mark.parametrize(
    ("path", "hdu"),
    [
        ("sdss/fpC-004192-r4-0300.fit.gz", 0),  # TAN
        ("decam/DECam_00241238_01_sparse.fits.gz", 1),  # TPV, cubic
        ("decam/c4d_170316_062107_ooi_z_ls9.N2.fits.gz", None),  # TPV
        ("cfht/cutout-1616690p.fits", None),  # TAN with the terms of SCAMP
    ],
)
def test_headers_mean_what_galsim_reads(path, hdu):
    from finalchar.formats.image_set import _hdu
    from finalchar.formats.lsst_exposure import Box, read_header_wcs

    unit = _hdu(Plane(REAL / path, hdu))
    wcs = read_header_wcs(unit, Box(0, 0, 1, 1))
    with fitsio.FITS(REAL / path) as file:
        header = {k: v for k, v in dict(file[unit.number].read_header()).items() if k}
    other = galsim.FitsWCS(header=galsim.FitsHeader(header))
    x, y = np.array([0.0, 100.0, 240.0]), np.array([0.0, 200.0, 37.0])
    ra, dec = other.xyToradec(x + 1.0, y + 1.0, units="rad")
    ours = wcs.pixel_to_sky(x=x, y=y)
    # 1e-6 arcsec.
    np.testing.assert_allclose(np.angle(np.exp(1j * (ours[0] - ra))), 0.0, rtol=0, atol=5e-12)
    np.testing.assert_allclose(ours[1], dec, rtol=0, atol=5e-12)


@real_sky
def test_a_multi_extension_file_and_its_catalogue():
    """DECam in DES style: image, mask, weight in one file, whose light is where the catalogue says."""
    path = REAL / "decam/DECam_00241238_01_sparse.fits.gz"
    images = ImageSet(
        Plane(path, 1), Plane(path, 3), "inverse_variance", Plane(path, 2), {"NO_DATA": [0]}, gain=3.91
    )
    exposure = read_image_set(images)
    assert exposure.image.shape == (4096, 2048)
    settings = Config(
        input={
            "preset": "sextractor",
            "images": {"weight_kind": "inverse_variance"},
            "catalogue": {"flux": "FLUX_MAX", "flux_err": "BACKGROUND", "error_ellipse": []},
        }
    ).input.catalogue
    catalogue = REAL / "decam/DECam_00241238_01_psfcat_vignet.fits.gz"
    sources = read_sextractor(catalogue, settings, exposure, visit=241238, detector=1)
    assert len(sources) == 117
    ra, dec = np.radians(
        [fitsio.read(catalogue, ext=2, columns=[name])[name] for name in ("ALPHAWIN_J2000", "DELTAWIN_J2000")]
    )
    # SExtractor read the same header: 0.01 arcsec.
    np.testing.assert_allclose(sources["coord_ra"], ra, rtol=0, atol=5e-8)
    np.testing.assert_allclose(sources["coord_dec"], dec, rtol=0, atol=5e-8)


@real_sky
def test_codes_instead_of_bits():
    """The Community Pipeline writes one code per pixel; the sky of this cut-out is not subtracted."""
    name = REAL / "decam/c4d_170316_062107_{}_z_ls9.N2.fits.gz"
    planes = {kind: Plane(Path(str(name).format(kind))) for kind in ("ooi", "oow", "ood")}
    codes = {"BAD": [1], "NO_DATA": [2], "SAT": [3, 4], "CR": [5, 8]}
    images = ImageSet(
        planes["ooi"],
        planes["oow"],
        "inverse_variance",
        planes["ood"],
        codes,
        flag_kind="values",
        background=Background(64, 3),
    )
    exposure = read_image_set(images)
    raw = fitsio.read(planes["ood"].path)
    for plane, numbers in codes.items():
        marked = (exposure.mask & exposure.mask_bits([plane])) != 0
        assert (marked >= np.isin(raw, numbers)).all()
    assert abs(np.nanmedian(exposure.image)) < 20.0  # of 3171
