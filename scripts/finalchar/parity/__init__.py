"""Comparison with reference results of the LSST tasks, laid out as a folder per configuration.

``python -m finalchar.parity DIR`` runs every configuration it finds in DIR on ``DIR/survey`` with
``compatibility: lsst`` and prints, for every column and quantity, how many values were compared, the median
and the largest deviation, the tolerance and the verdict.
"""
