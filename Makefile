# `make` lists the targets. On a fresh machine any of them first creates .venv from the pinned versions.

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/.made
ARGS   ?=

# Without bytecode the heavy imports take 14 s instead of 6.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help .venv demo test browser check fix audit bench clean

help: ## list the targets
	@echo "usage: make TARGET [ARGS='...']"
	@awk -F ':.*## ' '/^[.a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(STAMP) ## create the environment (again when pyproject.toml or constraints.txt change)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "DRIFT needs Python 3.11 or newer; set PYTHON=...")'
	@echo "Creating .venv: a minute or two, most of it fetching torch"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --compile --constraint constraints.txt --editable '.[dev]'
	-$(BIN)/python -m compileall -q src
	@touch $@

demo: $(STAMP) ## run the demonstration on the embedded world
	$(BIN)/drift demo $(ARGS)

test: $(STAMP) ## run the tests, a process for each core; ARGS='-m slow' for the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

browser: $(STAMP) ## test the report in a Chromium, which the system must have
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest -m browser $(ARGS)

check: $(STAMP) ## lint, format, types and the floors of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter

fix: $(STAMP) ## apply the lint fixes and the formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

audit: $(STAMP) ## look the installed versions up among the known vulnerabilities; asks the network
	$(BIN)/python -m pip check
	@if [ -x $(BIN)/pip-audit ]; then $(BIN)/pip-audit --local $(ARGS); else \
		echo "the versions fit together; known vulnerabilities were not looked up: '$(BIN)/python -m pip install pip-audit', then make audit"; fi

bench: $(STAMP) ## count memory; ARGS='epochs --device cuda' times the paper's recipe
	$(BIN)/python -m benchmarks $(or $(ARGS),memory)

clean: ## remove caches and build products; keeps .venv and runs
	rm -rf .cache .hypothesis build dist
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
