# make demo    run the example on the standard library's own docstrings; Q="…" asks a question
# make test    run the tests; COVERAGE=1 measures what the first case of each covers on each database
# make check   what CI runs: lint, types, tests, tests on SQLAlchemy 2.0
# make long    run the contract over every way to reach a database, embed 100,000 items through a
#              service of whose requests 2 % fail, tell ten thousand random histories, search 10,000
#              times beside a writer, interrupt a search at each moment, have 16 threads do 10,000
#              short transactions on one SQLite file, and write 1,000 overlapping batches from each
#              of 8 processes on PostgreSQL; tell 5,000 histories of writers and refreshers; and
#              let each call to a database fail in each way, with ten times as many examples; and
#              use the examples on both databases
# make docs    build the documentation into build/docs; whatever Sphinx warns of is an error
# make bench   print ratios against other ways to do the same, measured side by side, and draw
#              the time of a search over the number of rows
# make writers write to the examples on SQLite, each under four processes, by 16 clients at once, count
#              the errors, and print how many searches are answered beside a writer and beside none

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin

export Q
# Else each process that a test starts compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-oldest lint types check long docs bench writers clean

demo: $(VENV)/.demo
	$(BIN)/python examples/stdlib.py $(if $(Q),"$$Q")

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report=term)

test-oldest: $(OLDEST)/.dev
	$(OLDEST)/bin/python -m pytest -m "not once" --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/python -m tests.typed
	$(BIN)/mypy

check: COVERAGE := 1
check: lint types test test-oldest

long: $(VENV)/.dev
	EMBEDDINGS_EXAMPLES=10 $(BIN)/python -m pytest tests/test_vectors.py \
		tests/following/test_triggers.py tests/databases/sqlite/test_bits.py
	EMBEDDINGS_WAYS=all EMBEDDINGS_EXAMPLES=10 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder tests/contract
	EMBEDDINGS_HISTORIES=10000 EMBEDDINGS_SEARCHES=10000 $(BIN)/python -m pytest \
		tests/reliability/test_never_stale.py tests/reliability/test_matrix.py
	EMBEDDINGS_FAULTS=all $(BIN)/python -m pytest tests/reliability/test_fault_sweep.py \
		tests/aio/test_async_collection.py
	EMBEDDINGS_INTERRUPTED=1 $(BIN)/python -m pytest \
		tests/reliability/test_matrix.py::test_an_interrupt_anywhere
	EMBEDDINGS_FOLLOWED=5000 $(BIN)/python -m pytest tests/reliability/test_following.py
	EMBEDDINGS_TRANSACTIONS=10000 $(BIN)/python -m pytest tests/reliability/test_threads.py
	EMBEDDINGS_ITEMS=100000 $(BIN)/python -m pytest tests/writing/test_large_import.py
	EMBEDDINGS_BATCHES=1000 EMBEDDINGS_KILLS=100 EMBEDDINGS_PROCESSES=8 $(BIN)/python -m pytest \
		tests/reliability/test_postgresql_processes.py tests/reliability/test_processes.py
	EMBEDDINGS_WAYS=all EMBEDDINGS_PROCESSES=4 $(BIN)/python -m pytest tests/examples \
		tests/databases/postgresql/test_create_index.py

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env -b html docs build/docs

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.sqlite
	$(BIN)/python -m tests.server $(BIN)/python -m benchmarks.postgresql
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.index
	$(BIN)/python -m benchmarks.crowd
	$(BIN)/python -m tests.server $(BIN)/python -m benchmarks.providers
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m tests.server $(BIN)/python -m benchmarks.django_models
	$(BIN)/python -m tests.server $(BIN)/python -m benchmarks.following

writers: $(VENV)/.dev
	EMBEDDINGS_PROCESSES=4 $(BIN)/python -m benchmarks.writers

# One environment; each stamp file says what was installed into it.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# It sees the packages of the first, after its own: pip installs what has to be another version.
$(OLDEST)/.dev: $(VENV)/.dev
	$(PYTHON) -m venv --without-pip --clear $(OLDEST)
	$(OLDEST)/bin/python -c 'from pathlib import Path; from sysconfig import get_path as path; \
		Path(path("purelib"), "newest.pth").write_text(path("purelib").replace("$(OLDEST)", "$(VENV)"))'
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev]' 'SQLAlchemy<2.1'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) dist build .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
