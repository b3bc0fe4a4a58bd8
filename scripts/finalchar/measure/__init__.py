"""Measurement of the candidate stars with the new PSF."""

from finalchar.measure.run import run_measurement
from finalchar.measure.schema import expand_aliases, make_output_table

__all__ = ["expand_aliases", "make_output_table", "run_measurement"]
