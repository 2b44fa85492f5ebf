# `make demo` and `make test` are all that a fresh clone needs: Python 3.11+, make and a compiler.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# mypy and mkdocstrings read sources in a folder that bears the package's name: links to ours.
NAMED := .cache/named/palaestra

# Every process here is one of several that share the cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install named demo test test-slow lint format docs bench report dist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with the package, its tests and its documentation tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"palaestra needs Python 3.11 or newer; $(PYTHON) is %d.%d. " % sys.version_info[:2] \
		+ "Name another one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

named:
	@mkdir -p $(NAMED)
	@ln -sfn $(addprefix $(CURDIR)/,$(wildcard *.py) agents envs lab wrappers) $(NAMED)

demo: $(STAMP)  ## HDPO, PPO and the heuristics on InventoryNet: DEMAND=, CALENDAR=, NETWORK=, OUT=
	$(BIN)/palaestra demo $(if $(DEMAND),--demand "$(DEMAND)") \
		$(if $(CALENDAR),--calendar "$(CALENDAR)") $(if $(NETWORK),--network "$(NETWORK)") \
		$(if $(OUT),--out "$(OUT)")

test: $(STAMP)  ## the test suite (minutes)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: $(STAMP)  ## the tests marked slow
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

lint: $(STAMP) named  ## ruff, mypy on the package, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/import_linter

format: $(STAMP)  ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) named  ## the documentation in site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(STAMP)  ## speed of the environments and of training
	$(BIN)/palaestra bench

report: $(STAMP)  ## the scoreboard of all systems as a static page
	$(BIN)/palaestra report

dist: $(STAMP)  ## wheel and sdist in dist/
	rm -rf build dist
	$(BIN)/python -m build

clean:  ## everything that make made, .venv included
	rm -rf $(VENV) .cache build dist site *.egg-info
