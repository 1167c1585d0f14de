# Needs Python 3.11 or newer and make; everything else comes from requirements.lock into .venv.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
TRAIN := .venv/.train
RAY := .venv-ray/.ready
WITH_RAY := PYTHONPATH=src .venv-ray/bin/python -m pytest -q
SLURM := command -v slurmctld > /dev/null || test -x /usr/sbin/slurmctld || scripts/slurm_cluster.py install
# Of the behaviour that every backend shows, what a change is most likely to break.
SMOKE := own_exit_code or gang_starts_on_all or published_step or finds_running or daemon_of_its_own or ignores_sigterm

# Of the samples: the same for the same commit.
SEED ?= $(shell printf '%d' 0x$$(git rev-parse --short=6 HEAD 2>/dev/null | cut -c1-6 || true))

.PHONY: help setup demo test test-all samples test-slurm smoke-slurm test-ray smoke-ray bench bench-ray lint lock

help:
	@echo "make setup      .venv from the lock file"
	@echo "make demo       a week of a Philly-like cluster under six policies: report.html"
	@echo "make test       the tests (TRAINMASTER_DATA=FOLDER adds those on public traces)"
	@echo "make test-slurm the tests on a real Slurm (as root; installs its packages, leaves nothing running); smoke-slurm: a few of them"
	@echo "make test-ray   those on a real Ray, which is installed and started for them; smoke-ray: a few of them"
	@echo "make bench-ray  starts and preemption on a real Ray, beside Ray alone"
	@echo "make test-all   and the slow ones: hundreds of kills, of preemptions, of faults"
	@echo "make samples    of these a few, with the seed of the commit (SEED=7: another)"
	@echo "make bench      times and memory, printed and in bench/results.json"
	@echo "make lint       ruff and mypy"
	@echo "make lock       requirements.lock from pyproject.toml (needs uv)"

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Trainmaster needs Python 3.11 or newer; e.g. make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "compiling the engine, once: about half a minute"
	$(BIN)/trainmaster simulate --trace synthetic:philly --jobs 10 --quiet > /dev/null
	@touch $@

# What jobs that train import, for the tests that run such jobs. No hashes: PyTorch has a build for every kind of machine.
$(TRAIN): $(READY) requirements-train.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-train.txt \
		|| { echo "PyTorch could not be installed: the tests that train are skipped" >&2; }
	@touch $@

# Ray, on top of .venv, which stays as the lock says. Its packages do not go into the lock: they would bind what everybody else has.
$(RAY): $(READY) $(TRAIN)
	$(BIN)/python -m venv .venv-ray
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$(.venv-ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/trainmaster-below.pth"
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check 'ray[default]>=2.60,<3' \
		|| { echo "Ray could not be installed: the tests on it are skipped" >&2; }
	@touch $@

demo: setup
	$(BIN)/trainmaster simulate --trace synthetic:philly --load 1.4 --policy fifo,easy-backfill,sjf,las,tiresias-las,srtf --report report.html

test: setup $(TRAIN)
	$(BIN)/python -m pytest -q

test-all: setup $(TRAIN) $(RAY)
	$(BIN)/python -m pytest -q -m "(slow or not slow) and not ray"
	$(WITH_RAY) -m ray

test-slurm: setup
	@$(SLURM)
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/live/slurm tests/live/backends/test_behaviour.py -k "slurm"

smoke-slurm: setup
	@$(SLURM)
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/live/backends/test_behaviour.py -k "slurm and ($(SMOKE))"

test-ray: $(RAY)
	$(WITH_RAY) -m ray

smoke-ray: $(RAY)
	$(WITH_RAY) -m ray tests/live/backends/test_behaviour.py -k "$(SMOKE)"

bench-ray: $(RAY)
	PYTHONPATH=src .venv-ray/bin/python bench/live_ray.py

samples: setup $(TRAIN)
	TRAINMASTER_SEED=$(SEED) $(BIN)/python -m pytest -q -s -m sample --durations=0 --durations-min=1

bench: setup
	$(BIN)/python bench/run.py
	$(BIN)/python bench/elastic.py
	$(BIN)/python bench/live.py
	$(BIN)/python bench/scale.py
	$(BIN)/python bench/store.py
	$(BIN)/python bench/train.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/mypy

# Every platform and Python in one file, with hashes; no index is named in it.
lock:
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --quiet --output-file requirements.lock
