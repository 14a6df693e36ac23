# Every target does its own set-up. A newcomer needs Python, make and a network, and runs
# `make demo`.

VENV := .venv
BIN := $(VENV)/bin
WEB := tests/web
WEB_FILES := 'services/usageledger/web/**/*.{js,css,ts}' '$(WEB)/*.{js,json}'
WITH_NODE := PATH="$(CURDIR)/$(BIN):$(CURDIR)/$(WEB)/node_modules/.bin:$$PATH"
PRETTIER := $(WITH_NODE) prettier --config $(WEB)/package.json --ignore-path $(WEB)/.prettierignore
PY := $(BIN)/python
DEMO :=
UP :=
PYTEST := $(PY) -m pytest
ARGS :=
SEEDS := 100
STEPS := 10000
SEED :=
FAULTS := 100
STORE := seed
REPORT :=

# Tests import the built wheel and never the source tree, whatever the caller's shell sets.
unexport PYTHONPATH
unexport PYTHONHOME
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Directories are listed too: a directory's time changes when a file in it is deleted.
SOURCES := $(shell find services/usageledger ! -name '__pycache__' ! -name '*.pyc')
# `make test` runs these beside the integration tests, which mostly wait. The longest comes last.
OTHERS := $(addprefix tests/,unit simulation property contract model fuzz security examples \
  browser chaos)
RUNS := 1000000
# `make check` runs these two at a time. An old make (macOS has 3.81) cannot sort their output.
CHECKS := types unit contract web property
SORTED := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.DEFAULT_GOAL := help
.PHONY: help setup check lock wheel lint format types web schemas check-schemas test \
  test-integration test-others unit simulate property contract fuzz model integration \
  security examples browser chaos demo up down bench sbom audit-dependencies clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' \
	  $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/requirements.lock ## make .venv, and install the locked dependencies

# The copy of the lock inside the venv records what is installed there. A checkout that only touches
# the file installs nothing. pip checks each dependency against its digest.
$(VENV)/requirements.lock: requirements.lock
	@cmp -s $< $@ || { python=$$(./infra/dev/find_python.sh) \
	  && echo "installing the locked dependencies into $(VENV) (about half a minute)" \
	  && "$$python" -m venv $(VENV) \
	  && $(PY) -m pip install --quiet --require-hashes --only-binary :all: -r $<; }
	@cp $< $@

# Constraints are read off the installed packages, so they are installed in between.
lock: setup ## raise the locked dependencies to the newest that pyproject.toml allows
	$(PY) -m pip install --quiet uv==0.13.9
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --python-version 3.11 --extra all --group dev \
	  --output-file requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory constraints.txt

constraints.txt: $(VENV)/requirements.lock
	@$(PY) -m tests.supply_chain.write_constraints

wheel: $(VENV)/wheel.stamp ## build the wheel and install it into .venv

# This needs no network: hatchling is a locked dependency, and so is all that the wheel needs.
$(VENV)/wheel.stamp: $(VENV)/requirements.lock $(SOURCES) pyproject.toml README.md LICENSE
	@rm -rf build/wheel
	@$(PY) -m hatchling build --target wheel --directory build/wheel
	@$(PY) -m pip install --quiet --no-deps --no-index --force-reinstall build/wheel/*.whl
	@touch $@

lint: setup ## ruff, and a check of the English in comments, docstrings and Markdown
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	@$(PY) -m tests.prose

format: setup $(WEB)/node_modules ## format the code with ruff and Prettier
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
	$(PRETTIER) --log-level warn --write $(WEB_FILES)

types: setup ## mypy, strict
	$(BIN)/mypy

web: $(WEB)/node_modules ## the JavaScript of web/: lint, types and unit tests
	$(WITH_NODE) eslint --config $(WEB)/eslint.config.js services/usageledger/web $(WEB)
	$(PRETTIER) --log-level warn --check $(WEB_FILES)
	$(WITH_NODE) tsc --project $(WEB)
	$(WITH_NODE) node --disable-warning=MODULE_TYPELESS_PACKAGE_JSON --test \
	  --test-reporter=dot '$(WEB)/*.test.js'

# node and npm are among Python's locked dependencies.
$(WEB)/node_modules: $(VENV)/requirements.lock $(WEB)/package.json $(WEB)/package-lock.json
	@echo "installing the tools for JavaScript into $@"
	@$(WITH_NODE) npm ci --prefix $(WEB) --loglevel error --no-progress >/dev/null
	@touch $@

schemas: wheel ## write schemas/ from the contracts and the gateway's routes
	$(PY) -m usageledger.contracts.schemas schemas/
	$(PY) -m usageledger.gateway.write_openapi schemas/
	$(WITH_NODE) node $(WEB)/write_gateway_types.js

check-schemas: wheel ## check that schemas/ matches the contracts and the routes
	$(PYTEST) tests/contract/test_schemas.py $(ARGS)

check: lint wheel ## the inner loop (90 s): lint, types, unit, property and contract tests
	@USAGELEDGER_TEST_PROFILE=$${USAGELEDGER_TEST_PROFILE:-quick} \
	  $(MAKE) --no-print-directory --jobs=2 --keep-going $(SORTED) ARGS="--quiet $(ARGS)" $(CHECKS)

test: lint types web wheel ## every check and test, with a real broker, counter store and browser
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-integration test-others

# Two outputs at a time cannot be read: this one is shown when it is complete.
test-integration: wheel
	@mkdir -p build
	@echo "the integration tests run meanwhile, and write to build/test-integration.log"
	@status=0; $(PYTEST) tests/integration $(ARGS) >build/test-integration.log 2>&1 || status=$$?; \
	  cat build/test-integration.log; exit $$status

test-others: wheel
	$(PYTEST) $(OTHERS) $(ARGS)

unit: wheel ## unit tests: no network and no servers, less than a minute
	$(PYTEST) tests/unit $(ARGS)

simulate: wheel ## whole ledgers with every fault, on all cores (SEEDS=100 STEPS=10000, or SEED=n)
	$(PY) -m tests.simulation --seeds $(SEEDS) --steps $(STEPS) $(if $(SEED),--seed $(SEED))

property: wheel ## property tests (USAGELEDGER_TEST_PROFILE=thorough searches further)
	$(PYTEST) tests/property $(ARGS)

contract: wheel ## contract tests: messages on the wire, and each port's adapters
	$(PYTEST) tests/contract $(ARGS)

fuzz: wheel ## fuzz each decoder, and a partition's count of its inputs (RUNS=1000000 of each)
	$(PY) -m pip install --quiet --require-hashes --only-binary :all: \
	  -r tests/fuzz/requirements.txt \
	  || echo "there is no wheel of atheris for this machine: the decoders are not fuzzed"
	$(PY) -m tests.fuzz.accounting --inputs $(RUNS)
	@! $(PY) -c "import atheris" 2>/dev/null || $(PY) -m tests.fuzz --runs $(RUNS)

model: wheel ## visit every state of the protocol's model (WIDE=1: one more fault, takes hours)
	$(if $(WIDE),USAGELEDGER_TEST_PROFILE=thorough) $(PYTEST) tests/model $(ARGS)

integration: wheel ## the whole flow on a real broker (USAGELEDGER_TEST_BACKEND=packages|docker)
	$(PYTEST) tests/integration $(ARGS)

security: wheel ## attacks from outside, and secured brokers
	$(PYTEST) tests/security $(ARGS)

examples: wheel ## the programs in examples/, run against a real stack
	$(PYTEST) tests/examples $(ARGS)

browser: wheel ## the pages in a real Chromium; screenshots in build/screenshots/
	$(PYTEST) tests/browser $(ARGS)

chaos: wheel ## FAULTS=100 faults lose nothing (SEED=S STORE=sentinel|cluster REPORT=D ARGS=--alone)
	$(PY) -W ignore -m tests.chaos --faults $(FAULTS) --store $(STORE) \
	  $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT)) $(ARGS)

demo: wheel ## show the whole flow, and the audit's verdict (DEMO=--disaster adds two faults)
	$(BIN)/usageledger demo $(DEMO)

up: wheel ## start the one-machine stack in the foreground (UP='--data DIR …')
	$(BIN)/usageledger up $(UP)

down: wheel ## stop the stack of `make up` (UP='--data DIR')
	$(BIN)/usageledger down $(UP)

sbom: wheel ## write build/sbom.json: every locked package and jar with its digests (CycloneDX)
	@$(PY) -m tests.supply_chain.write_sbom build/sbom.json

audit-dependencies: setup ## ask for advisories about the locked versions; says so if it cannot ask
	@$(PY) -m tests.supply_chain.audit_dependencies

bench: setup ## list the benchmarks
	@grep -l "^def main" tests/benchmarks/*.py | sed "s,/,.,g; s,\.py$$,,; s,^,python -m ,"

clean: ## remove what was built and installed; a stack's data stays
	rm -rf $(VENV) $(WEB)/node_modules build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
