# `make` alone lists the commands. They run in .venv, which the first command that needs it sets up.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install .use .development check format test test-all test-slow faults faults-sqlite faults-postgresql chaos fuzz demo bench test-wheel test-lowest release-check docs messages lock clean

# The first Python on PATH that is new enough, or else python3, which the installer refuses with the reason.
PYTHON ?= $(or $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done),python3)
# From PyPI, torch would bring gigabytes of CUDA on Linux. With CUDA=1, make installs that.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
# What commands need in .venv: the packages for development too, or only those of requirements.lock.
INSTALLED := .development
# Without site-packages, because PYTHON may be the one of a broken .venv.
INSTALL = @command -v "$(PYTHON)" >/dev/null || { echo "error: $(PYTHON) is not on PATH: Finch Hub needs Python 3.11 or newer (install it, or set PYTHON)" >&2; exit 1; }; \
	"$(PYTHON)" -S -m scripts.install --torch-index="$(TORCH_INDEX)" \
	$(if $(CUDA),--torch=$(if $(filter-out 0,$(CUDA)),cuda,cpu)) $(if $(filter file,$(origin PYTHON)),,--exact-python)

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

install: .use ## set up .venv with what running needs; CUDA=1 for NVIDIA GPUs

# Both find out what is missing, and end within a moment if nothing is.
.use:
	$(INSTALL)

.development:
	$(INSTALL) --development

# The code of README and guides: pyright would otherwise ask the network for its newest version.
PAGE_CODE := build/pages

check: $(INSTALLED) ## check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.page_code $(PAGE_CODE)
	MYPYPATH=$(PAGE_CODE)/plugins $(BIN)/mypy $(PAGE_CODE)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright -p $(PAGE_CODE) --pythonpath $(BIN)/python

format: $(INSTALLED) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Tests run side by side, as many processes as cores and memory allow. PROCESSES=0 runs them in one.
PROCESSES ?= auto
SHARE ?= 1/1
PYTEST = $(BIN)/pytest -q -n $(PROCESSES) --dist worksteal --share $(SHARE)
CHAOS := tests/faults/test_chaos.py

test: $(INSTALLED) ## run the tests, except slow ones
	$(PYTEST) -m "not slow" --durations 20 --durations-min 5

test-all: $(INSTALLED) ## run all tests
	$(PYTEST)

test-slow: $(INSTALLED) ## run the slow tests, except fault tests
	$(PYTEST) -m slow --ignore tests/faults

faults: $(INSTALLED) ## run all fault tests, with the slow ones
	$(PYTEST) tests/faults

faults-sqlite: $(INSTALLED) ## run the fault tests on SQLite (SHARE=1/3 runs a third)
	$(PYTEST) tests/faults --ignore $(CHAOS) -k sqlite

faults-postgresql: $(INSTALLED) ## run the fault tests on PostgreSQL
	$(PYTEST) tests/faults --ignore $(CHAOS) -k "not sqlite"

chaos: export FINCH_TEST_CHAOS_SEED = $(SEED)
chaos: export FINCH_TEST_CHAOS_SECONDS = $(SECONDS)
chaos: SECONDS ?= 600
chaos: $(INSTALLED) ## run random faults for SECONDS=600; it prints its SEED
	$(BIN)/pytest -q $(CHAOS)

ATHERIS := atheris==3.0.0

# The seed is printed first, so that a failure can be repeated.
fuzz: export FINCH_TEST_EXAMPLES ?= 10
fuzz: SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
fuzz: PARSERS ?= rows configs safetensors adapters gguf archives cards addresses
fuzz: SECONDS ?= 60
fuzz: $(INSTALLED) ## run the tests on random examples with ten times as many, and fuzz each parser; it prints its SEED
	@echo "make fuzz SEED=$(SEED) FINCH_TEST_EXAMPLES=$(FINCH_TEST_EXAMPLES)"
	$(PYTEST) -m hypothesis --hypothesis-seed $(SEED)
	@# Atheris follows the coverage. Without a wheel for this system, the tests above are all.
	@if $(BIN)/python -m pip install --quiet --only-binary :all: --target .fuzz --upgrade $(ATHERIS); then \
	for parser in $(PARSERS); do echo "== $$parser for $(SECONDS) seconds" && \
	PYTHONPATH=tests:.fuzz $(BIN)/python -m support.fuzz $$parser $(SECONDS) $(SEED) .fuzz/inputs || exit 1; done; \
	else echo "there is no $(ATHERIS) for this system, so the parsers are not fuzzed by their coverage"; fi

# Demo and benchmarks use a home of their own, whatever hub the user's variables lead to.
DEMO_HOME := $(CURDIR)/.demo
IN_DEMO_HOME = env -u FINCH_CONFIG -u FINCH_DATABASE_URL -u FINCH_BROKER_URL -u FINCH_ARTIFACTS_URL FINCH_HOME="$(DEMO_HOME)"

demo: .use ## train, compose and merge with a real model, at most ten minutes on two cores (DEMO=--small: less)
	@$(IN_DEMO_HOME) $(BIN)/python -m examples.demo $(DEMO)

bench: $(INSTALLED) ## run all benchmarks, one after another
	@for file in $$(grep -l __main__ benchmarks/*.py); do echo "== $$file"; $(IN_DEMO_HOME) $(BIN)/python $$file || exit 1; done

# Each of these installs into a new environment outside the repository.
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

lock: $(INSTALLED) ## renew the locks after a change of pyproject.toml; UPGRADE=1 takes the newest versions
	$(BIN)/python -m scripts.renew_locks $(if $(UPGRADE),--upgrade)

# The demo's worker would otherwise run on without its files.
clean: ## stop the demo's worker, and remove all that make and the tools have made
	@if test -d .demo && test -x $(BIN)/finch-hub; then $(IN_DEMO_HOME) $(BIN)/finch-hub worker stop || true; fi
	rm -rf .venv .venv-new .venv-old .venv.lock .demo dist build *.egg-info
	rm -rf .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
