# Two commands from a bare checkout, with nothing but Python 3.11+ and pip:
#   make demo   trains with and without guidance on the embedded text and shows the difference
#   make test   runs the tests
#   make site   builds the documentation as a site in site/, to be opened there or put on a server
# For a release:
#   make dist   builds wheel and source distribution, and tries the wheel in an empty environment
# On a machine with an NVIDIA GPU and its own torch, transformers and pytest, nothing is installed:
#   make test-gpu   runs the tests that need one
#   make bench-gpu  attention alone, then a whole training step of a RoBERTa-base; results go to $(OUT)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# transformers warns on import where it finds no network; nothing here needs one after the install.
export HF_HUB_OFFLINE ?= 1
SEED ?= 1
SEEDS ?= 1
DEMO ?= demo/seed-$(SEED)
OUT ?= gpu
# Of mutated files: all of them took seven minutes on a core.
TEXT_CASES ?= 1000000
JSON_CASES ?= 100000
BINARY_CASES ?= 30000

.PHONY: demo test test-gpu bench-gpu fuzz lint audit site dist clean

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "== making a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "== installing torch (the CPU build where the platform has one) and everything else, pinned by constraints.txt"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/ready
	@echo "== training two small encoders in turn, with and without guidance (about five minutes on two cores)"
	$(BIN)/attention-guidance compare --output $(DEMO) --seeds $(SEEDS) \
		$(if $(wildcard $(DEMO)/run.yaml),--resume,--preset tiny --seed $(SEED))
	@echo "== open $(DEMO)/compare.html"

test: $(VENV)/ready
	@echo "== running the tests, a process a core (up to four), each with whole files"
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -r s --durations 10

test-gpu:
	@echo "== running the tests that need a GPU, on what $(PYTHON) has installed"
	PYTHONPATH=src $(PYTHON) -m pytest -p no:cacheprovider tests/loss/test_gpu.py

bench-gpu: export PYTHONPATH = src
bench-gpu:
	@echo "== timing on a GPU (some minutes), on what $(PYTHON) has installed"
	mkdir -p $(OUT)
	$(PYTHON) -m benchmarks.kernel.speed --budget 120 --seconds 15 --results $(OUT)/kernel.jsonl
	$(PYTHON) -m benchmarks.cost.step --layers 12 --vocabulary 50265 --tokens 16384 --lengths 512 --dtypes bf16 \
		--backends triton blocked reference --device cuda --seconds 60 --results $(OUT)/cost.jsonl

fuzz: $(VENV)/ready
	@echo "== mutating files that the commands read (about ten minutes); a second call continues"
	$(BIN)/python -m benchmarks.reliability.fuzz --text $(TEXT_CASES) --json $(JSON_CASES) --binary $(BINARY_CASES)

lint: $(VENV)/ready
	@echo "== linter, formatter, type checkers"
	$(BIN)/ruff check src tests benchmarks docs .ci
	$(BIN)/ruff format --check src tests benchmarks docs .ci
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/site-ready: $(VENV)/ready
	@echo "== installing what builds the site, pinned by constraints.txt"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

site: $(VENV)/site-ready
	@echo "== building the documentation in site; warnings are errors, and all links are checked"
	$(BIN)/mkdocs build --strict --quiet
	@echo "== open site/index.html"

audit:
	@echo "== looking up known vulnerabilities of the packages in constraints.txt"
	$(PYTHON) .ci/audit.py constraints.txt

dist: $(VENV)/ready
	@echo "== building the wheel and the source distribution in dist"
	rm -rf dist
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt build
	$(BIN)/python -m build --outdir dist .
	@echo "== installing the wheel in an empty environment, and running README's first program there"
	$(PYTHON) -m venv dist/empty
	dist/empty/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch dist/*.whl
	sed -n '/^```python/,/^```/{/^```/!p;/^```$$/q}' README.md >dist/first.py
	cd dist && empty/bin/python first.py
	rm -rf dist/empty dist/first.py

clean:
	rm -rf $(VENV) .venv-audit demo dist site gpu .pytest_cache .mypy_cache .ruff_cache
