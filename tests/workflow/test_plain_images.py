"""The whole workflow on plain images and SExtractor catalogues: run as a user runs it."""

from __future__ import annotations

from pathlib import Path

import fitsio
import pandas as pd
import pytest
from trial import Trial, copy_workflow, edit, expect, make_distribution, nothing, one_detector

from finalchar.simulate import make_survey
from finalchar.simulate.plain_form import FLAG_BITS

pytestmark = pytest.mark.xdist_group("plain images")
FIRST, SECOND = 101, 188


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    trial = Trial(tmp_path_factory.mktemp("plain"), references=tmp_path_factory.mktemp("references"))
    make_survey("micro", trial.survey, report=None, form="images")
    copy_workflow(Path(__file__).resolve().parents[2], trial.clone)
    trial.write_config()
    make_distribution(trial.clone / "packages", "1.0")
    flags = ", ".join(f"{name}: [{bit}]" for name, bit in FLAG_BITS.items())
    trial.add_config(
        f"input: {{preset: sextractor, images: {{weight_kind: inverse_variance, flags: {{{flags}}}}}}}\n"
    )
    trial.configure("base_FPPosition", "base_CircularApertureFlux")
    trial.configure("    modelFlux: null\n", "    modelFlux: base_GaussianFlux\n")
    first = trial.run()
    assert first.status == 0, first.text[-3000:]
    return trial


def test_all_detectors_are_ok_and_nothing_is_due(images: Trial) -> None:
    statuses = pd.read_parquet(images.output / "survey_summary.parquet")["status"]
    assert statuses.tolist() == ["ok"] * 6
    expect(images, nothing(), hashed=0)


def test_a_number_of_the_sheet_makes_its_detector_again(images: Trial) -> None:
    edit(images.sheets[0], f"{SECOND}_1.fits,1.0", f"{SECOND}_1.fits,1.5")
    expect(images, one_detector())


def test_weights_of_another_file_make_their_detector_again(images: Trial) -> None:
    path = images.survey / f"weight_{FIRST}_2.fits"
    weight, header = fitsio.read(path, header=True)
    fitsio.write(path, weight * 0.9, header=header, clobber=True)
    expect(images, one_detector())


def test_a_missing_weight_image_is_named(images: Trial) -> None:
    path = images.survey / f"weight_{FIRST}_0.fits"
    content = path.read_bytes()
    path.unlink()
    images.run()
    table = pd.read_parquet(images.output / "survey_summary.parquet").set_index(["visit", "detector"])
    found = table.loc[(FIRST, 0)]
    assert found["status"] == "input_missing"
    assert path.name in found["sentence"]
    path.write_bytes(content)
    assert images.run().status == 0
    statuses = pd.read_parquet(images.output / "survey_summary.parquet")["status"]
    assert statuses.tolist() == ["ok"] * 6
