"""A configuration that asks for a program which is not there is told before the first job."""

from __future__ import annotations

from pathlib import Path

from trial import Trial

SENTENCE = "psf_determiner.name is 'psfex', but there is no program 'psfex' on the PATH"


def folder_without(program: str, folder: Path) -> Path:
    """A folder with everything that is on the usual path but one program."""
    folder.mkdir()
    for source in (Path("/usr/bin"), Path("/bin")):
        for path in source.iterdir():
            link = folder / path.name
            if path.name != program and not link.is_symlink():
                link.symlink_to(path)
    return folder


def test_missing_program_is_told_before_the_first_job(fresh: Trial) -> None:
    fresh.environment["PATH"] = str(folder_without("psfex", fresh.root / "bin"))
    fresh.configure("psf_determiner:\n", "psf_determiner:\n  name: psfex\n")
    plain = fresh.run()
    assert plain.status != 0
    assert SENTENCE in plain.text.strip().splitlines()[-1]
    assert "astromatic-psfex" in plain.text
    assert plain.jobs == {}
    assert not (fresh.output / "logs").exists()
    ours = fresh.finalchar("run")
    assert ours.returncode != 0
    assert SENTENCE in ours.stdout + ours.stderr
