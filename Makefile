# Needs Python 3.10 to 3.13 and make. `make demo PYTHON=python3.12` takes another interpreter.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --no-input -q -c constraints.txt

.PHONY: demo test lint docs install dev clean

# The main job on the bundled model and sample data, from an empty machine to a report.
demo: install
	@echo "== evaluating the bundled pair, ltm-demo and gpt2-demo, on the bundled sample data"
	$(VENV)/bin/python -m ltm_eval run --task rules,gsm8k,wikitext --shots 8 --limit 24 --t_fast 16 \
		--condition demos --fit_window each --rows bound --baseline gpt2-demo --output_path demo-results

test: dev
	$(VENV)/bin/python -m pytest -q -n 2

lint: dev
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m mypy

# The documentation as pages that open from the disk: build/site/index.html.
docs: dev
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

install: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(VENV)/.created:
	@echo "== making $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch alone first: by far the largest download, and the one that can be replaced by a build for other hardware.
$(VENV)/.torch: $(VENV)/.created constraints.txt
	@echo "== installing torch"
	$(PIP) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "== installing ltm-eval"
	$(PIP) -e '.[hf]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "== installing what tests and baselines need"
	$(PIP) -e '.[dev,hf]'
	@touch $@

clean:
	rm -rf demo-results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
