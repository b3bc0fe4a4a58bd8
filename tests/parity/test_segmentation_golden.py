"""Stars of the reference survey measured with its footprints and with those of our segmentation (K20).

The PSF is the reference's in both cases, and so is the stream of random numbers; what differs is which pixels
belong to a star and which are replaced by noise.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from finalchar.config import Config
from finalchar.formats.exposure_catalog import read_exposure_catalog
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.formats.psfs import loads_piff
from finalchar.measure import make_output_table, run_measurement
from finalchar.measure.schema import correctable_fluxes
from finalchar.measure.segmentation import footprints_of_catalogue
from finalchar.psf.piff_model import piff_model

ROOT = Path(__file__).parents[2]
REFERENCES = [
    pytest.param(path, id=path.name, marks=pytest.mark.xdist_group(f"segments of {path.name}"))
    for path in (ROOT / "tests/data/golden_small", ROOT.parent / "shared/golden")
    if path.is_dir()
]
"""All stars of each are measured once, for all its tests."""
LOCAL = (
    "base_PsfFlux",
    "base_GaussianFlux",
    "ext_photometryKron_KronFlux",
    "ext_gaap_GaapFlux_1_15x_PsfFlux",
)
"""Fluxes of pixels near the star."""
MOMENTS = "ext_shapeHSM_HsmSourceMoments"


@pytest.fixture(scope="module", name="pairs", params=REFERENCES)
def both_ways(request):
    """Return, for every detector with a PSF, the tables with either kind of footprints and the ownership."""
    return [
        measured
        for path in sorted((request.param / "default").glob("psf_ap_corr_*.fits"))
        if path.stem.count("_") == 3
        for record in read_exposure_catalog(path)
        if (measured := _measure_twice(request.param, record)) is not None
    ]


def _measure_twice(reference, record):
    name = f"{record.visit}_{record.detector}"
    if record.psf is None or not (reference / f"survey/calexp_{name}.fits").is_file():
        return None
    exposure = read_exposure(reference / f"survey/calexp_{name}.fits")
    sources = read_source_table(reference / f"survey/src_{name}.fits")
    stars = pq.read_table(reference / "default/measured.parquet", columns=["id"])["id"].to_numpy()
    width, _, psf = loads_piff(record.psf.pickle)
    settings = Config().measurement
    owned = footprints_of_catalogue(exposure, sources, settings.segmentation)
    tables = []
    for footprints in (read_footprints(reference / f"survey/src_{name}.fits"), owned.footprints):
        table = make_output_table(
            selected=sources.select(np.isin(sources["id"], stars)), settings=settings, compatibility="lsst"
        )
        run_measurement(
            exposure=exposure,
            psf=piff_model(psf, size=width, compatibility="lsst"),
            footprints=footprints,
            table=table,
            settings=settings,
            compatibility="lsst",
        )
        tables.append(table)
    return SimpleNamespace(given=tables[0], own=tables[1], owned=owned, ids=sources["id"])


def deviations(pairs, flux):
    """Return the differences of all stars, in error bars, where both fluxes are good."""
    parts = []
    for pair in pairs:
        good = ~pair.given[f"{flux}_flag"] & ~pair.own[f"{flux}_flag"]
        difference = pair.own[f"{flux}_instFlux"] - pair.given[f"{flux}_instFlux"]
        parts.append((difference / pair.given[f"{flux}_instFluxErr"])[good])
    return np.concatenate(parts)


def test_every_star_owns_a_segment_alone(pairs):
    for pair in pairs:
        stars = np.isin(pair.ids, pair.given["id"])
        assert stars.sum() == len(pair.given)
        assert not pair.owned.without_segment[stars].any()
        assert not pair.owned.sharing[stars].any()


def test_fluxes_agree_within_the_noise(pairs):
    """Measured on 484 stars: 95 % within 0.3 error bars in every flux, 0.04 in those of nearby pixels."""
    assert sum(len(pair.given) for pair in pairs) > 50
    for flux in correctable_fluxes(Config().measurement, "lsst"):
        off = np.abs(deviations(pairs, flux))
        if not off.size:  # no aperture of 0.5 arcsec under a seeing like that of these detectors
            assert flux == "ext_gaap_GaapFlux_1_15x_0_5"
            continue
        assert np.median(off) < 0.05, flux
        assert np.percentile(off, 95) < 0.35, flux
        if flux in LOCAL:
            assert off.max() < 0.05, flux


def test_moments_agree(pairs):
    for pair in pairs:
        for axes in ("xx", "yy", "xy"):
            # pixels squared, of some four: noise far out under the weight
            np.testing.assert_allclose(
                pair.own[f"{MOMENTS}_{axes}"], pair.given[f"{MOMENTS}_{axes}"], atol=0.003
            )


def test_flags_agree(pairs):
    """Of all flags of fluxes of all stars one differs: the noise beside a star may lose its Kron aperture."""
    fluxes = correctable_fluxes(Config().measurement, "lsst")
    differing = sum(
        int((pair.own[f"{flux}_flag"] != pair.given[f"{flux}_flag"]).sum())
        for pair in pairs
        for flux in fluxes
    )
    assert differing <= 2
