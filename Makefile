# `make demo` and `make test` set themselves up: they need Python >= 3.10 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
FILES = $(if $(ECG),--ecg "$(ECG)") $(if $(CXR),--cxr "$(CXR)") $(if $(LAB),--lab "$(LAB)")

.PHONY: demo test style space bench

demo: $(VENV)/core  ## an example patient through the model; ECG=, CXR=, LAB= take your own files
	@$(BIN)/medtvt demo $(FILES)

test: $(VENV)/dev  ## the test suite
	$(BIN)/python -m pytest

bench: $(VENV)/dev  ## speed and memory as ratios; ARGS= takes options of tests/benchmarks
	$(BIN)/python -m tests.benchmarks --out build/bench $(ARGS)

space: $(VENV)/demo  ## the Space's app in a browser, on a CPU
	$(BIN)/python hub_cards/space/app.py

style: $(VENV)/dev  ## lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/core: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
# byte code of what a run imports, and not of the rest: a third of a gigabyte less, and the first run as fast as the next
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import training.demo, scipy.signal, wfdb"
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(INSTALL) --editable ".[dev]"
	@touch $@

$(VENV)/demo: $(VENV)/core
	$(INSTALL) --editable ".[demo,dicom]"
	@touch $@
