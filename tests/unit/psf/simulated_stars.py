"""Simulated detectors with stars of known PSF, as the PSF room sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import galsim
import numpy as np

from finalchar.formats.exposure import Box, Exposure
from finalchar.formats.sources import Footprints, SourceTable
from finalchar.stars.candidates import Candidates, make_psf_candidates

PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "SUSPECT": 7, "NO_DATA": 8}


@dataclass(frozen=True)
class FlatSky:
    """Astrometry of one pixel scale, arcsec."""

    scale: float = 0.2

    def pixel_scale(self, *, x, y):
        return self.scale


NO_FOOTPRINTS = Footprints(
    source_id=np.zeros(0, np.int64),
    parent=np.zeros(0, np.int64),
    span_offset=np.zeros(1, np.int64),
    span_y=np.zeros(0, np.int32),
    span_x0=np.zeros(0, np.int32),
    span_x1=np.zeros(0, np.int32),
    peak_offset=np.zeros(1, np.int64),
    peak_x=np.zeros(0, np.int32),
    peak_y=np.zeros(0, np.int32),
    peak_f_x=np.zeros(0, np.float32),
    peak_f_y=np.zeros(0, np.float32),
    heavy=np.zeros(0, bool),
    heavy_offset=np.zeros(1, np.int64),
    heavy_image=np.zeros(0, np.float32),
)


def truth_profile(x, y, *, side, fwhm, variation=0.1):
    """The true PSF at a place, in pixels: a Moffat whose size and shape vary with the place."""
    u, v = 2 * x / side - 1, 2 * y / side - 1
    profile = galsim.Moffat(beta=3.5, fwhm=fwhm * (1 + variation * u), trunc=4 * fwhm)
    return galsim.Convolve(profile.shear(g1=0.03 * v, g2=0.02 * u), galsim.Pixel(1.0))


def simulate(
    positions,
    *,
    side=400,
    flux=3e4,
    noise=10.0,
    fwhm=4.0,
    variation=0.1,
    seed=1,
    source_noise=False,
    gain=1.0,
    wcs=None,
    **more,
):
    """Exposure with stars at positions (n, 2); variance with the stars' photon noise if `source_noise`."""
    rng = np.random.default_rng(seed)
    image = galsim.ImageD(side, side, xmin=0, ymin=0)
    fluxes = np.broadcast_to(flux, len(positions))
    for (x, y), amount in zip(positions, fluxes, strict=True):
        profile = truth_profile(x, y, side=side, fwhm=fwhm, variation=variation).withFlux(amount)
        stamp = galsim.ImageD(41, 41)
        stamp.setCenter(int(np.floor(x + 0.5)), int(np.floor(y + 0.5)))
        overlap = stamp.bounds & image.bounds
        profile.drawImage(stamp, method="no_pixel", center=galsim.PositionD(x, y), scale=1.0)
        image[overlap] += stamp[overlap]
    signal = image.array
    variance = np.full((side, side), noise**2)
    total = variance + np.maximum(signal, 0) / gain if source_noise else variance
    pixels = signal + rng.normal(size=signal.shape) * np.sqrt(total)
    return Exposure(
        image=pixels.astype(np.float32),
        mask=np.zeros((side, side), np.int32),
        variance=total.astype(np.float32),
        mask_planes=PLANES,
        box=Box(0, 0, side - 1, side - 1),
        wcs=wcs or FlatSky(),
        band="r",
        **more,
    )


def scattered(number, *, side=400, seed=3, margin=30, separation=34):
    """Positions of stars whose stamps do not overlap."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < number:
        place = rng.uniform(margin, side - margin, 2)
        if all(np.abs(place - other).max() > separation for other in found):
            found.append(place)
    return np.array(found)


def candidates(exposure, positions, *, size=27, color=None, color_type="g-i") -> Candidates:
    """Candidates at positions; ids 101, 102, ..."""
    columns = {
        "id": np.arange(len(positions), dtype=np.int64) + 101,
        "slot_Centroid_x": np.array(positions[:, 0]),
        "slot_Centroid_y": np.array(positions[:, 1]),
    }
    if color is not None:
        columns["psf_color_value"] = np.asarray(color, np.float32)
        columns["psf_color_type"] = np.full(len(positions), color_type)
    settings = SimpleNamespace(kernelSize=size, borderWidth=0)
    return make_psf_candidates(SourceTable(columns), NO_FOOTPRINTS, exposure, settings)


def with_mask(exposure, plane, rows, columns):
    """A copy of the exposure with a bit set in a part of the mask."""
    mask = exposure.mask.copy()
    mask[rows, columns] |= exposure.mask_bits([plane])
    return replace(exposure, mask=mask)
