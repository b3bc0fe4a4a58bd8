"""The whole chain in one process, without workflow, planning or records: what must be on disk.

Arguments: the clone whose library is used, the folder of config.yaml, the folder for the products.
"""

import os
import sys
from pathlib import Path


def main(clone: str, folder: str, output: str) -> None:
    sys.path.insert(0, str(Path(clone, "scripts")))
    os.chdir(folder)

    from finalchar.config import load_config
    from finalchar.sheets import read_detectors, read_tracts

    config = load_config("config.yaml")
    rows = read_detectors(config.detectors_sheet)
    tracts = read_tracts(config.tracts_sheet)
    reserved, draws = reserve(config, rows, tracts, Path(output))
    summaries = [
        visit_products(config, visit, rows, reserved, draws, Path(output))
        for visit in sorted({row.visit for row in rows})
    ]
    from finalchar.consolidate import summarize_survey

    summarize_survey(summaries=summaries, output=Path(output, "survey_summary.parquet"))


def reserve(config, rows, tracts, output):
    from finalchar.stars.tract import reserve_stars
    from finalchar.stars.visit_list import TractInputs

    products, draws = [], {}
    for row in tracts:
        star_table, source_table = star_tables(config, row, rows, output)
        product = output / "reserve" / f"reserved_stars_{row.tract}.parquet"
        product.parent.mkdir(parents=True, exist_ok=True)
        figures = reserve_stars(
            tract=row.tract,
            star_table=star_table,
            source_table=source_table,
            bands=sorted({row.band for row in rows}),
            settings=config.reserve_selection,
            id_column=config.id_column,
            output=product,
        )
        digests = {band: found["digest"] for band, found in figures["bands"].items()}
        draws[row.tract] = (digests, set(figures["visits"]))
        products.append(TractInputs(tract=row.tract, reserved=product))
    return products, draws


def star_tables(config, row, rows, output):
    """The tables of a tract, associated here if the sheet gives its region."""
    if row.region is None:
        return Path(config.survey, row.isolated_star_cat), Path(config.survey, row.isolated_star_sources)
    from finalchar.stars.association import TractGeometry, write_isolated_stars

    folder = output / "isolated_stars"
    folder.mkdir(parents=True, exist_ok=True)
    names = ("isolated_star_cat", "isolated_star_sources")
    star_table, source_table = (folder / f"{name}_{row.tract}.parquet" for name in names)
    write_isolated_stars(
        source_tables={each.visit: Path(config.survey, each.extra["source_table"]) for each in rows},
        geometry=TractGeometry.of_region(row.tract, row.region),
        settings=config.isolated_star_association,
        compatibility=config.compatibility,
        star_table=star_table,
        source_table=source_table,
    )
    return star_table, source_table


def visit_products(config, visit, rows, reserved, draws, output):
    from finalchar.characterize import characterize_detector, load_detector_inputs
    from finalchar.consolidate import DetectorProducts, consolidate_visit
    from finalchar.formats.products import write_detector_products
    from finalchar.stars.visit_list import make_visit_list

    mine = sorted((row for row in rows if row.visit == visit), key=lambda row: row.detector)
    folder = output / str(visit)
    (folder / "detectors").mkdir(parents=True, exist_ok=True)
    band = mine[0].band
    make_visit_list(visit=visit, band=band, tracts=reserved, output=folder / "visit_list.parquet")
    made = []
    for row in mine:
        inputs = load_detector_inputs(
            visit=visit,
            detector=row.detector,
            band=band,
            exposure=Path(config.survey, row.exposure),
            src=Path(config.survey, row.src),
            visit_list=folder / "visit_list.parquet",
            config=config,
            survey=Path(config.survey),
            row={**row.extra, "exposure": row.exposure},
        )
        result = characterize_detector(inputs=inputs, config=config)
        psf = folder / "detectors" / f"psf_ap_corr_{visit}_{row.detector:03d}.fits"
        table = folder / "detectors" / f"finalized_src_{visit}_{row.detector:03d}.parquet"
        write_detector_products(result, psf, table)
        paths = (path if path.exists() else None for path in (psf, table))
        made.append(DetectorProducts(result.status, *paths))
    consolidate_visit(
        visit=visit,
        band=band,
        detectors=made,
        reserve_digests={
            tract: found[band]
            for tract, (found, visits) in draws.items()
            if band in found and visit in visits
        },
        config=config,
        output=folder,
    )
    return folder / "summary.parquet"


if __name__ == "__main__":
    main(*sys.argv[1:4])
