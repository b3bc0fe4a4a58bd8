"""Compare one characterised detector with the reference: rows, flags, PSF, columns, corrections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import BoundedField
from finalchar.formats.exposure_catalog import ExposureRecord
from finalchar.formats.sources import SourceTable
from finalchar.parity.deviations import Deviations, Tolerance, deviations_between
from finalchar.parity.given_reference import compare_final_regions
from finalchar.parity.reference import ApCorrReference, PsfReference
from finalchar.parity.tolerances import (
    BRIGHT,
    CMODEL_BRIGHT,
    coefficient_tolerance,
    column_tolerance,
    field_tolerance,
    scale_column,
    true_name,
)
from finalchar.psf.model import PsfModel

__all__ = ["compare_ap_corr", "compare_flags", "compare_psf", "compare_record", "compare_table", "outcome"]

FLAGS = ("calib_psf_candidate", "calib_psf_reserved", "calib_psf_used")
EXACT = Tolerance("exact")
PSF_IMAGE = Tolerance("absolute", 1e-6, reason="of the peak")


def outcome(name: str, ours: object, reference: object) -> Deviations:
    """Compare two plain values; a difference is told in words."""
    same = ours == reference
    detail = "" if same else f"{ours}, not {reference}"
    return Deviations(name, np.array([0.0 if same else np.inf]), EXACT, detail=detail)


def compare_flags(ours: SourceTable, reference: SourceTable) -> Iterator[Deviations]:
    """Compare the rows (ids in order) and the three flags of every star."""
    yield deviations_between("rows", ours["id"], reference["id"], EXACT)
    if len(ours) == len(reference):
        for name in FLAGS:
            yield deviations_between(name, ours[name], reference[name], EXACT)


def compare_table(
    ours: SourceTable,
    reference: SourceTable,
    not_implemented: Mapping[str, str],
    given: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> Iterator[Deviations]:
    """Compare all columns of the reference.

    `not_implemented` maps prefixes of names to a cause, `given` names to what we find given the reference's
    earlier results (`given_reference`).
    """
    for name in reference:
        cause = next((why for prefix, why in not_implemented.items() if _belongs(name, prefix)), "")
        if name not in ours.columns:
            values = np.empty(0) if cause else np.array([np.inf])
            kind = Tolerance("report", reason=cause) if cause else EXACT
            yield Deviations(name, values, kind, cause, "" if cause else "the column is missing")
            continue
        deviations, *reported = _compare_column(name, ours, reference, (given or {}).get(true_name(name)))
        weights = in_error_bars(name, ours, reference)
        yield replace(deviations, weights=weights, column=reference[name].dtype.kind in "iuf")
        yield from reported
        yield from _compare_bright(name, weights, reference)
        yield from _compare_type(name, ours[name], reference[name])
    extra = [name for name in ours.columns if name not in reference.columns]
    yield outcome("columns_beyond_reference", ",".join(extra), "")
    shared = [name for name in reference if name in ours.columns]
    yield outcome("column_order", [name for name in ours if name in reference.columns] == shared, True)


def _compare_column(
    name: str, ours: SourceTable, reference: SourceTable, given: npt.NDArray[np.float64] | None
) -> Iterator[Deviations]:
    """Yield the deviations of one column, then what is only reported of it."""
    scale_name = scale_column(name)
    scale = reference[scale_name] if scale_name is not None and scale_name in reference else None
    if given is not None:
        yield from compare_final_regions(name, ours[name], given, reference[name], scale)
        return
    yield deviations_between(name, ours[name], reference[name], column_tolerance(name), scale=scale)


def in_error_bars(name: str, ours: SourceTable, reference: SourceTable) -> npt.NDArray[np.float64] | None:
    """Return the deviations of a flux or its error over the error bar, per star; None for other columns."""
    match = re.fullmatch(r"(\w+_instFlux)(Err)?", name)
    if match is None or f"{match[1]}Err" not in reference:
        return None
    a, b, error = (
        np.asarray(t, dtype=np.float64) for t in (ours[name], reference[name], reference[f"{match[1]}Err"])
    )
    if a.shape != b.shape:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = np.where(a == b, 0.0, np.abs(a - b) / error)
    return np.where(np.isfinite(weights), weights, np.nan)


def _compare_bright(
    name: str, weights: npt.NDArray[np.float64] | None, reference: SourceTable
) -> Iterator[Deviations]:
    """Judge CModel of bright stars in units of the error bar, flux and error."""
    if weights is None or not name.startswith("modelfit_CModel"):
        return
    flux = name.removesuffix("Err")
    with np.errstate(invalid="ignore", divide="ignore"):
        bright = (reference[flux] / reference[f"{flux}Err"] > BRIGHT) & np.isfinite(weights)
    yield Deviations(f"error_bars_of_bright_{name}", weights[bright], CMODEL_BRIGHT)


def _belongs(name: str, prefix: str) -> bool:
    """Whether a column is one of a plugin's: its own, its correction's or its slot's."""
    return name.startswith((prefix, f"apcorr_{prefix}"))


def _compare_type(name: str, ours: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Iterator[Deviations]:
    """Yield a deviation if the types differ (the length of text is free)."""
    same = ours.dtype == reference.dtype or (ours.dtype.kind in "UO" and reference.dtype.kind in "UO")
    if not same:
        yield outcome("column_types", f"{name} {ours.dtype}", f"{name} {reference.dtype}")


def compare_psf(model: PsfModel, reference: PsfReference) -> Iterator[Deviations]:
    """Compare the PSF at the probe points, drawn in place and as a kernel, with the average position."""
    for point, (x, y, color) in enumerate(reference.probes):
        for kind, image in (
            ("image", model.image(x=x, y=y, color=color)),
            ("kernel", model.kernel_image(x=x, y=y, color=color)),
        ):
            wanted, corner = reference.images[kind][point], reference.corners[kind][point]
            peak = float(np.max(wanted))
            yield deviations_between(f"psf_{kind}", image.array / peak, wanted / peak, PSF_IMAGE)
            yield deviations_between(f"psf_{kind}_corner", np.array([image.x0, image.y0]), corner, EXACT)
    position = np.array(model.average_position)
    yield deviations_between(
        "psf_average_position", position, reference.average_position, Tolerance("absolute", 1e-9)
    )
    yield deviations_between(
        "psf_average_color",
        np.array([model.average_color]),
        np.array([reference.average_color]),
        Tolerance("absolute", 1e-6, reason="float32 colours"),
    )


def compare_ap_corr(
    fields: Mapping[str, BoundedField], reference: ApCorrReference, not_implemented: Mapping[str, str]
) -> Iterator[Deviations]:
    """Compare the aperture-correction map: which entries exist, their values on the grid, coefficients."""
    for name, wanted in reference.values.items():
        cause = next((why for prefix, why in not_implemented.items() if name.startswith(prefix)), "")
        label = f"ap_corr_{name}"
        if name not in fields:
            values = np.empty(0) if cause else np.array([np.inf])
            kind = Tolerance("report", reason=cause) if cause else EXACT
            yield Deviations(label, values, kind, cause, "" if cause else "the map lacks this entry")
            continue
        found = fields[name].evaluate(x=reference.grid_x, y=reference.grid_y)
        yield deviations_between(label, found, wanted, field_tolerance(name))
        family = "_modelfit_CModel" if name.startswith("modelfit_CModel") else ""
        coefficients = reference.coefficients[name]
        yield deviations_between(
            f"ap_corr_coefficients{family}",
            _padded(fields[name], coefficients.shape),
            coefficients,
            coefficient_tolerance(name),
        )
    extra = sorted(set(fields) - set(reference.values))
    yield outcome("ap_corr_entries_beyond_reference", ",".join(extra), "")


def compare_record(
    ours: ExposureRecord | None, reference: ExposureRecord | None, not_implemented: Mapping[str, str]
) -> Iterator[Deviations]:
    """Compare the entry of the exposure catalogue: is there one, its numbers, its parts."""
    yield outcome("catalogue_entry", ours is not None, reference is not None)
    if ours is None or reference is None:
        return
    for name in ("detector", "visit", "box"):
        yield outcome(f"catalogue_{name}", getattr(ours, name), getattr(reference, name))
    yield outcome("catalogue_psf_class", _class_of(ours.psf), _class_of(reference.psf))
    prefixes = tuple(not_implemented)
    wanted = {name for name in reference.ap_corr_map or {} if not (prefixes and name.startswith(prefixes))}
    yield outcome("catalogue_map_entries", sorted(ours.ap_corr_map or {}), sorted(wanted))


def _class_of(psf: object) -> str:
    """Return the persisted class of a stored PSF."""
    return "none" if psf is None else str(getattr(psf, "persisted_class", type(psf).__name__))


def _padded(field: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the coefficients in the reference's frame, NaN where absent."""
    rows, columns = field.coefficients.shape
    frame = np.full((max(rows, shape[0]), max(columns, shape[1])), np.nan)
    frame[:rows, :columns] = field.coefficients
    return frame
