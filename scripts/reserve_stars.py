"""Draw the reserved stars of one tract."""

from finalchar import work

if __name__ == "__main__":
    work.main(work.reserve_stars)
