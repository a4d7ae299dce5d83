# `make demo` and `make test` do everything on a fresh machine; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint docs bench captioner setup hostile fuzz chaos audit lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, do the five jobs on real images, leave one page of it"
	@echo "make test   set up, lint, run the whole test suite"
	@echo "make lint   lint, format check, types, and the import rule between packages"
	@echo "make docs   build the documentation site, build/site/index.html"
	@echo "make hostile, make fuzz, make chaos   hostile input, made-up strings, kills and full disks"
	@echo "make audit  known vulnerabilities of what is installed (asks the network)"
	@echo "make captioner FLICKR8K=DIR COCO=DIR COCO_TEXT=FILE   the captioner that ships, from data to card (hours)"
	@echo "make bench  captune and its peers side by side (about 50 minutes)"

# Every file that is installed has its hash in requirements/*.txt, which `make lock` makes; the three
# packages of the checkout are built with what stands there, too.
install = $(PIP) install --quiet --require-hashes --no-deps --requirement requirements/$(1).txt \
	&& $(PIP) install --quiet --no-deps --no-build-isolation --editable . --editable ./packages/captune-metrics \
	--editable ./packages/captune-lite
PROJECTS := pyproject.toml packages/captune-metrics/pyproject.toml packages/captune-lite/pyproject.toml

# A stamp is newer than what the environment was made from: a second run installs nothing.
$(VENV)/.demo: $(PROJECTS) requirements/demo.txt
	@echo "Setting up $(VENV) for the demonstration: about 2 minutes and 6 GB on Linux, most of it torch"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,demo)
	touch $@

$(VENV)/.dev: $(PROJECTS) requirements/dev.txt
	@echo "Setting up $(VENV) for development: 2 to 4 minutes and about 6 GB on Linux, most of it torch"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,dev)
	touch $@ $(VENV)/.demo

setup: $(VENV)/.dev

demo: $(VENV)/.demo
	$(BIN)/captune demo --out demo-report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: setup lint
	-$(BIN)/captune models fetch lite
	-$(BIN)/captune models fetch lite --decoder
	-mkdir -p $(VENV)/axe-core && cp requirements/package*.json $(VENV)/axe-core \
		&& npm ci --silent --no-audit --no-fund --prefix $(VENV)/axe-core
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

docs: setup
	$(BIN)/python docs/site/build.py build/site

# FLICKR8K, COCO: folders of images and captions; COCO_TEXT: captions alone; it goes on where it was stopped
captioner: setup
	$(BIN)/python -m recipes.captioner --flickr8k $(FLICKR8K) --coco $(COCO) --coco-text $(COCO_TEXT) $(or $(WORK),build/captioner)

bench: setup
	$(BIN)/python benchmarks/classify.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/tune.py
	$(BIN)/python benchmarks/caption.py

# Hostile input of every kind, a table of what captune did with it; FAMILIES="images runs" for some.
hostile: setup
	$(BIN)/python -m tests.hostile $(FAMILIES)

fuzz: setup
	$(BIN)/python -m tests.hostile strings --minutes 60

# Kills at random moments, full disks, two processes on one cache and one run folder.
chaos: setup
	$(BIN)/python -m tests.hostile chaos shards

# Known vulnerabilities of what is installed. It asks the network, so it is no part of the tests.
audit:
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit \
		&& $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/dev.txt \
		|| echo "pip-audit found something, or this network reaches no list of vulnerabilities"
	npm audit --prefix requirements \
		|| echo "npm audit found something, or this network reaches no list of vulnerabilities"

# The lock files from pyproject.toml, for all systems and Python versions (needs uv); with
# UPGRADE=--upgrade to the newest versions. captune-metrics comes from the checkout, so it has no
# hash; what it needs has.
compile = uv pip compile pyproject.toml requirements/build.in --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header --quiet --no-emit-package captune-metrics \
	$(UPGRADE) --output-file requirements/$(1).txt
lock:
	$(call compile,demo)
	$(call compile,dev) --extra dev

clean:
	rm -rf $(VENV) demo-report
