"""Find the isolated stars of one tract in the source tables of the visits."""

from finalchar.work.association import associate_isolated_stars
from finalchar.work.start import main

if __name__ == "__main__":
    main(associate_isolated_stars)
