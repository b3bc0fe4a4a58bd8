"""Write the reserve list of one visit."""

from finalchar.work.start import main
from finalchar.work.visit_list import list_visit

if __name__ == "__main__":
    main(list_visit)
