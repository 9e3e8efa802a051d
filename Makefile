# `make demo` shows what the project does, `make test` and `make check` what a change must pass.
# Everything is installed into .venv; a second call installs nothing unless these files changed.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check integration bench docs clean

help:
	@echo "make demo         run configs/demo.yaml: four simulated sites, results in runs/demo"
	@echo "make test         run the tests"
	@echo "make check        lint, formatting, types, who may import whom"
	@echo "make integration  run the tests that start real processes, and the long ones"
	@echo "make bench        measure time, memory and bytes on this machine, results in runs/bench"
	@echo "make docs         make the pages of keys and commands anew"
	@echo "make clean        remove .venv, builds and caches; runs/ stays"

demo: .venv/installed
	$(BIN)/medsa-sim --config configs/demo.yaml --out runs/demo --overwrite

# One process for each core: the tests compute with one thread each. A file's tests stay together,
# since they share runs.
test: .venv/installed-for-development
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: .venv/installed-for-development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# pytest ends with 5 when it finds no test.
integration: .venv/installed-for-development
	$(BIN)/python -m pytest -m "integration or thorough" || { [ $$? -eq 5 ] && echo "There is no integration test."; }

bench: .venv/installed
	$(BIN)/medsa-bench --out runs/bench

docs: .venv/installed-for-development
	$(BIN)/python -m sim.config_reference > docs/configuration.md
	$(BIN)/python -m sim.command_reference > docs/commands.md

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find client medsa_model server sim tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fed-medsa needs Python 3.11 or newer, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; \
		exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: pyproject.toml constraints.txt .venv/created
	$(INSTALL) --editable .
	@touch $@

.venv/installed-for-development: pyproject.toml constraints.txt .venv/created
	$(INSTALL) --editable ".[dev]"
	@touch .venv/installed $@
