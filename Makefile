# Everything a person or a CI machine does with this repository. Each target makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
# torch stays at the tested version: a newer one may come as a CUDA build of several gigabytes. Empty means the newest.
LATEST_TORCH ?= $(shell grep '^torch==' constraints.txt)

.PHONY: quickstart test test-latest constraints test-slow gpu-check test-deepspeed test-trackers test-foreign test-slurm test-kill test-kill-sweep test-kill-chain check clean

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: $(VENV)/.run  ## train the quickstart recipe
	$(BIN)/dpo-recipe run quickstart

# One process of tests on each core, each with one thread: tiny models gain nothing from more. Files start in the order
# of their folders, so that the short ones of tests/unit come last and all cores finish together.
PYTEST_PARALLEL := --numprocesses logical --dist loadfile --no-loadscope-reorder
test: $(VENV)/.dev  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" $(PYTEST_PARALLEL)

$(LATEST)/.installed: pyproject.toml
	test -x $(LATEST)/bin/python || $(PYTHON) -m venv $(LATEST)
	echo '$(LATEST_TORCH)' > $(LATEST)/torch.txt
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LATEST)/torch.txt \
	  --upgrade --upgrade-strategy eager --editable '.[dev]'
	touch $@

test-latest:  ## the same tests with the newest versions that pyproject.toml allows, in an environment of their own
	rm -f $(LATEST)/.installed
	$(MAKE) $(LATEST)/.installed
	OMP_NUM_THREADS=1 $(LATEST)/bin/python -m pytest -m "not slow" $(PYTEST_PARALLEL)

constraints: $(LATEST)/.installed  ## write the versions of test-latest to constraints.txt, when its tests have passed
	( head -1 constraints.txt; $(LATEST)/bin/python -m pip freeze --exclude-editable --disable-pip-version-check \
	  | sed 's/+[^;]*$$//' | LC_ALL=C sort -f ) > constraints.new
	mv constraints.new constraints.txt

test-slow: $(VENV)/.dev  ## the tests that need minutes or the real model
	$(BIN)/python -m pytest -m slow

test-deepspeed: $(VENV)/.dev  ## the tests with DeepSpeed, which is installed for them without its CUDA operations
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation setuptools wheel \
	  --constraint constraints.txt 'deepspeed>=0.19.8'
	$(BIN)/python -m pytest tests/integration/test_processes.py tests/integration/test_launch_configs.py

test-trackers: $(VENV)/.dev  ## the tests with W&B and MLflow, which are installed for them
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[track,mlflow]'
	$(BIN)/python -m pytest tests/integration/test_trackers.py

# The tools pin versions that exclude each other, so they are installed without their dependencies, over those of $(VENV).
FOREIGN := .venv-foreign
test-foreign: $(VENV)/.dev  ## imports against the parsers of Axolotl, LLaMA-Factory, oumi and ms-swift, which it installs
	test -x $(FOREIGN)/bin/python || $(BIN)/python -m venv $(FOREIGN)
	$(FOREIGN)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps axolotl==0.19.0 llamafactory==0.9.5 \
	  oumi==0.9 ms-swift==4.6.0 omegaconf "antlr4-python3-runtime==4.9.*" modelscope modelscope_hub json_repair dacite addict \
	  fire binpacking oss2 sentencepiece tyro shtab docstring-parser cryptography cffi pycparser
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	  "$$($(FOREIGN)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/of_the_project.pth"
	$(BIN)/python -m pytest -m slow tests/unit/test_import_upstream.py

test-slurm: $(VENV)/.dev  ## the tests on a SLURM of this machine, which they start themselves
	@PATH="$$PATH:/usr/sbin"; for name in munged slurmctld slurmd sbatch; do command -v $$name >/dev/null || \
	  { echo "there is no $$name here: apt-get install slurm-wlm munge"; exit 1; }; done
	$(BIN)/python -m pytest tests/unit/test_slurm_script.py tests/unit/test_slurm_job.py tests/unit/test_slurm_array.py \
	  tests/unit/test_sweep_array.py tests/integration/test_slurm.py tests/e2e/test_slurm_run.py tests/e2e/test_slurm_sweep.py

test-kill: $(VENV)/.dev  ## 50 kills at random moments
	OMP_NUM_THREADS=1 $(BIN)/python tests/invariant/kill.py --kills 20 --runs 4
	OMP_NUM_THREADS=1 $(BIN)/python tests/invariant/kill.py --kills 15 --runs 3 --seed 1 --adapter full
	OMP_NUM_THREADS=1 $(BIN)/python tests/invariant/kill.py --kills 15 --runs 3 --seed 2 --processes 2

test-kill-sweep: $(VENV)/.dev  ## a sweep with two workers that is killed five times at random
	$(BIN)/python tests/invariant/kill_sweep.py

test-kill-chain: $(VENV)/.dev  ## a chain with two workers that is killed ten times at random
	$(BIN)/python tests/invariant/kill.py --chain

gpu-check: $(VENV)/.dev  ## eight minutes of measurements on this machine's NVIDIA GPU; benchmarks/gpu/README.md
	$(BIN)/python benchmarks/gpu/check.py

check: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(LATEST) dist build .pytest_cache .ruff_cache .import_linter_cache
