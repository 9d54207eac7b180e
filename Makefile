# Two commands: `make demo` shows the kit at work, `make test` checks it.
# Both make .venv first; pip takes its settings (PIP_*, pip.conf) from your environment.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test notebooks bench lint clean clean-runs

help:
	@echo 'make demo        run all notebooks on the embedded images; leaves runs/demo/report.html'
	@echo 'make test        unit tests, then every notebook with its outputs compared'
	@echo 'make lint        ruff, on code and notebooks'
	@echo 'make notebooks   run the demo afresh and write its outputs into notebooks/'
	@echo 'make bench       speed and quality benchmarks'
	@echo 'make clean       remove .venv and caches; make clean-runs removes runs/'

demo: $(READY)
	@$(BIN)/python -m iscutils run demo

# The notebooks run in a temporary runs folder (tests/conftest.py): no earlier demo can help them.
# A process has one file at a time, or all notebooks; those and the longest tests come first.
test: $(READY)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder --nbval-lax \
		--nbval-current-env --nbval-sanitize-with tests/nbval.cfg --nbval-cell-timeout 1800 \
		notebooks tests

notebooks: export ISCUTILS_RUNS := runs
notebooks: $(READY)
	@rm -rf runs/demo
	@$(BIN)/python -m iscutils run demo
	@$(BIN)/python -m iscutils save-outputs demo

# A folder in ISC layout; without it only the benchmarks that need no data run.
BENCH_DATA ?= ../shared/bench

bench: $(READY)
	@$(BIN)/python benchmarks/evaluation_speed.py
	@$(BIN)/python benchmarks/synthesis_speed.py
	@$(BIN)/python benchmarks/training_speed.py
	@$(BIN)/python benchmarks/step_overhead.py
	@if [ -d $(BENCH_DATA) ]; then \
		$(BIN)/python benchmarks/baselines.py $(BENCH_DATA); \
		$(BIN)/python benchmarks/local_matching.py $(BENCH_DATA) runs/local_matching; \
	else echo 'no $(BENCH_DATA): say make bench BENCH_DATA=FOLDER for the benchmarks on images'; fi

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .benchmarks build iscutils.egg-info
	find iscutils tests benchmarks notebooks \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

clean-runs:
	rm -rf runs

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) not found: install Python 3.11 or later, or say make PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, $(PYTHON) is %d.%d: say make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@echo 'Installing the kit and its libraries into $(VENV): some minutes, 7 GB with the CUDA build of torch'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,test]' -c constraints.txt
	@touch $@
