# `make demo` and `make test` need python3 (3.11 or newer, with venv), make and git, and nothing done before.
# Everything is installed into .venv; `make PYTHON=/path/to/python3.12 test` chooses the Python it is made with.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format types unit coverage mutants bench bench-compiled backends test-backends wheel-compiled test-compiled clean

VENV := .venv
BENCH_VENV := .bench-venv
COMPILED_VENV := .venv-compiled
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
ARGS :=
# What a wheel is made from.
WHEEL_FILES := pyproject.toml README.md LICENSE .gitignore src
SOURCES := $(shell find $(WHEEL_FILES) -type f ! -name '*.pyc')

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r name text; do printf '%-19s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.runtime ## set up and run the main job
	$(PY) -m examples.demo $(ARGS)

test: lint types unit ## set up and pass every check

lint: $(VENV)/.dev ## style, likely bugs, formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.dev ## write the formatting that lint asks for
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(VENV)/.dev ## both type checkers, strict
	$(PY) -m mypy
	$(PY) -m basedpyright --pythonpath $(PY)

unit: $(VENV)/.dev ## the tests; ARGS="-k join" passes options on
	$(PY) -m pytest $(ARGS)

coverage: $(VENV)/.dev ## the tests, with the lines and branches they miss; fails when the core misses one
	$(PY) -m pytest --cov --cov-report=term-missing $(ARGS)
	@echo "The core:"
	@$(PY) -m tests.core_coverage

mutants: $(VENV)/.mutants ## change the core in some thousand small ways; fails when the tests notice less than 85 % (an hour or two)
	$(PY) -m mutmut run $(ARGS)
	@$(PY) -m mutmut export-cicd-stats
	@$(PY) -m tests.kill_rate

bench: $(VENV)/.runtime ## cost against bare asyncio and against the peers; ARGS=--quick for a first look
	-@$(MAKE) --no-print-directory $(BENCH_VENV)/.peers # without a network what needs it is left out, and said to be
	BENCH_VENV=$(BENCH_VENV) $(PY) -m benchmarks $(ARGS)

bench-compiled: $(VENV)/.runtime build/package/.unpacked ## the same with the hot modules compiled
	-@$(MAKE) --no-print-directory $(BENCH_VENV)/.peers
	BENCH_PACKAGE=build/package BENCH_VENV=$(BENCH_VENV) $(PY) -m benchmarks $(ARGS)

backends: ## install a real collector, Jaeger, Prometheus and MLflow outside the repository
	PYTHON=$(PY) tests/backends/install.sh

test-backends: $(VENV)/.dev ## run real workflows against them; what is not installed is skipped, with the reason
	$(PY) -m pytest tests/backends $(ARGS)

wheel-compiled: dist/.compiled ## make a wheel with the hot modules compiled, into dist/; needs a C compiler
	@echo "dist/$$(cat dist/.compiled)"

test-compiled: $(COMPILED_VENV)/.dev ## the tests against that wheel; ARGS="-k join" passes options on
	@$(COMPILED_VENV)/bin/python -c 'from tracedflow._engine._state._shortcuts import __file__ as found; \
	  exit(not found.endswith(".so") and "These would be the tests of a module that is not compiled: " + found)'
	$(COMPILED_VENV)/bin/python -m pytest --ignore=tests/test_speed.py $(ARGS) # it counts instructions of the pure modules

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) $(BENCH_VENV) $(COMPILED_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov mutants build dist
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Several stamps: the demo must not wait for the tools of developers, nor the tests for mutmut. It brings the command line and
# what single examples need, so that after it every command of the README works.
$(VENV)/.created:
	@chosen=; \
	for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "tracedflow needs Python 3.11 or newer; looked for: $(CANDIDATES)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$chosen" --version)"; \
	"$$chosen" -m venv --clear $(VENV) || { \
	  echo "$$chosen could not make a virtual environment; its venv module may be a package of its own (python3-venv)." >&2; \
	  exit 1; \
	}
	@touch $@

$(VENV)/.runtime: $(VENV)/.created pyproject.toml
	$(PIP) -e '.[cli,examples]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.mutants: $(VENV)/.dev
	$(PIP) -e '.[mutants]'
	@touch $@

$(BENCH_VENV)/.peers: benchmarks/_peers/requirements.txt | $(VENV)/.created
	$(PY) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e . -r benchmarks/_peers/requirements.txt
	@touch $@

# Built in a copy: see pyproject.toml. The stamp holds the name of the wheel, which is that of the Python and the platform.
dist/.compiled: $(VENV)/.created $(SOURCES)
	@rm -rf build/compiled
	@mkdir -p build/compiled/wheel dist
	@cp -R $(WHEEL_FILES) build/compiled
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/compiled/wheel ./build/compiled
	@cp build/compiled/wheel/*.whl dist
	@cd build/compiled/wheel && ls *.whl >../../../dist/.compiled
	@rm -rf build/compiled

build/package/.unpacked: dist/.compiled
	@rm -rf build/package
	$(PIP) --no-deps --target build/package dist/$$(cat dist/.compiled)
	@touch $@

$(COMPILED_VENV)/.created: $(VENV)/.created
	$(PY) -m venv --clear $(COMPILED_VENV)
	@touch $@

# The wheel of a changed source has the same version, and must replace what is installed; its dependencies need not.
$(COMPILED_VENV)/.dev: $(COMPILED_VENV)/.created dist/.compiled
	$(COMPILED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/$$(cat dist/.compiled)
	$(COMPILED_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "dist/$$(cat dist/.compiled)[cli,examples,dev]"
	@touch $@
