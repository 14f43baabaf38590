# `make demo`, `make test` and `make test-mobile` set everything up by themselves, from a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WEB := mobile_demo/web/dist/index.html
NPM_CI := npm ci --no-audit --no-fund --loglevel=error

# Packages are installed without bytecode; without this each process would compile torch anew where the variable is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs test test-tflite-runtime test-slow faults fuzz matrix losses papers test-mobile test-native \
  screenshots web wheel release-check install clean

demo: install
	$(BIN)/lowdino run recipes/quickstart.yaml --out runs/quickstart --resume
	@echo "open runs/quickstart/report.html"
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory web && \
	  echo "teach it on a phone or here: $(BIN)/lowdino serve runs/quickstart"; \
	  else echo "with Node 20, 'make web' builds the app that 'lowdino serve runs/quickstart' shows"; fi

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not mobile"

# The documentation as a site in build/site, readable from disk. A link or an anchor that leads nowhere fails.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/site/check_links.py build/site

# .tflite files on the older tflite_runtime: it wants numpy below 2, so an environment of its own, without torch. Its
# wheels end at Python 3.11.
OLDER := $(VENV)/tflite-runtime
test-tflite-runtime: install $(OLDER)/.installed
	rm -rf build/tflite
	$(BIN)/python tests/older_litert/write_artifacts.py build/tflite
	LOWDINO_TFLITE_ARTIFACTS=build/tflite LOWDINO_TFLITE_PACKAGE=tflite-runtime \
	  $(OLDER)/bin/python -m pytest --confcutdir=tests/older_litert tests/older_litert

$(OLDER)/.installed:
	$(PYTHON) -m venv $(OLDER)
	$(OLDER)/bin/python -m pip install --quiet --no-compile "tflite-runtime==2.14.*" "numpy<2" pytest pytest-timeout
	touch $@

# What `make test` leaves out: every student on every target, minutes.
test-slow: install
	$(BIN)/python -m pytest -m slow

# Kills commands at 200 drawn moments, resumes them and looks for what was lost; damages files and fills disks. The counts
# and seeds are kept. An hour on two cores.
KILLS ?= 200
OTHERS ?= 100
faults: install
	$(BIN)/python -m tests.faults.run --kills $(KILLS) --others $(OTHERS) --out tests/faults/results.json

# Every student x every target x every scheme, on students that this trains first: hours. A killed one goes on, and what
# is done is drawn at once into docs/matrix.{json,md,svg}. DATA: cifar10 or a folder of images. TEACHER: an id or ID@FILE.
DATA ?= cifar10
TEACHER ?= dinov2_vits14
OUT ?= runs/matrix
matrix: install
	$(BIN)/python tests/bench/matrix.py --data '$(DATA)' --teacher '$(TEACHER)' --out '$(OUT)'

# Every loss of distillation on the same student, teacher and images, and self-supervision for the same time: an hour or
# two on two cores for 45,000 images at 32 px. A killed one goes on. Draws docs/losses.{json,md,svg}.
losses: install
	$(BIN)/python tests/bench/distill_losses.py --data '$(DATA)' --teacher '$(TEACHER)' --long 10

# The papers' tables: every recipe of recipes/paper, and docs/papers.{json,md} of what is done. Days with the papers' own
# settings and a GPU; a killed one goes on. SET: what is to be other, as "--set data=cifar10 --set train.epochs=2".
SET ?=
papers: install
	$(BIN)/lowdino run recipes/paper --out runs/papers --resume $(SET); done=$$?; \
	  cp runs/papers/papers.json runs/papers/papers.md docs/ && exit $$done

# 1,000 damaged inputs a reader; a case is named by target, seed and number. Writes tests/fuzz/results.json.
CASES ?= 1000
SEED ?= 1
fuzz: install
	$(BIN)/python tests/fuzz/run.py --cases $(CASES) --seed $(SEED) --out tests/fuzz/results.json

# The sample apps: their own tests, the web app in Chromium and WebKit around a real `lowdino serve`, the Expo bundles.
test-mobile: install web test-native
	$(BIN)/python tests/mobile/write_golden.py mobile_demo/core/golden
	cd mobile_demo && npm test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m mobile tests/mobile -rs

test-native:
	cd mobile_demo/native && $(NPM_CI) && npm test && npm run bundle

# The README's pictures of the app, taken by its end-to-end test on the demo's network.
PICTURES := 2-teach-360-light 3-live-360-dark 8-benchmark-360-light 8-benchmark-1280-dark
screenshots: install web
	LOWDINO_RUN=runs/quickstart SCREENSHOTS=$(CURDIR)/build/screenshots $(BIN)/python -m pytest tests/mobile/test_web.py -k teaches
	mkdir -p docs/app && cp $(PICTURES:%=build/screenshots/%.png) docs/app/

web: $(WEB)

$(WEB): mobile_demo/node_modules/.installed $(shell find mobile_demo/core/src mobile_demo/web -type f -not -path "*/node_modules/*" -not -path "*/dist/*" 2> /dev/null)
	cd mobile_demo && npm run build

mobile_demo/node_modules/.installed: mobile_demo/package-lock.json
	cd mobile_demo && $(NPM_CI)
	touch $@

# The sdist, and the wheel of it: recipes and the built app travel inside.
wheel: install web
	rm -rf dist
	$(BIN)/python -m build

# The wheel into a fresh environment of each Python, from the package index, without extras and with all of them, and the
# quickstart on few images in each: 5 to 15 minutes an environment.
PYTHONS ?= python3.11 python3.12 python3.13
release-check: wheel
	$(BIN)/python tests/release/clean_installs.py dist/*.whl $(PYTHONS:%=--python %) --extras "" --extras all --out build/release-check.json

install: $(VENV)/.installed

# torch first and alone: afterwards no other package can pull a newer one. Python compiles what it imports, pip need not.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile "torch==2.14.1" "torchvision>=0.29,<0.30"
	$(BIN)/python -m pip install --quiet --no-compile -e ".[all,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs cache build dist .pytest_cache .mypy_cache .ruff_cache
	rm -rf mobile_demo/node_modules mobile_demo/*/node_modules mobile_demo/*/dist
