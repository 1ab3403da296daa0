# One command each; `make help` lists them. Plain GNU make (3.81 or later) and Python 3.11 or later are all it takes.

# The interpreter that makes .venv.
PYTHON ?= python3
# Where torch comes from, beside PyPI. The default is the CPU build, some 200 MB; TORCH_INDEX= (empty) takes PyPI's,
# which on Linux is the CUDA build of several GB. An index that cannot be reached is skipped by pip with a warning.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# An environment that exists already and is used as it is: make test USE_ENV=$CONDA_PREFIX
USE_ENV ?=
# A YAML file of parameters for the notebooks, a backbone for all of them (a name, a folder or an id), and its device.
PARAMS ?=
BACKBONE ?=
DEVICE ?=
# The notebooks of `make reproduce` and `make bless`, all if empty: make bless NOTEBOOKS=notebooks/00_quickstart.ipynb
NOTEBOOKS ?=
# Seconds that one cell of theirs may take.
CELL_TIMEOUT ?= 7200
# Processes of one thread each that `make test` spreads notebooks and test files over, the long ones first.
WORKERS ?= 2
# What `make test` checks, such as TESTS=tests/avi: notebooks and tests if empty.
TESTS ?=
# What `make train` trains: names of models and readers, or all.
MODELS ?= all

# Values reach the commands through the environment, as they are: make does not expand them, and no shell reads them.
VARIABLES := PYTHON TORCH_INDEX USE_ENV PARAMS BACKBONE DEVICE NOTEBOOKS CELL_TIMEOUT WORKERS TESTS MODELS
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
export $(VARIABLES)

PINS := requirements.txt constraints.txt
ifeq ($(strip $(USE_ENV)),)
export PY := .venv/bin/python
# Named by the contents of the pins, not by their dates: a checkout that only touches the files installs nothing.
ENVIRONMENT := .venv/made-$(shell cat $(PINS) pyproject.toml | cksum | cut -d' ' -f1)
else
export PY := $(USE_ENV)/bin/python
ENVIRONMENT :=
endif

# Every command, and every kernel, imports the package of this clone, wherever .venv or USE_ENV was made.
export PYTHONPATH := $(CURDIR)
# Results go to outputs, measurements to measurements, whatever is set outside; and asserts count.
unexport LSVD_OUTPUTS LSVD_MEASUREMENTS PYTHONOPTIMIZE PYTHONHOME PYTHONSAFEPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help env ready reproduce test trials docs format lab explore train measure survey edits bench bench-full bench-device matrix bless pins clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

env: $(ENVIRONMENT) ## make .venv with the pinned packages (the other commands do it when it is needed)

# The lock is the shell's as long as it has file 9 open: of two commands at once, the second waits and finds it done.
.venv/made-%:
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  printf 'Python 3.11 or later is needed, and %s is older or missing: name another, make env PYTHON=python3.12\n' \
	    "$$PYTHON" >&2; exit 1; }
	@unset PYTHONPATH; mkdir -p build && exec 9>build/.env && "$$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' \
	  && { test ! -e $@ || exit 0; } && set -ex \
	  && "$$PYTHON" -m venv .venv \
	  && "$$PY" -m pip install --no-deps $${TORCH_INDEX:+--extra-index-url "$$TORCH_INDEX"} "$$(grep '^torch==' requirements.txt)" \
	  && "$$PY" -m pip install -r requirements.txt -c constraints.txt \
	  && "$$PY" -m pip install --no-deps --no-build-isolation --editable . \
	  && rm -f .venv/made-* && touch $@

# What every command needs: an interpreter that imports the package of this clone.
ready: $(ENVIRONMENT)
	@test -x "$$PY" || { printf 'there is no Python at %s: name an environment, or leave USE_ENV out\n' "$$PY" >&2; exit 1; }
	@"$$PY" tools/clone.py

reproduce: ready ## run the notebooks whose inputs or results changed; PARAMS=file.yml, BACKBONE=, DEVICE=
	@exec "$$PY" -m tools.reproduce $(if $(findstring k,$(firstword -$(MAKEFLAGS))),--keep-going)

test: ready ## check style, then unit tests, end-to-end tests and the notebooks (nbval); outputs stay as they are
	"$$PY" -m ruff check .
	"$$PY" -m ruff format --check .
	set -f; exec "$$PY" -m pytest -n "$$WORKERS" --dist loadfile --no-loadscope-reorder $$TESTS

trials: ready ## try every kind of fault in tools/kinds.csv: outputs/tables/reliability.csv
	@exec "$$PY" -m tools.trial

docs: ready ## build the site from docs, notebooks and tables into build/docs; needs no network
	@exec "$$PY" docs/build.py

format: ready ## format code and notebooks
	"$$PY" -m ruff check --fix .
	"$$PY" -m ruff format .

lab: ready ## open the notebooks in JupyterLab
	@exec "$$PY" -m jupyterlab --KernelManager.transport_encryption=auto notebooks

explore: ready ## explore the latent space in the browser; BACKBONE=, DEVICE=
	@exec "$$PY" -m lsvd explore $${BACKBONE:+--backbone "$$BACKBONE"} $${DEVICE:+--device "$$DEVICE"}

train: ready ## retrain the shipped models (hours); one only: make train MODELS=mini-cats
	@exec "$$PY" -m tools.train

measure: ready ## measure the shipped models: reader.csv and backbones.csv in outputs/tables, sheets of samples
	@exec "$$PY" -m lsvd evaluate

survey: ready ## measure the responses that notebooks 02 and 03 read, if weights, reader or plan changed: measurements/responses
	@exec "$$PY" -m lsvd survey

edits: ready ## measure the edits that notebooks 04 to 06 read, if weights, reader or settings changed: measurements/edits
	@exec "$$PY" -m lsvd study

bench: ready ## time what claims to be fast against its reference: outputs/tables/bench.csv
	@exec "$$PY" -m benchmarks.speed

bench-full: ready ## time an edit with models of full size and random weights, some 15 minutes: outputs/tables/fullsize.csv
	@exec "$$PY" -m benchmarks.fullsize

bench-device: ready ## time the parts of an edit on DEVICE=cuda and on the CPU: outputs/tables/device.csv
	@exec "$$PY" -m benchmarks.device $${DEVICE:+--device "$$DEVICE"}

matrix: ready ## try every family of diffusers pipelines: outputs/tables/families.csv
	@LSVD_MATRIX=1 "$$PY" -m pytest -q tests/backbones/test_families.py

bless: ready ## execute the stored notebooks in place; look at the diff before you commit it
	@exec "$$PY" -m tools.bless

pins: ## resolve requirements.txt again: rewrites constraints.txt and environment.yml
	rm -rf .venv-pins
	"$$PYTHON" -m venv .venv-pins
	unset PYTHONPATH; .venv-pins/bin/python -m pip install --no-deps $${TORCH_INDEX:+--extra-index-url "$$TORCH_INDEX"} "$$(grep '^torch==' requirements.txt)"
	unset PYTHONPATH; .venv-pins/bin/python -m pip install -r requirements.txt
	unset PYTHONPATH; { echo '# Written by `make pins`: what the packages of requirements.txt bring along.'; \
	  .venv-pins/bin/python -m pip freeze --all | sed 's/+cpu$$//' | grep -v '^pip==' | grep -vixFf requirements.txt; } > .venv-pins/constraints.txt
	mv .venv-pins/constraints.txt constraints.txt
	sed '/- pip:$$/q' environment.yml > .venv-pins/environment.yml
	{ echo '- --extra-index-url https://download.pytorch.org/whl/cpu'; grep -h '==' $(PINS) | sed 's/^/- /'; \
	  echo '- --editable .'; } | sed 's/^/      /' >> .venv-pins/environment.yml
	mv .venv-pins/environment.yml environment.yml
	rm -rf .venv-pins

clean: ## remove the tools' caches and unfinished notebooks; outputs, weights, checkpoints and .venv stay
	rm -rf .pytest_cache .ruff_cache .hypothesis lsvd.egg-info
	if test -d build; then find build -mindepth 1 -maxdepth 1 ! -name cache ! -name notebooks ! -name lock ! -name .env \
	  -exec rm -rf {} +; fi
	rm -f build/notebooks/*.failed.ipynb
	# unfinished files of writers that were killed, not of those that run now
	find lsvd outputs measurements build -name '.*.tmp' -mmin +60 -exec rm -rf {} + 2>/dev/null || true
	find lsvd tests tools benchmarks notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
