# `make help` lists what there is. Every other target installs first where needed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
HOME_DIR ?= .backtalk
PORT ?= 8000
ARGS ?=

# Settings of the shell must not reach the tests.
TESTS = env -u BACKTALK_DATABASE_URL -u BACKTALK_REDIS_URL $(BIN)/python -m pytest

.PHONY: help install demo up test test-all faults soak lint format messages screenshots bench bench-accuracy bench-labels migrate lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(STAMP) ## Build .venv with the locked dependencies and the `backtalk` command

# A stamp, so that nothing is asked of the network unless the lock or the package's own metadata changed.
$(STAMP): requirements/dev.txt pyproject.toml
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then \
	  echo "Backtalk needs Python 3.11 or 3.12: set PYTHON=/path/to/python3.11"; exit 1; fi
	@# A venv that was moved or half-made is made anew.
	@if ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  rm -rf $(VENV); \
	  if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
	    package=python$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv; \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	      apt-get update -qq && apt-get install -y -qq $$package; \
	    else echo "Python's venv is missing. Install it: sudo apt-get install $$package"; exit 1; fi; fi; \
	  "$(PYTHON)" -m venv $(VENV); fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@# setuptools warns at length of folders that hold templates and no modules
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Watch the loop close on solar cells, five minutes (KEEP=1 leaves it up, FULL=1 adds a full run)
	$(BIN)/backtalk demo $(if $(KEEP),--keep) $(if $(FULL),--full) $(ARGS)

up: $(STAMP) ## Run everything on this machine until Ctrl-C (PORT=8000, HOME_DIR=.backtalk)
	@exec $(BIN)/backtalk up --port $(PORT) --home $(HOME_DIR) $(ARGS)

# A file's tests stay in one process: they share servers and trainers.
test: $(STAMP) ## Run the tests but the slow ones, on up to four cores (ARGS="-k name -n 0")
	$(TESTS) -m "not slow" -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-all: $(STAMP) ## Run all tests
	$(TESTS) $(ARGS)

# Some rows need strace and faketime; where we may not install them, those rows say so and are skipped.
faults: $(STAMP) ## Attack it: every row of the fault matrix, with its table (ARGS="-k redis")
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  for tool in strace faketime; do \
	    command -v $$tool >/dev/null || { apt-get update -qq && apt-get install -y -qq $$tool; } || true; done; fi
	$(TESTS) tests -m "fault or faults" --fault-table build/faults.json $(ARGS)

soak: $(STAMP) ## Load and random faults together (MINUTES=10, SEED=…); build/soak.json
	env -u BACKTALK_DATABASE_URL -u BACKTALK_REDIS_URL $(BIN)/python -m tests.faults.soak \
	  --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(STAMP) ## Style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

messages: $(STAMP) ## Take new sentences of the pages into the catalogues, and check them (ARGS=--check)
	$(BIN)/python -m scripts.messages $(ARGS)

screenshots: $(STAMP) ## Pictures of every page into docs/pages
	$(BIN)/python -m scripts.screenshots $(ARGS)

bench: $(STAMP) ## Measure, each figure beside its baseline; bench/out/latest.json
	$(BIN)/python -m bench.run $(ARGS)

bench-accuracy: $(STAMP) ## Accuracy over seeds beside published figures: hours on a CPU, goes on where it was
	$(BIN)/python -m bench.accuracy $(ARGS)

bench-labels: $(STAMP) ## Accuracy against labels spent; docs/accuracy.png
	$(BIN)/python -m bench.accuracy_loop $(ARGS)

migrate: $(STAMP) ## Bring the database of BACKTALK_DATABASE_URL up to date
	$(BIN)/alembic upgrade head

lock: $(STAMP) ## Resolve pyproject.toml into requirements/*.txt (UPGRADE=1 takes the newest versions)
	@$(BIN)/python requirements/lock.py $(if $(UPGRADE),--upgrade)

clean: ## Remove everything that can be made again; data in .backtalk stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache bench/out demo.png
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
