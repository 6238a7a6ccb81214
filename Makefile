# make demo    find objects in photographs that the program draws, and show them
# make test    everything the tests check, style and types included
# make docs    the documentation, into build/docs
# They make the virtual environment .venv first; only Python 3.11 or later and make are needed.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(shell cksum < pyproject.toml | tr -d ' ')

.PHONY: demo test docs lint types wheel clean

demo: $(READY)
	$(BIN)/instsearch demo demo

test: lint types $(READY)
	$(BIN)/python -m pytest

docs: $(READY)
	$(BIN)/python -m sphinx -W -n --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

wheel: $(READY)
	$(BIN)/python -m build --wheel

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm -f $(VENV)/ready-*
	@touch $@

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
