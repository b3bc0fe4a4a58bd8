"""The house keeps its order: import direction, generated files, requirements, commands."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_rooms_import_only_from_rooms_before_them():
    assert runpy.run_path(str(ROOT / ".ci" / "import_direction.py"))["faults"]() == []


def test_import_check_finds_an_import_against_the_direction(tmp_path):
    """The check itself: a module of `stars` that imports `psf` inside a function is found."""
    check = runpy.run_path(str(ROOT / ".ci" / "import_direction.py"))
    library = tmp_path / "finalchar"
    (library / "stars").mkdir(parents=True)
    (library / "stars" / "bad.py").write_text(
        "def f():\n    from finalchar.psf import shape\n    from .. import plan\n"
    )
    check["faults"].__globals__["LIBRARY"] = library
    found = check["faults"]()
    assert len(found) == 2
    assert "'stars' imports 'psf', which comes after it" in found[0]
    assert "'stars' imports 'plan'; only commands and planners may" in found[1]


def test_generated_files_are_current():
    from finalchar.schemas import published

    for path, text in published().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is stale: make schemas"


def test_schema_of_the_configuration_agrees_with_the_example():
    import jsonschema
    import yaml

    schema = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors({"reserve_selection": {"reserve_fractoin": 1}}))
    example = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert not list(validator.iter_errors(example))


def pins(text):
    """Package names (lower case, without the conda spelling) and their pinned versions."""
    found = re.findall(r"^\s*-?\s*([A-Za-z][\w.-]*)\s*==\s*([\w.]+)", text, re.M)
    return {name.lower().removesuffix("-minimal"): version for name, version in found}


def test_requirements_and_conda_environment_are_the_same_set():
    requirements = pins((ROOT / "envs" / "requirements.txt").read_text())
    assert pins((ROOT / "envs" / "environment.yaml").read_text()) == requirements
    assert len(requirements) >= 12


def test_versions_that_are_compared_are_those_that_are_kept():
    from finalchar.characterize import PACKAGES
    from finalchar.provenance import NUMERICAL

    kept = {name.lower() for name in PACKAGES}
    assert kept - set(NUMERICAL) == {"pyarrow"}  # writes the tables, makes no number
    pinned = {**pinned_in("requirements.txt"), **pinned_in("constraints.txt")}
    assert set(NUMERICAL) <= kept <= set(pinned)


def test_package_and_requirements_are_the_same_set():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {name.lower() for name in package} == set(pins((ROOT / "envs" / "requirements.txt").read_text()))


def test_every_requirement_is_pinned_and_has_its_reason():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / "envs" / name).read_text().splitlines():
            if line and not line.startswith("#"):
                assert re.fullmatch(r"[\w.-]+==[\w.]+\s+# .+", line), line


def test_constraints_do_not_contradict_the_requirements():
    constraints = pinned_in("constraints.txt")
    assert not set(constraints) & set(pinned_in("requirements.txt"))
    for name, version in pinned_in("requirements-dev.txt").items():
        assert constraints.get(name, version) == version


def pinned_in(name):
    """Packages and versions of a file of ``envs``."""
    return pins((ROOT / "envs" / name).read_text())


DISTRIBUTION_OF = {"yaml": "pyyaml", "starlink": "starlink-pyast"}
"""Where a package is distributed under another name than that of its import."""
BY_PROFILE = {"snakemake_executor_plugin_slurm"}
"""In tests only, of envs/requirements-slurm.txt; the test is for machines that have it."""


def imported(*folders):
    """Third-party packages that the code of some folders imports, by the name of their distribution."""
    inside = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"finalchar"}
    names = set()
    for path in [file for folder in folders for file in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module))
    outside = {name.split(".")[0] for name in names} - sys.stdlib_module_names - inside
    return {DISTRIBUTION_OF.get(name, name) for name in outside}


def test_requirements_are_what_the_code_imports():
    """Nothing is there by accident of another package, and nothing is installed that is not used."""
    used_by_others = {"snakemake", "pandas"}  # runs the scripts; astropy turns frames into tables with it
    assert imported("scripts") | used_by_others == set(pinned_in("requirements.txt"))


def test_development_requirements_are_what_the_tests_import():
    tools = {"pytest-xdist", "pytest-timeout", "ruff", "mypy", "snakefmt"}  # run, not imported
    both = {*pinned_in("requirements.txt"), *pinned_in("requirements-dev.txt")}
    used = imported("tests", "envs", ".ci") - BY_PROFILE
    assert used <= both
    assert set(pinned_in("requirements-dev.txt")) <= used | tools


LOADED = """
import json, sys
from importlib import metadata
import piff
from finalchar.config import Config
from finalchar.formats import lsst_exposure, lsst_sources, parquet
from finalchar import characterize, stamps
from finalchar.measure import run, schema, segmentation
from finalchar.psf import acceptance, determiners
from finalchar.stars import candidates, visit_list
import astropy, fitsio, galsim, pyarrow.parquet, scipy, sep, starlink.Ast
Config()
of = metadata.packages_distributions()
tops = {name.split(".")[0] for name in sys.modules}
print(json.dumps(sorted({d.lower() for name in tops for d in of.get(name, [])})))
"""
MAKE_NO_NUMBERS = {
    "pyarrow": "writes the tables",
    "treecorr": "imported by treegp for its variograms",
    "iminuit": "imported by treegp for its variograms",
    "scikit-learn": "imported by treegp for names of kernels",
    "joblib": "of scikit-learn",
    "narwhals": "of scikit-learn",
    "threadpoolctl": "of scikit-learn",
    "cloudpickle": "of joblib",
    "psutil": "of joblib",
    "astropy-iers-data": "tables of the Earth's rotation, which no step asks for",
    "pydantic": "checks the settings",
    "pydantic-core": "checks the settings",
    "annotated-types": "of pydantic",
    "typing-extensions": "of pydantic",
    "typing-inspection": "of pydantic",
    "pyyaml": "reads the settings",
    "packaging": "of astropy: versions of packages",
    "setuptools": "of the installation",
    "pandas": "looked for by scikit-learn, where it is installed",
    "python-dateutil": "of pandas",
    "charset-normalizer": "of requests: text",
    "sortedcontainers": "looked for by astropy, where it is installed",
}


def test_packages_that_a_detector_job_loads_are_named_or_make_no_numbers():
    """Another version of what makes numbers makes products stale (``staleness.software``)."""
    from finalchar.provenance import NUMERICAL

    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", LOADED]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    loaded = {name.replace("_", "-") for name in json.loads(out)}
    assert set(NUMERICAL) <= loaded
    assert loaded - set(NUMERICAL) <= set(MAKE_NO_NUMBERS)


def test_installation_is_done_once(tmp_path, monkeypatch, capsys):
    install = runpy.run_path(str(ROOT / "envs" / "install.py"))
    calls = []
    space = install["main"].__globals__
    space.update(
        VENV=tmp_path, PYTHON=Path(sys.executable), STAMP=tmp_path / "stamp", _make_importable=lambda: None
    )
    space["_run"] = lambda command, sentence: calls.append(command)
    install["main"]([])
    install["main"]([])
    assert len(calls) == 1
    assert "requirements.txt into .venv" in capsys.readouterr().out
    install["main"](["--dev"])
    assert len(calls) == 2
    assert any(str(part).endswith("requirements-dev.txt") for part in calls[1])
    assert not any(str(part).endswith("requirements.txt") for part in calls[1])


def test_make_help_lists_the_commands():
    out = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in (
        "run",
        "run-psfex",
        "test",
        "lint",
        "parity",
        "bench",
        "scale",
        "test-slurm",
        "test-staleness",
    ):
        assert f"make {name} " in out


def test_names_of_test_files_are_unique():
    """Pytest imports them by name: two of one name cannot be run together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_workflow_tests_that_share_a_survey_run_in_one_process():
    """`make test` deals single tests out to processes: runs that follow on each other need a group."""
    for path in (ROOT / "tests" / "workflow").glob("test_*.py"):
        text = path.read_text()
        if re.search(r"fixture\(.*scope=\"module\"", text):
            assert "pytestmark = pytest.mark.xdist_group(" in text, path.name


@pytest.mark.xdist_group("house")
def test_tests_that_share_a_run_stay_in_one_process(request):
    """Releases of pytest and pytest-xdist that do not fit each other ignore the groups without a word."""
    if "PYTEST_XDIST_WORKER" in os.environ and request.config.getoption("loadgroup"):
        assert request.node.nodeid.endswith("@house")
