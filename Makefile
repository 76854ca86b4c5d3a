# make demo   the whole of ftray on real data: sweep, fine-tune, register, serve, ask
# make test   lint, types, tests; `make test-slow` runs what is left out for its time
# All set up .venv first and re-use it while pyproject.toml and constraints.txt are as they were.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-parts test-models test-loop test-training test-serving test-slow
.PHONY: lint types constraints clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
# The pip of Debian 12 would run an old package's setup.py, which fails without the package wheel.
	$(BIN)/pip install --quiet --no-compile --use-pep517 --constraint constraints.txt --editable '.[dev]'
# On all cores, which pip does not do. Two kinds of files are written to fail or for newer Pythons.
	$(BIN)/python -m compileall -q -j 0 -x '/tests/|/torch/testing/' $(VENV)/lib ftray
	touch $@

demo: install
	$(BIN)/python jobs/demo.py

# Ray starts its processes with a niceness of 15: beside the other tests they would hardly run.
export RAY_worker_niceness := 0

# Side by side: the tests with Ray wait for processes to start most of their time.
test: lint
	$(MAKE) --jobs=3 --output-sync=target \
		test-training test-serving test-loop test-parts test-models types

test-parts: install
	$(BIN)/python -m pytest tests/unit $(foreach part,loop serve models data,--ignore=tests/unit/$(part))

test-models: install
	$(BIN)/python -m pytest tests/unit/serve tests/unit/models tests/unit/data

test-loop: install
	$(BIN)/python -m pytest tests/unit/loop tests/contracts

test-training: install
	$(BIN)/python -m pytest tests/ray/training tests/gpu

test-serving: install
	$(BIN)/python -m pytest tests/ray/serving tests/e2e

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
# Errors in other folders of tests are ignored.
	$(BIN)/mypy --explicit-package-bases --follow-imports=silent ftray tests/bench

# The versions that the tests passed with. "+cpu" goes: elsewhere the same version comes with CUDA.
constraints: install
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
