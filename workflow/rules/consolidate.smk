"""Visit and survey stage: one set of catalogues per visit, one table of all detectors.

Needs: all detectors of the visit, those without products included.
Makes: OUTPUT/{visit}/finalized_psf_ap_corr_catalog.fits, finalized_src_table.parquet, summary.parquet and
OUTPUT/survey_summary.parquet.
"""


rule consolidate:
    input:
        stamps_after_gate(
            lambda plan, wildcards: list(
                plan.group_units(int(wildcards.visit)).values()
            )
        ),
    output:
        f"{STATE}/{{visit}}/visit.{{token}}",
    log:
        f"{LOGS}/{{visit}}/visit.{{token}}.log",
    retries: 0  # it fails only for what no retry cures
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        python=python,
        script=script("consolidate"),
        run=frozen_run,
    shell:
        "{params.python:q} {params.script:q} {output:q} {params.run:q} 2> {log:q}"


rule summarize_survey:
    input:
        stamps_after_gate(lambda plan, wildcards: plan.visits()),
    output:
        f"{STATE}/survey/survey.{{token}}",
    log:
        f"{LOGS}/survey/survey.{{token}}.log",
    retries: 0
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 20 * attempt,
    params:
        python=python,
        script=script("summarize_survey"),
        run=frozen_run,
    shell:
        "{params.python:q} {params.script:q} {output:q} {params.run:q} 2> {log:q}"
