"""The house keeps its order: import direction, generated files, requirements, commands."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

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
    assert len(requirements) >= 14


def test_versions_that_are_compared_are_those_that_are_kept():
    from finalchar.characterize import PACKAGES
    from finalchar.provenance import NUMERICAL

    kept = {name.lower() for name in PACKAGES}
    assert kept - set(NUMERICAL) == {"pyarrow"}  # writes the tables, makes no number
    assert set(NUMERICAL) <= kept <= set(pins((ROOT / "envs" / "requirements.txt").read_text()))


def test_package_and_requirements_are_the_same_set():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {name.lower() for name in package} == set(pins((ROOT / "envs" / "requirements.txt").read_text()))


def test_every_requirement_is_pinned_and_has_its_reason():
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / "envs" / name).read_text().splitlines():
            if line and not line.startswith("#"):
                assert re.fullmatch(r"[\w.-]+==[\w.]+\s+# .+", line), line


def test_constraints_do_not_contradict_the_requirements():
    constraints = pins((ROOT / "envs" / "constraints.txt").read_text())
    for name in ("requirements.txt", "requirements-dev.txt"):
        assert not set(constraints) & set(pins((ROOT / "envs" / name).read_text()))


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
    for name in ("run", "test", "lint", "parity", "bench", "scale", "test-slurm", "test-staleness"):
        assert f"make {name} " in out
