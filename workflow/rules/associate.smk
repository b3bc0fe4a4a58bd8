"""Association stage: the isolated stars of tracts for which the sheet gives a region instead of tables.

Needs: the sheets and the source tables that detectors.csv names.
Makes: OUTPUT/isolated_stars/isolated_star_cat_{tract}.parquet, isolated_star_sources_{tract}.parquet.
"""


rule associate_isolated_stars:
    output:
        f"{STATE}/associate/tract_{{tract}}.{{token}}",
    log:
        f"{LOGS}/associate/tract_{{tract}}.{{token}}.log",
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        python=python,
        script=script("associate_isolated_stars"),
        run=frozen_run,
    shell:
        "{params.python:q} {params.script:q} {output:q} {params.run:q} 2> {log:q}"
