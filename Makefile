# `make help` lists the targets. Everything that setup makes lies in .venv/ and at CAFFE_PREFIX.

# CAFFE_PREFIX, CAFFE_SOURCE and ANY_SYSTEM, here or in the environment: docker/setup.sh --help
export CAFFE_PREFIX CAFFE_SOURCE ANY_SYSTEM

SHELL := /bin/bash
# The caffe binary embeds the python3 that is first on PATH; another one's packages must not shadow
# those here.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME

.PHONY: help setup check lint test test-fuzz test-caffe test-gpu test-systems test-load demo image image-cpu \
    test-image clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup:  ## system packages, Caffe and .venv; a second run only checks them
	@docker/setup.sh

check:  ## what is installed, what is missing, and how to correct it
	@$(if $(wildcard .venv/bin/python),.venv/bin/python,python3) -m tools.check_env

lint: setup  ## layout and lint rules of the Python files (pyproject.toml)
	@cmp -s docker/requirements-lint.txt .venv/requirements-lint.txt || { \
	    .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
	        -r docker/requirements-lint.txt && cp docker/requirements-lint.txt .venv; }
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .

test: setup  ## the tests
	@.venv/bin/python -m pytest

FUZZ ?= 50
test-fuzz: setup  ## the seeded fuzzers, FUZZ (50) times as many cases as in `make test` (an hour)
	@FUZZ=$(FUZZ) .venv/bin/python -m pytest tests/fuzz tests/tools/test_graft_fuzz.py \
	    tests/python_layers/test_fuzz.py

test-caffe: setup  ## Caffe's own C++ and Python tests (10 minutes the first time)
	@docker/build_caffe.sh $${CAFFE_SOURCE:+--source "$$CAFFE_SOURCE"} --test

test-load: setup  ## the tests ten times, on a machine as busy and small as they have to bear
	@tests/under_load.sh

test-systems:  ## set-up, demo and all tests in minimal systems of the Debian releases (as root; an hour)
	@docker/test_systems.sh $(SYSTEMS)

test-gpu: setup  ## every check that needs a GPU (8 minutes); without one it says so
	@.venv/bin/python tools/gpu/check.py

demo: setup  ## plain softmax beside OURS on playing cards (10 minutes)
	@.venv/bin/python tools/demo.py

# Docker images. BASE: what they are built on; IMAGE_OPTIONS: anything else for `docker build`.
IMAGE ?= hierarchical-caffe
CUDA_ARCH ?=
BASE ?=
DOCKER_BUILD = docker build $(IMAGE_OPTIONS) $(if $(BASE),--build-arg BASE='$(BASE)') \
    --build-arg REVISION="$$(git describe --always --dirty 2>/dev/null || echo unknown)" \
    $(foreach name,CA_CERTIFICATES PIP_INDEX_URL,$(if $(value $(name)),--build-arg $(name)))

image:  ## the Docker image for GPUs, hierarchical-caffe:cuda (docker/README.md)
	$(DOCKER_BUILD) -f docker/Dockerfile -t $(IMAGE):cuda --build-arg CUDA_ARCH='$(CUDA_ARCH)' .

image-cpu:  ## the Docker image for the CPU, hierarchical-caffe:cpu
	$(DOCKER_BUILD) -f docker/Dockerfile.cpu -t $(IMAGE):cpu .

test-image:  ## builds and tests both images; no GPU needed, one GPU architecture only
	@docker/test_image.sh

clean:  ## removes .venv and caches; keeps data/, weights/, snapshots/, results/, models/ and Caffe
	@caffe=$$(readlink .venv/bin/caffe); caffe=$${caffe:-$$HOME/.local/caffe/bin/caffe}; \
	rm -rf .venv .pytest_cache .ruff_cache hierarchical_caffe.egg-info; \
	find . -name __pycache__ -type d -prune -exec rm -rf {} +; \
	echo "removed .venv and caches; outside this folder lie $${caffe%/bin/caffe} and" \
	    "$${caffe%/bin/caffe}.build (Caffe), the system packages of docker/packages.txt and, where" \
	    "make test-image or make test-systems ran, /var/tmp/hierarchical-caffe-*"
