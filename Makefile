# Everything a person or a CI machine does with this repository. Each target makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow test-slurm check clean

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: $(VENV)/.run  ## train the quickstart recipe
	$(BIN)/dpo-recipe run quickstart

test: $(VENV)/.dev  ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.dev  ## the tests that need minutes or the real model
	$(BIN)/python -m pytest -m slow

test-slurm: $(VENV)/.dev  ## the tests on a SLURM of this machine, which they start themselves
	@PATH="$$PATH:/usr/sbin"; for name in munged slurmctld slurmd sbatch; do command -v $$name >/dev/null || \
	  { echo "there is no $$name here: apt-get install slurm-wlm munge"; exit 1; }; done
	$(BIN)/python -m pytest tests/unit/test_slurm_script.py tests/unit/test_slurm_job.py \
	  tests/integration/test_slurm.py tests/e2e/test_slurm_run.py

check: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .import_linter_cache
