# Two commands: `make` computes everything, `make test` tests it. Both make the environment first.
PYTHON ?= python3
BIN := .venv/bin
DVC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc

.PHONY: all env test test-system test-all lint check golden accept docs faults fuzz wheels

all: env
	@test -e .git || $(DVC) config --local core.no_scm true  # a download without git
	$(DVC) repro
	@echo "the report is in reports/index.html"

env: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; set PYTHON=python3.11 or newer" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	printf '%s\n' '#!/bin/sh' '# The tamnas of the checkout that this is called in.' \
	  'test -f tamnas/__main__.py || { echo "error: call tamnas from the root of a checkout" >&2; exit 2; }' \
	  'exec "$$(dirname "$$0")/python" -m tamnas "$$@"' > $(BIN)/tamnas
	chmod +x $(BIN)/tamnas
	touch $@

# Two workers; a file's tests stay together, for what they share. `test-system` has whole runs (with a user's
# plugins, all controls, rows side by side), the page in a browser, a Ray cluster, processes killed; `test-all` both, and
# what takes minutes by itself: the whole study in miniature, faults in every stage, real `dvc` commands (`slow`).
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: env
	$(PYTEST) -m "not slow and not system"

test-system: env
	$(PYTEST) -m "system and not slow"

test-all: env
	$(PYTEST)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# dvc.lock, parameters and code agree. `dvc repro plan` first: plan/ and code/ are not in git, and without
# them the dry run would compare nothing (docs/pipeline.md).
check: env
	@test -e .git || { echo "error: this download has no git, and so no commit to check against" >&2; exit 2; }
	$(DVC) repro --quiet plan
	git diff --exit-code dvc.lock
	$(DVC) repro --allow-missing --dry | tee -a /dev/stderr | grep -q "up to date"

# The committed run again from nothing, in a temporary folder: every byte must be the same (docs/reliability.md).
golden: env
	$(BIN)/python -m tests.golden

# After a change of code that cannot change results: take the present ones for those of the new code.
# In this order: a commit before the code is listed anew would lock new code beside old lists.
accept: env
	$(DVC) repro --single-item fingerprint
	$(DVC) commit --force

# The documentation as a site that needs no network; a broken link fails.
docs: .venv/docs
	$(BIN)/zensical build --strict --clean
	@echo "the documentation is in site/index.html"

.venv/docs: docs/requirements.lock | env
	$(BIN)/pip install --quiet --disable-pip-version-check -r docs/requirements.lock --constraint requirements.lock
	touch $@

# The packages that a GPU machine's Python usually lacks (docs/gpu.md), for x86-64 Linux. torchattacks is in no lock:
# it pins old packages, and only a benchmark needs it.
WHEELS_PYTHON ?= 3.12
wheels: env
	rm -rf wheels
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	  --python-version $(WHEELS_PYTHON) --implementation cp $(foreach version,2_28 2_17,--platform manylinux_$(version)_x86_64) \
	  --platform manylinux2014_x86_64 --constraint requirements.lock --requirement gpu/packages.txt --dest wheels \
	  torchattacks==3.5.1
	@du -sh wheels

# Kill, starve, damage and double every stage, and compare bytes (docs/reliability.md); half an hour to an hour.
faults: env
	$(BIN)/python -m tests.faults.matrix

# Damaged and random input for every reader of files and text.
fuzz: env
	$(BIN)/python -m tests.faults.fuzz --seconds 600
