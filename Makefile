# Everything goes into .venv, from the pinned file. Only Python 3.11 or newer, make and a package index are needed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for each in python3.13 python3.12 python3.11 python3; do \
	if $$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$each; break; fi; done)
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --no-annotate
SITE := var/site
# Per cent of the lines of notifier/ that the tests run in their own process; CI holds it.
FLOOR := 85

.DEFAULT_GOAL := help
.PHONY: help setup demo up quick test floor check lint docs bench lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/ready ## Install everything into .venv

$(VENV)/ready: requirements-dev.txt pyproject.toml notifier/__init__.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(VENV)/ready

demo: setup ## Start everything and send 1,000 debt notices into an inbox
	@$(BIN)/python -m notifier demo $(ARGS)

up: setup ## Start everything and stay up
	@$(BIN)/python -m notifier up $(ARGS)

quick: setup ## Run the tests that need no servers, in less than 30 seconds
	@$(BIN)/python -m pytest -m "not servers" --hypothesis-profile quick tests/unit tests/guards $(ARGS)

test: setup ## Run all tests and show what they cover; PostgreSQL and Valkey come from wheels
	@$(BIN)/python -m pytest --cov $(ARGS)

floor: test
	@$(BIN)/python -m coverage report --format total --fail-under $(FLOOR)

lint: setup ## Check style, types and layers
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports

check: lint floor ## What CI runs: style, types, layers, tests, coverage

docs: setup ## Build the site of docs/ into var/site; a broken link is an error
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --nitpicky --fresh-env -d $(SITE)/.doctrees docs $(SITE)
	@echo "The site is in $(SITE)/index.html"

bench: setup ## Measure a campaign of 114,072 messages (some minutes)
	@$(BIN)/python -m notifier bench $(ARGS)

lock: setup ## Write both requirements files again, after pyproject.toml
	@$(COMPILE) --extra dev -o requirements-dev.txt pyproject.toml
	@$(COMPILE) --constraint requirements-dev.txt -o requirements.txt pyproject.toml

clean: ## Remove .venv and the state of `make demo`
	rm -rf $(VENV) var
