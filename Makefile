# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# More BLAS threads than cores slow small networks down many times over: every process here uses one.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check docs figures lock clean

help:            ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: no '$(PYTHON)' on the PATH; install Python 3.11 or newer, or run make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) -V); run make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: '$(PYTHON)' has no venv module (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The versions of constraints.txt; what comes from an index must have a hash of the lock. torch and its CUDA libraries are
# not in it: which of its builds is right depends on the machine.
PIP  := $(BIN)/pip install --quiet --disable-pip-version-check
SELF := $(PIP) -c constraints.txt $(if $(UNLOCKED),,--no-build-isolation) -e
define install
@echo "installing the packages of $(1)$(if $(UNLOCKED), without their hashes)"
@$(if $(UNLOCKED),true,$(PIP) --require-hashes --no-deps -r $(1)) || { echo "error: not everything of $(1) could be installed;\
 'make UNLOCKED=1 ...' installs the same versions without checking hashes" >&2; exit 1; }
endef

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt requirements.lock
	$(call install,requirements.lock)
	$(SELF) '.[train]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(call install,requirements-dev.lock)
	$(SELF) '.[dev,docs]'
	@touch $@

demo: $(VENV)/.installed           ## set up, compare the bounds, train M3PO, check its guarantee -> demo/index.html
	$(BIN)/python -m analysis.demo $(DEMO_FLAGS)

test: $(VENV)/.installed-dev       ## set up and run the test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 8 tests

test-slow: $(VENV)/.installed-dev  ## the tests marked slow as well
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m '' tests

check: $(VENV)/.installed-dev      ## lint, types, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bounds m3po analysis paper_figures examples tests
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev       ## build the documentation, strictly and offline -> site/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -d site/.doctrees docs site
	@echo site/index.html

figures: $(VENV)/.installed        ## redraw every figure of the paper that has its data
	$(BIN)/python -m paper_figures

# The one tool that locks for every platform and Python at once.
UNLOCKABLE := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-, cublas cuda-cupti cuda-nvrtc \
	cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' --constraints constraints.txt \
	$(addprefix --no-emit-package=,$(UNLOCKABLE)) pyproject.toml

lock: $(BIN)/python  ## requirements*.lock anew, from pyproject.toml and constraints.txt
	$(PIP) uv==0.13.9
	$(COMPILE) --extra train -o requirements.lock
	$(COMPILE) --extra dev --extra docs -o requirements-dev.lock

clean:           ## remove the virtual environment, the built site and caches
	rm -rf $(VENV) site docs/api/generated .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
