"""How far our own CModel fluxes move when every pixel moves by its last bit: what no comparison can undercut.

    python tests/benchmarks/rounding_floor.py [REFERENCE]

Every detector of the reference survey is characterised twice with the default configuration, the second
time with each pixel replaced by one of its two neighbours in single precision (a relative change of 6e-8).
Printed are median, 90th percentile and largest relative change of the corrected flux, of the flux before its
aperture correction and of the correction, and the change of stars above S/N 100 in error bars.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
FLUXES = ("base_PsfFlux", *(f"modelfit_CModel{stage}" for stage in ("_initial", "_exp", "_dev", "")))
BRIGHT = 100.0
SEED = 1


def main(reference: Path) -> None:
    """Print the table."""
    logging.disable(logging.CRITICAL)
    changes: dict[str, list[npt.NDArray[np.float64]]] = {flux: [] for flux in FLUXES}
    for first, second in characterised_twice(reference):
        for flux in FLUXES:
            changes[flux].append(changes_of(flux, first, second))
    quantities = ("corrected", "uncorrected", "correction", "bright, error bars")
    print(f"{'relative change: median, 90 %, largest':<40}" + "".join(f"{name:>30}" for name in quantities))
    for flux, parts in changes.items():
        *relative, error_bars, ratio = np.concatenate(parts, axis=1)
        columns = [*relative, error_bars[ratio > BRIGHT]]
        figures = [np.nanpercentile(values, [50, 90, 100]) for values in columns]
        print(f"{flux:<40}" + "".join(f"{'{:.2g} {:.2g} {:.2g}'.format(*three):>30}" for three in figures))
        print(f"{'':<40}{np.nanmean(columns[-1] > 0.1):>{30 * len(columns)}.1%} of these above 0.1")


def characterised_twice(reference: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the results of each detector that has corrections, of the image and of its neighbour."""
    from finalchar.characterize import characterize_detector, read_detector
    from finalchar.config import Config
    from finalchar.parity.reference import ReferenceConfiguration
    from finalchar.parity.survey import isolated_stars, paths_of

    configuration = ReferenceConfiguration(reference, "default")
    config = Config.from_lsst_overrides(
        configuration.settings(), drop_unimplemented=True, compatibility="lsst"
    )
    random = np.random.default_rng(SEED)
    for each in configuration.detectors():
        exposure, src, band = paths_of(reference, each.visit, each.detector)
        isolated = isolated_stars(reference, each.visit, each.detector, band, config)
        inputs = read_detector(
            visit=each.visit, detector=each.detector, band=band, exposure=exposure, src=src, isolated=isolated
        )
        first = characterize_detector(inputs=inputs, config=config)
        if inputs.exposure is None or first.record is None or not first.record.ap_corr_map:
            continue
        image = inputs.exposure.image
        toward = np.where(random.random(image.shape) < 0.5, np.float32(np.inf), np.float32(-np.inf))
        moved = np.where(np.isfinite(image), np.nextafter(image, toward), image)
        neighbour = replace(inputs, exposure=replace(inputs.exposure, image=moved))
        yield first, characterize_detector(inputs=neighbour, config=config)


def changes_of(flux: str, first: Any, second: Any) -> npt.NDArray[np.float64]:
    """Return relative changes (corrected, uncorrected, correction), in error bars, and S/N; (5, stars)."""
    (a, error), b = (
        (first.table[f"{flux}_instFlux"], first.table[f"{flux}_instFluxErr"]),
        second.table[f"{flux}_instFlux"],
    )
    x, y = (first.table[f"slot_Centroid_{axis}"] for axis in "xy")
    fields = [result.record.ap_corr_map[f"{flux}_instFlux"].evaluate(x=x, y=y) for result in (first, second)]
    correction = fields[1] / fields[0]
    return np.abs([b / a - 1, b / a / correction - 1, correction - 1, (b - a) / error, a / error])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared/golden")
