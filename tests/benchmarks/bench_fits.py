"""The PSF fit beside Piff's own: same stars, same configuration, CPU time with one thread.

Both sides get fresh stars, so the adaptive moments that start the fit are measured in both timings, and both
give a filled Piff object.
"""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_rows
import numpy as np
from bench_rows import Row

SIDE = 4000.0
SCALE = 0.2
MODEL = 25
ROTATION = 0.6
INTERPOLANT = "Lanczos(11)"


@dataclass(frozen=True)
class Workload:
    """Stars and model of one fit."""

    stars: int = 100
    stamp: int = 29
    order: int = 2
    masked: float = 0.0
    rotation: float = 0.0
    seed: int = 1


WORKLOADS = {
    "plain": Workload(),
    "masked": Workload(masked=0.05),
    "sky": Workload(stamp=37, rotation=ROTATION),
    "large": Workload(stars=400, order=4),
}


def local_wcs(rotation: float) -> Any:
    """Pixels of 0.2 arcsec, turned as on the sky."""
    import galsim

    if rotation == 0:
        return galsim.PixelScale(SCALE)
    c, s = SCALE * np.cos(rotation), SCALE * np.sin(rotation)
    return galsim.JacobianWCS(c, -s, s, c)


def make_stars(work: Workload) -> list[Any]:
    """Moffat stars whose size and ellipticity vary over a detector of 4000 pixels."""
    import galsim
    import piff

    rng = np.random.default_rng(work.seed)
    wcs, half, stars = local_wcs(work.rotation), work.stamp // 2, []
    for k in range(work.stars):
        x, y = rng.uniform(50, SIDE - 50, 2)
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        bounds = galsim.BoundsI(column - half, column + half, row - half, row + half)
        image = galsim.Image(bounds, dtype=float, wcs=wcs)
        s, t = 2 * x / SIDE - 1, 2 * y / SIDE - 1
        profile = galsim.Moffat(beta=3, fwhm=0.75 * (1 + 0.05 * s)).shear(g1=0.03 * t, g2=0.02)
        (profile * 10 ** rng.uniform(4, 5.3)).drawImage(image, center=galsim.PositionD(x, y))
        image.array[:] += rng.normal(0, 15, image.array.shape)
        weight = galsim.Image(bounds, dtype=float, wcs=wcs, init_value=1 / 225.0)
        weight.array[rng.uniform(size=weight.array.shape) < work.masked] = 0.0
        data = piff.StarData(image, galsim.PositionD(x, y), weight=weight, properties={"starId": k})
        stars.append(piff.Star(data, None))
    return stars


def configured(work: Workload, solver: str) -> Any:
    """A Piff PSF as the determiner configures it."""
    import piff

    psf = piff.PSF.process(
        {
            "type": "Simple",
            "model": {
                "type": "PixelGrid",
                "scale": SCALE,
                "size": MODEL,
                "interp": INTERPOLANT,
                "centered": True,
            },
            "interp": {
                "type": "BasisPolynomial",
                "order": [work.order, work.order],
                "keys": ["x", "y"],
                "solver": solver,
            },
            "outliers": {"type": "Chisq", "nsigma": 4.0, "max_remove": 0.05},
            "max_iter": 15,
        }
    )
    psf.set_context({0: local_wcs(work.rotation)}, None)
    return psf


def fresh(stars: list[Any]) -> list[Any]:
    """Stars without anything that was measured on them."""
    import piff

    return [piff.Star(copy.copy(star.data), None) for star in stars]


def fit_by_piff(work: Workload, stars: list[Any], solver: str = "scipy") -> Any:
    """Piff's own fit."""
    psf = configured(work, solver)
    psf.fit(fresh(stars))
    return psf


def fit_by_us(work: Workload, stars: list[Any]) -> Any:
    """The matrix-free fit, predicted errors included."""
    from finalchar.psf.piff_separable import fit_in_place

    psf = configured(work, "scipy")
    variance = np.full((len(stars), work.stamp, work.stamp), 225.0)
    fit_in_place(psf, fresh(stars), variance)
    return psf


def used(psf: Any) -> list[int]:
    """Stars that were not rejected."""
    return [k for k, star in enumerate(psf.stars) if not star.is_flagged]


def drawn_difference(one: Any, other: Any) -> float:
    """Largest difference of the drawn PSF on 9 x 9 places with the corners, relative to its peak."""
    from finalchar.psf.piff_model import piff_model

    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, SIDE, 9), np.linspace(0, SIDE, 9)))
    images = [piff_model(psf, size=MODEL).kernel_images(x=x, y=y) for psf in (one, other)]
    return float(np.abs(images[0] - images[1]).max() / images[1].max())


# ---------------------------------------------------------------------------------------------- rows


def fit_rows(*, quick: bool) -> Iterator[Row]:
    """All rows of fits."""
    fits = {}
    for name, label, goal in (
        ("plain", "whole fit, 100 stars, order 2", 25),
        ("masked", "the same, 5 % of pixels masked", 20),
        ("sky", "the same, sky rotated by 0.6 rad, 37 pixels", 5),
    ):
        work = WORKLOADS[name]
        stars = make_stars(work)
        fit_by_us(work, stars[:40])  # first calls of libraries
        ours, mine = bench_rows.best_cpu_seconds(lambda w=work, s=stars: fit_by_us(w, s), 3)
        theirs, piffs = bench_rows.cpu_seconds(lambda w=work, s=stars: fit_by_piff(w, s))
        fits[name] = (mine, piffs)
        yield bench_rows.faster(label, theirs, ours, goal)
        if name == "plain":
            seconds, _ = bench_rows.cpu_seconds(lambda w=work, s=stars: fit_by_piff(w, s, "cpp"))
            yield bench_rows.faster("whole fit against Piff's cpp solver", seconds, ours, 18)
            yield solve_row(work, piffs)
    yield from _large_rows(quick, fits)
    worst = max(drawn_difference(mine, piffs) for mine, piffs in fits.values() if piffs is not None)
    yield bench_rows.below("largest difference of the drawn PSF", worst, 1e-8, "of peak")
    different = sum(used(mine) != used(piffs) for mine, piffs in fits.values() if piffs is not None)
    yield bench_rows.below("fits whose used stars differ", different, 0, "fits")


def solve_row(work: Workload, psf: Any) -> Row:
    """One solution of the normal equations at the fitted model, on both sides without the design matrices."""
    from finalchar.psf.piff_separable import _settings, _stamps
    from finalchar.psf.separable import Rendering, solve_normal_equations, star_grids, unit_sum

    stars = [star for star in psf.stars if not star.is_flagged]
    with_matrices = [psf.model.chisq(star) for star in psf.interpolateStarList(stars)]
    interp = copy.deepcopy(psf.interp)
    theirs, _ = bench_rows.cpu_seconds(lambda: interp.solve(with_matrices))
    stamps, _ = _stamps(psf, stars)
    settings = _settings(psf)
    center = np.array([star.fit.center for star in stars])
    flux = np.array([star.fit.flux for star in stars])
    rendering = Rendering(stamps, settings, center)
    model = rendering.draw(unit_sum(star_grids(psf.interp.q, stamps.basis, settings.size)))
    residual = stamps.image - model * flux[:, None, None]
    ours, _ = bench_rows.best_cpu_seconds(
        lambda: solve_normal_equations(rendering, stamps.basis, stamps.weight, flux, residual), 5
    )
    return bench_rows.faster("one linear solve, 100 stars, order 2", theirs, ours, 100)


def _large_rows(quick: bool, fits: dict[str, tuple[Any, Any]]) -> Iterator[Row]:
    """400 stars, order 4: each side in a process of its own, because of the memory."""
    names = ("whole fit, 400 stars, order 4", "peak memory of the fit, 400 stars, order 4")
    if quick:
        for name in names:
            yield bench_rows.skipped(name, "left out (--quick)")
        return
    ours, theirs = (_large_fit(side) for side in ("ours", "piff"))
    yield bench_rows.faster(names[0], theirs["cpu"], ours["cpu"], 100)
    yield bench_rows.faster(names[1], theirs["memory"], ours["memory"], 10, "MB")
    mine, other = (configured(WORKLOADS["large"], "scipy") for _ in range(2))
    stars = make_stars(WORKLOADS["large"])
    for psf, side in ((mine, ours), (other, theirs)):
        psf.interp.q = np.array(side["q"])
        psf.stars = [star.flag_if(k not in side["used"]) for k, star in enumerate(stars)]
        psf.quadratic_chisq = psf.degenerate_points = True
    fits["large"] = (mine, other)


def _large_fit(side: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), side]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def large_fit(side: str) -> dict[str, Any]:
    """Fit in this process; its time, additional memory at the peak (MB), coefficients and used stars."""
    work = WORKLOADS["large"]
    stars = make_stars(work)
    fit = fit_by_us if side == "ours" else fit_by_piff
    fit_by_us(Workload(), make_stars(Workload()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, psf = bench_rows.cpu_seconds(lambda: fit(work, stars))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = (peak - before) / 1024
    return {"cpu": seconds, "memory": memory, "q": psf.interp.q.tolist(), "used": used(psf)}


# -------------------------------------------------------------------------------------------- curves


def star_curve() -> dict[str, list[float]]:
    """CPU time per star of the whole fit for 50 to 2000 stars, order 2."""
    numbers = [50, 100, 200, 500, 1000, 2000]
    stars = make_stars(Workload(stars=max(numbers)))
    seconds = []
    for number in numbers:
        work = Workload(stars=number)
        repeat = 5 if number <= 200 else 2
        cpu, _ = bench_rows.best_cpu_seconds(lambda w=work, n=number: fit_by_us(w, stars[:n]), repeat)
        seconds.append(cpu / number)
    return {"stars": [float(n) for n in numbers], "cpu_per_star": seconds}


def curve_row(curve: dict[str, list[float]]) -> Row:
    """Whether the cost per star is flat."""
    ratio = max(curve["cpu_per_star"]) / min(curve["cpu_per_star"])
    return bench_rows.below("cost per star, 50 to 2000: largest / smallest", ratio, 1.5, "")


def order_curve() -> dict[str, list[float]]:
    """CPU time of the whole fit of 300 stars for orders 1 to 6 (order 0 cannot follow them and rejects)."""
    orders = [1, 2, 3, 4, 5, 6]
    stars = make_stars(Workload(stars=300))
    times = [
        bench_rows.best_cpu_seconds(lambda o=order: fit_by_us(Workload(stars=300, order=o), stars), 2)[0]
        for order in orders
    ]
    return {"order": [float(order) for order in orders], "cpu": times}


def stamp_curve() -> dict[str, list[float]]:
    """CPU time of the whole fit of 100 stars for stamps of 25 to 61 pixels."""
    stamps = [25, 31, 41, 51, 61]
    times = []
    for stamp in stamps:
        work = Workload(stamp=stamp)
        stars = make_stars(work)
        times.append(bench_rows.best_cpu_seconds(lambda w=work, s=stars: fit_by_us(w, s), 2)[0])
    return {"stamp": [float(stamp) for stamp in stamps], "cpu": times}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        print(json.dumps(large_fit(sys.argv[1])))
