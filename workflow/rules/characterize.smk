"""Detector stage: PSF, measurement and aperture corrections of the detectors of one group.

Needs: exposures and source catalogues of detectors.csv, the visit's list.
Makes: OUTPUT/{visit}/detectors/psf_ap_corr_{visit}_{detector}.fits and finalized_src_{visit}_{detector}.parquet.
"""


# No input: a list as input would trigger its whole visit; the planner knows which detectors see other rows.
rule characterize:
    output:
        temp(f"{STATE}/{{visit}}/{{group}}.{{token}}"),
    log:
        f"{LOGS}/{{visit}}/{{group}}.{{token}}.log",
    retries: 2
    resources:
        mem_mb=lambda wildcards, attempt: 1600 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        python=python,
        script=script("characterize"),
        run=frozen_run,
    shell:
        "{params.python:q} {params.script:q} {output:q} {params.run:q} 2> {log:q}"
