# Everything goes into .venv, from the pinned file. Only Python 3.11 or newer, make and a package index are needed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for each in python3.13 python3.12 python3.11 python3; do \
	if $$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$each; break; fi; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check lint bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/ready ## Install everything into .venv

$(VENV)/ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/ready

demo: setup ## Start everything and send 1,000 debt notices into an inbox
	@$(BIN)/python -m notifier demo $(ARGS)

up: setup ## Start everything and stay up
	@$(BIN)/python -m notifier up $(ARGS)

test: setup ## Run all tests; PostgreSQL and Valkey come from wheels
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## Check style, types and layers
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports

check: lint test ## What CI runs: style, types, layers, tests

bench: setup ## Measure a campaign of 114,072 messages (some minutes)
	@$(BIN)/python -m notifier bench $(ARGS)

clean: ## Remove .venv and the state of `make demo`
	rm -rf $(VENV) var
