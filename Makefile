# Two commands: `make demo` and `make test`. Everything lives in .venv and .arqscope.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PORT   ?=
ONLY   ?=
NBVAL  := --nbval --nbval-current-env --nbval-cell-timeout 110 --nbval-sanitize-with notebooks/sanitize.cfg
PYTEST := $(BIN)/python -m pytest $(NBVAL) tests notebooks

.DEFAULT_GOAL := help
.PHONY: help demo test check format faults compose-test arq-tests schema bench screenshots notebooks notebook-outputs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is the last thing written: an interrupted installation is done again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("arqscope needs Python 3.11 or later; $(PYTHON) is " + sys.version.split()[0] + ". Name another one: make demo PYTHON=python3.12")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian/Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Installing into $(VENV); the first time takes a minute"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# --with-parent: a make that is killed hard takes the stack with it.
demo: $(READY) ## start everything with a demo load (PORT=8010 for another port)
	@exec $(BIN)/arqscope up --demo --with-parent $(if $(PORT),--port $(PORT))

test: $(READY) ## run every test, notebooks included
	@./.ci/install-system-packages
	@$(PYTEST)

check: $(READY) ## what CI runs: format, lint, types, imports, spelling, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files -z | xargs -0 $(BIN)/codespell
	./.ci/install-system-packages
	$(PYTEST)

format: $(READY) ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

faults: $(READY) ## inject faults at full size (long)
	@ARQSCOPE_FAULTS=full ARQSCOPE_FAULTS_ONLY=$(ONLY) $(BIN)/python -m pytest tests/faults --timeout 3600 -s

compose-test: $(READY) ## build and run compose/ in real containers, kill each (root on Debian; minutes)
	@ARQSCOPE_COMPOSE=1 ARQSCOPE_FAULTS=full $(BIN)/python -m pytest tests/faults/test_manifests.py tests/faults/test_containers.py -s -v

arq-tests: $(READY) ## run arq's own test-suite against our worker; fetches it with pip
	@$(BIN)/python tests/stock/run.py

schema: $(READY) ## try the API against its own description for ten minutes
	@ARQSCOPE_SCHEMA_S=600 $(BIN)/python -m pytest tests/integration/test_schema.py --timeout 900 -s

bench: $(READY) ## measure beside the peers (ONLY=T1,T4); writes bench/results.json
	@$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY))

screenshots: $(READY) ## take the pictures in docs/screenshots
	@$(BIN)/python docs/screenshots/take.py

notebooks: $(READY) ## run the notebooks, each against a private stack, and check what they print
	@$(BIN)/python -m pytest $(NBVAL) notebooks

notebook-outputs: $(READY) ## run the notebooks and keep their outputs (ONLY=03)
	@$(BIN)/python notebooks/take.py $(ONLY)

clean: ## remove the environment and caches; data in .arqscope stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
