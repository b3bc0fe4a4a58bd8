"""The simulated sky: stars with colours, close pairs and galaxies, as a truth table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finalchar.simulate.streams import stream
from finalchar.simulate.surveys import SkyPlan

__all__ = ["BANDS", "Sky", "make_sky", "zero_point"]

FloatArray = npt.NDArray[np.float64]

BANDS = ("g", "r", "i", "z", "y")
ARCSEC = 1.0 / 3600.0
# Magnitude in a band = magnitude in i + slope * (g - i): a straight stellar locus is enough here.
LOCUS = {"g": 1.0, "r": 0.35, "i": 0.0, "z": -0.16, "y": -0.24}
ZERO_POINTS = {"g": 31.4, "r": 31.5, "i": 31.6, "z": 31.2, "y": 30.6}


def zero_point(band: str) -> float:
    """Return the AB magnitude of one count under a clear sky."""
    return ZERO_POINTS[band]


@dataclass(frozen=True)
class Sky:
    """Truth table of all objects, one array element per object.

    `ra`, `dec` in degrees; `magnitude_i` and `color` (g - i) in AB magnitudes; for galaxies
    `half_light_radius` in arcsec and the shear `g1`, `g2` in sky axes (zero for stars).
    """

    number: npt.NDArray[np.int64]
    is_star: npt.NDArray[np.bool_]
    ra: FloatArray
    dec: FloatArray
    magnitude_i: FloatArray
    color: FloatArray
    half_light_radius: FloatArray
    g1: FloatArray
    g2: FloatArray

    def __len__(self) -> int:
        return len(self.number)

    def magnitude(self, band: str) -> FloatArray:
        """Return the AB magnitudes in `band`."""
        return self.magnitude_i + LOCUS[band] * self.color

    def flux(self, band: str, throughput: float = 1.0) -> FloatArray:
        """Return the total counts in an exposure of `band`."""
        return np.asarray(throughput * 10.0 ** (-0.4 * (self.magnitude(band) - zero_point(band))))


def make_sky(plan: SkyPlan, seed: int) -> Sky:
    """Draw the sky of a survey."""
    stars = _draw_stars(plan, seed)
    galaxies = _draw_galaxies(plan, seed)
    columns = {name: np.concatenate([stars[name], galaxies[name]]) for name in stars}
    ra = plan.boundary_ra + columns["east"] / np.cos(np.radians(plan.centre_dec))
    return Sky(
        number=np.arange(1, len(ra) + 1, dtype=np.int64),
        is_star=columns["is_star"].astype(bool),
        ra=ra,
        dec=plan.centre_dec + columns["north"],
        magnitude_i=columns["magnitude_i"],
        color=columns["color"],
        half_light_radius=columns["half_light_radius"],
        g1=columns["g1"],
        g2=columns["g2"],
    )


def _draw_stars(plan: SkyPlan, seed: int) -> dict[str, FloatArray]:
    draw = stream(seed, "stars")
    number = round(plan.stars_per_arcmin2 * (120.0 * plan.radius) ** 2)
    east, north = draw.uniform(-plan.radius, plan.radius, (2, number))
    keep = _far_apart(east, north, plan.minimum_separation * ARCSEC)
    rise = 10.0 ** (plan.slope * (plan.faint_limit - plan.bright_limit)) - 1.0
    magnitude = plan.bright_limit + np.log10(1.0 + draw.uniform(size=number) * rise) / plan.slope
    color = 0.4 + 2.6 * draw.beta(1.3, 1.6, number)
    companions = _draw_companions(plan, seed, east[keep], north[keep], magnitude[keep])
    columns = {
        "east": np.concatenate([east[keep], companions[0]]),
        "north": np.concatenate([north[keep], companions[1]]),
        "magnitude_i": np.concatenate([magnitude[keep], companions[2]]),
        "color": np.concatenate([color[keep], companions[3]]),
    }
    zeros = np.zeros(len(columns["east"]))
    return {**columns, "is_star": zeros + 1.0, "half_light_radius": zeros, "g1": zeros, "g2": zeros}


def _far_apart(east: FloatArray, north: FloatArray, distance: float) -> npt.NDArray[np.bool_]:
    """Mark the points that have no earlier point within `distance` degrees."""
    if distance <= 0.0:
        return np.ones(len(east), dtype=bool)
    from scipy.spatial import cKDTree

    pairs = cKDTree(np.column_stack([east, north])).query_pairs(distance, output_type="ndarray")
    keep = np.ones(len(east), dtype=bool)
    for first, second in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]:
        if keep[first]:
            keep[second] = False
    return keep


def _draw_companions(
    plan: SkyPlan, seed: int, east: FloatArray, north: FloatArray, magnitude: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return (east, north, magnitude, colour) of the companions of some stars."""
    draw = stream(seed, "companions")
    chosen = np.flatnonzero(draw.uniform(size=len(east)) < plan.pair_fraction)
    separation = draw.uniform(1.0, 4.0, len(chosen)) * ARCSEC
    angle = draw.uniform(0.0, 2.0 * np.pi, len(chosen))
    return (
        east[chosen] + separation * np.cos(angle),
        north[chosen] + separation * np.sin(angle),
        magnitude[chosen] + draw.uniform(0.0, 1.5, len(chosen)),
        draw.uniform(0.5, 2.8, len(chosen)),
    )


def _draw_galaxies(plan: SkyPlan, seed: int) -> dict[str, FloatArray]:
    draw = stream(seed, "galaxies")
    number = round(plan.galaxies_per_arcmin2 * (120.0 * plan.radius) ** 2)
    east, north = draw.uniform(-plan.radius, plan.radius, (2, number))
    shear = 0.35 * np.sqrt(draw.uniform(size=number))
    angle = draw.uniform(0.0, 2.0 * np.pi, number)
    return {
        "east": east,
        "north": north,
        "magnitude_i": draw.uniform(17.8, 22.0, number),
        "color": draw.uniform(0.6, 2.6, number),
        "is_star": np.zeros(number),
        "half_light_radius": draw.uniform(0.35, 1.0, number),
        "g1": shear * np.cos(angle),
        "g2": shear * np.sin(angle),
    }
