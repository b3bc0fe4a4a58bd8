"""The builders of `measured_scene` as fixtures."""

import pytest
from measured_scene import disc_spans, make_footprints, make_scene, measurement_settings


@pytest.fixture(name="scene_of")
def scene_of_fixture():
    return make_scene


@pytest.fixture(name="footprints_of")
def footprints_of_fixture():
    return make_footprints


@pytest.fixture(name="settings_of")
def settings_of_fixture():
    return measurement_settings


@pytest.fixture(name="spans_of")
def spans_of_fixture():
    return disc_spans
