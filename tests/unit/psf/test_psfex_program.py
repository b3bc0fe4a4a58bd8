"""How the program PSFEx is called and what is believed of it; a script stands in its place.

Known failure K16: a computation that failed must not leave something that looks like a result.  The program
ends with status 0 after a model without a star, too.
"""

from __future__ import annotations

import tempfile
import textwrap

import numpy as np
import pytest
from astropy.io import fits

from finalchar.errors import MissingProgramError, PsfError
from finalchar.programs import PROGRAMS, needed_programs
from finalchar.psf import psfex_program
from finalchar.psf.psfex_program import ProgramInput, run_program

NUMBER, SIZE, MODEL = 12, 11, 9


def given(**more):
    """Input of some stars."""
    generator = np.random.default_rng(1)
    stars = generator.normal(size=(NUMBER, SIZE, SIZE)).astype(np.float32)
    place = generator.uniform(10, 90, (2, NUMBER))
    values = {
        "image": stars,
        "bad": stars > 2.5,
        "centre_x": place[0] + 1,
        "centre_y": place[1] + 1,
        "x": place[0],
        "y": place[1],
        "flux": np.full(NUMBER, 1e4),
        "shape": (100, 90),
        "background_variance": 4.0,
        "gain": 2.0,
        "fwhm": 3.5,
        "model_size": MODEL,
        "sampling": 0.5,
        "degree": 1,
        "basis": "NONE",
    }
    return ProgramInput(**{**values, **more})


def model(terms=3, size=MODEL, loaded=NUMBER, accepted=NUMBER - 2, degree=1, value=1.0):
    """What the program writes: the model."""
    pixels = np.full((1, terms, size, size), value, np.float32)
    column = fits.Column("PSF_MASK", f"{pixels.size}E", dim=f"({size},{size},{terms})", array=pixels)
    table = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    table.header.update(
        {"LOADED": loaded, "ACCEPTED": accepted, "CHI2": 1.25, "POLNAXIS": 2 if degree else 0}
    )
    table.header.update({"POLZERO1": 50.0, "POLSCAL1": 80.0, "POLZERO2": 45.0, "POLSCAL2": 70.0})
    if degree:
        table.header["POLDEG1"] = degree
    return fits.HDUList([fits.PrimaryHDU(), table])


def stars(number=NUMBER, bad=2, first=1):
    """What the program writes: the stars, of which the last are rejected."""
    columns = [
        fits.Column("SOURCE_NUMBER", "1J", array=np.arange(number) + first),
        fits.Column("FLAGS_PSF", "1J", array=np.arange(number) >= number - bad),
        fits.Column("CHI2_PSF", "1E", array=np.linspace(0.5, 2.0, number)),
    ]
    head = fits.BinTableHDU.from_columns([fits.Column("Field Header Card", "80A", array=["x"])])
    return fits.HDUList(
        [fits.PrimaryHDU(), head, fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS")]
    )


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put a script in the place of the program: what it copies, what it says and how it ends."""
    results, folder, kept = tmp_path / "results", tmp_path / "bin", tmp_path / "kept"
    temporary = tmp_path / "temporary"
    for path in (results, folder, kept, temporary):
        path.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def write(end="", *, model=None, stars=None):
        for name, table in (("stars.psf", model), ("accepted.cat", stars)):
            if table is not None:
                table.writeto(results / name)
        script = folder / "psfex"
        script.write_text(f"#!/bin/sh\ncp * {kept}\ncp {results}/* . 2> /dev/null\n{textwrap.dedent(end)}\n")
        script.chmod(0o755)
        return kept

    yield write
    assert list(temporary.iterdir()) == [], "the temporary folder is left behind"


# ------------------------------------------------------------------------------------------- what goes in


def test_catalogue_is_as_the_program_wants_it(fake):
    kept = fake(model=model(), stars=stars())
    job = given()
    run_program(job)
    with fits.open(kept / "stars.cat") as file:
        card = bytes(file["LDAC_IMHEAD"].data.tobytes())
        table = file["LDAC_OBJECTS"].data
        assert len(card) % 80 == 0
        assert b"\0" not in card  # the program crashes on a padding of anything but blanks
        header = fits.Header.fromstring(card.decode())
        assert header["SEXBKDEV"] == 2.0
        assert header["SEXGAIN"] == 2.0
        assert (header["NAXIS1"], header["NAXIS2"]) == (100, 90)  # zero: a division by zero
        np.testing.assert_array_equal(table["NUMBER"], np.arange(NUMBER) + 1)
        np.testing.assert_array_equal(table["X_CONTEXT"], job.x)
        np.testing.assert_array_equal(table["X_IMAGE"], job.centre_x)
        stamps = np.array(table["VIGNET"])
    assert stamps.shape == (NUMBER, SIZE, SIZE)
    np.testing.assert_array_equal(stamps == np.float32(-1e30), job.bad)
    np.testing.assert_array_equal(stamps[~job.bad], job.image[~job.bad])


def test_preferences(fake):
    kept = fake(model=model(), stars=stars())
    run_program(given())
    lines = dict(line.split(maxsplit=1) for line in (kept / "stars.psfex").read_text().splitlines())
    low, high = map(float, lines["SAMPLE_FWHMRANGE"].split(","))
    assert 0.5 * (low + high) == pytest.approx(3.5, rel=1e-9)  # the program takes the middle for the FWHM
    assert low < 2 * psfex_program.FLUX_RADIUS < high
    assert lines["PSF_RECENTER"] == "N"
    assert lines["SAMPLE_AUTOSELECT"] == "N"
    assert lines["NTHREADS"] == "1"
    assert lines["PSF_SAMPLING"] == "0.5"


def test_environment_of_the_program(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    fake(f"env > {tmp_path}/environment", model=model(), stars=stars())
    run_program(given())
    told = (tmp_path / "environment").read_text().splitlines()
    assert "LC_ALL=C" in told
    assert "OMP_NUM_THREADS=1" in told


# ------------------------------------------------------------------------------------------ what comes out


def test_result(fake):
    fake(model=model(), stars=stars())
    found = run_program(given())
    assert found.components.shape == (3, MODEL, MODEL)
    assert found.components.dtype == np.float32
    assert found.degree == 1
    assert found.first.tolist() == [50.0, 45.0]
    assert found.second.tolist() == [80.0, 70.0]
    assert found.accepted.tolist() == [True] * (NUMBER - 2) + [False] * 2
    assert found.chi_squared == 1.25
    np.testing.assert_allclose(found.star_chi_squared, np.linspace(0.5, 2.0, NUMBER), rtol=1e-6)


def test_status_of_the_program_does_not_count(fake):
    """Neither for good nor for bad: what lies in the folder decides."""
    fake("exit 3", model=model(), stars=stars())
    assert run_program(given()).accepted.sum() == NUMBER - 2


def test_stars_that_are_not_listed_are_not_accepted(fake):
    fake(model=model(accepted=NUMBER - 3), stars=stars(number=NUMBER - 3, bad=0))
    found = run_program(given())
    assert found.accepted.sum() == NUMBER - 3
    assert np.isnan(found.star_chi_squared[-3:]).all()


def test_model_that_does_not_vary(fake):
    fake(model=model(terms=1, degree=0), stars=stars())
    assert run_program(given()).degree == 0


@pytest.mark.parametrize(
    ("results", "end", "sentence"),
    [
        ({}, "exit 0", "did not leave a model.*exit status 0"),
        ({}, "echo '> *Error*: no memory' >&2; exit 1", r"exit status 1, last words: '\*Error\*: no memory'"),
        ({}, "kill -SEGV $$", "signal 11"),
        ({"model": model()}, "", r"accepted\.cat does not exist"),
        ({"stars": stars()}, "", r"stars\.psf does not exist"),
        ({"model": model(value=np.nan), "stars": stars()}, "", "no numbers"),
        ({"model": model(size=7), "stars": stars()}, "", "not those of images of 9 x 9"),
        ({"model": model(loaded=5), "stars": stars()}, "", "LOADED is 5 instead of 12"),
        ({"model": model(accepted=5), "stars": stars()}, "", "ACCEPTED is 5 instead of 10"),
        ({"model": model(), "stars": stars(first=2)}, "", "not handed in"),
        ({"model": model(), "stars": stars()}, "truncate -s 3000 stars.psf", "truncated"),
        ({"model": model(), "stars": stars()}, "echo garbage > stars.psf", "not a FITS file"),
        ({"model": model(), "stars": stars()}, ": > accepted.cat", "did not leave a model"),
        ({"model": stars(), "stars": model()}, "", "no table PSF_DATA"),
    ],
)
def test_crash_and_garbage_are_told_in_one_sentence(fake, results, end, sentence):
    """K16."""
    fake(end, **{name: fits.HDUList([hdu.copy() for hdu in table]) for name, table in results.items()})
    with pytest.raises(PsfError, match=f"(?s){sentence}") as caught:
        run_program(given())
    assert "\n" not in str(caught.value)
    assert tempfile.gettempdir() not in str(caught.value)  # another name in every run: other bytes


def test_program_that_hangs(fake, monkeypatch):
    monkeypatch.setattr(psfex_program, "LONGEST_SECONDS", 0.5)
    fake("exec sleep 60")
    with pytest.raises(TimeoutError, match=r"did not end within 0\.5 seconds"):
        run_program(given())


@pytest.mark.parametrize("name", ["KILL", "TERM", "XCPU"])
def test_program_that_is_ended_from_outside(fake, name):
    """Out of memory or time is no outcome of the stars: with a PsfError it would never be tried again."""
    fake(f"kill -{name} $$")
    with pytest.raises(ChildProcessError, match="ended from outside by signal"):
        run_program(given())


def test_file_that_cannot_be_run(fake, tmp_path):
    fake()
    (tmp_path / "bin" / "psfex").write_bytes(b"\x7fELF no program at all")
    with pytest.raises(MissingProgramError, match="cannot be run"):
        run_program(given())


def test_program_without_its_libraries(fake):
    fake("echo 'error while loading shared libraries: libfftw3f.so.3' >&2; exit 127")
    with pytest.raises(MissingProgramError, match=r"cannot be run: .*libfftw3f\.so\.3"):
        run_program(given())


# ------------------------------------------------------------------------------------------- the program


def test_program_is_looked_for_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (program,) = needed_programs({"psf_determiner": {"name": "psfex"}})
    assert program.version() == "absent"
    with pytest.raises(MissingProgramError) as caught:
        run_program(given())
    for word in ("psf_determiner.name", "apt-get install psfex", "conda-forge astromatic-psfex"):
        assert word in str(caught.value)


def test_version(psfex):
    (program,) = PROGRAMS
    assert program.find() == psfex
    assert program.version().startswith("3.")


def test_version_of_something_else(fake):
    fake("echo hello")
    (program,) = PROGRAMS
    assert program.version() == "unknown"


@pytest.mark.parametrize("settings", [{}, {"psf_determiner": {"name": "piff"}}, {"psf_determiner": None}])
def test_other_choices_need_no_program(settings):
    assert needed_programs(settings) == []


def test_real_program_after_input_without_a_usable_star(psfex, tmp_path, monkeypatch):
    """The program says nothing, ends with 0 and leaves a model: that of no star at all."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(PsfError):
        run_program(given(flux=np.full(NUMBER, np.nan)))
    assert list(tmp_path.iterdir()) == []
