# HeteroSync: every target makes its own environment on first use. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
UV_VERSION = 0.13.9
ARGS   ?=
HUB    ?= embedded
SEEDS  ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo sftpgo toxiproxy test test-long mutants faults crash-points simulate check bench lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "HeteroSync needs Python 3.11 or newer; run `make PYTHON=python3.12 ...` with one that is.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements/dev.txt
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) $(if $(filter sftpgo,$(HUB)),sftpgo) ## three hospitals train together on this machine (HUB=sftpgo, ARGS="--rounds 5")
	$(BIN)/hsl demo --hub $(HUB) $(ARGS)

sftpgo: ## build the real hub, SFTPGo, into a cache outside the tree (needs Go; once, about a minute)
	@deploy/sftpgo/build.sh

toxiproxy: ## build the fault tests' proxy likewise
	@tests/faults/toxiproxy.sh

test: $(STAMP) ## every test that runs in minutes
	$(BIN)/python -m pytest -m "not long and not faults" -n 3 --dist loadfile $(ARGS)

faults: $(STAMP) toxiproxy ## wire faults, planted bugs, soak, crashes, a restored ledger, fusers, with counts (ARGS=--record keeps them)
	$(BIN)/python -m pytest tests/faults tests/planted tests/crash tests/e2e/test_restore.py tests/e2e/test_fusers.py -m "not long" $(ARGS)

test-long: $(STAMP) ## the long forms as well
	$(BIN)/python -m pytest -m long $(ARGS)

mutants: $(STAMP) ## mistakes in the learning code, a patch each: every one must turn the tests it names red
	$(BIN)/python -m pytest tests/mutants -n 2 --dist worksteal $(ARGS)

crash-points: $(STAMP) ## kill and cut the power at every durable step of an alliance in turn
	$(BIN)/python -m tests.crash $(ARGS)

simulate: $(STAMP) ## coordinator and agents on a virtual clock, faults drawn from a seed (SEEDS=10000, ARGS="--record")
	$(BIN)/python -m tests.simulator --seeds $(SEEDS) $(ARGS)

check: $(STAMP) ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measured comparisons, JSON lines under benchmarks/results
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(STAMP) ## pin and hash the dependencies anew
	$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet --upgrade --extra coordinator --extra hub -o requirements/coordinator.txt
	$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet --upgrade --extra node -o requirements/node.txt
	$(BIN)/uv pip compile --universal --generate-hashes --no-header --quiet --upgrade --group pyproject.toml:build -o requirements/build.txt
	$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-header --quiet --upgrade --all-extras --group dev -o requirements/dev.txt

clean: ## forget the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
