"""What is compared with the reference's own results of an earlier step in place of ours.

Where a step is chaotic (the galaxy-model fits stop in the rounding noise), the steps after it are judged for
themselves: the pixels of the later fits follow from the reference's initial fit, and a flux is compared
without the aperture correction, which takes part of the deviations of all stars of a detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from finalchar.formats.exposure import BoundedField
from finalchar.formats.sources import SourceTable
from finalchar.parity.deviations import Deviations, Tolerance, deviations_between
from finalchar.parity.tolerances import column_tolerance, true_name, uncorrected_tolerance

__all__ = ["columns_given_reference", "compare_final_regions", "compare_uncorrected"]

FloatArray = npt.NDArray[np.float64]
CMODEL = "modelfit_CModel"
CMODEL_FLUXES = tuple(f"{CMODEL}{stage}_instFlux" for stage in ("_initial", "_exp", "_dev", ""))
AXES = ("xx", "yy", "xy")
OWN_FIT = Tolerance("report", reason="derived from our own initial fit, whose size is degenerate for stars")


def columns_given_reference(reference: SourceTable, settings: Any) -> dict[str, FloatArray]:
    """Return our value of columns, by name without slot, computed from the reference's earlier columns.

    Parameters
    ----------
    reference : SourceTable
        The reference's rows.
    settings : section or None
        ``measurement.plugins.modelfit_CModel``; None if the reference does not run it.
    """
    if settings is None or f"{CMODEL}_initial_ellipse_xx" not in reference:
        return {}
    from finalchar.measure.cmodel.measurement import read_shapelets
    from finalchar.measure.cmodel.region import revised_region
    from finalchar.measure.quadrupoles import Quadrupoles

    def ellipse(name: str) -> Quadrupoles:
        return Quadrupoles(*(np.asarray(reference[f"{CMODEL}_{name}_{axes}"]) for axes in AXES))

    psf, _, _ = read_shapelets(reference, settings.psfName).moments()
    region = revised_region(
        fitted=ellipse("initial_ellipse"),
        psf=psf,
        initial=ellipse("region_initial_ellipse"),
        settings=settings.region,
    ).ellipse
    return {f"{CMODEL}_region_final_ellipse_{axes}": getattr(region, axes) for axes in AXES}


def compare_final_regions(
    name: str, ours: FloatArray, given: FloatArray, reference: FloatArray, scale: FloatArray | None
) -> Iterator[Deviations]:
    """Judge a column by its value given the reference's initial fit; report that of our own fit.

    Where the reference has no initial fit there is nothing given, and our own value is judged.
    """
    judged = np.where(np.isnan(given), ours, given)
    yield deviations_between(name, judged, reference, column_tolerance(name), scale=scale)
    if true_name(name) == name:
        own = deviations_between(f"own_{name}", ours, reference, column_tolerance(name), scale=scale)
        yield replace(own, tolerance=OWN_FIT)


def compare_uncorrected(
    ours: SourceTable,
    reference: SourceTable,
    our_fields: Mapping[str, BoundedField],
    fields: Mapping[str, BoundedField],
) -> Iterator[Deviations]:
    """Compare the CModel fluxes and errors as they were before each side's own aperture correction."""
    x, y = (np.asarray(reference[f"slot_Centroid_{axis}"], dtype=np.float64) for axis in "xy")
    for flux in CMODEL_FLUXES:
        if flux not in our_fields or flux not in fields or flux not in ours or flux not in reference:
            continue
        ratio = our_fields[flux].evaluate(x=x, y=y) / fields[flux].evaluate(x=x, y=y)
        for name in (flux, f"{flux}Err"):
            yield deviations_between(
                f"uncorrected_{name}", ours[name] / ratio, reference[name], uncorrected_tolerance(name)
            )
