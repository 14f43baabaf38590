# `make demo` and `make test` set everything up by themselves, from a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow install clean

demo: install
	$(BIN)/lowdino run recipes/quickstart.yaml --out runs/quickstart --resume
	@echo "open runs/quickstart/report.html"

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# What `make test` leaves out: every student on every target, minutes.
test-slow: install
	$(BIN)/python -m pytest -m slow

install: $(VENV)/.installed

# torch first and alone: afterwards no other package can pull a newer one. Python compiles what it imports, pip need not.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile "torch==2.14.1" "torchvision>=0.29,<0.30"
	$(BIN)/python -m pip install --quiet --no-compile -e ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
