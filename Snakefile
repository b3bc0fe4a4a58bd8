"""finalchar: from tract catalogues to per-visit PSF, aperture-correction and star catalogues.

Plain `snakemake` makes what is due, and nothing else: see docs/workflow.md and docs/staleness.md.
"""

from snakemake.utils import min_version

min_version("9.27")


include: "workflow/rules/common.smk"
# (associate_isolated_stars ->) reserve_stars -> list_visit -> reserve_gate -> characterize -> consolidate -> summarize_survey
include: "workflow/rules/associate.smk"
include: "workflow/rules/reserve.smk"
include: "workflow/rules/characterize.smk"
include: "workflow/rules/consolidate.smk"


localrules:
    all,
    reserve_gate,


rule all:
    default_target: True
    input:
        after_gate(lambda plan, wildcards: plan.targets()),


onstart:
    start_run()


onsuccess:
    end_run()


onerror:
    show_outcomes()
