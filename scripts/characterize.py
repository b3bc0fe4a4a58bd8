"""Characterise the due detectors of one group."""

from finalchar import work

if __name__ == "__main__":
    work.main(work.characterize)
