"""Tract and visit stage: which stars are reserved, and one small list per visit.

Needs: the sheets and the tables that tracts.csv names, or those that the association stage made.
Makes: OUTPUT/reserve/reserved_stars_{tract}.parquet, OUTPUT/{visit}/visit_list.parquet.
"""


rule reserve_stars:
    input:
        stamps(lambda plan, wildcards: plan.units_of_tract(int(wildcards.tract))),
    output:
        f"{STATE}/reserve/tract_{{tract}}.{{token}}",
    log:
        f"{LOGS}/reserve/tract_{{tract}}.{{token}}.log",
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        python=python,
        script=script("reserve_stars"),
        run=frozen_run,
    shell:
        "{params.python:q} {params.script:q} {output:q} {params.run:q} 2> {log:q}"


rule list_visit:
    input:
        stamps(lambda plan, wildcards: plan.units_of_list(int(wildcards.visit))),
    output:
        f"{STATE}/{{visit}}/list.{{token}}",
    log:
        f"{LOGS}/{{visit}}/list.{{token}}.log",
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        python=python,
        script=script("list_visit"),
        run=frozen_run,
    shell:
        "{params.python:q} {params.script:q} {output:q} {params.run:q} 2> {log:q}"


# Consulted only when a list is due: detector tokens are computed after the lists are new, in the same run.
checkpoint reserve_gate:
    input:
        stamps(lambda plan, wildcards: plan.lists()),
    output:
        f"{STATE}/gate/gate.{{token}}",
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "rm -f {params.folder:q}/gate.* && touch {output:q}"
