# `make help` lists what this file does. Nothing here needs a GPU or root; the first call of run, check or test makes
# .venv from requirements.lock (about 8.5 GB with CUDA's libraries), later calls find it ready.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
AIPERF := .aiperf
CLIENTS := .clients
DEPLOYMENT ?= models/tiny-agents.toml
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test test-fast test-long test-clients lock-clients tmux check check-types check-lint check-imports check-wheel dist install lock clean bench bench-gpu bench-choice bench-classifier bench-cluster bench-codebook bench-codebook-accuracy bench-codebook-served bench-den bench-grow bench-router bench-routers bench-hosts bench-train bench-accuracy bench-sharing-ratio bench-adapters-back bench-tui bench-store bench-simulate bench-outside

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  make run DEPLOYMENT=my.toml ARGS="--port 8000" serves another file with other options'

run: $(READY) ## serve the tiny family on http://127.0.0.1:30000
	@exec $(BIN)/prefillshare launch $(DEPLOYMENT) $(ARGS)

test: check tmux ## everything of check, then all tests
	$(BIN)/python -m tests.support.lanes $(ARGS)

test-fast: $(READY) tmux ## the tests that need no engine and take little
	$(BIN)/python -m tests.support.lanes --fast $(ARGS)

test-long: $(READY) ## the tests that take minutes each: nodes of a Ray cluster lost, replaced, cut off; some trainings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long $(ARGS)

test-clients: $(READY) $(CLIENTS)/.ready ## try clients of the registry with both topologies (three minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.clients $(ARGS)

# The dashboard is tested in a real terminal.
tmux:
	@command -v tmux >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq tmux >/dev/null; } \
		|| { echo 'error: the tests of the dashboard need tmux: install it (Debian: apt install tmux)' >&2; exit 1; }

# Types take as long as all the others together, so they stand first, beside these.
check: $(READY) ## format, lint, types, import contracts, the wheel
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-types check-lint check-imports check-wheel

check-types: $(READY)
	$(BIN)/mypy

check-lint: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

check-imports: $(READY)
	$(BIN)/lint-imports --no-cache

check-wheel: $(READY)
	@folder=$$(mktemp -d) && $(BIN)/python -m build --no-isolation --outdir $$folder >$$folder/log 2>&1 \
		&& tail -1 $$folder/log && rm -r $$folder || { cat $$folder/log >&2; exit 1; }

dist: $(READY) ## wheel and source archive, in dist/
	$(BIN)/python -m build --no-isolation

install: $(READY) ## only make the environment

lock: $(READY) ## resolve pyproject.toml into requirements.lock again
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

lock-clients: $(READY) ## resolve tests/clients/requirements.in again
	$(BIN)/uv pip compile tests/clients/requirements.in --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock-clients" -o tests/clients/requirements.txt

bench: $(READY) ## measure PrefillShare beside SGLang as released (docs/benchmarking.md)
	@exec $(BIN)/prefillshare bench react $(ARGS)

# PYTHON=... runs it by any Python that has the packages, without .venv.
bench-gpu: $(if $(PYTHON),,$(READY)) ## the same with a Qwen3 1.7B shape on a GPU, within 14 minutes
	@exec $(or $(PYTHON),$(BIN)/python) -m prefillshare bench react --preset gpu-15min $(ARGS)

bench-choice: $(READY) ## what the choice of workers costs, by their number
	$(BIN)/python -m benchmarks.choice $(ARGS)

bench-classifier: $(READY) ## how often "model": "auto" is right (ARGS="--served colocated": through a server; ARGS=--cost: what choosing costs, on a quiet machine)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.classifier $(ARGS)

bench-cluster: $(READY) ## measure a disaggregated deployment beside a plain server
	$(BIN)/python -m benchmarks.cluster --out docs/results/cluster.md $(ARGS)

bench-codebook: $(READY) ## measure products with 2-bit weights beside F.linear (one thread)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.codebook $(ARGS)

bench-codebook-accuracy: $(READY) ## quantise the tiny modules and judge them (hours; goes on after a kill)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.codebook.accuracy $(ARGS)

bench-codebook-served: $(READY) ## serve a module of half a billion weights, full and of 2 bits: tokens/s and memory
	$(BIN)/python -W ignore -m benchmarks.codebook.served $(ARGS)

bench-hosts: $(READY) ## kill parts of a deployment on three network namespaces (root, 15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.hosts $(ARGS)

bench-router: $(READY) ## measure the router (ARGS="--smg PATH" puts that gateway beside it)
	$(BIN)/python -m benchmarks.router $(ARGS)

bench-routers: $(READY) ## measure two routers beside one (a minute)
	$(BIN)/python -m benchmarks.router.pair $(ARGS)

bench-store: $(READY) ## measure the store: GB/s in and out by tier, codec and threads
	$(BIN)/python -m benchmarks.store $(ARGS)

bench-simulate: $(READY) ## simulate and measure the tiny deployment, side by side (a quiet machine, 8 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.simulate $(ARGS)

bench-outside: $(READY) $(AIPERF)/.ready ## measure both topologies beside SGLang as released with aiperf (8 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.outside --aiperf $(AIPERF)/bin/aiperf $(ARGS)

bench-train: $(READY) ## measure cache-conditioned beside ordinary fine-tuning
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.train --out docs/results/train.md $(ARGS)

bench-accuracy: $(READY) ## train and judge modules of all kinds on the tiny family (hours; goes on after a kill)
	$(BIN)/python -W ignore -m benchmarks.accuracy $(ARGS)

bench-sharing-ratio: $(READY) ## train and judge modules for any sharing ratio on the tiny family (goes on after a kill)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.accuracy.any_ratio $(ARGS)

bench-adapters-back: $(READY) ## ordinary adapters back over shared KV, by steps (goes on after a kill)
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.accuracy.adapters_back $(ARGS)

bench-grow: $(READY) ## grow a family of eight tasks beside modules trained alone (goes on after a kill)
	$(BIN)/python -W ignore -m benchmarks.grow $(ARGS)

bench-den: $(READY) ## DEN on digits beside separate networks, one for all, EWC and progressive networks (minutes)
	$(BIN)/python -W ignore -m benchmarks.den $(ARGS)

bench-tui: $(READY) ## measure the CPU that the dashboard takes (32 workers, 500 sessions)
	$(BIN)/python -m benchmarks.tui $(ARGS)

clean: ## remove the environment and caches
	rm -rf $(VENV) $(AIPERF) $(CLIENTS) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# aiperf wants other versions of what SGLang needs as well.
$(AIPERF)/.ready: benchmarks/outside/requirements.txt $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(AIPERF)
	$(BIN)/uv pip sync --quiet --python $(AIPERF)/bin/python $<
	touch $@

# The clients want versions of their own.
$(CLIENTS)/.ready: tests/clients/requirements.txt $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(CLIENTS)
	$(BIN)/uv pip sync --quiet --python $(CLIENTS)/bin/python --require-hashes $<
	touch $@

# The stamp is written last, so an interrupted installation is taken up again.
$(READY): requirements.lock pyproject.toml
	@set -e; \
	say() { printf '==> %s\n' "$$*"; }; \
	fail() { printf 'error: %s\n' "$$*" >&2; exit 1; }; \
	used_mb() { df -Pk $(VENV) | awk 'END {print int($$3 / 1024)}'; }; \
	tick() { \
		sleep $$1 >/dev/null; now=$$(date +%s); \
		printf "$$2" "$$((now - began))" "$$(($$(used_mb) - mb_before))"; \
	}; \
	while_busy() { \
		began=$$(date +%s); mb_before=$$(used_mb); status=0; \
		if [ -t 1 ]; then pause=1 line='    %s s, %s MB written \r' end='\033[2K'; \
		else pause=10 line='    %s s, %s MB written\n' end=; fi; \
		(while tick $$pause "$$line"; do :; done) & ticker=$$!; \
		"$$@" || status=$$?; \
		kill $$ticker 2>/dev/null; wait $$ticker 2>/dev/null || true; \
		printf "$$end"; \
		return $$status; \
	}; \
	usable() { "$$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1; }; \
	started=$$(date +%s); \
	if ! usable $(BIN)/python; then \
		python=; \
		for candidate in $${PYTHON:-} python3.12 python3.11 python3; do \
			if usable "$$candidate"; then python=$$candidate; break; fi; \
		done; \
		[ -n "$$python" ] || fail 'Python 3.11 or 3.12 was not found: install one (Debian: apt install python3.11 python3.11-venv), or name it: make PYTHON=/path/to/python3.12'; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$$python has no venv module: install it (Debian: apt install python3-venv)"; \
		say "1/5 virtual environment with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV); \
	else \
		say '1/5 virtual environment is there'; \
	fi; \
	say '2/5 uv, with the hash in requirements.lock'; \
	if ! $(BIN)/uv --version >/dev/null 2>&1; then \
		awk '/^uv==/ {found = 1} found {print} found && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.txt; \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
		$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r $(VENV)/uv.txt; \
	fi; \
	say '3/5 the packages of requirements.lock (the first time about 8.5 GB)'; \
	while_busy $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock; \
	say '4/5 prefillshare itself'; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	say '5/5 compiling the engine once (Python byte code, so that every start is quick)'; \
	env -u PYTHONDONTWRITEBYTECODE SGLANG_PLUGINS=prefillshare $(BIN)/python -W ignore -c \
		'from sglang_patches.forkserver import import_engine; import_engine()' >/dev/null 2>&1 \
		|| say 'that did not work; the first start does it, and says why if it cannot'; \
	touch $(READY); \
	say "ready after $$(( $$(date +%s) - started )) s"
