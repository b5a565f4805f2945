# `make run` and `make test` need Python 3.11 or later, a C++ compiler and make, and set up all else in .venv.
# What is installed or built already is left alone. Settings, each as `make test NAME=value`:
#   PYTHON       the Python that .venv is made from
#   TORCH_ARGS   more arguments for `pip install torch`, such as --index-url of a CPU-only build
#   PYTEST_ARGS  more arguments for pytest
#   QUESTIONS    of `make bench`: sudoku, clued, whole, long, given, short, claims, thresholds (all)

PYTHON ?= python3
TORCH_ARGS ?=
PYTEST_ARGS ?=
TORCH := 2.13.0
BIN := .venv/bin
EXT_SOURCES := setup.py $(shell find -L csrc prism_plugin -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \
	-o -name '_sudoku.py' -o -name '_budget.py')
CXX_FILES = $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: run test bench setup lint types wheel cuda-check sanitize clean

run: setup
	$(BIN)/prism demo

# Models of the tests are tiny: a second thread would only wait, and spin while other work runs.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# Hours on two cores from nothing; what docs/results/compare holds is not made again, and its pages are written anew.
bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.compare --work build/compare $(QUESTIONS)
	set -e; for task in sudoku code; do $(BIN)/python -m benchmarks.trained $$task --page; done

setup: .venv/.installed .venv/.extensions

# torch comes first and pinned: asked for by others it may come with gigabytes of another build.
.venv/.torch-$(TORCH):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make needs Python 3.11 or later: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install torch==$(TORCH) $(TORCH_ARGS)
	@touch $@

.venv/.requirements: requirements.txt .venv/.torch-$(TORCH)
	$(BIN)/python -m pip install --quiet torch==$(TORCH) -r requirements.txt
	@touch $@

.venv/.installed: setup.py pyproject.toml .venv/.requirements
	PRISM_SKIP_EXT=1 $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.extensions: $(EXT_SOURCES) .venv/.requirements
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(CXX_FILES),$(BIN)/clang-format --dry-run --Werror $(CXX_FILES))

types: setup
	$(BIN)/mypy

wheel: setup
	rm -rf build/lib* build/bdist* dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

cuda-check:
	@if ! command -v nvcc >/dev/null; then echo "cuda-check: no nvcc here, CUDA sources were not compiled"; \
	elif [ -f csrc/cuda/check.sh ]; then bash csrc/cuda/check.sh; \
	else echo "cuda-check: no CUDA sources"; fi

# The op tests on a build with AddressSanitizer and UBSan; takes minutes.
sanitize: setup
	PYTHON=$(abspath $(BIN)/python) bash csrc/sanitize.sh

clean:
	rm -rf .venv build dist *.egg-info
	find prism_plugin -name '*.so' -delete
