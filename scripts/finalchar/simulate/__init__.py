"""Simulated surveys with known truth, in the file formats of the LSST stack or as plain images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

__all__ = ["make_survey"]


def make_survey(
    kind: Literal["demo", "micro"],
    folder: Path | str,
    seed: int | None = None,
    report: Callable[[str], None] | None = print,
    *,
    form: Literal["lsst", "images"] = "lsst",
) -> None:
    """Simulate the survey `kind` and write it to `folder`; the same bytes every time.

    Parameters
    ----------
    kind : {"demo", "micro"}
        The demonstration survey (2 tracts, 2 bands, 4 visits of 4 detectors of about 1k x 1k pixels) or the
        small one for tests of the workflow (2 visits of 3 detectors of 400 x 400 pixels).
    folder : path-like
        Where to write exposures, source catalogues, tract tables, sheets, ``config.yaml`` and truth.
    seed : int, optional
        Another seed gives another sky and noise.
    report : callable or None
        Gets progress lines, one per detector and tract.
    form : {"lsst", "images"}
        Files as the LSST stack writes them, or plain images and SExtractor catalogues of the same pixels.
    """
    from finalchar.simulate.survey import DEFAULT_SEED, write_survey

    seed = DEFAULT_SEED if seed is None else seed
    if form == "lsst":
        write_survey(kind, Path(folder), seed, report)
        return
    from tempfile import TemporaryDirectory

    from finalchar.simulate.plain_form import write_plain_form

    with TemporaryDirectory() as lsst:
        write_survey(kind, Path(lsst), seed, report)
        write_plain_form(Path(lsst), Path(folder))
