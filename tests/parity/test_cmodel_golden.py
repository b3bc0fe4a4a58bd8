"""Galaxy-model fits against the reference, star by star where that means something, else by statistics.

The fits stop in the rounding noise of single precision, in the reference as here: the reference itself, run
on images that differ in the last bit, changes by as much (measurement specification 8.8).  Inputs are the
reference's own shapelet PSFs, moments and uncorrected PSF fluxes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from finalchar.formats.exposure_catalog import read_exposure_catalog
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints
from finalchar.formats.sources import SourceTable
from finalchar.measure import plugins
from finalchar.measure.context import MeasurementContext
from finalchar.measure.footprint_geometry import select_footprints
from finalchar.measure.noise_replacement import measure_noise, replace_sources
from finalchar.measure.plugin import default_column

ROOT = Path(__file__).parents[2]
REFERENCES = [
    path for path in (ROOT / "tests/data/golden_small", ROOT.parent / "shared/golden") if path.is_dir()
]
NAME = "modelfit_CModel"
INPUTS = (
    "modelfit_DoubleShapeletPsfApprox",
    "ext_shapeHSM_HsmSourceMoments_",
    "ext_photometryKron_KronFlux_radius",
    "base_PsfFlux",
)
# Measurement specification 16: median and worst relative deviation, worst in error bars.
FLUXES = {
    "initial": (2e-5, 1e-2, 1.5),
    "exp": (1e-4, 2e-2, 1.5),
    "dev": (1e-4, 2e-2, 1.5),
    "": (1e-4, 1e-2, 0.5),
}


def _detectors(reference, configuration):
    for path in sorted((reference / configuration).glob("psf_ap_corr_*.fits")):
        visit = path.stem.removeprefix("psf_ap_corr_")
        if "_" in visit:
            continue
        for record in read_exposure_catalog(path):
            name = f"{visit}_{record.detector}"
            if record.psf is not None and (reference / f"survey/calexp_{name}.fits").is_file():
                yield visit, record


def _correction(record, flux, table):
    field = (record.ap_corr_map or {}).get(f"{flux}_instFlux")
    if field is None:
        return np.ones(len(table["id"]))
    return field.evaluate(x=table["base_SdssCentroid_x"], y=table["base_SdssCentroid_y"])


def _context(reference, name, table):
    exposure = read_exposure(reference / f"survey/calexp_{name}.fits")
    footprints = read_footprints(reference / f"survey/src_{name}.fits")
    index = select_footprints(footprints, table["id"])
    images = replace_sources(
        image=exposure.image,
        box=exposure.box,
        footprints=footprints,
        stars=index,
        level=measure_noise(exposure.image),
        seed=1,
    )
    return MeasurementContext(
        exposure=exposure,
        psf=None,
        footprints=footprints,
        footprint_index=index,
        images=images,
        x=table["base_SdssCentroid_x"],
        y=table["base_SdssCentroid_y"],
        centroid_flag=np.zeros(len(table["id"]), dtype=bool),
        color=np.full(len(table["id"]), np.nan),
        slots=SimpleNamespace(shape="ext_shapeHSM_HsmSourceMoments", psfFlux="base_PsfFlux"),
        compatibility="lsst",
    )


def _measure(reference, configuration, visit, record):
    """Return our columns and the reference's, before the aperture correction, of one detector."""
    stored = pq.read_table(reference / configuration / "measured.parquet")
    here = pc.and_(pc.equal(stored["visit"], int(visit)), pc.equal(stored["detector"], record.detector))
    stored = stored.filter(here)
    wanted = {name: stored[name].to_numpy().copy() for name in stored.column_names}
    for flux in ("base_PsfFlux", NAME, *(f"{NAME}_{stage}" for stage in ("initial", "exp", "dev"))):
        for column in (f"{flux}_instFlux", f"{flux}_instFluxErr"):
            wanted[column] /= _correction(record, flux, wanted)
    plugin = plugins.get(NAME).Plugin(NAME, plugins.get(NAME).Settings())
    columns = {name: values for name, values in wanted.items() if name.startswith(INPUTS)}
    for field in plugin.fields():
        columns[field.name] = default_column(field.dtype, len(stored))
    table = SourceTable(columns, {}, {})
    plugin.measure(_context(reference, f"{visit}_{record.detector}", wanted), table)
    ours = {field.name: table[field.name] for field in plugin.fields()}
    return ours, {name: wanted[name] for name in ours}


@cache
def _all(reference, configuration):
    """Return our columns and the reference's of all stars."""
    parts = [_measure(reference, configuration, *which) for which in _detectors(reference, configuration)]
    return tuple(
        {name: np.concatenate([part[side][name] for part in parts]) for name in parts[0][0]}
        for side in (0, 1)
    )


# Stars that may deviate by more: with other PSFs other stars fall into other minima (up to 2.3 error bars;
# S/N 600, whose initial fit stops at another place).
OUTLIERS = {"default": 0.0, "sky_oversampled": 0.01, "pca": 0.01}

CASES = [(reference, "default") for reference in REFERENCES]
# 59 pixels of PSF; PSFs of which one in six cannot be approximated by shapelets
CASES += [(REFERENCES[-1], name) for name in ("sky_oversampled", "pca") if (REFERENCES[-1] / name).is_dir()]
every_case = pytest.mark.parametrize(
    ("reference", "configuration"), CASES, ids=lambda value: getattr(value, "name", value)
)


@every_case
def test_flags(reference, configuration):
    ours, theirs = _all(reference, configuration)
    flags = [name for name in ours if ours[name].dtype.kind == "b"]
    assert len(flags) > 20
    for name in flags:
        # stars at a threshold: at most one in a hundred, and only in how a fit converged
        allowed = 0.01 if name.endswith("flag_trSmall") else 0.0
        assert np.mean(ours[name] != theirs[name]) <= allowed, name


@every_case
@pytest.mark.parametrize("stage", list(FLUXES))
def test_fluxes(reference, configuration, stage):
    ours, theirs = _all(reference, configuration)
    median, worst, worst_in_errors = FLUXES[stage]
    prefix = f"{NAME}_{stage}_" if stage else f"{NAME}_"
    error = theirs[f"{prefix}instFluxErr"]
    for column in ("instFlux", "instFluxErr", "instFlux_inner"):
        a, b = ours[f"{prefix}{column}"], theirs[f"{prefix}{column}"]
        assert np.array_equal(np.isnan(a), np.isnan(b))
        deviation = np.abs(a - b)
        assert np.nanmedian(deviation / np.abs(b)) < median, column
        if column == "instFlux":
            beyond = (deviation > worst * np.abs(b)) | (deviation > worst_in_errors * error)
            assert beyond.mean() <= OUTLIERS[configuration]
            assert np.nanmax(deviation / error) < 3.0


@every_case
def test_objectives(reference, configuration):
    ours, theirs = _all(reference, configuration)
    for name in (name for name in ours if name.endswith("objective")):
        deviation = np.abs(ours[name] / theirs[name] - 1)
        assert np.nanmedian(deviation) < 1e-3, name  # measurement specification 16


@every_case
def test_what_does_not_depend_on_the_fit(reference, configuration):
    ours, theirs = _all(reference, configuration)
    for axes in ("xx", "yy", "xy"):
        name = f"{NAME}_region_initial_ellipse_{axes}"
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-12, err_msg=name)
        # the initial fit's size enters, degenerate for a point source
        name = f"{NAME}_region_final_ellipse_{axes}"
        assert np.median(np.abs(ours[name] - theirs[name])) < 1e-2, name  # of some ten pixels squared
    for stage in ("initial", "exp", "dev"):
        for axis in (0, 1):
            name = f"{NAME}_{stage}_fixed_{axis}"
            # the Jacobian of the reference's astrometry is good to 1e-7 (8.3); arcsec
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-8, err_msg=name)


@every_case
def test_numbers_of_iterations(reference, configuration):
    ours, theirs = _all(reference, configuration)
    for stage in ("initial", "exp", "dev"):
        a, b = ours[f"{NAME}_{stage}_nIter"], theirs[f"{NAME}_{stage}_nIter"]
        assert np.array_equal(a > 0, b > 0)
        # they differ star by star; another optimiser would differ in the mean (scatter 4 to 12, 100 stars)
        assert a.mean() == pytest.approx(b.mean(), rel=0.15)
