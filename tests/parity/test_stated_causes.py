"""Causes that the parity table states (`tolerances.KNOWN_CAUSES`), shown on the reference survey.

Those of the determiner `pca` stand in its own tests, that of the corrections of few stars in those of the
aperture corrections.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finalchar import characterize
from finalchar.config import Config
from finalchar.measure.plugins import gaap_flux
from finalchar.parity import run
from finalchar.parity.deviations import verdicts
from finalchar.parity.reference import ReferenceConfiguration
from finalchar.parity.survey import isolated_stars, paths_of
from finalchar.psf.model import PsfFit
from finalchar.psf.stored import model_from_stored

COMPLETE = Path(__file__).parents[3] / "shared/golden"
GAAP = "ext_gaap_GaapFlux_1_15x_0_5_instFlux"

pytestmark = pytest.mark.skipif(
    not COMPLETE.is_dir(), reason="the complete reference is not beside the repository"
)


def settings(reference):
    return Config.from_lsst_overrides(reference.settings(), drop_unimplemented=True, compatibility="lsst")


def characterized(visit, detector, config, determine=None):
    exposure, src, band = paths_of(COMPLETE, visit, detector)
    isolated = isolated_stars(COMPLETE, visit, detector, band, config)
    inputs = characterize.read_detector(
        visit=visit, detector=detector, band=band, exposure=exposure, src=src, isolated=isolated
    )
    subtasks = characterize.Subtasks(psf_determiner=determine)
    return characterize.characterize_detector(inputs=inputs, config=config, subtasks=subtasks)


def test_a_small_aperture_amplifies_the_rounding_of_the_astrometry(monkeypatch):
    """Steps of one pixel that are off by 1e-8: as far from ourselves as from the reference (2e-5)."""
    config = settings(ReferenceConfiguration(COMPLETE, "default"))
    config.measurement.plugins.names = [
        "base_GaussianFlux",
        "base_PsfFlux",
        "ext_gaap_GaapFlux",
        "ext_shapeHSM_HsmPsfMoments",
        "ext_shapeHSM_HsmSourceMoments",
    ]
    config.measurement.slots.modelFlux = "base_GaussianFlux"
    exact, random = gaap_flux._sky_metric, np.random.default_rng(1)

    def rounded(context, x, y):
        metric = exact(context, x, y)
        off = random.uniform(-2e-8, 2e-8, metric.shape)
        off[:, 1, 0] = off[:, 0, 1]
        return metric * (1.0 + off)

    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 959, 6), np.linspace(0, 943, 6)))
    fluxes, fields = [], []
    for metric in (exact, rounded, rounded, rounded):
        monkeypatch.setattr(gaap_flux, "_sky_metric", metric)
        result = characterized(2026012700045, 2, config)
        field = result.record.ap_corr_map[GAAP]
        fields.append(field.evaluate(x=x, y=y))
        place = {axis: result.table[f"slot_Centroid_{axis}"] for axis in "xy"}
        fluxes.append(result.table[GAAP] / field.evaluate(**place))
    assert np.abs(np.array(fields[1:]) / fields[0] - 1.0).max() > 5e-6
    light = fluxes[0] > 0
    assert np.abs(np.array(fluxes[1:])[:, light] / fluxes[0][light] - 1.0).max() > 1e-7


def test_deviations_of_regauss_come_from_the_psf():
    """With the reference's own PSF, 5e-8 of the peak from ours, they are gone."""
    visit, detector = 2026011500188, 0
    reference = ReferenceConfiguration(COMPLETE, "sky_oversampled")
    wanted = next(d for d in reference.detectors() if (d.visit, d.detector) == (visit, detector))
    config, table = settings(reference), reference.table(visit, detector)
    stored = reference.record(visit, detector).psf

    def of_the_reference(found, exposure, settings, *, band, compatibility):
        used = np.isin(found.source_id, table["id"][table["calib_psf_used"]])
        return PsfFit(model_from_stored(stored, compatibility="lsst"), used, {}, "PiffPsf", stored)

    task, out = run._Task(reference, wanted, config.to_plain(), {}), []
    for determine in (None, of_the_reference):
        result = characterized(visit, detector, config, determine)
        judged = verdicts(run._compare_columns(result, table, task, config))
        out.append({one.name for one in judged if not one.ok and "CModel" not in one.name})
    assert {name for name in out[0] if "slot_Model" not in name} == {"ext_shapeHSM_HsmShapeRegauss_sigma"}
    assert {name for name in out[1] if "slot_Model" not in name} == set()
