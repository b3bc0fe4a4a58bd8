"""Sky coordinates of a Piff model near a pole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from finalchar.errors import PsfError
from finalchar.formats.ast_text import sky_wcs_from_cards
from finalchar.formats.exposure import Box
from finalchar.psf.piff_frame import check_north, piff_frame

PIXEL = 0.2 / 3600.0


def exposure_at(dec, side=4000):
    values = {
        "CTYPE1": "'RA---TAN'",
        "CTYPE2": "'DEC--TAN'",
        "CRVAL1": 0.0,
        "CRVAL2": dec,
        "CRPIX1": (side + 1) / 2,
        "CRPIX2": (side + 1) / 2,
        "CD1_1": PIXEL,
        "CD2_2": PIXEL,
    }
    cards = [f"{name:<8}= {value}".ljust(80) for name, value in values.items()]
    return SimpleNamespace(wcs=sky_wcs_from_cards(cards), box=Box(0, 0, side - 1, side - 1))


@pytest.mark.parametrize("dec", [0.0, -60.0, 89.0, -89.5])
def test_north_is_north_all_over_a_detector(dec):
    """A detector of 13 arcmin; 1 degree from the pole north turns by 6 degrees."""
    exposure = exposure_at(dec)
    check_north(piff_frame(exposure, "sky"), exposure)


@pytest.mark.parametrize("dec", [90.0, 89.99, 89.9, -89.85])
def test_a_detector_at_a_pole_is_refused_in_sky_coordinates(dec):
    """K16: size and ellipticity of such a fit were off by 0.5 without a sign of it."""
    exposure = exposure_at(dec)
    with pytest.raises(PsfError, match="near a pole that north turns by"):
        check_north(piff_frame(exposure, "sky"), exposure)
