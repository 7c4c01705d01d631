# Everything a person or a CI machine does with this repository. Each target makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test test-slow check clean

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

check: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .import_linter_cache
