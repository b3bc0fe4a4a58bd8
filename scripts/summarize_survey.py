"""Write the table of all detectors of the survey."""

from finalchar.work.start import main
from finalchar.work.survey import summarize_survey

if __name__ == "__main__":
    main(summarize_survey)
