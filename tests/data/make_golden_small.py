"""Cut the reference survey down to what the tests of a clone need.

    python tests/data/make_golden_small.py REFERENCE tests/data/golden_small

`REFERENCE` is a directory laid out like the complete reference; the result has the same layout.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from finalchar.formats.exposure_catalog import read_exposure_catalog, write_exposure_catalog

DETECTORS = ("2026011500101_0", "2026011500101_1", "2026011500188_3", "2026020300212_3")
CONFIGURATIONS = ("default", "color_sky_fgcm", "sky_oversampled", "field_variant")
"""Configurations that are kept; those of other determiners come with the determiners."""
TRACTS = ("4906", "4907")
SURVEY_FILES = (
    "association.json",
    "isolated_star_association_config.json",
    "reserved_stars.json",
    "noise_replacement.npz",
    "random_vectors.npz",
)


def main(reference: Path, target: Path) -> None:
    """Write the cut reference to `target`, replacing it."""
    shutil.rmtree(target, ignore_errors=True)
    cut_survey(reference / "survey", target / "survey")
    for name in CONFIGURATIONS:
        cut_configuration(reference / name, target / name)
    shutil.copyfile(
        reference / "default" / "measured_columns.json", target / "default" / "measured_columns.json"
    )
    cut_reserve_vectors(reference / "reserve_vectors.json", target / "reserve_vectors.json")
    shutil.copyfile(reference / "reference_selectors.npz", target / "reference_selectors.npz")
    (target / "README.md").write_text(README, encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.1f} MB")


def cut_survey(survey: Path, target: Path) -> None:
    """Copy the inputs of the kept detectors and the tract tables, cut what the stack says of the inputs."""
    target.mkdir(parents=True)
    names = [f"{kind}_{key}.fits" for key in DETECTORS for kind in ("calexp", "src")]
    names += [
        f"{kind}_{tract}.parquet"
        for tract in TRACTS
        for kind in ("isolated_star_cat", "isolated_star_sources", "fgcm_standard_star")
    ]
    for name in (*names, *SURVEY_FILES):
        shutil.copyfile(survey / name, target / name)
    write_json(target / "inputs.json", kept(read_json(survey / "inputs.json")))
    with np.load(survey / "inputs_check.npz") as data:
        arrays = {name: data[name] for name in data.files if name.split("|")[0] in DETECTORS}
    np.savez_compressed(target / "inputs_check.npz", **arrays)


def cut_configuration(folder: Path, target: Path) -> None:
    """Keep the results of the kept detectors of one configuration."""
    target.mkdir()
    for name in ("config.json", "config_diff_from_default.json"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, target / name)
    write_json(target / "status.json", kept(read_json(folder / "status.json")))
    with np.load(folder / "flags.npz") as data:
        flags = {name: data[name] for name in data.files}
    rows = np.array([f"{v}_{d}" in DETECTORS for v, d in zip(flags["visit"], flags["detector"], strict=True)])
    flags = {name: values[rows] for name, values in flags.items()}
    np.savez_compressed(target / "flags.npz", **flags)
    cut_ap_corr(folder / "apcorr.npz", target / "apcorr.npz")
    for key in DETECTORS:
        if (folder / f"psf_images_{key}.npz").exists():
            with np.load(folder / f"psf_images_{key}.npz") as data:
                np.savez_compressed(target / f"psf_images_{key}.npz", **{n: data[n] for n in data.files})
    cut_measured(folder / "measured.parquet", target / "measured.parquet", rows)
    cut_catalogues(folder, target)
    write_json(target / "consolidate.json", consolidated(flags))


def cut_ap_corr(path: Path, target: Path) -> None:
    """Keep the aperture-correction maps of the kept detectors."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    rows = np.isin(arrays["visit_detector"], DETECTORS)
    for name in ("visit_detector", "grid_x", "grid_y", "value", "chebyshev_coefficients"):
        arrays[name] = arrays[name][rows]
    np.savez_compressed(target, **arrays)


def cut_measured(path: Path, target: Path, rows: np.ndarray) -> None:
    """Keep the measured rows of the kept detectors."""
    table = pq.read_table(path).filter(pa.array(rows))
    pq.write_table(table, target, compression="zstd", compression_level=19, write_statistics=False)


def cut_catalogues(folder: Path, target: Path) -> None:
    """Keep single-detector catalogues as the stack wrote them, visit catalogues for the kept detectors."""
    for path in sorted(folder.glob("psf_ap_corr_*.fits")):
        key = path.stem.removeprefix("psf_ap_corr_")
        if key in DETECTORS:
            shutil.copyfile(path, target / path.name)
        elif any(detector.startswith(f"{key}_") for detector in DETECTORS):
            catalogue = read_exposure_catalog(path)
            records = [each for each in catalogue if f"{each.visit}_{each.detector}" in DETECTORS]
            write_exposure_catalog(target / path.name, records, comments=catalogue.comments)


def consolidated(flags: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return rows, detectors and digest of the ids of each visit, as the reference counts them."""
    found = {}
    for visit in np.unique(flags["visit"]):
        here = flags["visit"] == visit
        digest = hashlib.sha256(flags["id"][here].astype("<i8").tobytes()).hexdigest()
        detectors = [int(d) for d in np.unique(flags["detector"][here])]
        found[str(visit)] = {"n_rows": int(here.sum()), "detectors": detectors, "id_sha256": digest}
    return found


def cut_reserve_vectors(path: Path, target: Path) -> None:
    """Keep every fourth draw."""
    write_json(target, read_json(path)[::4])


def kept(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of the kept detectors."""
    return {key: value for key, value in entries.items() if key in DETECTORS}


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


README = """\
# A part of the reference survey

Results of the real LSST tasks on simulated images, cut to four detectors; the layout is that of the complete
reference, so that `make parity REFERENCE=tests/data/golden_small` runs on it. Made by
`python tests/data/make_golden_small.py REFERENCE tests/data/golden_small`. No source code or binary of the
LSST software is included.

| detector | why |
|---|---|
| `2026011500101_0` | band g, NaN pixels under NO_DATA in the first columns, KernelPsf, RICE compression |
| `2026011500101_1` | PcaPsf, valid polygon, varying calibration; `noise_replacement.npz` is of this one |
| `2026011500188_3` | small, not compressed, too few stars: the Piff fit fails, rows remain |
| `2026020300212_3` | small, lossless, no selected source among the isolated stars: no work |

* `survey/`: exposures, catalogues and tract tables as the stack wrote them, tract tables complete (the
  reserve draw needs every star); `inputs.json`, `inputs_check.npz` cut to the four detectors.
* `default`, `color_sky_fgcm`, `sky_oversampled`, `field_variant`: measured rows, flags, PSF images, aperture
  corrections and catalogues of the four detectors. Single-detector catalogues are as the stack wrote them;
  visit catalogues are cut with our writer (bytes of PSFs copied); numbers and digests in `consolidate.json`
  are of the kept rows.
* `reserve_vectors.json`: every fourth draw. `reference_selectors.npz`: complete.
"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
