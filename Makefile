# Fresh machine: python3 and make are all these need.
#   make demo             install, train the four-layer stack with and without batch norm, show it
#   make demo ARGS="..."  the same with options of `gammabeta demo`
#   make test             install, lint, check types, run the tests; JOBS=1 for one at a time
#   make test-all         the same with the long sweeps: every instruction set, sanitizers, fuzzing

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ARGS ?=
JOBS ?= auto

.PHONY: demo test test-all lint types clean

demo: $(VENV)/.installed
	$(BIN)/gammabeta demo $(ARGS)

# Threads that wait leave their core to the other tests, instead of turning in circles on it.
test test-all: export OMP_WAIT_POLICY := passive

test: $(VENV)/.installed-test lint types
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not sweep"

test-all: $(VENV)/.installed-test lint types
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not brief"

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/types/node_modules

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("gammabeta needs Python 3.10 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# What an installation is made of, beside the Python files that it points to. The kernels of C++
# take a minute or two to compile; without a compiler they are left out.
BUILT := pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/gammabeta/ops/cpu/native/*)

$(VENV)/.installed: $(VENV)/bin/python $(BUILT)
	@echo "installing gammabeta (PyTorch is large: this can take minutes the first time)"
	$(PIP) --editable .
	@touch $@

# Installs all that .installed does: the kernels are compiled once, not twice.
$(VENV)/.installed-test: $(VENV)/bin/python $(BUILT)
	$(PIP) --editable ".[test]"
	@touch $(VENV)/.installed $@
