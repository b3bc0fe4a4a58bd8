"""Simulated surveys with known truth, written in the file formats of the LSST stack."""

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
    """
    from finalchar.simulate.survey import DEFAULT_SEED, write_survey

    write_survey(kind, Path(folder), DEFAULT_SEED if seed is None else seed, report)
