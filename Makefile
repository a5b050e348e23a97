# `make quickstart` and `make test` are the two commands to know. Both set everything up by themselves.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two spinning OpenMP threads on one busy core are twenty times slower than one.
export OMP_WAIT_POLICY := passive
export OMP_NUM_THREADS ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
# Tests start some hundred processes, each of which would compile every module anew where this is set.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup quickstart test test-all test-quantized lint types check clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

setup: $(READY)  ## make .venv and install the project with pinned versions

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 with venv is needed, and was not found." \
		"Install it (Debian: apt install python3 python3-venv), or say where: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

quickstart: $(READY)  ## plan and run the quickstart study on the embedded model, and write its report (about 7 minutes)
	$(BIN)/study plan quickstart
	$(BIN)/study launch quickstart

# Four at once on two cores: many tests wait for processes of their own.
test: $(READY)  ## the default test suite (no network, no GPU): all but the long series of the night
	$(BIN)/python -m pytest -n 4 --dist loadfile -m "not nightly"

test-all: lint types  ## every test, and the default ones once more with kernels for processors without AVX-512
	$(BIN)/python -m pytest -n 3 --dist loadfile
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 3 --dist loadfile -m "not nightly"

# In a folder of its own: where bitsandbytes is installed, PEFT loads it into every process that trains (a second, 50 MB).
test-quantized: $(READY)  ## the tests of weights in 8 and 4 bit, which `make test` skips (fetches bitsandbytes, 43 MB)
	test -d $(VENV)/bitsandbytes || $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps \
		--target $(VENV)/bitsandbytes bitsandbytes
	PYTHONPATH=$(CURDIR)/$(VENV)/bitsandbytes $(BIN)/python -m pytest -n 3 --dist loadfile -m "not nightly" \
		$$(grep -rl --include="*.py" 'importorskip("bitsandbytes")' tests)

lint: $(READY)  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy on the packages
	$(BIN)/mypy

check: lint types test test-quantized  ## what continuous integration runs

clean:  ## remove the environment and caches (studies and reports stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
