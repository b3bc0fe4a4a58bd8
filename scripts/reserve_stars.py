"""Draw the reserved stars of one tract."""

from finalchar.work.start import main
from finalchar.work.tract import reserve_stars

if __name__ == "__main__":
    main(reserve_stars)
