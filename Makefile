# Two commands: `make demo` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Two threads that spin while they wait cost each other more than half of their speed on a small machine.
export OMP_WAIT_POLICY = passive
export GOMP_SPINCOUNT = 0
export TOKENIZERS_PARALLELISM = false

.PHONY: setup setup-dev demo test lint clean

setup: $(VENV)/.ready
setup-dev: $(VENV)/.ready-dev

# torch first and exactly as pinned: the other packages then keep it.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'wellread needs Python 3.11 or newer')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) -e ".[dense,ranking]"
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) -e ".[dense,ranking,entities,vision,captions,decoders,documents,dev]"
	touch $@

demo: setup
	$(BIN)/wellread demo --out .demo

# One thread per worker: the two workers would fight over the cores of a small machine.
test: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .demo build dist src/*.egg-info
