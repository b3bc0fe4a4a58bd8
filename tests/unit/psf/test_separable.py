"""The matrix-free fit gives Piff's own answer; where it cannot, it says so."""

import copy

import galsim
import numpy as np
import piff
import pytest

from finalchar.psf.separable import (
    GridSettings,
    NotDeterminedError,
    StarStamps,
    fit_grid,
    star_grids,
    unit_sum,
)

SCALE = 0.2
ROTATION = 0.6


OTHER_FRAMES = {
    "mirrored": (-1.0, 0.0, 0.0, 1.0),
    "mirrored and turned": (np.cos(ROTATION), np.sin(ROTATION), np.sin(ROTATION), -np.cos(ROTATION)),
    "oblong pixels": (1.1, 0.0, 0.0, 1 / 1.1),
}


def local_wcs(rotation):
    """Return the frame of the stars: turned by an angle, or one of the others by its name."""
    if rotation in OTHER_FRAMES:
        return galsim.JacobianWCS(*(SCALE * element for element in OTHER_FRAMES[rotation]))
    if rotation == 0:
        return galsim.PixelScale(SCALE)
    c, s = SCALE * np.cos(rotation), SCALE * np.sin(rotation)
    return galsim.JacobianWCS(c, -s, s, c)


def simulate_stars(count, stamp, rng, *, rotation=0.0, masked=0.0, outlier=False):
    """Moffat stars whose size and ellipticity change over the detector, as Piff stars."""
    stars = []
    for k in range(count):
        x, y = rng.uniform(50, 950, 2)
        column, row, half = int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), stamp // 2
        bounds = galsim.BoundsI(column - half, column + half, row - half, row + half)
        image = galsim.Image(bounds, dtype=float, wcs=local_wcs(rotation))
        profile = galsim.Moffat(beta=3, fwhm=0.75 * (1 + 0.1 * (x - 500) / 500))
        profile = profile.shear(g1=0.05 * (y - 500) / 500, g2=0.02) * 10 ** rng.uniform(4, 5.3)
        profile.drawImage(image, center=galsim.PositionD(x, y))
        if outlier and k == 3:
            image.array[half - 4, half + 5] += 5000.0
        image.array[:] += rng.normal(0, 15, image.array.shape)
        weight = galsim.Image(bounds, dtype=float, wcs=local_wcs(rotation), init_value=1 / 225.0)
        weight.array[rng.uniform(size=weight.array.shape) < masked] = 0.0
        data = piff.StarData(image, galsim.PositionD(x, y), weight=weight, properties={"starId": k})
        stars.append(piff.Star(data, None))
    return stars


def fit_with_piff(stars, *, order, size, interpolant, rotation, centered=True):
    config = {
        "type": "Simple",
        "model": {
            "type": "PixelGrid",
            "scale": SCALE,
            "size": size,
            "interp": interpolant,
            "centered": centered,
        },
        "interp": {"type": "BasisPolynomial", "order": [order, order], "keys": ["x", "y"]},
        "outliers": {"type": "Chisq", "nsigma": 4.0, "max_remove": 0.05},
        "max_iter": 15,
    }
    psf = piff.PSF.process(config)
    psf.set_context({0: local_wcs(rotation)}, None)
    psf.fit([piff.Star(copy.copy(star.data), None) for star in stars])
    return psf


def stamps_of(stars, interpolator):
    count = len(stars)

    def array(values):
        return np.array(list(values))

    return StarStamps(
        image=array(s.image.array for s in stars),
        weight=array(s.weight.array for s in stars),
        dx=array(np.arange(s.image.xmin, s.image.xmax + 1) - s.image_pos.x for s in stars),
        dy=array(np.arange(s.image.ymin, s.image.ymax + 1) - s.image_pos.y for s in stars),
        jacobian=array(s.data.local_wcs.jacobian().getMatrix() for s in stars),
        sigma=array(s.hsm[3] for s in stars),
        basis=array(interpolator.basis(s) for s in stars),
        usable=np.ones(count, dtype=bool),
    )


CASES = {
    "plain": {},
    "masked pixels": {"masked": 0.05},
    "outlier": {"outlier": True},
    "fixed centres": {"centered": False},
    "linear interpolant": {"interpolant": "Lanczos(5)", "order": 1},
    "rotated": {"rotation": ROTATION, "stamp": 27},
    "mirrored": {"rotation": "mirrored"},
    "mirrored and turned": {"rotation": "mirrored and turned", "stamp": 27},
    "oblong pixels": {"rotation": "oblong pixels", "stamp": 21},
}


@pytest.mark.parametrize("name", CASES)
def test_same_answer_as_piff(name):
    case = {"stamp": 17, "order": 2, "interpolant": "Lanczos(11)", "rotation": 0.0, "centered": True} | CASES[
        name
    ]
    rng = np.random.default_rng(11)
    stars = simulate_stars(
        40,
        case["stamp"],
        rng,
        rotation=case["rotation"],
        masked=case.get("masked", 0.0),
        outlier=case.get("outlier", False),
    )
    size = 17
    piff_psf = fit_with_piff(
        stars,
        order=case["order"],
        size=size,
        interpolant=case["interpolant"],
        rotation=case["rotation"],
        centered=case["centered"],
    )
    stamps = stamps_of(stars, piff_psf.interp)
    interpolant = eval(f"galsim.{case['interpolant']}")
    fit = fit_grid(stamps, GridSettings(size, SCALE, interpolant, centered=case["centered"]))

    assert [s.is_flagged for s in piff_psf.stars] == list(fit.flagged)
    assert (fit.iterations, fit.removed) == (piff_psf.niter, piff_psf.nremoved)
    if name == "outlier":
        assert fit.removed >= 1
    assert fit.total_chisq == pytest.approx(piff_psf.chisq, rel=1e-10)
    theirs = unit_sum(star_grids(piff_psf.interp.q, stamps.basis, size))
    ours = unit_sum(star_grids(fit.q, stamps.basis, size))
    # goal of the fit: drawn PSF within 1e-8 of the peak; both solvers are double precision
    assert np.abs(ours - theirs).max() < 1e-9 * theirs.max()
    assert fit.center == pytest.approx(np.array([s.fit.center for s in piff_psf.stars]), abs=1e-9)
    assert fit.flux == pytest.approx(np.array([s.fit.flux for s in piff_psf.stars]), rel=1e-9)


def test_too_few_stars_are_refused():
    stars = simulate_stars(5, 17, np.random.default_rng(2))
    interpolator = piff.BasisPolynomial(2, keys=["x", "y"])
    with pytest.raises(NotDeterminedError, match=r"5 stars at their places do not determine 6"):
        fit_grid(stamps_of(stars, interpolator), GridSettings(17, SCALE, galsim.Lanczos(11)))


def test_stars_at_one_place_are_refused():
    stars = simulate_stars(1, 17, np.random.default_rng(2)) * 4
    interpolator = piff.BasisPolynomial(1, keys=["x", "y"])
    with pytest.raises(NotDeterminedError, match="do not determine 3 polynomial terms"):
        fit_grid(stamps_of(stars, interpolator), GridSettings(17, SCALE, galsim.Lanczos(11)))


def test_column_masked_in_every_star_is_not_silently_filled():
    """Known failure K14: grid points that no pixel constrains are found."""
    stars = simulate_stars(20, 17, np.random.default_rng(2))
    interpolator = piff.BasisPolynomial(1, keys=["x", "y"])
    stamps = stamps_of(stars, interpolator)
    stamps.weight[:, :, :6] = 0.0
    with pytest.raises(NotDeterminedError):
        fit_grid(stamps, GridSettings(17, SCALE, galsim.Lanczos(3)))


def test_order_of_the_stars_does_not_matter():
    stars = simulate_stars(20, 17, np.random.default_rng(3))
    stamps = stamps_of(stars, piff.BasisPolynomial(1, keys=["x", "y"]))
    turned = StarStamps(**{name: getattr(stamps, name)[::-1] for name in StarStamps.__dataclass_fields__})
    settings = GridSettings(17, SCALE, galsim.Lanczos(11))
    one, other = fit_grid(stamps, settings), fit_grid(turned, settings)
    assert np.abs(one.q - other.q).max() < 1e-12  # rounding of sums in another order
