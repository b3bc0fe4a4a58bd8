"""A detector whose determiner needs a program that is not there: an error of the job, no status."""

import pytest
import setting_probes as probes

from finalchar.characterize import characterize_detector
from finalchar.config import Config
from finalchar.errors import MissingProgramError


@pytest.mark.filterwarnings("ignore")
def test_missing_program_ends_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    config = Config(psf_determiner={"name": "psfex"})
    with pytest.raises(MissingProgramError, match=r"no program 'psfex'.*apt-get install psfex"):
        characterize_detector(inputs=probes.inputs(), config=config)
