# Everything happens in .venv below this directory; nothing is installed elsewhere.
# Needs Python 3.11 or newer, make and access to PyPI.

PYTHON ?= python3
JOBS   ?= 2
ARGS   ?=
MINUTES ?= 10
RUNS   ?= 200
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCH  := .venv-bench
BENCH_STAMP := $(BENCH)/.installed
UV     := UV_PROJECT_ENVIRONMENT=$(VENV) UV_NO_PROGRESS=1 $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help install demo test test-debian kill-points model stateful mutants soak chaos documents screens bench bench-growth bench-bloat lint format build clean

help: ## list the targets
	@echo "pyatm: the async task manager of oVirt on PostgreSQL"
	@echo
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  variables: PYTHON=$(PYTHON) (3.11 or newer), JOBS=$(JOBS) (parallel tests), ARGS=... (for pytest or the demo)"

install: $(STAMP) ## make .venv from the lock file (again only when the lock file has changed)

$(STAMP): uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "pyatm needs Python 3.11 or newer, and '$(PYTHON)' is not; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet 'uv>=0.9'
	@$(UV) sync --frozen --quiet
	@touch $@

demo: $(STAMP) ## remove a VM with 4 disks, and survive an engine crash
	@$(BIN)/pyatm demo $(ARGS)

test: $(STAMP) ## all tests, in parallel, on the embedded PostgreSQL (or PYATM_TEST_DSN)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

test-debian: $(STAMP) ## the SQL tests on Debian's PostgreSQL 15 with plpgsql_check
	@bash tests/debian/run $(ARGS)

kill-points: $(STAMP) ## kill the engine at every point of every flow (half an hour)
	PYATM_ALL_POINTS=1 $(BIN)/pytest -n $(JOBS) --dist worksteal tests/flows/test_killed.py tests/flows/test_two_engines.py $(ARGS)

model: $(STAMP) ## search the model of the protocol, the large worlds too (several minutes)
	$(BIN)/python -m tests.model --large --walk 60 $(ARGS)

stateful: $(STAMP) ## random calls, faults and interleavings against an oracle, RUNS=200, other seeds each time
	PYATM_STATEFUL_RUNS=$(RUNS) PYATM_STATEFUL_SEED=$${SEED:-$$(date +%s)} $(BIN)/pytest -n $(JOBS) --dist worksteal tests/stateful $(ARGS)

mutants: $(STAMP) ## take each guard away on a copy, and see some test fail
	$(BIN)/python -m tests.mutation $(ARGS)

screens: $(STAMP) ## take the pictures of the README from the running program
	PYTHONPATH=. $(BIN)/python docs/make_screens.py $(ARGS)

soak: $(STAMP) ## the VDSM client under random faults for MINUTES=10
	PYATM_SOAK_SECONDS=$$(( $(MINUTES) * 60 )) $(BIN)/pytest -p no:randomly -s tests/protocol/test_soak.py $(ARGS)

documents: $(STAMP) ## run the guides in docs/ and write the outputs that have changed
	$(BIN)/python -m tests.documents $(ARGS)

chaos: $(STAMP) ## kill every process at any instant for MINUTES=10 (SEED=...), and judge what is left
	$(BIN)/python -m tests.crash --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: $(BENCH_STAMP) ## pyatm beside its peers, about 13 minutes; writes docs/benchmarks.md
	$(BENCH)/bin/python -m bench.compare $(ARGS)

bench-growth: $(BENCH_STAMP) ## how cost grows with live tasks, pools, history and load
	$(BENCH)/bin/python -m bench.growth $(ARGS)

bench-bloat: $(BENCH_STAMP) ## sizes of tables and indexes over many commands
	$(BENCH)/bin/python -m bench.bloat $(ARGS)

$(BENCH_STAMP): uv.lock pyproject.toml | $(STAMP)
	@UV_PROJECT_ENVIRONMENT=$(BENCH) UV_NO_PROGRESS=1 $(BIN)/uv sync --frozen --quiet --no-default-groups --group bench
	@touch $@

lint: $(STAMP) ## ruff (rules and format) and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(STAMP) ## put the code into ruff's format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: chaos-poller
chaos-poller: $(STAMP) ## pollers die, pools move, VDSM fails over, for MINUTES=10; SEED=n repeats the faults
	$(BIN)/python -m tests.crash.poller_chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

build: $(STAMP) ## wheel and sdist in dist/
	$(UV) build

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) $(BENCH) dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
