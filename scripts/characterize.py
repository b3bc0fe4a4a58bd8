"""Characterise the due detectors of one group."""

from finalchar.work.detector import characterize
from finalchar.work.start import main

if __name__ == "__main__":
    main(characterize)
