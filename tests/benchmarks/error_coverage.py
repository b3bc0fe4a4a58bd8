"""How often the true PSF of the demo survey lies within one predicted error of the fitted one.

    python tests/benchmarks/error_coverage.py [FOLDER]

Simulates the demo survey into FOLDER (a temporary one by default), fits every detector and compares size, e1
and e2 of the drawn PSF on 4 x 4 places with what the model is expected to give: the same polynomial through
the true PSFs of the used stars, each of its own colour.  Exit status 1 if it is not 68 +- 5 per cent.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from finalchar.simulate.surveys import DEMO, VisitPlan  # noqa: E402

SIZE = 25


def shapes(images: np.ndarray) -> np.ndarray:
    """Size, e1, e2 of images, shape (n, 3)."""
    from finalchar.psf.shape import adaptive_moments

    moments = adaptive_moments(images)
    xx, yy, xy = moments.xx, moments.yy, moments.xy
    return np.stack([(xx * yy - xy**2) ** 0.25, (xx - yy) / (xx + yy), 2 * xy / (xx + yy)], axis=1)


def true_kernel(psf: Any, x: float, y: float, color: float) -> np.ndarray:
    """The true PSF at a place, drawn centred with its pixel."""
    import galsim

    image = galsim.ImageD(SIZE, SIZE, scale=1.0)
    profile = galsim.Convolve(psf.profile(x=x, y=y, color=color), galsim.Pixel(1.0))
    return profile.drawImage(image, method="no_pixel").array


def expected(fit: Any, psf: Any, colors: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """The polynomial through the true PSFs of the stars, evaluated where it has the terms (m, nb)."""
    proof = fit.evidence
    scale = np.abs(proof.design).max(axis=0)
    basis, weight = proof.design / scale, proof.fitted_signal_to_noise[:, None] ** 2
    of_stars = (terms / scale) @ np.linalg.solve(basis.T @ (weight * basis), (weight * basis).T)
    places = zip(proof.x, proof.y, colors, strict=True)
    return np.tensordot(of_stars, np.array([true_kernel(psf, *place) for place in places]), axes=1)


def fitted(folder: Path, visit: VisitPlan, detector: int) -> Any:
    """Fit a detector; the fit, its table of stars, or None where there is no PSF."""
    from finalchar import characterize
    from finalchar.config import Config
    from finalchar.stars.visit_list import concatenate_isolated_stars

    config = Config()
    config.measurement.plugins.names = ["base_FPPosition", "base_PsfFlux"]
    tables = [
        {int(path.stem.rsplit("_", 1)[1]): path for path in folder.glob(f"{name}_*.parquet")}
        for name in ("isolated_star_cat", "isolated_star_sources")
    ]
    isolated = concatenate_isolated_stars(
        *tables, band=visit.band, visit=visit.visit, detector=detector,
        settings=config.reserve_selection, id_column=config.id_column,
    )  # fmt: skip
    names = [folder / f"{kind}_{visit.visit}_{detector}.fits" for kind in ("calexp", "src")]
    inputs = characterize.read_detector(
        visit=visit.visit, detector=detector, band=visit.band, exposure=names[0], src=names[1],
        isolated=isolated,
    )  # fmt: skip
    result = characterize.characterize_detector(inputs=inputs, config=config)
    return None if result.fit is None else (result.fit, result.table)


def pulls(folder: Path, visit: VisitPlan, detector: int) -> np.ndarray:
    """Deviations in units of the predicted errors, shape (16, 3); (0, 3) without a PSF."""
    import pyarrow.parquet

    from finalchar.simulate.optics import make_psf
    from finalchar.simulate.pointing import point_detector
    from finalchar.simulate.survey import DEFAULT_SEED

    found = fitted(folder, visit, detector)
    if found is None:
        return np.empty((0, 3))
    fit, table = found
    truth = pyarrow.parquet.read_table(folder / "truth_sources.parquet").to_pydict()
    color_of = dict(zip(truth["source_id"], truth["color"], strict=True))
    used = np.asarray(table["calib_psf_used"])
    places = zip(table["slot_Centroid_x"][used], table["slot_Centroid_y"][used], strict=True)
    source_at = dict(zip(places, table["id"][used].tolist(), strict=True))
    stars = zip(fit.evidence.x, fit.evidence.y, strict=True)
    colors = np.array([color_of[source_at[place]] for place in stars])
    pointing = point_detector(DEMO.sky, DEMO.camera, visit, detector)
    psf = make_psf(
        DEMO.camera, visit, DEFAULT_SEED, origin_x=pointing.reference_x, origin_y=pointing.reference_y
    )
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(100, 920, 4), np.linspace(100, 900, 4)))
    terms = fit.model.terms(x=x, y=y)
    difference = shapes(fit.model.kernel_images(x=x, y=y)) - shapes(expected(fit, psf, colors, terms))
    return difference / fit.evidence.errors.at(terms)


def main() -> int:
    """Simulate, fit, count."""
    from finalchar.simulate.survey import write_survey

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if not (folder / "detectors.csv").exists():
            write_survey(DEMO, folder)
        detectors = [(visit, detector) for visit in DEMO.visits for detector in range(4)]
        found = np.concatenate([pulls(folder, *each) for each in detectors])
    for name, values in zip(("size", "e1", "e2"), found.T, strict=True):
        print(f"{name:5s} within one error {np.mean(np.abs(values) < 1):.3f}, rms {np.std(values):.2f}")
    share = float(np.mean(np.abs(found) < 1))
    print(f"all   within one error {share:.3f} of {found.size} values")
    return 0 if abs(share - 0.68) <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
