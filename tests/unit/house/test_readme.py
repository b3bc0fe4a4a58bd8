"""The README and the other pages say what works: links, settings, the five lines of Python."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from finalchar.__main__ import arguments_of
from finalchar.config import Config, load_config
from finalchar.provenance import STAGES

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GOLDEN = ROOT / "tests" / "data" / "golden_small" / "default"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, re.S))
def test_settings_of_the_readme_are_loaded(tmp_path, block):
    (tmp_path / "config.yaml").write_text(block)
    assert load_config(tmp_path / "config.yaml") != Config()


def test_commands_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    names = re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)
    assert {"run", "test", "lint", "parity"} <= set(names)
    for name in names:
        assert re.search(rf"^{name}:", makefile, re.M), name


def test_threads_of_libraries_do_not_lower_the_number_of_jobs():
    def cores(**threads):
        command = ["make", "-s", "--eval=print-cores: ; @echo $(CORES)", "print-cores"]
        environment = {"PATH": os.environ["PATH"], **threads}
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert cores(OMP_NUM_THREADS="1") == cores() != ""


def test_every_command_is_described_and_every_described_command_exists(capsys):
    with pytest.raises(SystemExit):
        arguments_of(["--help"])
    commands = set(re.findall(r"^    (\w+)", capsys.readouterr().out, re.M))
    assert {"run", "status", "tabulate"} <= commands
    page = (ROOT / "docs" / "workflow.md").read_text()
    assert commands == set(re.findall(r"^\| `finalchar (\w+)", page, re.M))
    for page in PAGES:
        named = re.findall(r"(?:`|^|/)finalchar ([a-z]+)", page.read_text(), re.M)
        assert set(named) <= commands, page.name


@pytest.mark.parametrize("stage", ["detector", "tract", "association"])
def test_packages_that_make_products_stale_are_named(stage):
    page = (ROOT / "docs" / "staleness.md").read_text().lower()
    named = page[page.index("**same software**") : page.index("| setting |")]
    for package in STAGES[stage].packages:
        assert package in named


@pytest.mark.filterwarnings("ignore:No table..len:astropy.utils.exceptions.AstropyUserWarning")  # plain table
def test_five_lines_of_python(tmp_path, monkeypatch):
    """On the products of the reference, laid out as ours."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) == 5
    (visit,) = set(re.findall(r"output/(\d+)/", code))
    folder = tmp_path / "output" / visit
    folder.mkdir(parents=True)
    catalog, table = GOLDEN / f"psf_ap_corr_{visit}.fits", GOLDEN / "measured.parquet"
    shutil.copy(catalog, folder / "finalized_psf_ap_corr_catalog.fits")
    shutil.copy(table, folder / "finalized_src_table.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["image"].array.sum() == pytest.approx(1.0, abs=1e-3)  # light outside the stamp
    stars = names["stars"]
    assert 0 < len(stars[stars["calib_psf_reserved"]]) < len(stars)
    correction = names["detector"].ap_corr_map["base_PsfFlux_instFlux"].evaluate(x=400.0, y=300.0)
    assert 0.8 < correction < 1.2
