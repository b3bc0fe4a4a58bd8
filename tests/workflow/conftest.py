from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from trial import Trial

EVERYTHING = os.environ.get("FINALCHAR_STALENESS") == "full"
VARIANTS = ("plain", "nometa", "clone")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "dangerous: a staleness row that is always tried in all three ways")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All rows plain; the dangerous ones also without metadata and from fresh clones; or really all."""
    if "finished" not in metafunc.fixturenames:
        return
    ways = [("plain", 3)]
    if EVERYTHING:
        ways = [(variant, jobs) for variant in VARIANTS for jobs in (3, 1)]
    elif metafunc.definition.get_closest_marker("dangerous"):
        ways += [("nometa", 3), ("clone", 1)]
    names = [f"{variant}-{jobs}" for variant, jobs in ways]
    # each row begins and ends with nothing due: half of the plain ones can share a trial of another process
    half = crc32(metafunc.definition.name.encode()) % 2
    groups = [f"{name}, half {half}" if name.startswith("plain") else name for name in names]
    rows = [
        pytest.param(way, marks=pytest.mark.xdist_group(group))
        for way, group in zip(ways, groups, strict=True)
    ]
    metafunc.parametrize("finished", rows, ids=names, indirect=True, scope="module")


@pytest.fixture(scope="session")
def micro_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro survey: 2 visits of 3 detectors, 2 tracts, 2 bands."""
    from finalchar.simulate import make_survey

    folder = tmp_path_factory.mktemp("micro") / "survey"
    make_survey("micro", folder)
    return folder


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of plain runs in one process, by the world they were made in."""
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def finished(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    micro_survey: Path,
    references: Path,
) -> Trial:
    """A trial whose first run has ended."""
    variant, detectors_per_job = request.param
    trial = Trial.make(
        tmp_path_factory.mktemp(f"{variant}{detectors_per_job}"),
        micro_survey,
        variant=variant,
        detectors_per_job=detectors_per_job,
        references=references,
    )
    first = trial.run()
    assert first.status == 0, first.text[-3000:]
    return trial


@pytest.fixture
def trial(finished: Trial) -> Iterator[Trial]:
    """A trial in which nothing is due; mended first if an earlier row failed half-way."""
    if finished.broken:
        finished.run("--keep-going")
        finished.broken = False
    texts = {path: path.read_text() for path in (finished.clone / "config.yaml", *finished.sheets)}
    yield finished
    finished.broken |= any(path.read_text() != text for path, text in texts.items())
    for path, text in texts.items():
        path.write_text(text)


@pytest.fixture
def fresh(tmp_path: Path, micro_survey: Path, references: Path) -> Trial:
    """A trial that was not run yet."""
    return Trial.make(tmp_path, micro_survey, references=references)
