# make setup  the environment in .venv, and programs for the tests in .build; says first what it installs elsewhere
# make test   everything CI runs: lint, types, unit, golden, stub and end-to-end tests
# make lint types   ruff and import-linter; mypy --strict
# make unit   the package by itself: no Prometheus, no Helm, no image
# make rules  deploy/prometheus and deploy/alertmanager: rules, their cases, runbooks, routes, mails
# make chart  helm/gpu-exporter
# make e2e    the whole way with real programs: demo, reports, dashboards, compose stack, image, boot
# make coverage   what of the package make unit runs, line by line in .build/coverage
# make demo   three machines with simulated GPUs, Prometheus, Alertmanager; one GPU overheats, its mail is printed
# make bench  bench/RESULTS.md and RULES.md anew, in 45 minutes in which nothing else may run; BENCH='--nvidia-gpu-exporter FOLDER'
# make goldens docs   write again what is generated (dashboards and the chart's tables too); read the diff
# make bad-day   ten faults within an hour on 24 simulated GPUs, in three minutes; the mails of it, and their pictures in docs/images
# make previews   the pictures of dashboards, hub, status page and terminal in docs/images (downloads 460 MB of Grafana's own components)
# make docs-site   docs/ as a site, in .build/pages; a link that leads nowhere is a failure
# make lock   requirements/ again, with the newest versions; one package alone: make lock PACKAGE=ruff
# make pyz    dist/gpu-exporter.pyz: the exporter in one file
# make dist   everything that a release is made of, in dist/, and a table of it; DIST=--no-images for all but the images
# make package-chart   dist/gpu-exporter-VERSION.tgz: the chart
# make image-test   build and run the image, boot the systemd unit
# make dist-test   what make dist makes, installed on bare Debians and Ubuntus word for word; the image for arm64, emulated
# make test-cluster   the chart on a real API server, by Helm 3 and 4 (builds them, once: 20 minutes on two cores)
# make test-neighbours   a new VictoriaMetrics and an OpenTelemetry Collector (builds them, once: some minutes)
# make soak   the long runs: flat memory, fault storms, the bad day's mails
# make faults   random faults with a seed, ten seeds of a minute: make faults FAULTS='--seeds 7 --seconds 600'
# make fuzz   the sources' tests with any bytes, led by coverage (atheris, in an environment of its own): make fuzz FUZZ='smi --seconds 600'
# make clean  forget all of this

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# One more than there are cores: many tests wait for programs.
JOBS ?= $(shell echo $$(($$(nproc) + 1)))
# More words for pytest: make unit TESTS='-k sampler'
TESTS ?=
# worksteal: the slowest tests are many and stand together; without it one worker would end with all of them.
PYTEST = $(BIN)/pytest -n $(JOBS) --dist=worksteal

# Where the checkout was moved, what is in .venv is of the old place.
$(shell . tools/setup .venv && cd "$(CURDIR)" && moved && rm -f .venv/*.stamp)

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

.venv/demo.stamp: pyproject.toml tools/setup requirements/build.txt requirements/demo.txt
	PYTHON=$(PYTHON) tools/setup .venv demo
	@touch $@

.venv/dev.stamp: pyproject.toml tools/setup tools/shipped deploy/versions.env requirements/build.txt \
		requirements/dev.txt tests/dashboards/types/package-lock.json tests/hub/axe/package-lock.json
	PYTHON=$(PYTHON) tools/setup .venv dev
	@touch .venv/demo.stamp $@

.venv/bench.stamp: .venv/dev.stamp requirements/bench.txt
	PYTHON=$(PYTHON) tools/setup .venv dev,bench
	@touch $@

.venv/previews.stamp: .venv/dev.stamp requirements/previews.txt
	PYTHON=$(PYTHON) tools/setup .venv dev,previews
	@touch $@

.PHONY: setup
setup: .venv/dev.stamp

.PHONY: test
test: .venv/dev.stamp
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint types
	$(PYTEST) -m "not slow" $(TESTS)

# The short loops. e2e is a marker of the modules that start real programs; the rest goes by folder.
UNIT = -m "not e2e and not slow" $(addprefix --ignore=tests/,rules mail helm)

.PHONY: unit
unit: .venv/dev.stamp
	$(PYTEST) $(UNIT) $(TESTS)

.PHONY: rules
rules: .venv/dev.stamp
	$(PYTEST) -m "not slow" tests/rules tests/mail $(TESTS)

.PHONY: chart
chart: .venv/dev.stamp
	$(PYTEST) -m "not slow" tests/helm $(TESTS)

.PHONY: e2e
e2e: .venv/dev.stamp
	$(PYTEST) -m "e2e and not slow" $(TESTS)

.PHONY: coverage
coverage: .venv/dev.stamp
	$(PYTEST) $(UNIT) --cov --cov-report=term:skip-covered --cov-report=html:.build/coverage $(TESTS)

.PHONY: lint
lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

.PHONY: types
types: .venv/dev.stamp
	$(BIN)/mypy

.PHONY: demo
demo: .venv/demo.stamp
	@$(BIN)/python -m tools.demo $(DEMO)

.PHONY: bad-day
bad-day: .venv/dev.stamp
	$(BIN)/python -m tools.bad_day --pictures docs/images

.PHONY: pyz
pyz: .venv/demo.stamp
	$(BIN)/python tools/pyz.py

.PHONY: dist
dist: .venv/demo.stamp
	@$(BIN)/python -m tools.dist $(DIST)

.PHONY: package-chart
package-chart:
	$(PYTHON) tools/release.py chart

.PHONY: lock
lock:
	PYTHON=$(PYTHON) tools/lock $(PACKAGE)

.PHONY: image-test
image-test: .venv/dev.stamp
	$(BIN)/pytest -m "not slow" tests/deploy/test_container.py tests/deploy/test_systemd_boot.py

.PHONY: dist-test
dist-test: .venv/dev.stamp
	$(BIN)/pytest -m slow --ignore=tests/deploy/test_opentelemetry.py tests/deploy $(TESTS)

.PHONY: bench
bench: .venv/bench.stamp
	$(BIN)/python -m bench --write $(BENCH)
	-$(BIN)/python -m bench.rules_cost --used --prometheus .build/shipped/prometheus --write

.PHONY: test-cluster
test-cluster: .venv/dev.stamp
	tools/cluster
	$(BIN)/pytest -m slow -n $(JOBS) tests/helm $(TESTS)

.PHONY: test-neighbours
test-neighbours: .venv/dev.stamp
	tools/neighbours
	$(BIN)/pytest -m slow tests/hub/test_hub_truth.py tests/deploy/test_opentelemetry.py $(TESTS)

.PHONY: soak
soak: .venv/dev.stamp
	tools/vmalert
	$(BIN)/pytest -m slow --ignore=tests/helm --ignore=tests/deploy --ignore=tests/hub/test_hub_truth.py

.PHONY: faults
faults: .venv/dev.stamp
	$(BIN)/python -m tools.faults $(FAULTS)

ATHERIS = 3.0.0

.PHONY: fuzz
fuzz: .venv/dev.stamp
	[ -x .build/fuzz/bin/python ] || $(BIN)/python -m venv .build/fuzz
	.build/fuzz/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: atheris==$(ATHERIS) \
		|| { echo "make fuzz: atheris $(ATHERIS) has no build for this Python or system" >&2; exit 1; }
	.build/fuzz/bin/python -m tools.fuzzing $(FUZZ)

.PHONY: docs
docs: .venv/dev.stamp
	$(BIN)/gpu-exporter metrics > docs/METRICS.md
	$(BIN)/python tools/configuration.py > docs/CONFIGURATION.md
	$(BIN)/python tools/migrating.py > docs/MIGRATING.md
	$(BIN)/python tools/xids.py
	$(BIN)/python tools/hub.py
	$(BIN)/python tools/versions.py
	$(BIN)/python tools/chart.py
	cd deploy/grafana && $(abspath $(BIN))/python -m build

.PHONY: docs-site
docs-site: .venv/demo.stamp
	$(BIN)/python -m tools.docs_site

.PHONY: previews
previews: .venv/previews.stamp
	$(BIN)/python -m tools.previews
	$(BIN)/python -m tools.previews.hub
	$(BIN)/python -m tools.previews.status
	$(BIN)/python -m tools.previews.top

.PHONY: goldens
goldens: .venv/dev.stamp
	UPDATE_GOLDENS=1 $(BIN)/pytest -q tests/whole/test_golden.py
	git --no-pager diff --stat -- tests/golden

.PHONY: clean
clean:
	rm -rf .venv .build dist .coverage .mypy_cache .ruff_cache .hypothesis
