# Everything a checkout needs: `make demo`, `make test`. Wants Python >= 3.11, a C++ compiler and make.
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= demo,train,bench,test,dev
TORCH  ?= 2.13.0
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
CPU_INDEX := https://download.pytorch.org/whl/cpu
NATIVE := setup.py CMakeLists.txt $(shell find csrc -type f)

.PHONY: all demo test test-full lint bench clean
all: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m pspec_rt.cli.demo $(DEMO_ARGS)

# One test process per core (at most 8), one thread in each; tests of threads ask for theirs.
PYTEST := OMP_NUM_THREADS=1 PSPEC_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8

test: $(VENV)/.installed
	$(PYTEST) -m "not full" $(PYTEST_ARGS)

test-full: $(VENV)/.installed
	$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.installed
	$(BIN)/pspec-rt bench $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info pspec_rt/*.so .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package in editable form with its native module; the latter is rebuilt when a source changed.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(NATIVE)
	@echo "installing pspec_rt into $(VENV)"
	@$(PIP) install --no-build-isolation -e ".[$(EXTRAS)]"
	@$(BIN)/python -c "from pspec_rt.build import build_info; print('pspec_rt:', build_info())"
	@touch $@

# torch is large with CUDA (several GB), so a machine without an NVIDIA GPU gets the CPU build; where the index of the
# CPU builds cannot be reached or has none for this system, the default one has to do.
$(VENV)/.torch:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python >= 3.11 needed: make PYTHON=...')"
	@echo "creating $(VENV) and installing torch $(TORCH), which may take some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install "setuptools>=77" wheel "pybind11>=2.13" "cmake>=3.22" ninja
	@command -v nvidia-smi >/dev/null \
	  || $(PIP) install --retries 0 --timeout 5 "torch==$(TORCH)+cpu" --extra-index-url $(CPU_INDEX) 2>/dev/null \
	  || true
	@$(PIP) install "torch==$(TORCH)"
	@touch $@
