# make demo: the whole thread on drawn data, a few minutes on two cores.   make test: lint, types and every test.
# make docs: the documentation site in site/; open site/index.html.
# Nothing is written outside this folder (pip's own download cache excepted).

SHELL := /bin/bash
PYTHON ?= python3
# Two at a time; a file stays together and they begin in the order of their names: the long ones first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := .venv/bin
STAMP := .venv/installed
CACHE := $(CURDIR)/.cache
DEMO_PRETRAIN := runs/demo-pretrain
DEMO_EXPRESSION := runs/demo-expression

export WANDB_DIR := $(CACHE)/wandb
export WANDB_DATA_DIR := $(CACHE)/wandb/data
export WANDB_CACHE_DIR := $(CACHE)/wandb/cache
export WANDB_CONFIG_DIR := $(CACHE)/wandb/config
export MPLCONFIGDIR := $(CACHE)/matplotlib
export TORCH_HOME := $(CACHE)/torch
export TORCHINDUCTOR_CACHE_DIR := $(CACHE)/inductor
export TRITON_CACHE_DIR := $(CACHE)/triton
export HF_HOME := $(CACHE)/huggingface
export XDG_CACHE_HOME := $(CACHE)/xdg/cache
export XDG_CONFIG_HOME := $(CACHE)/xdg/config
export XDG_DATA_HOME := $(CACHE)/xdg/data
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: setup demo lint test docs clean
.DEFAULT_GOAL := setup

setup: $(STAMP)
	@mkdir -p $(WANDB_DIR) $(WANDB_DATA_DIR) $(WANDB_CACHE_DIR) $(WANDB_CONFIG_DIR) $(MPLCONFIGDIR) $(HF_HOME)

# pip keeps its settings and its cache at their usual places: a mirror stays in use, and nothing is downloaded twice.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u XDG_DATA_HOME $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@test -f data/synthetic/index.json || $(BIN)/python datasets/prepare.py synthetic --count 2000 --out data/synthetic
	$(BIN)/python pretrain/train.py configs/pretrain/demo.yaml
	$(BIN)/python finetune/train.py configs/finetune/demo_expression.yaml
	$(BIN)/python finetune/evaluate.py $(DEMO_EXPRESSION) --split test
	@ls $(DEMO_PRETRAIN)/report.html $(DEMO_EXPRESSION)/report.html > /dev/null
	@printf '\nOpen in a browser:\n  %s\n  %s\n' $(CURDIR)/$(DEMO_PRETRAIN)/report.html $(CURDIR)/$(DEMO_EXPRESSION)/report.html

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --basetemp=$(CACHE)/pytest $(PYTEST_ARGS)

# Links are strict: one that leads nowhere ends the build. The site needs no network.
docs: setup
	@$(BIN)/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u XDG_DATA_HOME $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Caches and build leftovers; data/, runs/ and .venv/ stay.
clean:
	rm -rf .cache .pytest_cache .mypy_cache .ruff_cache build dist site vea.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
