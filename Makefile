# The commands of finalchar; `make help` lists them.  Needs python3.11+, make and git.
PYTHON ?= python3
# nproc counts no more than OMP_NUM_THREADS, which is set to 1 below.
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)
REFERENCE ?= ../shared/golden
CONFIGS ?=

ACTIVE := .venv/bin/python
export OMP_NUM_THREADS ?= 1
export PYTHONPATH := $(CURDIR)/scripts

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run run-psfex test lint format schemas parity bench scale test-slurm test-staleness

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*##/  make \1 \t/p' $(MAKEFILE_LIST) | expand -t 26

setup:
	@$(PYTHON) envs/install.py

setup-dev:
	@$(PYTHON) envs/install.py --dev

run: setup  ## set up, simulate the demo survey if config.yaml asks for it, run, print the outcomes
	@$(ACTIVE) -m finalchar simulate demo demo --if-configured
	@$(ACTIVE) -m finalchar run --cores $(CORES)

run-psfex: setup  ## the demo survey with the PSF determiner psfex, into output-psfex
	@test -e demo/detectors.csv || $(ACTIVE) -m finalchar simulate demo demo
	@$(ACTIVE) -m finalchar run --cores $(CORES) \
		--set survey=demo --set output=output-psfex --set psf_determiner.name=psfex

test: setup-dev  ## unit, parity and workflow tests
	@$(ACTIVE) -m pytest tests/workflow tests/parity tests/unit -q -n $(CORES) --dist loadgroup

lint: setup-dev  ## style, types, workflow, generated files, import direction; silent when all is well
	@$(ACTIVE) .ci/lint.py

format: setup-dev  ## format the code and the workflow
	@$(ACTIVE) -m ruff format -q scripts tests .ci envs
	@$(ACTIVE) -m snakefmt Snakefile workflow/rules

schemas: setup  ## generate workflow/schemas from the configuration model and the sheets
	@$(ACTIVE) -m finalchar.schemas

parity: setup  ## compare with reference results: make parity REFERENCE=DIR [CONFIGS="default pca"]
	@$(ACTIVE) -m finalchar.parity $(REFERENCE) $(if $(CONFIGS),--configs $(CONFIGS)) --json build/parity.json

bench: setup-dev  ## time and memory, side by side with Piff; build/bench.json
	@$(ACTIVE) tests/benchmarks/bench.py

scale: setup  ## planning time for 1k, 10k and 60k detectors
	@$(ACTIVE) tests/workflow/scale.py

test-staleness: setup-dev  ## the whole staleness sweep and the kill campaign
	@$(ACTIVE) tests/workflow/staleness_campaign.py

test-slurm: setup-dev  ## the micro survey on a real one-node Slurm
	@$(ACTIVE) tests/workflow/slurm_campaign.py
