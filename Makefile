# `make` alone lists the commands. Everything runs from .venv, which the first command that needs it sets up.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install check format test test-all faults .faults-mixed .faults-sqlite .faults-postgresql demo bench docs messages lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(INSTALLED) ## set up .venv with the locked requirements

# Plain pip, from the lock alone: an unpinned torch would bring several gigabytes of CUDA libraries.
$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

check: $(INSTALLED) ## format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(INSTALLED) ## every test but the slow ones: real Valkey, PostgreSQL, Celery worker
	$(BIN)/pytest -q -m "not slow"

test-all: $(INSTALLED) ## every test
	$(BIN)/pytest -q

# They wait for leases most of their time, so the mix of all faults and the single ones run side by side.
faults: $(INSTALLED) ## the whole fault suite, the slow ones too
	$(MAKE) --jobs 3 .faults-mixed .faults-sqlite .faults-postgresql

.faults-mixed:
	$(BIN)/pytest -q tests/faults/test_chaos.py

.faults-sqlite:
	$(BIN)/pytest -q tests/faults --ignore tests/faults/test_chaos.py -k sqlite

.faults-postgresql:
	$(BIN)/pytest -q tests/faults --ignore tests/faults/test_chaos.py -k "not sqlite"

# Demo and benchmarks keep to their own home and leave nothing in ~/.finch; DEMO=--small shrinks the demo.
demo: export FINCH_HOME ?= $(CURDIR)/.demo
demo: $(INSTALLED) ## the main job end to end, sized for ten minutes on two cores
	$(BIN)/python -m examples.demo $(DEMO)

bench: export FINCH_HOME ?= $(CURDIR)/.demo
bench: $(INSTALLED) ## the benchmarks against their peers, one after another
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(INSTALLED) ## regenerate docs/cli.md from the commands' own help
	$(BIN)/python docs/generate_cli.py

messages: $(INSTALLED) ## regenerate the list of error texts from the source
	PYTHONPATH=tests $(BIN)/python -m support.messages

lock: ## rewrite requirements.lock from what .venv has installed
	{ sed -n '/^#/p' requirements.lock; $(BIN)/pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > .lock.new
	mv .lock.new requirements.lock

clean: ## remove .venv and the demo's home
	rm -rf .venv .demo
