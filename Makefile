# Needs Python 3.11 or newer and make; everything else comes from requirements.lock into .venv.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
TRAIN := .venv/.train

.PHONY: help setup demo test test-all bench lint lock

help:
	@echo "make setup      .venv from the lock file"
	@echo "make demo       a week of a Philly-like cluster under six policies: report.html"
	@echo "make test       the tests (TRAINMASTER_DATA=FOLDER adds those on public traces)"
	@echo "make test-all   and the slow ones"
	@echo "make bench      times and memory, printed and in bench/results.json"
	@echo "make lint       ruff and mypy"
	@echo "make lock       requirements.lock from pyproject.toml (needs uv)"

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Trainmaster needs Python 3.11 or newer; e.g. make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "compiling the engine, once: about a minute"
	$(BIN)/trainmaster simulate --trace synthetic:philly --jobs 10 --quiet > /dev/null
	@touch $@

# What jobs that train import, for the tests that run such jobs. No hashes: PyTorch has a build for every kind of machine.
$(TRAIN): $(READY) requirements-train.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-train.txt \
		|| { echo "PyTorch could not be installed: the tests that train are skipped" >&2; }
	@touch $@

demo: setup
	$(BIN)/trainmaster simulate --trace synthetic:philly --load 1.4 --policy fifo,easy-backfill,sjf,las,tiresias-las,srtf --report report.html

test: setup $(TRAIN)
	$(BIN)/python -m pytest -q

test-all: setup $(TRAIN)
	$(BIN)/python -m pytest -q -m "slow or not slow"

bench: setup
	$(BIN)/python bench/run.py
	$(BIN)/python bench/elastic.py
	$(BIN)/python bench/live.py
	$(BIN)/python bench/store.py
	$(BIN)/python bench/train.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/mypy

# Every platform and Python in one file, with hashes; no index is named in it.
lock:
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --quiet --output-file requirements.lock
