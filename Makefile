# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
EXPERIMENT ?= quant_sweep
PORT ?= 5000
CIFAR10 ?= data/cifar10
# Of study-resnet50: arguments of all its commands, of the training, of the sweeps.
STUDY ?= data=cifar10
TRAIN ?=
SWEEP ?=
# Of mutate: how many mistakes, and which.
N ?= 60
SEED ?= 0

.DEFAULT_GOAL := help
.PHONY: help sweep report ui study-resnet50 test check docs-check bench networks torture mutate wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

sweep: .venv/installed  ## train a small ResNet on digits, sweep bits x observer, print the table
	$(BIN)/quant-sweep-train
	$(BIN)/quant-sweep -m experiment=quickstart

report: .venv/installed  ## rebuild table and plots from MLflow alone (EXPERIMENT=name)
	$(BIN)/quant-sweep-report tracking.experiment=$(EXPERIMENT)

ui: .venv/installed  ## MLflow's pages over mlruns/ on 127.0.0.1, and the address of each experiment (PORT=5000)
	$(BIN)/quant-sweep-ui port=$(PORT)

# Every step continues where it was interrupted. The affine table has the width and the observer as its axes.
study-resnet50: .venv/installed  ## train ResNet-50 on CIFAR-10 (wants a GPU), repeat the original study, and the affine table
	$(BIN)/quant-sweep-train model=resnet50 $(STUDY) $(TRAIN)
	$(BIN)/quant-sweep -m experiment=original model=resnet50 tracking.experiment=study_resnet50 $(STUDY) $(SWEEP)
	$(BIN)/quant-sweep -m experiment=original_text model=resnet50 tracking.experiment=study_resnet50 $(STUDY) $(SWEEP)
	$(BIN)/quant-sweep -m experiment=cifar10 model=resnet50 tracking.experiment=study_resnet50_affine \
		observer=hist,fake_hist,mse fusion=conv_bn_relu $(STUDY) $(SWEEP)

# One file per worker at a time; one thread each, for two pools of threads on two cores wait for each other.
test: .venv/installed-dev  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

check: .venv/installed-dev  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed-bench: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@

bench: .venv/installed-bench  ## side-by-side measurements into benchmarks/ (CIFAR10=folder of class folders)
	$(BIN)/python -m benchmarks --cifar10 $(CIFAR10)

networks: .venv/installed-bench  ## capture and quantize 90 networks of timm and torchvision, into docs/networks.md
	$(BIN)/python -m benchmarks.networks

torture: .venv/installed  ## kill sweeps and damage files, seeded, and count what is lost (some ten minutes); docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m torture

.venv/installed-mutate: .venv/installed-dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[mutate]'
	touch $@

mutate: .venv/installed-mutate  ## make small mistakes in the core, and count those that its tests notice (N=60 SEED=0)
	OMP_NUM_THREADS=1 $(BIN)/python -m torture.mutate --count $(N) --seed $(SEED)

docs-check: .venv/installed-dev  ## run every command that the documents show, on stand-ins
	PYTHONPATH=tests $(BIN)/python tests/documented.py

wheel: .venv/installed-dev  ## build dist/*.whl
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove the virtual environment and caches; runs and outputs stay
	rm -rf .venv dist mutants .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
