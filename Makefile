# Triptych: one study in NumPy, JAX and PyTorch. `make` alone lists what can be done.
#
#   PYTHON   the interpreter that makes the environment    make test PYTHON=python3.12
#   ARGS     what follows on the command line              make train ARGS="--help"
#   ACCEL    JAX for an accelerator, cuda or tpu           make train ACCEL=cuda
#   LOCK     versions and hashes; empty for the newest     make test LOCK=
#            that requirements.txt admits, unchecked
#   WORKERS  pytest's processes                            make test WORKERS=4

PYTHON  ?= python3
VENV    ?= .venv
LOCK    ?= requirements.lock
ACCEL   ?=
WORKERS ?= 2
ARGS    ?=

OLDEST_PYTHON := 3.11

BIN     := $(VENV)/bin
SOURCES := $(wildcard train.py numpy_ref jax_models torch_models parity triptych tools tests evidence)

ifneq ($(filter-out cuda tpu,$(ACCEL)),)
$(error ACCEL is "$(ACCEL)"; it must be empty, cuda or tpu)
endif
JAX_EXTRA := $(if $(ACCEL),"jax[$(ACCEL:cuda=cuda13)]")

# The stamp names all that the environment was made for, so another Python, lock or accelerator makes a
# new one. It is written last: an interrupted install leaves none, and the next call starts afresh.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())' 2>/dev/null)
STAMP := $(VENV)/installed-$(PYTHON_VERSION)-$(or $(ACCEL),cpu)-$(or $(notdir $(LOCK)),newest)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test test-slow docs-check soak soak-short check format lock hooks environment clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

train: environment  ## install if needed, then one training run: ARGS="--help" lists the choices
	@$(BIN)/python train.py --backend jax $(ARGS)

test: environment  ## install if needed, then the tests, without those marked slow
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-slow: environment  ## the tests marked slow: whole training runs
	@$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

docs-check: environment  ## run the commands of README and docs, made short
	@$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS) tests/test_docs_commands.py

soak: environment  ## kills, signals, faults, resumes, hostile input at full size: figures in runs/soak
	@$(BIN)/python -m tools.soak $(ARGS)

soak-short: environment  ## a few of each
	@$(BIN)/python -m tools.soak --short $(ARGS)

check: environment  ## ruff's rules and format, mypy's types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(SOURCES)

format: environment  ## rewrite the code in ruff's format, with its safe fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

lock: environment  ## pin the newest versions that requirements.txt admits, and the hashes of their files
	@printf '%s\n' 'jax[cuda13,tpu]' setuptools | $(BIN)/uv pip compile --quiet --upgrade --universal \
	  --python-version $(OLDEST_PYTHON) --fork-strategy fewest --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --output-file requirements.lock requirements.txt -
	@$(BIN)/python -m tools.install --add torch requirements.lock

hooks: environment  ## check at each commit, test at each push
	@$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

environment: $(STAMP)  ## create .venv and install into it

$(VENV)/installed-%: requirements.txt $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(OLDEST_PYTHON)".split("."))))' 2>/dev/null || { \
	  found=$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 | head -n 1 || echo "not found"); \
	  echo "Triptych needs Python $(OLDEST_PYTHON) or newer; $(PYTHON) is $$found." >&2; \
	  echo "Name another: make $(MAKECMDGOALS) PYTHON=python$(OLDEST_PYTHON)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make a virtual environment: its venv or ensurepip module is missing." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv. Or name another: make $(MAKECMDGOALS) PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV) with Python $(PYTHON_VERSION): minutes the first time, nothing later."
	@rm -f $(VENV)/installed-*
	@$(PYTHON) -m venv --clear $(VENV)
	@$(if $(LOCK),$(BIN)/python -m tools.install $(LOCK),$(BIN)/pip install -qq -r requirements.txt) $(JAX_EXTRA)
	@touch $@

clean:  ## remove the environment and every cache; runs and data stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
