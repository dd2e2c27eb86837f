# `make` alone lists the commands. They run in .venv, which the first command that needs it sets up.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install check format test test-all faults .faults-mixed .faults-sqlite .faults-postgresql demo bench test-wheel test-lowest release-check docs messages lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: $(INSTALLED) ## set up .venv with the locked requirements

# From the lock alone, because an unpinned torch would install gigabytes of CUDA libraries.
$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

check: $(INSTALLED) ## check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(INSTALLED) ## run the tests, except slow ones
	$(BIN)/pytest -q -m "not slow"

test-all: $(INSTALLED) ## run all tests
	$(BIN)/pytest -q

# The fault tests wait for leases most of the time, so three groups of them run in parallel.
faults: $(INSTALLED) ## run all fault tests, with the slow ones
	$(MAKE) --jobs 3 .faults-mixed .faults-sqlite .faults-postgresql

.faults-mixed:
	$(BIN)/pytest -q tests/faults/test_chaos.py

.faults-sqlite:
	$(BIN)/pytest -q tests/faults --ignore tests/faults/test_chaos.py -k sqlite

.faults-postgresql:
	$(BIN)/pytest -q tests/faults --ignore tests/faults/test_chaos.py -k "not sqlite"

# Demo and benchmarks use a home of their own, not ~/.finch. DEMO=--small shrinks the demo.
demo: export FINCH_HOME ?= $(CURDIR)/.demo
demo: $(INSTALLED) ## train, compose and merge with a real model, at most ten minutes on two cores
	$(BIN)/python -m examples.demo $(DEMO)

bench: export FINCH_HOME ?= $(CURDIR)/.demo
bench: $(INSTALLED) ## run all benchmarks, one after another
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Each of these installs into a new environment outside the repository, with torch from TORCH_INDEX if that is set.
test-wheel: $(INSTALLED) ## install the wheel and its extras elsewhere, and call every command
	$(BIN)/python -m scripts.check_package extras

test-lowest: $(INSTALLED) ## install the oldest requirements elsewhere, and call every command
	$(BIN)/python -m scripts.check_package lowest

release-check: $(INSTALLED) ## build a release, check it, install it elsewhere, and call every command
	$(BIN)/python -m scripts.check_package release

docs: $(INSTALLED) ## regenerate docs/cli.md from the commands' help
	$(BIN)/python docs/generate_cli.py

messages: $(INSTALLED) ## regenerate the list of error texts from the source
	PYTHONPATH=tests $(BIN)/python -m support.messages

lock: ## rewrite requirements.lock from the packages in .venv
	{ sed -n '/^#/p' requirements.lock; $(BIN)/pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > .lock.new
	mv .lock.new requirements.lock

clean: ## remove .venv and the demo's home
	rm -rf .venv .demo
