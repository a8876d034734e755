# Everything a newcomer needs: `make demo` and `make test` set themselves up from nothing but python3.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= runs/demo
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: help setup demo docs test test-device lint clean

help:
	@echo "make setup  build $(VENV) with everything pinned in constraints.txt"
	@echo "make demo   LiPT warm start through a real CORDS loader on bundled data (under 3 minutes)"
	@echo "make docs   the documentation, in docs/_build"
	@echo "make test-device  every entry point on an emulated accelerator, CORDS's CRAIG too"
	@echo "make test   linters, types, layers, tests and doctests (under 6 minutes on two cores;"
	@echo "            JOBS=N runs the tests in N processes)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else "lipt-cords needs Python 3.10 to 3.12, found %d.%d: run make PYTHON=/path/to/python3.11" % v)'
	@echo "Setting up $(VENV): a few minutes the first time, nothing afterwards"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch torchvision
	$(PIP) --editable '.[cords,report,tables,track,prune,docs,examples,dev]'
	@# CORDS pins packages that no current Python can install; its real needs are the `cords` extra.
	$(PIP) --no-deps cords==0.0.4
	@touch $(READY)

demo: $(READY)
	$(BIN)/lipt-cords demo --output $(OUTPUT)

docs: $(READY)
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread: the tests' nets are so small that a second one only waits, and on a busy machine long.
test: export OMP_NUM_THREADS = 1
# What CORDS's CRAIG compiles runs for a moment: compile it quickly.
test: export NUMBA_OPT = 0
# Compile the package once, not in every process that the tests start.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY)
	@$(MAKE) --no-print-directory -j2 lint docs
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The tests that train and select, with an emulated accelerator in the place of device="auto".
test-device: export OMP_NUM_THREADS = 1
test-device: $(READY)
	$(BIN)/python -m pytest --emulated-device tests/devices/on_device
	LIPT_CORDS_NO_FLOAT64=1 $(BIN)/python -m pytest --emulated-device tests/devices/on_device

clean:
	rm -rf $(VENV) runs docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
