"""Files that are sound but not those of their row are refused, with the path that is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finalchar.errors import InputError
from finalchar.formats.exposure import Exposure
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_source_table
from finalchar.formats.sources import SourceTable
from finalchar.stars import identity

SURVEY = Path(__file__).parents[2] / "data" / "golden_small" / "survey"
EXPOSURE, OTHER = (SURVEY / f"calexp_2026011500101_{detector}.fits" for detector in (0, 1))
SRC, OTHER_SRC = (SURVEY / f"src_2026011500101_{detector}.fits" for detector in (0, 1))


@pytest.fixture(scope="module")
def exposure() -> Exposure:
    return read_exposure(EXPOSURE)


@pytest.fixture(scope="module")
def sources() -> SourceTable:
    return read_source_table(SRC)


def check(sources: SourceTable, exposure: Exposure) -> None:
    identity.check_catalogue(sources, exposure, exposure_path=EXPOSURE, src_path=SRC)


def changed(sources: SourceTable, **columns: np.ndarray) -> SourceTable:
    return sources.with_columns({sources.resolve(name): values for name, values in columns.items()})


def test_files_of_one_detector_are_accepted(exposure: Exposure, sources: SourceTable) -> None:
    identity.check_exposure(exposure, path=EXPOSURE, detector=0, band="g")
    check(sources, exposure)


@pytest.mark.parametrize(
    ("detector", "band", "words"),
    [(0, "r", "is an exposure in the band 'g'"), (1, "g", "is an exposure of the detector 0")],
)
def test_exposure_of_another_row(exposure: Exposure, detector: int, band: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        identity.check_exposure(exposure, path=EXPOSURE, detector=detector, band=band)
    assert EXPOSURE.name in str(caught.value)
    assert "detectors.csv" in str(caught.value)


def test_what_the_exposure_does_not_state_is_not_compared(exposure: Exposure) -> None:
    silent = replace(exposure, band=None, detector=None)
    identity.check_exposure(silent, path=EXPOSURE, detector=7, band="u")


def test_catalogue_of_another_detector(exposure: Exposure) -> None:
    with pytest.raises(InputError, match=r"lie \d+ arcsec \(median\)") as caught:
        check(read_source_table(OTHER_SRC), exposure)
    assert SRC.name in str(caught.value)
    assert EXPOSURE.name in str(caught.value)


def test_astrometry_that_was_calibrated_again_is_accepted(exposure: Exposure, sources: SourceTable) -> None:
    check(changed(sources, coord_dec=sources["coord_dec"] + np.radians(0.5 / 3600)), exposure)


def test_columns_in_degrees_or_exchanged(exposure: Exposure, sources: SourceTable) -> None:
    degrees = changed(sources, coord_ra=np.degrees(sources["coord_ra"]))
    with pytest.raises(InputError, match="arcsec"):
        check(degrees, exposure)
    exchanged = changed(
        sources, slot_Centroid_x=sources["slot_Centroid_y"], slot_Centroid_y=sources["slot_Centroid_x"]
    )
    with pytest.raises(InputError, match="arcsec"):
        check(exchanged, exposure)


def test_image_smaller_than_its_catalogue(exposure: Exposure, sources: SourceTable) -> None:
    small = replace(exposure, box=replace(exposure.box, max_x=exposure.box.max_x // 2))
    with pytest.raises(InputError, match="outside the image"):
        check(sources, small)


def test_positions_that_are_not_known_prove_nothing(exposure: Exposure, sources: SourceTable) -> None:
    unknown = np.full(len(sources), np.nan)
    check(changed(sources, coord_ra=unknown), exposure)
    check(changed(sources, slot_Centroid_x=unknown), exposure)
    check(sources.select(np.zeros(len(sources), dtype=bool)), exposure)


def test_ids_of_another_visit() -> None:
    listed = type("Isolated", (), {"source_id": np.array([2**60 + 1, 2**60 + 3])})()
    identity.check_isolated_ids(np.array([5, 2**60 + 3]), listed, src_path=SRC)
    for ids in (np.array([2**60, 2**60 + 2]), np.array([2**60 + 2], dtype=np.uint64)):  # equal as doubles
        with pytest.raises(InputError, match="none of the 2 sources"):
            identity.check_isolated_ids(ids, listed, src_path=SRC)
