# Plumbline's front door. Every target bootstraps .venv; nothing has to be activated.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
# What `make env TORCH=...` was asked for last, else the version that the references were made with.
TORCH ?= $(or $(file <$(VENV)/.torch),torch==2.13.0)
PY := $(VENV)/bin/python
STAMP := $(VENV)/.plumbline-env
OUT ?= results/figures
RUNS ?= results/toys
SCALEUP ?= results/scaleup
CONTROL ?= results/control
SETTING ?= full
PROFILE ?= default
# One thread a process: on a shared machine two OpenMP threads can be 30-100 times slower.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
export MPLBACKEND ?= Agg

.PHONY: help env figures test mutants lint format bench clean toys verify ledger questions control train audit

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | \
		awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo
	@echo "  make env TORCH='torch==2.9.1 --index-url URL'   another build of torch, CUDA say"
	@echo "  make figures SETTING=small OUT=DIR               coarser, quicker, elsewhere"

env: $(STAMP) ## create .venv and install everything (TORCH=... for another build of torch)

# Another TORCH than the one installed, asked for by name: install again.
ifneq ($(filter command% environment%,$(origin TORCH)),)
ifneq ($(file <$(VENV)/.torch),$(TORCH))
$(STAMP): FORCE
endif
endif
FORCE:

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"PYTHON = $(PYTHON) is Python {v[0]}.{v[1]}: allowed is 3.11 or newer (make PYTHON=...)")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	# torch first, by exact version: a range would let pip replace the build at hand by the newest.
	$(PY) -m pip install --disable-pip-version-check --quiet $(TORCH)
	$(PY) -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev,scaleup]'
	@printf '%s' '$(TORCH)' > $(VENV)/.torch
	@touch $(STAMP)

figures: $(STAMP) ## train the networks, regenerate every figure with its numbers, compare
	$(PY) -m toys train --preset figures --out $(RUNS)
	$(PY) -m toys train --preset online --out $(RUNS)
	$(PY) -m toys compare --preset figures --out $(RUNS) --no-picture --check
	$(PY) -m figures make --setting $(SETTING) --out $(OUT) --runs $(RUNS)

questions: $(STAMP) ## answer what users of DiffusionNFT ask, with figures: docs/questions/
	$(PY) -m figures questions

control: $(STAMP) ## train the adjoint family, compare with the exact optimum, draw: docs/results/control.md
	$(PY) -m toys control --schedules --check --out $(CONTROL)
	$(PY) -m toys cases --out $(CONTROL)/cases
	$(PY) -m toys cases --case double_well_10d --case double_well_20d --start optimum \
		--out $(CONTROL)/cases
	$(PY) -m figures control --results $(CONTROL)/control.json --cases $(CONTROL)/cases

toys: $(STAMP) ## train every method on the named problems, compare with the truth (25 CPU-minutes)
	$(PY) -m toys train --preset toys --out $(RUNS)
	$(PY) -m toys compare --preset toys --out $(RUNS) --check

test: $(STAMP) ## pass the tests (fast profile, two processes)
	$(PY) -m pytest -n 2 --dist worksteal -m "not slow and not mutants"

mutants: $(STAMP) ## reject every planted mistake in the code (a minute)
	$(PY) -m pytest -n 2 --dist worksteal -m mutants

lint: $(STAMP) ## linter, formatter's check and type checker
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP) ## let the formatter rewrite the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(STAMP) ## measure the floors: accuracy, speed ratios, killed runs, CPU-seconds
	status=0; for part in theory toys scaleup; do \
			$(PY) -m benchmarks $$part || status=$$?; \
		done; \
		$(PY) -m figures make --force --exact --out results/bench-figures || status=$$?; \
		exit $$status

verify: $(STAMP) ## measure the ledger (PROFILE=fast, default or thorough), pass the slow tests
	$(PY) -m theory verify --profile $(PROFILE) $(if $(filter default,$(PROFILE)),--check-docs)
	$(PY) -m pytest -n 2 --dist worksteal -m slow
	$(if $(filter thorough,$(PROFILE)),PLUMBLINE_PROFILE=thorough $(PY) -m pytest \
		tests/theory/ledger/test_properties.py -n 2)

ledger: $(STAMP) ## measure the ledger and write docs/ledger anew
	$(PY) -m theory verify --write-docs

train: $(STAMP) ## fine-tune the built-in text-to-image model with LoRA, compare with its base
	$(PY) -m scaleup train --out $(SCALEUP)

audit: $(STAMP) ## fine-tune the built-in model, say what it learned to sample (six minutes)
	$(PY) -m scaleup train --out $(SCALEUP)/audit --bank 1536 --evaluate 96 --grid-every 0
	$(PY) -m scaleup audit "$$(ls -d $(SCALEUP)/audit/builtin-nft-brightness-* | head -1)" --draw 1024

clean: ## remove caches and results, keep .venv
	rm -rf results .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
