# Needs Python 3.11 or newer, pip and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test check bench fuzz clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

# Train a small network on real data, pack it, load it through PyTorch and ONNX Runtime.
demo: $(STAMP)
	$(BIN)/spq demo

# Everything that has to be green.
test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two tables of tests/bench/RESULTS.md; its other commands stand beside their figures.
# Needs the data sets (BENCH="--data FOLDER").
bench: $(STAMP)
	$(BIN)/python -m tests.bench.accuracy $(BENCH)
	$(BIN)/python -m tests.bench.selection $(BENCH)

# Hunt for broken promises (FUZZ="--target F3 --inputs 100000 --seed 2 --ledger").
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.run $(FUZZ)

clean:
	rm -rf $(VENV) build dist demo-output
