"""The cheapest runs that show what a setting does: each takes a configuration and returns what came of it.

The detector is one of the golden survey, with troubles planted so that every cut has something to cut: rows
that fail one cut each, bad pixels on stars, stars made extended.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from gaussian_psf import gaussian_determiner, quick_config

from finalchar.characterize import (
    Subtasks,
    _Characterization,
    characterize_detector,
    read_detector,
    standard_star_bands,
)
from finalchar.config import Config
from finalchar.consolidate import DetectorProducts, consolidate_visit
from finalchar.errors import FinalcharError
from finalchar.formats import products
from finalchar.measure import make_output_table, plugins, run_measurement
from finalchar.measure.context import make_context
from finalchar.measure.footprint_geometry import select_footprints
from finalchar.measure.noise_replacement import PlainImage
from finalchar.measure.plugin import default_column
from finalchar.psf import acceptance
from finalchar.stars.visit_list import concatenate_isolated_stars
from finalchar.status import Status

SURVEY = Path(__file__).parents[3] / "tests/data/golden_small/survey"
VISIT, DETECTOR, BAND = 2026011500101, 0, "g"
TRACTS = (4906, 4907)
GOOD_ROWS = 4
"""Bright rows that pass all cuts but the one on the mask."""
MEASURED_ROWS = (0, 3, 9)
"""Candidates that plugins measure: one with bad pixels, one extended, one faint."""


# ------------------------------------------------------------------------------------------------- data


@cache
def tract_tables(name):
    import pandas as pd

    return {tract: pd.read_parquet(SURVEY / f"{name}_{tract}.parquet") for tract in TRACTS}


def isolated_stars(config, bands=None, *, visit=VISIT, detector=DETECTOR, band=BAND):
    """Return the isolated stars of a detector; `bands` of the standard stars, by default those needed."""
    return concatenate_isolated_stars(
        tract_tables("isolated_star_cat"),
        tract_tables("isolated_star_sources"),
        band=band,
        visit=visit,
        detector=detector,
        settings=config.reserve_selection,
        id_column=config.id_column,
        fgcm_standard_star_dict=tract_tables("fgcm_standard_star"),
        fgcm_bands=standard_star_bands(config, band) if bands is None else bands,
    )


@cache
def inputs():
    """The detector with its troubles."""
    read = read_detector(
        visit=VISIT,
        detector=DETECTOR,
        band=BAND,
        exposure=SURVEY / f"calexp_{VISIT}_{DETECTOR}.fits",
        src=SURVEY / f"src_{VISIT}_{DETECTOR}.fits",
        isolated=isolated_stars(Config(), ["g", "i", "r"]),
    )
    work = _Characterization(read, Config(), Subtasks())
    work.select_sources()
    work.match_isolated_stars()
    rows = np.flatnonzero(np.isin(read.sources["id"], work.selected["id"]))
    bright = rows[np.argsort(-read.sources["base_PsfFlux_instFlux"][rows])]
    exposure = with_bad_pixels(read.exposure, read.sources, rows, bright[:GOOD_ROWS])
    footprints = with_second_peak(read.footprints, read.sources["id"][bright[GOOD_ROWS]])
    return replace(
        read, exposure=exposure, sources=with_bad_rows(read.sources, bright), footprints=footprints
    )


def with_second_peak(footprints, source_id):
    """Give the footprint of a star a second peak beside the first."""
    row = int(footprints.index_of(np.array([source_id]))[0])
    at = footprints.peak_offset[row + 1]
    offset = footprints.peak_offset.copy()
    offset[row + 1 :] += 1
    x, y = (values[footprints.peak_offset[row]] for values in (footprints.peak_x, footprints.peak_y))
    return replace(
        footprints,
        peak_offset=offset,
        peak_x=np.insert(footprints.peak_x, at, x + 4),
        peak_y=np.insert(footprints.peak_y, at, y + 2),
        peak_f_x=np.insert(footprints.peak_f_x, at, x + 4.0),
        peak_f_y=np.insert(footprints.peak_f_y, at, y + 2.0),
    )


def with_bad_rows(table, rows):
    """Give some rows, which pass all other cuts, one property each that fails a cut; not the first ones."""
    number, generator = len(table), np.random.default_rng(5)
    flux = 10 ** generator.uniform(3.0, 6.0, number)
    added = {
        "flux": flux,
        "flux_err": flux / generator.uniform(5.0, 500.0, number),
        "mag_err": generator.uniform(0.0, 0.2, number),
        "centroid_x": np.array(table["slot_Centroid_x"]),
        "centroid_y": np.array(table["slot_Centroid_y"]),
        "x_with_nan": np.array(table["slot_Centroid_x"]),
        "sky_source": np.zeros(number, dtype=bool),
        "planted_flux": np.array(table["base_CircularApertureFlux_9_0_instFlux"]),
        "planted_fluxErr": np.array(table["base_CircularApertureFlux_9_0_instFluxErr"]),
        "planted_flag": np.arange(number) == rows[2],
        "base_ClassificationSizeExtendedness_value": generator.uniform(0.0, 0.95, number),
    }
    for name, value in (
        ("flux", 1e5),
        ("flux_err", 1e3),
        ("mag_err", 0.05),
        ("base_ClassificationSizeExtendedness_value", 0.1),
    ):
        added[name][rows[:16]] = value
    selectors = Config().source_selector
    for name, default in (
        *((flag, False) for flag in (*selectors.science.flags.bad, *selectors.objectSize.badFlags)),
        ("coord_ra", 0.0),
        ("coord_dec", 0.0),
        ("parent", 0),
        ("deblend_nChild", 0),
        ("detect_isPrimary", True),
        ("slot_Centroid_xErr", 0.01),
        ("slot_Centroid_yErr", 0.01),
        ("base_PixelFlags_flag_edge", False),
    ):
        true_name = table.resolve(name)
        added[true_name] = np.array(table[name], copy=True) if name in table else np.full(number, default)
    faults = (
        ("coord_ra", np.nan),
        ("coord_dec", np.nan),
        ("parent", 7),
        ("deblend_nChild", 2),
        ("detect_isPrimary", False),
        ("sky_source", True),
        (table.resolve("slot_Centroid_xErr"), 5.0),
        ("base_PixelFlags_flag_edge", True),
        ("x_with_nan", np.nan),
    )
    for row, (name, value) in zip(rows[GOOD_ROWS:], faults, strict=False):
        added[name][row] = value
    added["base_PixelFlags_flag_edge"] |= added["sky_source"]
    return table.with_columns(added)


def with_bad_pixels(exposure, sources, rows, centre_lost):
    """Bad pixels on some stars, whose values are wrong, and two stars made extended."""
    from scipy.ndimage import gaussian_filter

    image, mask = exposure.image.copy(), exposure.mask.copy()
    x = np.rint(sources["slot_Centroid_x"]).astype(int) - exposure.box.min_x
    y = np.rint(sources["slot_Centroid_y"]).astype(int) - exposure.box.min_y
    for planes, row, area in (
        (("BAD",), rows[0], (slice(1, 3), slice(2, 4))),
        (("SAT",), rows[1], (slice(-3, -1), slice(1, 3))),
        *((("NO_DATA",), row, (slice(0, 1), slice(0, 1))) for row in centre_lost),
        (("INTRP",), rows[5], (slice(-9, 9), slice(2, 9))),
    ):
        place = tuple(
            slice(part.start + at, part.stop + at) for part, at in zip(area, (y[row], x[row]), strict=True)
        )
        mask[place] |= exposure.mask_bits(planes)
        image[place] += 500.0
    for row, sigma in ((rows[3], 4.0), (rows[9], 1.5)):
        cutout = (slice(max(y[row] - 30, 0), y[row] + 31), slice(max(x[row] - 30, 0), x[row] + 31))
        image[cutout] = gaussian_filter(image[cutout], sigma)
    return replace(exposure, image=image, mask=mask)


@cache
def prepared():
    """Candidates, and the PSF that plugins measure with."""
    work = characterization(Config())
    work.find_footprints()
    for step in ("select_sources", "match_isolated_stars", "start_table", "make_candidates", "determine_psf"):
        getattr(work, step)()
    return work


def characterization(config, **changes):
    return _Characterization(replace(inputs(), **changes), config, Subtasks())


def resumed(config, earlier):
    """The characterisation `earlier`, to be continued with another configuration."""
    work = copy.copy(earlier)
    work.config, work.compatibility = config, config.compatibility
    work.counts, work.figures, work.warnings = dict(work.counts), dict(work.figures), list(work.warnings)
    return work


# ---------------------------------------------------------------------------------------------- outcomes


def outcome(probe, config):
    """What a probe finds, or the sentence with which it was refused."""
    try:
        return probe(config)
    except FinalcharError as error:
        return {"refused": str(error)}


def refused(result):
    return "refused" in result


def differences(first, second):
    """Names of what two outcomes do not have in common."""
    names = set(first) ^ set(second)
    return sorted(names | {name for name in set(first) & set(second) if not same(first[name], second[name])})


def same(first, second):
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    return repr(first) == repr(second)


# ------------------------------------------------------------------------------------------------ probes


def tract_and_list(config):
    """Reserved stars and the standard stars kept for the visit."""
    stars = isolated_stars(config)
    fgcm = {} if stars.fgcm is None else {f"fgcm_{name}": v for name, v in stars.fgcm.magnitudes.items()}
    return {"source_id": stars.source_id, "reserved": stars.reserved, **fgcm}


def segmentation(config):
    """Footprints where the catalogue has none."""
    work = characterization(config, footprints=None)
    work.find_footprints()
    found = work.footprints
    return {"spans": found.span_offset, "x0": found.span_x0, "peaks": found.peak_x, **work.counts}


def selection(config):
    """Sources selected and matched."""
    work = characterization(config)
    work.select_sources()
    work.match_isolated_stars()
    return {"id": work.selected["id"], **work.counts}


def candidates(config):
    """Stamps of the candidates."""
    work = resumed(config, prepared())
    work.make_candidates()
    found = work.candidates
    return {"size": found.size, "row": found.index, "maximum": found.psf_max_value, "figures": work.counts}


def psf(config):
    """The fit up to its acceptance."""
    work = resumed(config, prepared())
    work.add_colors()
    work.make_candidates()
    work.determine_psf()
    kernels = work.fit.model.kernel_images(x=np.array([100.0, 700.0]), y=np.array([200.0, 800.0]))
    stored = work.fit.serialized
    stored = len(stored) if isinstance(stored, bytes) else None
    return {"kernels": kernels, "stored bytes": stored, **work.figures, **work.counts}


class WithHole:
    """A PSF that is not finite around one place, a third of the way across the detector."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def kernel_images(self, *, x, y):
        kernels = self.model.kernel_images(x=x, y=y)
        box = inputs().exposure.box
        kernels[(abs(x - box.max_x / 3) < 2) & (abs(y - box.max_y / 3) < 2)] = np.nan
        return kernels


def accepted(config):
    """The acceptance of a PSF with a hole; without a limit of stars, of one that has not converged."""
    fit = replace(prepared().fit, model=WithHole(prepared().fit.model))
    if config.psf_acceptance.min_stars_per_term == 0:
        fit = replace(fit, evidence=replace(fit.evidence, converged=False))
    return dict(acceptance.check_psf(fit, inputs().exposure, config.psf_acceptance))


PREREQUISITES = (
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_photometryKron_KronFlux",
    "modelfit_DoubleShapeletPsfApprox",
)


@cache
def measured_before():
    """Table and context with which a plugin can be run alone."""
    config = Config()
    config.measurement.plugins.names = list(PREREQUISITES)
    config.measurement.doReplaceWithNoise = False
    rows = prepared().selected.select(np.array(MEASURED_ROWS))
    table = make_output_table(selected=rows, settings=config.measurement)
    found = inputs()
    run_measurement(
        exposure=found.exposure,
        psf=prepared().fit.model,
        footprints=found.footprints,
        table=table,
        settings=config.measurement,
    )
    context = make_context(
        exposure=found.exposure,
        psf=prepared().fit.model,
        footprints=found.footprints,
        footprint_index=select_footprints(found.footprints, table["id"]),
        images=PlainImage(found.exposure.image, found.exposure.box),
        table=table,
        slots=config.measurement.slots,
        compatibility="fixed",
    )
    return context, table


def plugin_alone(name, *, without_moments=False):
    """Probe of the columns of one plugin, also where the moments before it have failed."""

    def probe(config):
        context, table = measured_before()
        plugin = plugins.get(name).Plugin(name, getattr(config.measurement.plugins, name))
        if without_moments:
            failed = np.ones(len(table), dtype=bool)
            table = table.with_columns({"ext_shapeHSM_HsmSourceMoments_flag": failed})
        own = {field.name: default_column(field.dtype, len(table)) for field in plugin.fields()}
        if plugin.settings.doMeasure:
            plugin.measure(context, table.with_columns(own))
        own = {column: values for column, values in own.items() if not column.endswith("_time")}
        return {**own, "to be corrected": plugin.fluxes()}

    return probe


def times_filled(config):
    """Which times of fits a whole measurement keeps."""
    work = resumed(config, prepared())
    work._selected = work.selected.select(np.array(MEASURED_ROWS))
    work.start_table()
    work.measure_stars()
    return {
        name: np.isfinite(values)
        for name, values in work.table.columns.items()
        if name.endswith("_time") and values.dtype.kind == "f"
    }


def whole(config):
    """A detector from candidates to export, with a PSF that needs no fit."""
    result = characterize_detector(
        inputs=inputs(), config=config, subtasks=Subtasks(psf_determiner=gaussian_determiner)
    )
    stated = result.status
    table = {} if result.table is None else dict(result.table.columns)
    return {**table, "status": (stated.status, stated.sentence, stated.counts, stated.figures)}


@cache
def measured():
    """A characterisation whose stars are measured, with a row for every cut of the corrections."""
    work = resumed(quick_config(), prepared())
    work.start_table()
    work.measure_stars()
    bright = np.argsort(-work.table["base_PsfFlux_instFlux"])
    work._table = with_bad_rows(work.table, bright)
    return work


def corrections(config):
    """Aperture corrections, measured and applied."""
    work = resumed(config, measured())
    work.measure_ap_corr()
    work.apply_ap_corr()
    centre_x, centre_y = work.exposure.box.centre
    values = {name: field.evaluate(x=[centre_x], y=[centre_y]) for name, field in work.ap_corr_map.items()}
    return {**work.table.columns, **values, **work.figures, "warnings": work.warnings}


def consolidated(folder):
    """Probe of the files of a visit."""

    def probe(config):
        output = folder / f"{config.output.piff}_{config.compatibility}"
        detector = folder / "detector"
        detector.mkdir(exist_ok=True)
        result = resumed(quick_config(), measured()).result(Status.OK)
        products.write_detector_products(result, detector / "a.fits", detector / "a.parquet")
        made = DetectorProducts(result.status, detector / "a.fits", detector / "a.parquet")
        consolidate_visit(
            visit=VISIT, band=BAND, detectors=[made], reserve_digests={}, config=config, output=output
        )
        return {path.name: path.read_bytes() for path in output.iterdir()}

    return probe
