# `make demo` and `make test` need python3 (3.11 or newer, with venv), make and git, and nothing done before.
# Everything is installed into .venv; `make PYTHON=/path/to/python3.12 test` chooses the Python it is made with.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format types unit coverage mutants bench backends test-backends clean

VENV := .venv
BENCH_VENV := .bench-venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)
ARGS :=

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

backends: ## install a real collector, Jaeger, Prometheus and MLflow outside the repository
	PYTHON=$(PY) tests/backends/install.sh

test-backends: $(VENV)/.dev ## run real workflows against them; what is not installed is skipped, with the reason
	$(PY) -m pytest tests/backends $(ARGS)

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov mutants build dist
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
