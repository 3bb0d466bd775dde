# Two commands: `make demo` and `make test`. Each makes .venv first if it is not there; see `make help`.
# Only relative paths, so that a checkout may lie in a folder with spaces; GNU make 3.81 (macOS) is enough.
PYTHON ?= python3
PY := .venv/bin/python

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile
	@echo 'PYTHON=python3.11 chooses the interpreter when .venv is made; ARGS="..." goes to the command behind a target.'

demo: .venv/installed  ## a tiny training, really killed, resumed and shown: a few minutes
	$(PY) benchmarks/demo.py $(ARGS)

test: .venv/installed  ## the tests, two modules at a time; then the browser's alone, skipped where there is none
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)
	$(if $(ARGS),,$(PY) -m pytest tests/browser -m browser)

test-browser: .venv/installed  ## only the browser's: notebooks and report in Debian's chromium or google-chrome
	$(PY) -m pytest tests/browser -m browser $(ARGS)

screenshots: .venv/installed  ## the pictures in docs/, of a real run in a real browser: some minutes
	$(PY) benchmarks/screenshots.py

lab: .venv/installed  ## the notebooks in JupyterLab (its kernel is .venv's)
	PATH="$$PWD/.venv/bin:$$PATH" JUPYTER_PREFER_ENV_PATH=1 $(PY) -m jupyterlab $(ARGS)

lint: .venv/installed  ## style, types and the floors of the house
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

install: .venv/installed  ## .venv with everything in it

# A renamed or copied .venv points to its old folder from a hundred scripts: then a new one is made.
USABLE := $(PY) -c '' 2>/dev/null
ifneq "$(shell cat .venv/installed 2>/dev/null || pwd)" "$(shell pwd)"
USABLE := false
.venv/installed: moved
endif

.venv/installed: pyproject.toml constraints.txt
	@$(USABLE) || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'rddkit needs Python 3.10 or newer (tested: 3.11); "$(PYTHON)" is missing or older. Nothing was created.'; \
	  echo '  macOS:          brew install python@3.11'; \
	  echo '  Debian, Ubuntu: sudo apt install python3.11 python3.11-venv'; \
	  echo '  then:           make $(MAKECMDGOALS) PYTHON=python3.11'; exit 1; } >&2
	@$(USABLE) || $(PYTHON) -c 'import ensurepip, venv' || { \
	  echo '"$(PYTHON)" cannot make virtual environments. Nothing was created.'; \
	  echo '  Debian, Ubuntu: sudo apt install python3-venv'; exit 1; } >&2
	@echo 'Installing into .venv, once: a few minutes and several GB (README says how many).'
	@$(USABLE) || $(PYTHON) -m venv --clear .venv
	@$(PY) -c 'import pip' 2>/dev/null || $(PY) -m ensurepip
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@pwd > $@

.PHONY: help demo test test-browser screenshots lab lint install moved
