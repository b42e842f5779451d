# `make demo`, `make test`, `make docs` and others make .venv first and can be repeated.
SHELL := /bin/bash
HERE := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
PYTHON ?= python3
VENV := $(HERE).venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test bench check docs install
.DEFAULT_GOAL := demo

install: $(STAMP)

$(STAMP): $(HERE)requirements.lock $(HERE)pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "decode needs Python 3.11 or later; got $$($(PYTHON) --version); set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	cd $(HERE) && $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	cd $(HERE) && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $(STAMP)

demo: install
	cd $(HERE) && for name in quickstart quickstart_eeg quickstart_meg; do \
	  $(BIN)/decode experiment=$$name || exit $$?; done
	@echo $(HERE)outputs/index.html

test: install
	cd $(HERE) && $(BIN)/python -m pytest -m "" --durations=15

check: install
	cd $(HERE) && PATH=$(BIN):$$PATH scripts/check.sh

docs: install
	cd $(HERE) && $(BIN)/mkdocs build --strict --quiet
	@echo $(HERE)site/index.html

bench: install
	cd $(HERE) && $(BIN)/python -m benchmarks
