# Two commands do everything on a machine with python3 (3.11+), pip and make:
#   make demo    the whole job on a real model
#   make test    the tests
# Override on the command line: PYTHON=python3.12 VENV=/tmp/venv PIP_ARGS="--index-url https://…" DEMO=/tmp/demo
# ARGS="…" goes to bench-edit and bench-quality.

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
DEMO     ?= demo
ARGS     ?=
# Tests run on one thread each. Files stay whole, for their fixtures are dear, and in order: the longest come first.
WORKERS  ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: wheel help demo test dev check bench bench-edit bench-quality bench-ingest bench-delivery bench-layers bench-scoring bench-agreement bench-poison docs lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.pipeline  ## the whole job on a real model, into ./demo (or DEMO=dir)
	$(BIN)/corrigenda demo $(DEMO)

test: $(VENV)/.dev  ## all tests
	$(BIN)/python -m pytest $(WORKERS)

dev: $(VENV)/.dev  ## the development environment

check: dev  ## ruff, mypy, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p corrigenda
	$(BIN)/mypy bench
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: bench-edit bench-quality bench-ingest bench-delivery bench-layers bench-scoring bench-agreement bench-poison  ## all benchmarks

bench-edit: $(VENV)/.dev  ## speed of a batch of edits, beside plain MEMIT
	$(BIN)/python -m bench.edit $(ARGS)

bench-quality: $(VENV)/.dev  ## quality of a batch of edits; ARGS="--facts 500 --file facts.parquet" for facts of your own
	$(BIN)/python -m bench.quality $(ARGS)

bench-ingest: $(VENV)/.dev  ## a million queued rows
	$(BIN)/python -m bench.ingest

bench-delivery: $(VENV)/.dev  ## what a release costs on the wire, and a pull beside a plain download
	$(BIN)/python -m bench.delivery

bench-layers: $(VENV)/.dev  ## the golden-layer study
	$(BIN)/python -m bench.layers

bench-scoring: $(VENV)/.dev  ## scoring against a plain loop, and the memory of 10,000 probes
	$(BIN)/python -m bench.scoring --many 10000

bench-agreement: $(VENV)/.dev  ## the gates' figures against an evaluator that shares no code
	$(BIN)/python -m bench.agreement

bench-poison: $(VENV)/.dev  ## a poisoned batch: who is quarantined
	$(BIN)/python -m bench.poison

docs: $(VENV)/.dev  ## write the README's tables and the reference anew from the code
	$(BIN)/python .ci/docs.py

wheel: $(VENV)/.made  ## the distribution, into dist/
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

lock: $(VENV)/.dev  ## write constraints.txt anew from what is installed
	$(BIN)/python .ci/lock.py > constraints.tmp && mv constraints.tmp constraints.txt

clean:  ## remove what the targets above made, but for the demo's directory
	rm -rf $(VENV) build dist corrigenda.egg-info src/*.egg-info .mypy_cache .ruff_cache

# Stamps: a second call installs nothing.
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "corrigenda needs Python 3.11 or later: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.pipeline: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing corrigenda and its pipeline into $(VENV)" >&2
	$(PIP) --editable '.[pipeline]'
	@touch $@

$(VENV)/.dev: $(VENV)/.pipeline
	@echo "installing the development tools into $(VENV)" >&2
	$(PIP) --editable '.[pipeline,dev]'
	@touch $@
