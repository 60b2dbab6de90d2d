# Every target makes its own virtual environment first: with uv where it is installed,
# with python3 and pip otherwise. Both install the same locked versions, checked by hash.

.DEFAULT_GOAL := help
SHELL := /bin/sh

SEED ?= 1
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0
PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null)
# Hundreds of processes are started below: each would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One worker more than cores, since some tests wait for processes; four at most, for each brings a Postgres of its own.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -gt 3 ] && n=3; echo $$((n + 1)))
# tests/conftest.py puts the longest files first.
PARALLEL := --dist=loadfile --no-loadscope-reorder

.PHONY: help venv demo test test-long test-pythons check lint format types layers upstreams clients test-clients docs fuzz bench coverage package lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp makes a second run quick; a changed lock or pyproject.toml installs again.
$(STAMP): requirements/dev.lock pyproject.toml uv.lock .ci/install
	@UV="$(UV)" PYTHON="$(PYTHON)" .ci/install $(VENV) requirements/dev.lock
	@touch $@

venv: $(STAMP) ## Make .venv with the locked versions and this checkout, editable.

demo: $(STAMP) ## Play the whole story on the embedded support desk; SEED=n works other records.
	@$(BIN)/comptroller demo --seed $(SEED)

test: $(STAMP) ## Run the suite, without the long rounds.
	$(BIN)/python -m pytest -m "not long and not clients" --hypothesis-profile=ci -n $(WORKERS) $(PARALLEL)

test-long: $(STAMP) ## Run what `test` leaves out: the long rounds, the kills, the mutations, real servers.
	$(BIN)/python -m pytest -m "long and not clients" --hypothesis-profile=long -o faulthandler_timeout=3000 -n auto --maxprocesses=4 --dist=worksteal

test-pythons: $(STAMP) ## Run the suite on each other Python from 3.11 on that is here.
	@.ci/pythons $(VENV)

check: lint types layers test ## Everything a change must pass before review.

lint: $(STAMP) ## Find mistakes and wrong formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Format, and fix what can be fixed by rule.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## Check types with pyright and mypy, both strict.
	$(BIN)/pyright
	$(BIN)/mypy

layers: $(STAMP) ## Check that imports point down only.
	$(BIN)/lint-imports

upstreams: $(STAMP) ## Install the MCP servers that some tests govern, in places of their own (network).
	@$(BIN)/python -m tests.scenarios.real_upstreams

clients: $(STAMP) ## Install the programs that `test-clients` runs, in places of their own (network, 2 GB).
	@$(BIN)/python -m tests.clients.places

test-clients: $(STAMP) ## Run the tests with other people's clients and orchestrators, as far as they are installed.
	$(BIN)/python -m pytest -m clients --hypothesis-profile=ci -n $(WORKERS) tests/clients

docs: $(STAMP) ## Build the documentation's site into build/site (network, once).
	@test -x build/docs-venv/bin/mkdocs || { $(PYTHON) -m venv build/docs-venv && build/docs-venv/bin/pip --quiet --disable-pip-version-check install -r requirements/docs.txt; }
	$(BIN)/python release/site/cli_reference.py build/cli.md
	NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --quiet --strict -f release/site/mkdocs.yml

conformance: $(STAMP) ## Run the official MCP suite against Comptroller before the SDK's everything-server (network, once).
	@$(BIN)/python -m tests.conformance

fuzz: $(STAMP) ## Fuzz what reads bytes of strangers, and the verifier; FUZZ_SECONDS=n for each target (network, once).
	@FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m tests.fuzzing

bench: $(STAMP) ## Measure against the bare SDK, paired, in one run.
	$(BIN)/python -m tests.benchmarks

coverage: $(STAMP) ## Run the suite under coverage and list the lines no test reaches.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not long and not clients" --hypothesis-profile=ci
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

package: $(STAMP) ## Build wheel and sdist; try the wheel in a clean environment, outside the checkout.
	@UV="$(UV)" PYTHON="$(PYTHON)" .ci/package $(BIN)/python

lock: ## Lock again after a change to pyproject.toml (needs uv).
	@test -n "$(UV)" || { echo "make lock: needs uv, see https://docs.astral.sh/uv/" >&2; exit 2; }
	$(UV) lock
	$(UV) export --locked --quiet --no-dev --no-emit-project --no-header --output-file requirements/runtime.lock
	$(UV) export --locked --quiet --no-emit-project --no-header --output-file requirements/dev.lock

clean: ## Remove what the targets made, the virtual environment included.
	rm -rf $(VENV) dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
