# `make demo` and `make test` do everything on a fresh machine; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint docs bench setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, do the five jobs on real photos, leave one page of it"
	@echo "make test   set up, lint, run the whole test suite"
	@echo "make lint   lint, format check, types, and the import rule between rooms"
	@echo "make docs   build the documentation site, build/site/index.html"
	@echo "make bench  captune and its peers side by side (about 50 minutes)"

# The stamp is newer than what the environment was made from: a second run installs nothing.
$(VENV)/.ready: pyproject.toml constraints.txt packages/captune-lite/pyproject.toml
	@echo "Setting up $(VENV): torch and friends, 1 to 3 minutes and about 6 GB on Linux"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt \
		--editable '.[dev]' --editable ./packages/captune-lite
	touch $@

setup: $(VENV)/.ready

demo: setup
	$(BIN)/captune demo --out demo-report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: setup lint
	-$(BIN)/captune models fetch lite
	-$(BIN)/captune models fetch lite --decoder
	-npm install --silent --no-audit --no-fund --prefix $(VENV)/axe-core axe-core@4.14.1
	$(BIN)/python -m pytest

docs: setup
	$(BIN)/python docs/site/build.py build/site

bench: setup
	$(BIN)/python benchmarks/classify.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/caption.py

clean:
	rm -rf $(VENV) demo-report
