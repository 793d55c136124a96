# The environment (.venv) is made and filled at the first use of any target; after that it costs nothing until
# pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

# Two test processes with one thread each use two cores fully; more threads would only get in each other's way.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format docs notebook clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## train on real films, show metrics, recommendations and explanations
	@$(BIN)/lirdrec demo $(ARGS)

test: $(READY) ## run the tests (all but the slow ones)
	$(TEST) -m "not slow" $(ARGS)

test-slow: $(READY) ## run the slow tests only
	$(TEST) -m slow $(ARGS)

lint: $(READY) ## check style, format, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python .ci/check_words.py

format: $(READY) ## format the code and sort the imports
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

docs: $(DOCS_READY) ## build the documentation site into site/
	$(BIN)/python docs/draw_architecture.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebook: $(DOCS_READY) ## run docs/quickstart.ipynb again and keep its outputs
	$(BIN)/python docs/execute_notebook.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find src -name '*.egg-info' -type d -prune -exec rm -rf {} +

# pip writes byte code while installing, even where PYTHONDONTWRITEBYTECODE is set: --compile makes that explicit,
# because importing torch without byte code takes seconds each time.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lirdrec needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --compile -c constraints.txt -e ".[dev]"
	@touch $@

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --compile -c constraints.txt -e ".[docs]"
	@touch $@
