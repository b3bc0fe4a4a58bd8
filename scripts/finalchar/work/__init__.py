"""What every job does around the science: compare, compute what is due, write, record.

One job is known by its stamp and the frozen run folder.  It redoes only what its own comparison finds due,
writes products (temporary name and rename), then the record, then the stamp.  docs/staleness.md has the
rules.

`job` is what all jobs share; `tract`, `visit_list`, `detector`, `visit`, `survey` have the function of one
rule each, `group` what a job of several detectors knows of them; `files` and `unit` are what they are built
from, `start` and `screen` what the user sees.  Standard library only at the top of the modules: a job that
finds nothing due imports no science.
"""
