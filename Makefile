# make try    a simulated wearer, and the page of the hand in a browser: no training
# make demo   the whole loop on this machine: simulate, train, evaluate, export, run live, report
# make test   format, lint, types, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# hnswlib compiles from source; without this its build would only run on the processor that built it.
export HNSWLIB_NO_NATIVE = 1

.PHONY: try demo test install clean

try: install
	$(BIN)/cpep-edge try

demo: install
	$(BIN)/cpep-edge demo

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

install: $(INSTALLED)

# torch goes first, by its exact pin: left to another package's range, pip would look for a newer one.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist runs demo-out
