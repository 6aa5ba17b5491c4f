# What a person types. Each target does all its own set-up on a Debian-like machine with Python 3.11.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test computed waiting check bench bench-gateway bench-delivery soak packages clean
.DEFAULT_GOAL := demo

# Two environments' worth of packages in one folder, each installed when its list has changed.
$(VENV)/.agent: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[test,dev,uvloop]'
	touch $(VENV)/.agent $@

# node-opcua, an OPC UA server written by others; 82 MB that only the tests use. 2.163.1 is the newest
# that starts on Debian 12's Node 18: from 2.164 on it loads ES modules with require.
NODE := tests/drivers/node_opcua
$(NODE)/node_modules/.package-lock.json: $(NODE)/package-lock.json
	cd $(NODE) && npm ci --silent
	touch $@

demo: $(VENV)/.agent                ## simulated plant, agent and dashboard; ends with Ctrl-C
	$(BIN)/edge-agent demo $(ARGS)

check: $(VENV)/.dev                 ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

packages:                           # real servers and a real browser; installed, never started
	.ci/system-packages

# Three kinds of tests. ALONE measure time or run the whole agent, and have the machine for themselves.
# COMPUTED wait for nothing: they go behind all others, in one process of lower priority. The others
# mostly wait for sockets and processes, so that two cores bear three at a time; in the order of their
# names, for by the number of tests, xdist's order, the longest file of one test would begin last.
ALONE := $(addprefix tests/test_,$(addsuffix .py,end_to_end isolation schedule breaker_line \
  gateway_benchmark faults_to_quality kill sink_faults outage))
COMPUTED := tests/metrics tests/reports tests/test_codec.py
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -q

# Tests start many processes: byte code is kept, also where the environment forbids it.
test computed waiting soak: export PYTHONDONTWRITEBYTECODE :=

test: packages $(NODE)/node_modules/.package-lock.json $(VENV)/.dev  ## everything, on real servers; pytest's summary is the last line
	@$(MAKE) --no-print-directory --jobs=2 computed waiting
	$(PYTEST) $(ALONE) $(ARGS)

computed: $(VENV)/.dev              # and `check`; its dots do not mix with the others'
	nice -n 5 $(MAKE) --no-print-directory check
	@nice -n 5 $(PYTEST) $(COMPUTED) $(ARGS) >$(VENV)/computed.log 2>&1; ended=$$?; \
	  echo; cat $(VENV)/computed.log; exit $$ended

waiting: $(VENV)/.dev
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  $(addprefix --ignore=,$(ALONE) $(COMPUTED)) $(ARGS)

soak: packages $(NODE)/node_modules/.package-lock.json $(VENV)/.dev         ## long kills and outages
	$(BIN)/python -m pytest -q -m soak --override-ini addopts= $(ARGS)

bench: $(VENV)/.dev                 ## measured numbers, as JSON
	for bench in benchmarks/bench_*.py; do \
	  $(BIN)/python -m benchmarks.$$(basename $$bench .py) || exit 1; done

bench-gateway: packages $(VENV)/.dev  ## the whole agent at full load, some 9 minutes; writes docs/benchmark.md
	$(BIN)/python -m benchmarks.gateway --table docs/benchmark.md $(ARGS)

bench-delivery: packages $(VENV)/.dev ## both sinks against real servers, live and after an outage, some 5 minutes
	$(BIN)/python -m benchmarks.bench_delivery --table docs/benchmark-delivery.md $(ARGS)

clean:
	rm -rf $(VENV) $(NODE)/node_modules build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
