# Everything a newcomer types. `make install` does nothing the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install quickstart test test-all test-variations check bench

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "posttrain needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,serving,math,json-schema,ray]'
	@touch $@

quickstart: install
	$(BIN)/posttrain run recipes/quickstart.yaml

# Two processes: half of the suite's time is waiting for children to start.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not slow"

# The same and the tests marked slow, in one go; those of tests/real are skipped where their weights cannot be had.
test-all: install
	$(BIN)/python tests/real/real_models.py
	$(PYTEST)

# `make test` as other processors compute; ONLY="default avx2" takes some of the variations.
test-variations: install
	$(BIN)/python tests/variations.py $(ONLY)

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/core/test_layers.py

bench: install
	for file in $$(grep -l '__main__' benchmarks/*.py); do echo "== $$file"; $(BIN)/python $$file || exit 1; done
