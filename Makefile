# Every target does its own set-up. Needed before: make and Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest
STANDBY := $(BIN)/standby

# Lanes that take minutes; `make test` leaves them out, `make check` does not.
HEAVY := sdk or kill or powerloss or office

.DEFAULT_GOAL := help
.PHONY: help setup model demo test check lint types layers fast real heavy test-engines bench serve docs constraints clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## Install everything into .venv, at pinned versions

$(READY): pyproject.toml constraints.txt tools/setup.sh
	@PYTHON="$(PYTHON)" tools/setup.sh $(VENV)
	@touch $@

model: $(READY) ## Fetch the model that the embedded engine runs (98 MB, once)
	@$(BIN)/python -m standby.engines.model_file

demo: model ## Play the nightly report: a batch, a live request in the middle, a table of answers
	@$(BIN)/python -m demo

serve: model ## Start the server on http://127.0.0.1:8378 with the embedded engine
	@$(STANDBY) serve

test: fast real ## Fast tests, then those with the real engine

fast: $(READY)
	$(PYTEST) -q -m "not real and not ($(HEAVY))"

real: model
	$(PYTEST) -q -m "real and not ($(HEAVY))"

heavy: model
	@tools/node.sh
	@tools/office.sh
	$(PYTEST) -q -m "$(HEAVY)"

check: lint types layers fast real heavy ## What CI runs: format, lint, types, layers, every test

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports --no-cache

test-engines: model ## Prove the adapters on a real vLLM (its CPU build: 4.5 GB, ten minutes the first time)
	@PYTHONPATH=. $(BIN)/python -m tools.real_engines

bench: model ## Measure, side by side with what the machine could do at best
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --constraint constraints.txt --editable '.[bench]'
	@$(BIN)/python -m bench --plots docs/images
	@$(BIN)/python -m bench --write docs/benchmarks.md

docs: $(READY) ## Write the generated parts of docs/ again
	@$(BIN)/python tools/write_docs.py

constraints: $(READY) ## Pin what is installed now
	@tools/pin.sh $(VENV)

clean: ## Remove what was built here; data folders and the model stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name node_modules -type d -prune -exec rm -rf {} +
