"""What tests of several rooms share."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def psfex():
    """The program PSFEx; its tests are skipped on a machine without it, and fail there under CI=true."""
    found = shutil.which("psfex")
    if found is None:
        sentence = "the program psfex is missing (Debian: psfex, conda: astromatic-psfex)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)
    return found
