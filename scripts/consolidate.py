"""Consolidate one visit."""

from finalchar.work.start import main
from finalchar.work.visit import consolidate

if __name__ == "__main__":
    main(consolidate)
