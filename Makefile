# Two commands matter: `make demo` runs the main job, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint screenshots audit test-crash test-chaos bench clean

demo: $(VENV)/.installed
	$(BIN)/aura demo

test: $(VENV)/.installed-test lint
	$(BIN)/python -m tests.audit --offline
	@$(BIN)/python -m tests.tools & \
	$(BIN)/python -m pytest tests/simulation; status=$$?; wait; exit $$status
	$(BIN)/python -m pytest tests --ignore tests/simulation -n 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Needs the network: 1 when something has a known hole, 2 when nothing could be audited. What needs
# no network, and so is part of `make test`, is `python -m tests.audit --offline`.
audit: $(VENV)/.installed-test
	$(PIP) 'pip-audit>=2.7'
	$(BIN)/python -m tests.audit

screenshots: $(VENV)/.installed-test
	AURA_SCREENSHOTS=1 $(BIN)/python -m pytest tests/ui

test-crash: $(VENV)/.installed-test
	AURA_CRASH_KILLS=2000 $(BIN)/python -m pytest tests/crash --timeout 3600

test-chaos: $(VENV)/.installed-test
	AURA_CHAOS_RUNS=5000 $(BIN)/python -m pytest tests/chaos

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.engine --store sqlite --peers
	$(BIN)/python -m benchmarks.engine --store postgres --peers
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.signals --store sqlite
	$(BIN)/python -m benchmarks.signals --store postgres
	$(BIN)/python -m benchmarks.recovery --store sqlite
	$(BIN)/python -m benchmarks.recovery --store postgres --peers

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Aura needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache demo
