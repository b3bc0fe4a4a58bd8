"""Corrected fluxes of the demo survey agree with the reference flux, for used and for reserved stars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finalchar import FinalizeCharacterizationDetectorTask
from finalchar.config import load_config
from finalchar.measure.schema import correctable_fluxes
from finalchar.sheets import read_detectors, read_tracts
from finalchar.simulate import make_survey

pytestmark = pytest.mark.xdist_group("demo fluxes")

LARGEST = 0.001
"""What the median ratio of a corrected flux to the reference flux may differ from 1 by."""


SIGNAL_TO_NOISE = 200.0
"""``measure_ap_corr.sourceSelector.science.signalToNoise.minimum``: a permille needs as much."""


@pytest.fixture(scope="module", name="run")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, list[str]]:
    """Return all stars of the demo survey, a third of them reserved, and the names of all fluxes."""
    return measured_stars(tmp_path_factory.mktemp("fluxes"))


def measured_stars(survey: Path, seed: int | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Simulate the survey of a seed and measure it; as `demo_run`."""
    make_survey("demo", survey, seed, report=None)
    config = load_config(survey / "config.yaml")
    config.reserve_selection.reserve_fraction = 0.33
    config.reserve_selection.same_in_all_bands = True
    tracts = {row.tract: row for row in read_tracts(survey / "tracts.csv")}
    stars, sources = (
        {tract: survey / getattr(row, kind) for tract, row in tracts.items()}
        for kind in ("isolated_star_cat", "isolated_star_sources")
    )
    task, parts = FinalizeCharacterizationDetectorTask(config), []
    for row in read_detectors(survey / "detectors.csv"):
        result = task.run(
            row.visit, row.band, row.detector, stars, sources, survey / row.src, survey / row.exposure
        )
        if result.output_table is not None:
            parts.append(result.output_table.to_pandas())
    names = correctable_fluxes(config.measurement, config.compatibility)
    return pd.concat(parts, ignore_index=True), list(names)


def median_ratio(stars: pd.DataFrame, name: str, kind: str) -> tuple[float, float, int]:
    """Return median ratio to the reference flux - 1, its standard error, number of stars."""
    reference = stars["slot_CalibFlux_instFlux"]
    flags = stars[
        [f"{name}_flag", f"{name}_flag_apCorr", "slot_CalibFlux_flag", "finalchar_Plausibility_flag"]
    ]
    chosen = stars[kind] & ~flags.any(axis=1)
    ratio = (stars.loc[chosen, f"{name}_instFlux"] / reference[chosen]).dropna().to_numpy()
    middle = float(np.median(ratio))
    scatter = 1.4826 * float(np.median(np.abs(ratio - middle)))
    return middle - 1.0, 1.2533 * scatter / np.sqrt(len(ratio)), len(ratio)


def test_all_fluxes_of_the_list_are_there(run: tuple[pd.DataFrame, list[str]]) -> None:
    assert len(run[1]) == 31


@pytest.mark.parametrize(("kind", "least"), [("calib_psf_used", 180), ("calib_psf_reserved", 100)])
def test_stars_bright_enough_for_the_corrections(
    run: tuple[pd.DataFrame, list[str]], kind: str, least: int
) -> None:
    """The stars above the S/N from which corrections are measured: every flux, used and reserved."""
    stars, names = run
    bright = stars[stars["base_PsfFlux_instFlux"] > SIGNAL_TO_NOISE * stars["base_PsfFlux_instFluxErr"]]
    off = {name: median_ratio(bright, name, kind) for name in names}
    assert all(number > least for _, _, number in off.values())
    assert {name: each for name, each in off.items() if abs(each[0]) > LARGEST} == {}


def test_used_stars(run: tuple[pd.DataFrame, list[str]]) -> None:
    stars, names = run
    off = {name: median_ratio(stars, name, "calib_psf_used") for name in names}
    assert all(number > 500 for _, _, number in off.values())
    assert {name: each for name, each in off.items() if abs(each[0]) > LARGEST} == {}


def test_reserved_stars(run: tuple[pd.DataFrame, list[str]]) -> None:
    """Reserved stars took no part in the corrections, so that their medians have the full standard error.

    That of 260 stars is 0.0003 (Kron) to 0.0019 (GAaP in 0.5 arcsec): above 0.0004 the limit of 0.001 cannot
    be shown for every single flux, and what exceeds it has to be within two standard errors.
    """
    stars, names = run
    off = {name: median_ratio(stars, name, "calib_psf_reserved") for name in names}
    assert all(number > 250 for _, _, number in off.values())
    beyond = {name: each for name, each in off.items() if abs(each[0]) > LARGEST}
    # measured: one, modelfit_CModel_dev, 0.0011 +- 0.0011; twelve surveys give 0.0009 +- 0.0003
    assert len(beyond) <= 2, beyond
    assert {name: each for name, each in beyond.items() if abs(each[0]) > 2.0 * each[1]} == {}
    precise = {name: each for name, each in off.items() if each[1] < LARGEST / 2.5}
    assert "ext_photometryKron_KronFlux" in precise
    assert all(abs(middle) < LARGEST for middle, _, _ in precise.values()), precise
