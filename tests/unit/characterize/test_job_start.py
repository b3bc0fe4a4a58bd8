"""What a detector job loads: start-up is part of its cost."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from finalchar.work.garbage import rare_collection

ROOT = Path(__file__).parents[3]
HEAVY = ("astropy", "fitsio", "galsim", "pandas", "piff", "pyarrow", "scipy", "sklearn")
NOTHING_TO_DO = """
import json, sys
from pathlib import Path
import numpy as np
from finalchar import characterize
from finalchar.config import Config
from finalchar.stars.isolated_sources import IsolatedSources

none = np.zeros(0, np.int64)
isolated = IsolatedSources(none.astype(np.int32), none, none, none, none.astype(bool), none.astype(np.int32))
path = Path("there is no such file")
inputs = characterize.read_detector(
    visit=1, detector=1, band="i", exposure=path, src=path, isolated=isolated
)
result = characterize.characterize_detector(inputs=inputs, config=Config())
print(json.dumps([result.status.status.value, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def test_a_detector_without_stars_loads_nothing_heavy_and_reads_no_file():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", NOTHING_TO_DO]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    status, modules = json.loads(result.stdout)
    assert status == "no_isolated_stars"
    assert set(modules) & set(HEAVY) == set()


def test_the_garbage_collector_is_as_before_after_the_first_detector():
    before = gc.get_threshold()
    try:
        with rare_collection():
            assert gc.get_threshold()[0] > before[0]
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
