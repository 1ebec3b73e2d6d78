# `make help` says what there is. Everything happens in .venv, made with the first suitable Python.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help serve test test-integration check format lock audit test-container clean

VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt
SERVING := $(VENV)/.serving-installed
EVERYTHING := $(VENV)/.everything-installed

# Overridable: make test PYTHON=/usr/bin/python3.12
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
    if "$$python" -c '$(USABLE)' 2> /dev/null; then echo "$$python"; break; fi; done)
NO_PYTHON := Expected Python 3.11, 3.12 or 3.13 with its venv module; found none. \
    On Debian or Ubuntu: apt-get install python3-venv. Another place: make PYTHON=/path/to/python3

help: ## List the targets.
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' Makefile | expand -t 18

serve: $(SERVING) ## Install what serving needs and serve the shipped release on 127.0.0.1:8000.
	@exec $(VENV)/bin/covid-xray serve

test: $(EVERYTHING) ## Install everything and run all tests, two files at a time.
	$(RUN) pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-integration: $(EVERYTHING) ## Of all tests, those with real processes: servers, a browser, a PACS.
	$(RUN) pytest tests/integration

check: $(EVERYTHING) ## Check format, lint and types.
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

format: $(EVERYTHING) ## Format the code and fix what can be fixed.
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

test-container: $(EVERYTHING) ## Build the image, run it as compose does and compare its answer.
	$(RUN) tests.container

lock: | $(VENV)/bin/pip ## Lock versions after a change of pyproject.toml; UPGRADE=--upgrade, the newest.
	$(INSTALL) uv
	$(RUN) uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 $(UPGRADE) \
	    --no-annotate --custom-compile-command 'make lock' --quiet --output-file constraints.txt
	sed -i "s/ ; python_full_version < '3.14' and sys_platform == 'linux'$$//" constraints.txt

audit: | $(VENV)/bin/pip ## Look for known weaknesses of all locked versions; needs the internet.
	$(INSTALL) uv
	$(RUN) uv tool run pip-audit --disable-pip --no-deps --strict --requirement constraints.txt

clean: ## Remove everything that the other targets made, except runs and releases.
	rm -rf $(VENV) .container .mypy_cache .pytest_cache .ruff_cache build ./*.egg-info
	find app covid_xray training tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/pip:
	@"$(PYTHON)" -c '$(USABLE)' 2> /dev/null || { echo '$(NO_PYTHON).' >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(SERVING): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo 'Installing what serving needs (about a minute) ...'
	$(INSTALL) --editable .
	touch $@

# Everything includes serving: `make serve` after `make test` installs nothing. So many packages take
# pip minutes; like pip, uv has to compile them, since not every process may write what it compiled.
$(EVERYTHING): pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo 'Installing everything, TensorFlow included (some minutes) ...'
	$(INSTALL) uv
	$(RUN) uv pip install --quiet --compile-bytecode --constraint constraints.txt \
	    --editable '.[otel,scale,train,dev]'
	touch $(SERVING) $@
