"""The parity tool on the part of the reference that lies in the repository: everything within tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finalchar.parity.__main__ import main

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests/data/golden_small"
CONFIGURATIONS = ("default", "color_sky_fgcm", "sky_oversampled", "field_variant")


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_configuration_agrees_with_the_reference(configuration, tmp_path, capsys):
    path = tmp_path / "parity.json"
    arguments = [str(SMALL), "--configs", configuration, "--json", str(path), "--processes", "1"]
    code = main(arguments)
    printed = capsys.readouterr().out
    assert code == 0, printed
    figures = json.loads(path.read_text())[configuration]
    out = {name for name, entry in figures.items() if not entry["ok"]}
    # CModel stops in the rounding noise (measurement specification 8.8); nothing else may be out but, where
    # the PSFs agree to 6e-8 of the peak instead of 1e-11, their shapes by as much as that.
    out = {name for name in out if "modelfit_CModel" not in name and "slot_ModelFlux" not in name}
    by_shape = {name for name in out if figures[name]["cause"].startswith("shape of the PSF")}
    assert out - by_shape == set()
    assert not by_shape or configuration != "default"
    assert all(figures[name]["max"] < 1e-6 for name in by_shape)
    for name in ("calib_psf_candidate", "calib_psf_reserved", "calib_psf_used", "rows"):
        assert figures[name]["n"] > 40
        assert figures[name]["max"] == 0
    # The figure: within 1e-6 of the peak; bit-level agreement is 1e-12, float32 references 6e-8.
    for kind in ("psf_image", "psf_kernel"):
        assert figures[kind]["n"] >= 9 * 2 * 25**2
        assert figures[kind]["max"] < (1e-10 if configuration == "default" else 1e-7)
    for column in ("base_PsfFlux_instFlux", "ext_shapeHSM_HsmSourceMoments_xx"):
        assert figures[column]["n"] > 40
        # Given the same PSF pixels only rounding is left; specification 16 allows 1e-9.
        assert figures[column]["max"] < 1e-9
