# make try    a simulated wearer, and the page of the hand in a browser: no training
# make demo   the whole loop on this machine: simulate, train, evaluate, export, run live, report
# make test   format, lint, types, direction of imports, and the tests but the slow ones
# make test-all   the slow tests too, after installing what would be skipped otherwise
# make lint   the same without the tests
# make docs   the documentation as a site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FOR_TRY := $(VENV)/.for-try
FOR_DEMO := $(VENV)/.for-demo
PIP := $(BIN)/pip install --quiet --constraint constraints.txt
TORCH := torch==2.13.0

# hnswlib compiles from source; without this its build would only run on the processor that built it.
export HNSWLIB_NO_NATIVE = 1

.PHONY: try demo test test-all lint docs install clean

try: $(FOR_TRY)
	$(BIN)/cpep-edge try

demo: $(FOR_DEMO)
	$(BIN)/cpep-edge demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Files in their order: by their number of tests, the long ones with one test each would come last, on one processor.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# make test MARK=    the slow ones too
MARK = not slow
test: lint
	$(PYTEST) -m "$(MARK)"

# What skips a test and is not Python's (compilers and emulators of other processors, a browser) is named in .ci/run.
test-all: lint
	$(PIP) --editable '.[dev,fuzz]'
	$(PYTEST) --hypothesis-profile default

# Without torch, where nothing is installed yet: the pages need the runtime and MkDocs alone.
docs:
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[docs]'
	$(BIN)/mkdocs build --strict

install: $(INSTALLED)

# torch goes first, by its exact pin: left to another package's range, pip would look for a newer one.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable '.[dev]'
	touch $@ $(FOR_TRY) $(FOR_DEMO)

# What these need and no more.
$(FOR_TRY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[sim,web]'
	touch $@

$(FOR_DEMO): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable '.[sim,train,export]'
	touch $@

clean:
	rm -rf $(VENV) build dist site runs demo-out
