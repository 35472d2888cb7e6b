# Everything runs in .venv, which the first target that needs it makes. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# A recent pip takes half the time of those that come with Python. What builds the package is installed once beside it,
# not anew for each installation. Of all that torch brings, bytecode would take half a
# minute: pip leaves it out, and what is used gets its own when it is first used, if that is allowed. Processes that start
# at once, as those of the tests do, would each compile all of it: for them it is made before, beside pip.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo docs model notebooks test test-slow mutants guards lint check check-lowest check-newest check-pythons format clean

help:
	@echo "make demo       the whole job on synthetic speech, a few minutes"
	@echo "make model      the packaged model anew, from recipes/small_model"
	@echo "make docs       the site, into site/; a link that leads nowhere stops it"
	@echo "make notebooks  run the notebooks of docs/notebooks and keep their outputs"
	@echo "make test       the test suite"
	@echo "make test-slow  the slow tests"
	@echo "make mutants    change the code in small ways; what no test notices is printed. Hours; MODULES='losses/contrast.py' less"
	@echo "make guards     take out what guards users, a line at a time, and see that a test fails; some minutes"
	@echo "make lint       style, types and import rules"
	@echo "make check      lint, docs, then test: what continuous integration runs"
	@echo "make check-lowest   tests of using a model and sampling, without torch, with the lowest versions stated"
	@echo "make check-newest   the same with the newest versions there are"
	@echo "make check-pythons  the same on each of Python 3.11, 3.12 and 3.13 that is installed"
	@echo "make format     format and fix what the linter can"

demo: .venv/installed
	$(BIN)/chns demo runs/demo

# CAMPPLUS is 3D-Speaker's campplus_cn_en_common.pt, DATA the folder of the corpora that recipes/small_model/README.md names.
MODEL_RUN ?= runs/model
DATA ?= ../shared/data
# 28 shards of 2,048 clips and 560 steps are hours of one core; SHARDS=100:102 STEPS=20 tries the chain in minutes.
SHARDS ?= 100:128
STEPS ?= 560
RECIPE := OMP_NUM_THREADS=1 $(BIN)/python recipes/small_model

model: .venv/installed-dev
	$(BIN)/chns import 3d-speaker-campplus $(CAMPPLUS) --out $(MODEL_RUN)/teacher
	$(BIN)/chns prepare synthetic $(MODEL_RUN)/synthetic --speakers 400 --utterances 6
	$(RECIPE)/teacher_cache.py $(DATA) $(MODEL_RUN)/cache --teacher $(MODEL_RUN)/teacher --synthetic $(MODEL_RUN)/synthetic --shards $(SHARDS)
	$(RECIPE)/development.py $(DATA) $(MODEL_RUN)/dev.npz --teacher $(MODEL_RUN)/teacher
	$(RECIPE)/four_bits.py $(MODEL_RUN)/cache $(MODEL_RUN)/teacher $(MODEL_RUN)/four_bits --dev $(MODEL_RUN)/dev.npz --steps $(STEPS)
	$(RECIPE)/pack_graph.py $(MODEL_RUN)/four_bits $(MODEL_RUN)/small
	$(RECIPE)/measure_models.py $(DATA) small=$(MODEL_RUN)/small --calibrate
	$(RECIPE)/measure_models.py $(DATA) small=$(MODEL_RUN)/small --out $(MODEL_RUN)/results.json

docs: .venv/installed-dev
	$(BIN)/python docs/pages.py
	$(BIN)/zensical build --clean --strict

notebooks: .venv/installed-dev
	$(BIN)/python docs/notebooks/run.py

test: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: .venv/installed-dev-slow
	$(BIN)/python -m pytest -m slow

mutants: .venv/installed-dev
	$(PIP) install "mutmut>=3.8,<4"
	nice $(BIN)/python tests/mutants.py $(MODULES)

guards: .venv/installed-dev
	nice $(BIN)/python tests/guards.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

check: lint docs test

# An environment of the base installation alone and of pytest; the model that it uses is made in the other one.
check-lowest: .venv/installed-dev
	rm -rf .venv-base
	$(PYTHON) -m venv .venv-base
	.venv-base/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints-lowest.txt . "hypothesis>=6.100" "pytest>=8.3"
	OMP_NUM_THREADS=1 $(BIN)/python tests/base_installation.py .venv-base/bin/python

check-newest: .venv/installed-dev
	rm -rf .venv-base
	$(PYTHON) -m venv .venv-base
	.venv-base/bin/python -m pip --disable-pip-version-check --quiet install --upgrade . "hypothesis>=6.100" "pytest>=8.3"
	OMP_NUM_THREADS=1 $(BIN)/python tests/base_installation.py .venv-base/bin/python

# An interpreter that is only a name, as pyenv leaves them, counts as none.
check-pythons: .venv/installed-dev
	@for version in 3.11 3.12 3.13; do \
	  if python$$version -c "" 2> /dev/null; then \
	    echo "== Python $$version" && $(MAKE) --no-print-directory check-newest PYTHON=python$$version || exit 1; \
	  else echo "== Python $$version is not installed: not tested"; fi; \
	done

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-base runs

.venv/pip: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) install --no-compile --constraint constraints.txt --upgrade pip hatchling editables
	touch $@

.venv/installed: .venv/pip pyproject.toml constraints.txt
	$(PIP) install --no-compile --no-build-isolation --constraint constraints.txt --editable ".[train,synthetic,report]"
	touch $@

.venv/installed-test: .venv/installed
	@$(BIN)/python -c "import jsonargparse, lightning_fabric, matplotlib.pyplot, onnxscript, scipy.stats, torch._dynamo" & \
	$(PIP) install --no-compile --no-build-isolation --constraint constraints.txt --editable ".[test]" && wait
	@$(BIN)/python -c "import datasets, lhotse" & \
	$(BIN)/python -c "import fastapi, hypothesis, prometheus_client, pytest, sklearn.mixture, chns.training.build" && wait
	touch $@

.venv/installed-dev: .venv/installed-test
	$(PIP) install --no-compile --no-build-isolation --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv/installed-dev-slow: .venv/installed-dev
	$(PIP) install --no-compile --no-build-isolation --constraint constraints.txt --editable ".[dev-slow]"
	touch $@
