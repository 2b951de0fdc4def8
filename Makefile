# Every target does its own set-up: a virtual environment in .venv with the pinned packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The TPU compiler lies apart: on JAX's own path it would be loaded by every run on a CPU.
LIBTPU := $(VENV)/libtpu
TPU_STAMP := $(VENV)/.libtpu
PARITY_STAMP := $(VENV)/.parity
WITH_TPU := TPU_LIBRARY_PATH=$(CURDIR)/$(LIBTPU)/libtpu/libtpu.so
ARGS ?=
WORKERS ?= 2

.PHONY: help train plan test slow lint format typecheck docs bench lock clean

help: ## Show the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jaxdl needs Python 3.11 or newer; '$(PYTHON)' is older. Run: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

$(TPU_STAMP): $(STAMP) requirements-tpu.txt
	@echo "installing the TPU compiler into $(LIBTPU) (once)"
	@rm -rf $(LIBTPU)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(LIBTPU) \
	  -r requirements-tpu.txt || \
	  { echo "libtpu has no wheel for this machine: plans cannot be made, their tests are skipped"; }
	@touch $(TPU_STAMP)

$(PARITY_STAMP): $(STAMP) requirements-parity.txt
	@echo "installing PyTorch and transformers, for the tests of parity (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	@touch $(PARITY_STAMP)

train: $(STAMP) ## Train the default example (make train ARGS="--steps 500").
	@$(BIN)/jaxdl train examples/digits.py $(ARGS)

test: $(STAMP) ## Run the default test suite.
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

plan: $(TPU_STAMP) ## Plan a step for a TPU slice (make plan ARGS="examples/digits.py --on v5e-16").
	@$(WITH_TPU) $(BIN)/jaxdl plan $(ARGS)

slow: $(TPU_STAMP) $(PARITY_STAMP) ## Run the longer tests, with the TPU compiler and PyTorch.
	@test -e $(LIBTPU)/libtpu && export $(WITH_TPU); export JAXDL_TEST_UNTYPED=1; \
	  $(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

lint: $(STAMP) ## Check format and lint.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: $(STAMP) ## Format and mend what can be mended.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(STAMP) ## Check types (pyright, strict).
	@$(BIN)/pyright

docs: $(STAMP) ## Build the documentation into site/.
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP) ## Run the benchmarks (quiet machine wanted).
	@cd benchmarks && for each in overhead loader checkpoint reproducible; do \
	  ../$(BIN)/python $$each.py || exit 1; done

lock: ## Renew requirements.txt from pyproject.toml (development only).
	@rm -rf .lock && $(PYTHON) -m venv .lock
	@.lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,report]'
	@.lock/bin/python -m pip freeze --exclude jaxdl --exclude pip --exclude setuptools \
	  | grep -E '^[A-Za-z0-9_.-]+==' > requirements.txt
	@rm -rf .lock

clean: ## Remove the environment and everything generated.
	@rm -rf $(VENV) .lock .pytest_cache .ruff_cache .hypothesis site dist build runs
