"""Read reference results: a folder per configuration beside ``survey``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.errors import InputError
from finalchar.formats.exposure_catalog import ExposureRecord, read_exposure_catalog
from finalchar.formats.sources import SourceTable

__all__ = [
    "ApCorrReference",
    "DetectorReference",
    "PsfReference",
    "ReferenceConfiguration",
    "find_configurations",
]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PsfReference:
    """The reference PSF drawn at probe points (x, y, colour)."""

    probes: list[tuple[float, float, float]]
    images: Mapping[str, FloatArray]
    corners: Mapping[str, npt.NDArray[np.int64]]
    average_position: FloatArray
    average_color: float


@dataclass(frozen=True)
class ApCorrReference:
    """The reference map: values on a grid and coefficients by entry; absent entries are left out."""

    grid_x: FloatArray
    grid_y: FloatArray
    values: Mapping[str, FloatArray]
    coefficients: Mapping[str, FloatArray]


@dataclass(frozen=True)
class DetectorReference:
    """Outcome of one detector in the reference: psf class, map entries, rows (None: no work)."""

    visit: int
    detector: int
    rows: int | None
    psf_class: str | None
    map_entries: int


@dataclass(frozen=True)
class ReferenceConfiguration:
    """One configuration folder of a reference directory."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the configuration."""
        return self.root / self.name

    def settings(self) -> dict[str, Any]:
        """Return the flat LSST settings: all fields of ``default`` with this folder's differences."""
        flat = _read_json(self.root / "default" / "config.json")
        differences = self.folder / "config_diff_from_default.json"
        if differences.exists():
            flat |= _read_json(differences)
        return flat

    def detectors(self) -> list[DetectorReference]:
        """Return the outcomes, in visit and detector order."""
        found = []
        for key, entry in _read_json(self.folder / "status.json").items():
            visit, detector = map(int, key.split("_"))
            found.append(
                DetectorReference(
                    visit, detector, entry.get("n_rows"), entry.get("psf"), entry.get("n_apcorr") or 0
                )
            )
        return sorted(found, key=lambda each: (each.visit, each.detector))

    def table(self, visit: int, detector: int) -> SourceTable:
        """Return the measured rows of a detector."""
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(
            self.folder / "measured.parquet", filters=[("visit", "=", visit), ("detector", "=", detector)]
        )
        columns = {}
        for name in rows.column_names:
            values = rows[name].to_numpy()
            columns[name] = values.astype(str) if values.dtype == object else values
        return SourceTable(columns)

    def psf(self, visit: int, detector: int) -> PsfReference | None:
        """Return the drawn PSF of a detector, or None."""
        path = self.folder / f"psf_images_{visit}_{detector}.npz"
        if not path.exists():
            return None
        with np.load(path) as data:
            probes = [
                (float(x), float(y), float(color))
                for color in np.atleast_1d(data["probe_color"])
                for x, y in data["position"]
            ]
            return PsfReference(
                probes,
                {kind: data[kind].astype(np.float64) for kind in ("image", "kernel")},
                {kind: data[f"{kind}_xy0"] for kind in ("image", "kernel")},
                data["average_position"],
                float(data["average_color"]),
            )

    def ap_corr(self, visit: int, detector: int) -> ApCorrReference | None:
        """Return the aperture-correction map of a detector, or None."""
        with np.load(self.folder / "apcorr.npz") as data:
            keys = [str(key) for key in data["visit_detector"]]
            if f"{visit}_{detector}" not in keys:
                return None
            row = keys.index(f"{visit}_{detector}")
            names = [str(name) for name in data["field"]]
            values, coefficients = data["value"][row], data["chebyshev_coefficients"][row]
            there = [index for index in range(len(names)) if np.isfinite(coefficients[index, 0, 0])]
            return ApCorrReference(
                data["grid_x"][row],
                data["grid_y"][row],
                {names[index]: values[index] for index in there},
                {names[index]: coefficients[index] for index in there},
            )

    def record(self, visit: int, detector: int) -> ExposureRecord | None:
        """Return a detector's entry in the catalogue of its visit, None if it has none."""
        path = self.folder / f"psf_ap_corr_{visit}.fits"
        if not path.exists():
            return None
        return next((each for each in read_exposure_catalog(path) if each.detector == detector), None)

    def has_catalogue(self, visit: int) -> bool:
        """Whether the reference keeps a catalogue of the visit."""
        return (self.folder / f"psf_ap_corr_{visit}.fits").exists()

    def consolidated(self) -> dict[str, Any]:
        """Return what the reference says of its consolidated tables, by visit."""
        path = self.folder / "consolidate.json"
        return _read_json(path) if path.exists() else {}


def find_configurations(root: Path, names: list[str] | None = None) -> Iterator[ReferenceConfiguration]:
    """Yield the configuration folders of `root` (those named, or all), `default` first.

    Raises
    ------
    InputError
        If there is no survey, no default configuration, or a named configuration does not exist.
    """
    if not (root / "survey").is_dir() or not (root / "default" / "config.json").is_file():
        raise InputError(f"{root} is no reference directory: it needs survey/ and default/config.json")
    known = sorted(path.parent.name for path in root.glob("*/status.json"))
    for name in names or []:
        if name not in known:
            raise InputError(f"{root} has no configuration {name!r}; it has: {', '.join(known)}")
    for name in sorted(names or known, key=lambda each: (each != "default", each)):
        yield ReferenceConfiguration(root, name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); is this a reference directory?"
        ) from error
    return data
