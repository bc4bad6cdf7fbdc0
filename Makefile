# Every target does its own set-up. "make help" lists them.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$candidate && break; done)

DASHBOARD := app/dashboard
BUILT := $(DASHBOARD)/dist/.built-from
DASHBOARD_SOURCES := $(shell find $(DASHBOARD)/src $(DASHBOARD)/public -type f) \
	$(addprefix $(DASHBOARD)/,index.html package.json package-lock.json vite.config.ts .npmrc build_hook.py)

.PHONY: help install up test campaign faults mutations bench fuzz lint types lock clean

help:
	@echo 'make up       set up and start everything; options as in: make up ARGS="--port 8001 --home /srv/dragonfly"'
	@echo 'make test     set up and run every test; options as in: make test ARGS="tests/unit -x"'
	@echo 'make campaign  the long form of the survival and overlap tests: ten killed workers, twenty rounds of overlapping files'
	@echo 'make faults   strike a running stack with every kind of fault; as in: make faults ROUNDS=30, or LEASE=15 RESULTS=build/usual.jsonl'
	@echo 'make mutations  take each protection out of a copy and show which fault tests turn red'
	@echo 'make bench    raw COPY against the whole job, on one server; options as in: make bench ARGS="--rows 5000000 --cases random"'
	@echo 'make fuzz     the property tests of the engine for longer, from a seed of the clock; options as in: make fuzz FUZZ_ROWS=5000000'
	@echo 'make lint     ruff, mypy and the import rules'
	@echo 'make types    write the types of the front end anew from the OpenAPI document'
	@echo 'make install  the set-up alone; the command is then $(BIN)/dragonfly'
	@echo 'make lock     write requirements.lock anew from pyproject.toml (needs uv)'
	@echo 'make clean    remove $(VENV) and the built front end'

install: $(STAMP) $(BUILT)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo 'Python 3.11 or newer with its venv module was not found: install python3 and python3-venv, or name one with PYTHON=...' >&2; \
		exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# The set-up builds the front end, as part of the package; this is for sources that have changed since.
$(BUILT): $(STAMP) $(DASHBOARD_SOURCES)
	@$(BIN)/python $(DASHBOARD)/build_hook.py
	@touch $@

up: $(STAMP) $(BUILT)
	@exec $(BIN)/dragonfly up $(ARGS)

# Three at a time: most tests wait for servers, and two cores are half idle with two. A file stays together, for it shares
# its servers; the long ones of whole stacks come first, as they are found. The seed is one for all, so that all find the
# tests in the same order.
test: $(STAMP) $(BUILT)
	@PYTHONHASHSEED=$${PYTHONHASHSEED:-$$(date +%s)} exec $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

campaign: $(STAMP)
	@KILL_ROUNDS=10 KILL_LEASE_SECONDS=15 KILL_ROWS=400000 OVERLAP_ROUNDS=20 \
		exec $(BIN)/python -m pytest -s tests/acceptance -k "taken_over or overlapping" $(ARGS)

ROUNDS ?= 1
LEASE ?= 2
RESULTS ?= build/faults.jsonl
faults: $(STAMP)
	@exec $(BIN)/python -m tests.faults --rounds $(ROUNDS) --lease $(LEASE) --results $(RESULTS) $(ARGS)

mutations: $(STAMP)
	@exec $(BIN)/python -m tests.faults.mutations $(ARGS)

bench: $(STAMP)
	@exec $(BIN)/python -m tests.benchmarks $(ARGS)

FUZZ_ROWS ?= 1000000
fuzz: $(STAMP)
	@FUZZ_SEED=$${FUZZ_SEED:-$$(date +%s)} FUZZ_ROWS=$(FUZZ_ROWS) \
		exec $(BIN)/python -m pytest -s -o timeout=0 tests/engine/test_records.py tests/engine/test_contract.py $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/python -m app.dashboard.generate

# Hashes of every platform's files and no host names, so that the lock installs from any index.
lock:
	@command -v uv >/dev/null || { echo 'uv was not found: see https://docs.astral.sh/uv' >&2; exit 2; }
	uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
		--extra test pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(DASHBOARD)/dist $(DASHBOARD)/node_modules
