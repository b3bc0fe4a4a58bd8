"""Consolidate one visit."""

from finalchar import work

if __name__ == "__main__":
    work.main(work.consolidate)
