# The front door. Everything happens in .venv, which is made on first use; nothing needs to be activated.
#
#   make demo     install what the demo needs, then train, evaluate and show recommendations on MovieLens-100K
#   make serve    install what the service needs, run the demo if it has not run yet, then serve its model with the page
#   make test     install what the tests need, then run them
#   make browser  install Chromium for the browser tests (Debian, as root)
#   make lint     ruff: rules and format
#   make types    mypy --strict
#   make check    lint, types and tests
#   make wheel    build the packages; install the wheel into an empty environment outside and try it
#   make matrix   tests and demo under Python 3.11 to 3.14, and with the lowest and newest versions: before a release
#   make docs     build the site into site/
#   make clean    remove everything made here, .venv included
#
# PYTHON=python3.12                                   another Python, 3.11 or newer
# TORCH_INDEX=https://download.pytorch.org/whl/cpu    PyTorch without CUDA: saves gigabytes on Linux without a GPU
# TEST=tests/test_house.py                            some tests instead of all
# MATRIX='--python 3.12 --versions pinned'            some rows of the matrix instead of all

PYTHON ?= python3
TORCH_INDEX ?=
TEST ?= tests
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo serve test browser lint types check wheel matrix docs clean

demo: .venv/.demo
	$(BIN)/palate demo --out runs/demo

serve: .venv/.serve
	@test -f runs/demo/recommender.json || $(BIN)/palate demo --out runs/demo
	$(BIN)/palate serve runs/demo

# One thread in each of two processes is faster than two threads in one: most tests are too small to share out.
test: .venv/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 $(TEST)

# The browser tests skip with a reason where there is no Chromium. On Debian, as root, this installs it.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
		echo "Chromium is not installed and cannot be installed here: the browser tests will be skipped"

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test
	$(BIN)/mypy

check: lint types test

matrix: | .venv/bin/python
	$(BIN)/python .ci/matrix.py $(MATRIX)

wheel: | .venv/bin/python
	$(BIN)/python .ci/wheel.py

docs: .venv/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site runs build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"palate needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Name another one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[images,plots]'
	@touch $@

.venv/.serve: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[images,plots,serve]'
	@touch $@ .venv/.demo

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[ann,browser,client,dev,explain,fast,images,mcp,onnx,pandas,plots,postgres,serve,sql,track,tune]'
	@touch $@ .venv/.demo .venv/.serve

.venv/.docs: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[docs]'
	@touch $@
