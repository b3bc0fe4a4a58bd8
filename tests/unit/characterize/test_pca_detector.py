"""A detector with the determiner `pca` from its files to its products, in the default configuration."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from gaussian_psf import quick_config
from setting_probes import DETECTOR, SURVEY, VISIT, isolated_stars

from finalchar import read_psf_ap_corr
from finalchar.characterize import characterize_detector, read_detector
from finalchar.formats import products
from finalchar.status import Status


def configured(**settings):
    config = quick_config()
    config.psf_determiner.name = "pca"
    for name, value in settings.items():
        setattr(config.psf_determiner.pca, name, value)
    return config


def characterized(config, visit=VISIT, detector=DETECTOR, band="g"):
    inputs = read_detector(
        visit=visit,
        detector=detector,
        band=band,
        exposure=SURVEY / f"calexp_{visit}_{detector}.fits",
        src=SURVEY / f"src_{visit}_{detector}.fits",
        isolated=isolated_stars(config, visit=visit, detector=detector, band=band),
    )
    return characterize_detector(inputs=inputs, config=config)


@pytest.fixture(scope="module")
def result():
    return characterized(configured())


def test_detector_is_ok(result):
    assert result.status.status == Status.OK
    assert result.status.counts["used"] == result.status.figures["stars_used"]
    # that of the reference is 2.249
    assert result.status.figures["average_size"] == pytest.approx(2.25, abs=0.05)
    assert np.isfinite(result.table["base_PsfFlux_instFlux"]).all()


def test_product_holds_the_psf(result, tmp_path):
    catalogue, table = tmp_path / "catalogue.fits", tmp_path / "table.parquet"
    products.write_detector_products(result, catalogue, table)
    row = read_psf_ap_corr(catalogue)[DETECTOR]
    places = {"x": [100.25, 700.0], "y": [333.0, 800.75]}
    for read, made in zip(row.psf.images(**places), result.fit.model.images(**places), strict=True):
        np.testing.assert_array_equal(read, made)
    again = tmp_path / "again.fits"
    products.write_detector_products(characterized(configured()), again, table)
    assert again.read_bytes() == catalogue.read_bytes()


def test_few_stars_are_a_status_with_a_reason():
    """K15: three stars for six terms; the reference accepts them."""
    result = characterized(configured(), 2026011500188, 3, "i")
    assert result.status.status == Status.PSF_FAILED
    assert "stars for 6 terms" in result.status.sentence
    assert len(result.table) == 3
    assert result.record.psf is None


def test_default_stamps_are_no_cause_of_a_warning(caplog):
    """The stamps of the fit (41) are larger than those of the candidates (27) unless somebody changes it."""
    with caplog.at_level(logging.WARNING):
        characterized(configured())
    assert "stampSize" not in caplog.text


def test_no_star_left_is_a_status_with_a_reason():
    result = characterized(configured(reducedChi2ForPsfCandidates=1e-6))
    assert result.status.status == Status.PSF_FAILED
    assert "No star is left for the principal components" in result.status.sentence
