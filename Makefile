# `make help` lists the targets. Everything that setup makes lies in .venv/ and at CAFFE_PREFIX.

# where Caffe goes: where .venv has it already, else a place that all clones of one user share
CAFFE_PREFIX ?= $(or $(patsubst %/bin/caffe,%,$(realpath .venv/bin/caffe)),$(HOME)/.local/caffe)
# a folder or tarball with Caffe's source, for a machine whose Debian mirror no longer carries it
CAFFE_SOURCE ?=
BUILD_CAFFE := docker/build_caffe.sh --prefix '$(CAFFE_PREFIX)' \
    $(if $(CAFFE_SOURCE),--source '$(CAFFE_SOURCE)')

SHELL := /bin/bash
# The caffe binary embeds the python3 that is first on PATH; another one's packages must not shadow
# those here.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME

.PHONY: help setup check lint test test-caffe test-gpu demo image image-cpu test-image clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/pyproject.toml  ## system packages, Caffe and .venv; does nothing where all is there
	@$(BUILD_CAFFE)
	@echo '$(CAFFE_PREFIX)/python' > "$$(echo .venv/lib/python3*/site-packages)/caffe.pth"
	@ln -sfn '$(CAFFE_PREFIX)/bin/caffe' .venv/bin/caffe
	@docker/snapshot_folders.sh
	@echo "ready: '. .venv/bin/activate' in each new shell gives caffe and python"

# Debian's python3, whatever other python3 comes first on PATH: Boost.Python is built for that one.
.venv/requirements.txt: docker/requirements.txt | packages
	@echo "Python packages: installing those of $< into .venv"
	@/usr/bin/python3 -m venv .venv
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --only-binary :all: -r $<
	@cp $< $@

# This repository, in place: commands and Caffe's Python layers find it from any folder.
.venv/pyproject.toml: pyproject.toml .venv/requirements.txt
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@cp $< $@

.PHONY: packages
packages:
	@docker/build_caffe.sh --install-packages

check:  ## what is there and what is missing, and how to mend it
	@$(if $(wildcard .venv/bin/python),.venv/bin/python,python3) -m tools.check_env

lint: setup .venv/requirements-lint.txt  ## layout and lint rules of the Python files (pyproject.toml)
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .

.venv/requirements-lint.txt: docker/requirements-lint.txt .venv/requirements.txt
	@.venv/bin/python -m pip install -qq --disable-pip-version-check --only-binary :all: -r $<
	@cp $< $@

test: setup  ## the tests
	@.venv/bin/python -m pytest

test-caffe: setup  ## Caffe's own C++ and Python tests (10 minutes the first time)
	@$(BUILD_CAFFE) --test

test-gpu: setup  ## every check that needs a GPU (8 minutes); without one it says so
	@.venv/bin/python tools/gpu_check.py

demo: setup  ## plain softmax beside OURS on playing cards (10 minutes)
	@.venv/bin/python tools/demo.py

# Docker images. IMAGE_OPTIONS: anything else for `docker build`.
IMAGE ?= hierarchical-caffe
CUDA_ARCH ?=
DOCKER_BUILD = docker build $(IMAGE_OPTIONS) \
    --build-arg REVISION="$$(git describe --always --dirty 2>/dev/null || echo unknown)" \
    $(foreach name,CA_CERTIFICATES PIP_INDEX_URL,$(if $(value $(name)),--build-arg $(name)))

image:  ## the Docker image for GPUs, hierarchical-caffe:cuda (docker/README.md)
	$(DOCKER_BUILD) -f docker/Dockerfile -t $(IMAGE):cuda --build-arg CUDA_ARCH='$(CUDA_ARCH)' .

image-cpu:  ## the Docker image for the CPU, hierarchical-caffe:cpu
	$(DOCKER_BUILD) -f docker/Dockerfile.cpu -t $(IMAGE):cpu .

test-image:  ## builds and tests both images; no GPU needed, one GPU architecture only
	@docker/test_image.sh

clean:  ## removes .venv and caches; keeps data/, weights/, snapshots/, results/ and Caffe
	rm -rf .venv .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
