.PHONY: help setup demo test pipelines reach quick faults check docs format clean
PYTHON ?= python3
BIN := .venv/bin

help:  ## Say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "paperweight needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --group dev
	@touch $@

setup: .venv/ready  ## Make .venv with everything that is needed

demo: setup  ## Screen embedded images of digits, in a minute
	$(BIN)/paperweight screen --data digits --minutes 0.95

test: setup  ## Run all tests and documented examples
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

.venv-pipelines/ready: pyproject.toml constraints.txt tests/optional/requirements.txt
	$(PYTHON) -m venv .venv-pipelines
	.venv-pipelines/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	.venv-pipelines/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable . --requirement tests/optional/requirements.txt
	@touch $@

pipelines: .venv-pipelines/ready  ## Test adapted pipelines against diffusers, with random weights, in .venv-pipelines
	.venv-pipelines/bin/python -m pytest tests/optional

reach: setup  ## Run all tests and record what each file of them executes, for quick
	rm -rf .reached
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --reach record

quick: setup  ## Run the tests that a change since the last reach reaches
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --reach only; test $$? -eq 0 -o $$? -eq 5

faults: setup  ## Plant the faults whose paper or test changed, and record what notices them
	$(BIN)/python -m tests.faults

check: setup  ## Format, lint, types, import rules
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: setup  ## Build the reference in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going --jobs auto -b html docs build/docs

format: setup  ## Format, and mend what the linter can mend
	$(BIN)/ruff format src tests benchmarks docs
	$(BIN)/ruff check --fix src tests benchmarks docs

clean:  ## Remove what was made
	rm -rf .venv .venv-pipelines .reached build dist weighings audits screens docs/methods docs/modules docs/tasks .ruff_cache
