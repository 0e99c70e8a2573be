PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
export PATH := $(CURDIR)/$(BIN):$(PATH)
INSTALLED := .venv/installed
INSTALLED_DEV := .venv/installed-dev

COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header -q
# uv installs in a tenth of pip's time. It does not read pip's settings, so what it cannot fetch pip does. The locks have
# all that is needed: nobody looks for dependencies.
INDEX := $${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(pip config get global.index-url 2>/dev/null)}}
PIP_INSTALL := pip install --quiet --disable-pip-version-check --no-compile --no-deps
UV_INSTALL := UV_DEFAULT_INDEX="$(INDEX)" uv pip install --python .venv --no-deps $(if $(MAKE_TERMERR),,--quiet)
install = @echo "installing $(lastword $(1))"; $(UV_INSTALL) $(1) || { echo "make: uv could not install, pip tries" >&2; $(PIP_INSTALL) $(1); }
# With byte code TensorFlow starts twice as fast. Some packages have files that cannot be compiled; nothing imports SymPy.
BYTE_COMPILE := python -m compileall -qq -j 0 -x '/(tests?|sympy)/' .venv || true
# Both add INSTALLER to a package's RECORD at the end. A package that a kill left without it would count as installed.
REMOVE_UNFINISHED := find .venv \( -path '*/site-packages/~*' -o -name '*.dist-info' ! -exec grep -qs INSTALLER {}/RECORD \; \) -prune -exec rm -r {} +

# The programs in it have its path, and the project's code is where it was installed from.
CHECK_VENV := import pathlib, sys; file = pathlib.Path(".venv/pyvenv.cfg"); text = file.read_text("utf-8") if file.is_file() else ""; \
  made = [line for line in text.splitlines() if line.startswith("command = ")]; places = pathlib.Path(".venv").absolute(), file.resolve().parent; \
  all(line.endswith(tuple(f" {place}" for place in places)) for line in made) or sys.exit("make: .venv is of another folder; rm -r .venv, and run make again")

.PHONY: help repro pull demo test fuzz kill lint ui server bench lock clean check-venv
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

repro: $(INSTALLED) ## set up, run the stages whose inputs changed, and print the scores
	@gemmodel check
	dvc repro
	@gemmodel summary

pull: $(INSTALLED) ## set up and fetch the outputs that a teammate pushed
	dvc pull

demo: $(INSTALLED) ## try a model without training: MODEL=git address of a team's project (REV=version, PORT=...)
	$(if $(wildcard demo),,rm -rf demo.new && dvc artifacts get $(or $(MODEL),$(error make demo MODEL=https://host/team/gems.git: name the project whose model is fetched; docs/sharing.md)) gemstones $(if $(REV),--rev $(REV)) --out demo.new && mv demo.new demo)
	@gemmodel app --model demo --port $(or $(PORT),8000)

test: $(INSTALLED_DEV) ## set up, also what tests need, and run all tests
	python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 20  # test_pipeline, the slowest, starts first

fuzz: $(INSTALLED_DEV) ## read damaged photos for an hour, on Linux, with pip install -e '.[fuzz]' (SECONDS=3600 SEED=1)
	python -W ignore tests/fuzz_guided.py -max_total_time=$(or $(SECONDS),3600) -seed=$(or $(SEED),1) -print_final_stats=1

kill: $(INSTALLED_DEV) ## kill commands at random moments and check what heals them, for about an hour (NUMBER=100 SEED=0)
	python -m tests.e2e.kill --kills $(or $(NUMBER),100) --seed $(or $(SEED),0)

lint: $(INSTALLED_DEV) ## check format, lint, imports and types, as CI does
	ruff format --check .
	ruff check .
	lint-imports --no-cache --no-logo
	mypy

ui: $(INSTALLED) ## serve MLflow's UI and print its address (PORT=...)
	@gemmodel ui --port $(or $(PORT),5000)

server: $(INSTALLED_DEV) ## try a team's MLflow server: PostgreSQL, S3, users (PORT=...)
	python tools/dev_mlflow_server.py --port $(or $(PORT),5000)

bench: $(INSTALLED) ## run the speed benchmarks that docs/results.md quotes (needs ../shared/gemstones)
	for name in nothing_to_do stage_imports cleaning augmentation mixed_precision epoch_ends; do echo "== $$name"; python benchmarks/$$name.py || exit 1; done

lock: $(INSTALLED_DEV) ## pin the requirements with hashes, for every platform (UPGRADE=--upgrade: to the latest versions)
	$(COMPILE) --extra dev $(UPGRADE) -o requirements-dev.lock
	$(COMPILE) $(addprefix --extra ,pipeline heic s3 setup ssh tune webdav) --constraint requirements-dev.lock -o requirements.lock

clean: ## remove the outputs of the pipeline, but no photos, caches, runs or environment
	rm -rf data models logs dvc_plots
	find reports -mindepth 1 ! -name metrics.json ! -name training.json -delete  # these two are in git

check-venv:
	@$(PYTHON) -c '$(CHECK_VENV)'

$(INSTALLED): requirements.lock | check-venv
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("make: Python 3.11 to 3.13 is needed and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	@mkdir -p .venv && $(REMOVE_UNFINISHED)
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/^ *#/p' requirements.lock > .venv/uv.txt
	$(PIP_INSTALL) --require-hashes -r .venv/uv.txt
	$(call install,--require-hashes -r requirements.lock)
	$(PIP_INSTALL) --no-build-isolation -e .
	$(BYTE_COMPILE)
	@touch $(INSTALLED)

$(INSTALLED_DEV): requirements-dev.lock $(INSTALLED)
	@$(REMOVE_UNFINISHED)
	$(call install,--require-hashes -r requirements-dev.lock)
	$(BYTE_COMPILE)
	@touch $(INSTALLED_DEV)
