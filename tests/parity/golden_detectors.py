"""Detectors of the reference survey: what a determiner is given, and the whole task on one of them."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np

from finalchar import characterize
from finalchar.formats.lsst_exposure import read_exposure
from finalchar.formats.lsst_sources import read_footprints, read_source_table
from finalchar.parity.survey import isolated_stars, paths_of
from finalchar.stars.candidates import make_psf_candidates

SIZE = SimpleNamespace(kernelSize=27, borderWidth=0)


@cache
def offered_stars(root, name, flags_of):
    """Exposure, candidates that are not reserved, flags of the reference."""
    visit, number = map(int, name.split("_"))
    with np.load(flags_of / "flags.npz") as file:
        rows = (file["visit"] == visit) & (file["detector"] == number)
        flags = {key: file[key][rows] for key in ("id", "reserved", "used")}
    exposure = read_exposure(root / f"survey/calexp_{name}.fits")
    sources = read_source_table(root / f"survey/src_{name}.fits")
    table = sources.select(np.searchsorted(sources["id"], flags["id"]))
    found = make_psf_candidates(table, read_footprints(root / f"survey/src_{name}.fits"), exposure, SIZE)
    found = found.with_catalogue(table)
    return exposure, found.select(~flags["reserved"][found.index]), flags


def characterized(root, visit, number, config, subtasks=None):
    """Result of the task for a detector."""
    exposure, src, band = paths_of(root, visit, number)
    inputs = characterize.read_detector(
        visit=visit,
        detector=number,
        band=band,
        exposure=exposure,
        src=src,
        isolated=isolated_stars(root, visit, number, band, config),
    )
    return characterize.characterize_detector(inputs=inputs, config=config, subtasks=subtasks)
