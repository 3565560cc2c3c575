# Needs python >= 3.11, make and git; everything else is installed into .venv.
# Another interpreter: make setup PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread a process: the suite runs several processes, and tiny tensors gain nothing from more.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
CHECK_PYTHON := import sys; v = sys.version_info; \
    v >= (3, 11) or sys.exit("pyro-lebm needs Python 3.11 or newer, but " + sys.executable \
    + " is " + "%d.%d" % v[:2] + "; choose another with make PYTHON=/path/to/python3.11")

.PHONY: setup demo test lint format notebooks clean

setup: $(STAMP)

# torch goes first and by its exact version: an open range may fetch gigabytes of CUDA packages.
$(STAMP): pyproject.toml constraints.txt Makefile
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo "$(PYTHON) was not found; choose another with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c '$(CHECK_PYTHON)'
	@$(PIP) --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -c '$(CHECK_PYTHON)' || { echo "remove $(VENV) first" >&2; exit 1; }
	$(PIP) install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt setuptools wheel
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[dev,numpyro,mujoco,nwb,flows]"
	@touch $@

demo: setup
	$(BIN)/python benchmarks/irregular_sines.py --demo

test: lint
	$(ONE_THREAD) $(BIN)/pytest -n 2 --dist loadgroup

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: setup
	$(BIN)/jupytext --to notebook tutorials/*.py

clean:
	rm -rf build dist *.egg-info htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache
	rm -f tutorials/*.ipynb
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
