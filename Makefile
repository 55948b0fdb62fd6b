PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install dev demo test test-slurm test-timm docs lint format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt constraints-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints-dev.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## make .venv with the tested versions of everything

dev: $(VENV)/.installed-dev ## the same, with what tests and linters need

demo: install ## train and compare on generated data, write demo/report.html
	$(BIN)/anomaly-seg train experiment=demo output_dir=demo --multirun
	$(BIN)/anomaly-seg report demo

# In processes of their own: where OpenVINO was loaded beside everything else, starting a program has killed the worker.
OPENVINO := tests/exporting tests/inference/test_load.py

test: dev ## run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist load $(addprefix --ignore ,$(OPENVINO))
	$(BIN)/python -m pytest --numprocesses 2 --dist load $(OPENVINO)

test-slurm: dev ## run the tests on a SLURM of their own, as root; needs slurm-wlm and munge
	$(BIN)/python -m pytest tests/slurm

# Torchvision, which timm imports, is built for torch with CUDA; beside the CPU build that constraints.txt names it fails.
TIMM := .venv-timm

$(TIMM)/.installed: pyproject.toml constraints.txt constraints-dev.txt requirements-timm.txt
	$(PYTHON) -m venv $(TIMM)
	grep --invert-match '^torch==' constraints.txt > $(TIMM)/constraints.txt
	$(TIMM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(TIMM)/constraints.txt \
	  --constraint constraints-dev.txt --requirement requirements-timm.txt --editable '.[timm,onnx]'
	@touch $@

test-timm: $(TIMM)/.installed ## the tests of encoder=timm, in an environment of their own
	$(TIMM)/bin/python -m pytest tests/with_timm
	$(TIMM)/bin/python -m pytest 'tests/test_conf.py::test_an_option_takes_a_step[encoder=timm]'

docs: dev ## build the documentation (docs/_build/html); warnings are errors
	rm -rf docs/_build docs/reference
	$(BIN)/python -m sphinx --builder html --conf-dir docs --fail-on-warning --keep-going --quiet . docs/_build/html

lint: dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and what runs left behind
	rm -rf $(VENV) $(TIMM) demo runs docs/_build docs/reference .pytest_cache .mypy_cache .ruff_cache
