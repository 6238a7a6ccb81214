# make demo    find objects in photographs that the program draws, and show them
# make test    everything the tests check, style and types included
# make docs    the documentation, into build/docs
# make dist    what is published, built into dist/ and checked
# All make the virtual environment .venv first; only Python 3.11 or later and make are needed.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(shell cat pyproject.toml instsearch_cli/__init__.py | cksum | tr -d ' ')

.PHONY: demo test docs lint types dist clean

demo: $(READY)
	$(BIN)/instsearch demo demo

test: lint types $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

docs: $(READY)
	$(BIN)/python -m sphinx -W -n --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: export PYRIGHT_PYTHON_GLOBAL_NODE = 0
types: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
types: $(READY)  # nothing is downloaded: pyright and its Node.js are packages of the environment
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	INSTSEARCH_DIST=dist $(BIN)/python -m pytest tests/test_packaging.py

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m compileall -q instsearch_cli plugins formats
	@rm -f $(VENV)/ready-*
	@touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
