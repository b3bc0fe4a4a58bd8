"""Write the table of all detectors of the survey."""

from finalchar import work

if __name__ == "__main__":
    work.main(work.summarize_survey)
