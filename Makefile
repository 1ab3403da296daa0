# One command each; `make help` lists them. Plain GNU make (3.81 or later) and Python 3.11 or later are all it takes.

# The interpreter that makes .venv.
PYTHON ?= python3
# Where torch comes from, beside PyPI. The default is the CPU build, some 200 MB; TORCH_INDEX= (empty) takes PyPI's,
# which on Linux is the CUDA build of several GB. An index that cannot be reached is skipped by pip with a warning.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# An environment that exists already and is used as it is: make test USE_ENV=$CONDA_PREFIX
USE_ENV ?=
# A YAML file of parameters for all notebooks (papermill -f), a backbone for all of them, and the device it works on.
PARAMS ?=
BACKBONE ?=
DEVICE ?=
# Seconds that one cell may take in `make reproduce`.
CELL_TIMEOUT ?= 7200
# Processes of one thread each that `make test` spreads notebooks and test files over, the long ones first.
WORKERS ?= 2
# What `make train` trains: names of lsvd.testbed.training.train, or all.
MODELS ?= all

# The one list of notebooks. All of them, or those named: make bless NOTEBOOKS=notebooks/00_quickstart.ipynb
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9][0-9]_*.ipynb))
EXECUTED := $(NOTEBOOKS:notebooks/%=outputs/notebooks/%)

# Where results go, whatever is set outside and wherever the package is installed. (Tests write elsewhere: conftest.py.)
export LSVD_OUTPUTS := $(CURDIR)/outputs
RESULTS := outputs/figures outputs/tables
WRITABLE = for folder in outputs/notebooks $(RESULTS); do \
  mkdir -p $$folder 2>/dev/null && test -w $$folder || { \
    echo "cannot write to the folder $$folder: make it writable, or move away what stands in its place" >&2; exit 1; }; done

# Notebooks that wrote a figure or table which is gone by now; those of which no list is there count too.
GONE := $(shell for name in $(NOTEBOOKS:notebooks/%.ipynb=%); do \
  (while IFS= read -r file; do test -f "$$file" || exit 1; done < outputs/notebooks/.$$name.wrote) 2>/dev/null \
  || echo outputs/notebooks/$$name.ipynb; done)

PINS := requirements.txt constraints.txt
# What every notebook's results depend on: the package with its weights, and the pins.
SOURCES := $(shell find lsvd -type f ! -path '*/__pycache__/*' ! -name '.*' ! -name '*.pyc' | LC_ALL=C sort)
SETTINGS = PARAMS=$(PARAMS) BACKBONE=$(BACKBONE) DEVICE=$(DEVICE)

ifeq ($(strip $(USE_ENV)),)
PY := .venv/bin/python
# Named by the contents of the pins, not by their dates: a checkout that only touches the files installs nothing.
ENVIRONMENT := .venv/made-$(shell cat $(PINS) pyproject.toml | cksum | cut -d' ' -f1)
else
PY := $(USE_ENV)/bin/python
ENVIRONMENT :=
endif

QUIET := TQDM_DISABLE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error
# A backend chosen outside would keep the notebooks from drawing inline.
unexport MPLBACKEND

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help env reproduce test docs format lab train measure survey edits bench bench-full matrix bless pins clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: $(ENVIRONMENT) ## make .venv with the pinned packages (the other commands do it when it is needed)

.venv/made-%:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or later is needed, and $(PYTHON) is older or missing: name another, make env PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $$(grep '^torch==' requirements.txt)
	$(PY) -m pip install -r requirements.txt -c constraints.txt
	$(PY) -m pip install --no-deps --no-build-isolation --editable .
	@rm -f .venv/made-*
	@touch $@

reproduce: $(EXECUTED) ## run the notebooks whose sources changed or results are gone; PARAMS=file.yml, BACKBONE=, DEVICE=
	@echo "outputs/notebooks: $(words $(EXECUTED)) up to date; figures in outputs/figures, tables in outputs/tables"

$(GONE): FORCE

# Papermill saves as it goes along, so the unfinished notebook has another name; it is kept when a cell fails, and the
# result of an earlier run is gone by then: nothing in outputs/notebooks looks done that is not.
# The result carries the date of its start: what is edited during a run counts as newer. Beside it lies a list of the
# figures and tables written since then: its own, and with -j those of its neighbours.
# A static pattern rule: one that only matches would be passed over without a word if a source were missing.
$(EXECUTED): outputs/notebooks/%.ipynb: notebooks/%.ipynb $(SOURCES) $(PINS) $(PARAMS) outputs/notebooks/.inputs | $(ENVIRONMENT)
	@echo "running $<"
	@rm -f $@ $(@:.ipynb=.failed.ipynb)
	@touch outputs/notebooks/.$*.started
	@$(QUIET) $(PY) -m papermill $< $(@:.ipynb=.failed.ipynb) -k python3 --cwd notebooks --no-progress-bar --log-level WARNING \
	  --execution-timeout $(CELL_TIMEOUT) $(if $(PARAMS),-f $(PARAMS)) \
	  $(if $(BACKBONE),-p backbone $(BACKBONE)) $(if $(DEVICE),-p device $(DEVICE)) \
	  || { echo "$< did not finish; what it got done is in $(@:.ipynb=.failed.ipynb)" >&2; exit 1; }
	@find $(RESULTS) -type f -newer outputs/notebooks/.$*.started ! -name '.*' > outputs/notebooks/.$*.wrote
	@touch -r outputs/notebooks/.$*.started $(@:.ipynb=.failed.ipynb)
	@mv $(@:.ipynb=.failed.ipynb) $@
	@rm -f outputs/notebooks/.$*.started

# Rewritten only when it changes: a file that was taken away, or another parameter, is a change too. (The + runs it
# under make -n as well, which would otherwise take it for changed.)
outputs/notebooks/.inputs: FORCE
	+@$(WRITABLE)
	+@printf '%s\n' '$(SETTINGS)' $(SOURCES) | cmp -s - $@ || printf '%s\n' '$(SETTINGS)' $(SOURCES) > $@

test: $(ENVIRONMENT) ## check style, then unit tests, end-to-end tests and the notebooks (nbval); outputs stay as they are
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(QUIET) $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

docs: $(ENVIRONMENT) ## build the site from docs, notebooks and tables into build/docs; needs no network
	$(QUIET) $(PY) docs/build.py

format: $(ENVIRONMENT) ## format code and notebooks
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lab: $(ENVIRONMENT) ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab notebooks

train: $(ENVIRONMENT) ## train the shipped models anew (hours); one only: make train MODELS=mini-cats
	@for name in $(MODELS); do $(PY) -m lsvd train $$name || exit 1; done

measure: $(ENVIRONMENT) ## measure the shipped models: reader.csv and backbones.csv in outputs/tables, sheets of samples
	$(PY) -m lsvd evaluate

survey: $(ENVIRONMENT) ## measure the responses that notebooks 02 and 03 read, if weights, reader or plan changed: measurements/responses
	$(PY) -m lsvd survey

edits: $(ENVIRONMENT) ## measure the edits that notebooks 04 to 06 read, if weights, reader or settings changed: measurements/edits
	$(PY) -m lsvd study

bench: $(ENVIRONMENT) ## time what claims to be fast against its reference: outputs/tables/bench.csv
	$(PY) -m benchmarks.speed

bench-full: $(ENVIRONMENT) ## time an edit with models of full size and random weights, some 15 minutes: outputs/tables/fullsize.csv
	$(PY) -m benchmarks.fullsize

matrix: $(ENVIRONMENT) ## try every family of diffusers pipelines: outputs/tables/families.csv
	LSVD_MATRIX=1 $(QUIET) $(PY) -m pytest -q tests/backbones/test_families.py

bless: $(ENVIRONMENT) ## execute the stored notebooks in place; look at the diff before you commit it
	@$(WRITABLE)
	$(if $(NOTEBOOKS),$(QUIET) $(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.timeout=$(CELL_TIMEOUT) \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS))

pins: ## resolve requirements.txt anew: rewrites constraints.txt and environment.yml
	rm -rf .venv-pins
	$(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $$(grep '^torch==' requirements.txt)
	.venv-pins/bin/python -m pip install -r requirements.txt
	{ echo '# Written by `make pins`: what the packages of requirements.txt bring along.'; \
	  .venv-pins/bin/python -m pip freeze --all | sed 's/+cpu$$//' | grep -v '^pip==' | grep -vixFf requirements.txt; } > .venv-pins/constraints.txt
	mv .venv-pins/constraints.txt constraints.txt
	sed '/- pip:$$/q' environment.yml > .venv-pins/environment.yml
	{ echo '- --extra-index-url https://download.pytorch.org/whl/cpu'; grep -h '==' $(PINS) | sed 's/^/- /'; \
	  echo '- --editable .'; } | sed 's/^/      /' >> .venv-pins/environment.yml
	mv .venv-pins/environment.yml environment.yml
	rm -rf .venv-pins

clean: ## remove the tools' caches and unfinished notebooks; outputs, weights, checkpoints and .venv stay
	rm -rf .pytest_cache .ruff_cache .hypothesis build lsvd.egg-info
	rm -f outputs/notebooks/*.failed.ipynb outputs/notebooks/.*.started
	find lsvd tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
