# make test   everything CI runs: lint, types, unit, golden, stub and end-to-end tests
# make demo   three machines with simulated GPUs, Prometheus, Alertmanager; one GPU overheats, its mail is printed
# make bench  the figures of bench/RESULTS.md
# make goldens docs   write again what is generated (dashboards and the chart's tables too); read the diff
# make previews   the dashboards' pictures in docs/images (downloads 460 MB of Grafana's own components)
# make pyz    dist/gpu-exporter.pyz: the exporter in one file
# make image-test   build and run the image, boot the systemd unit
# make soak   the long runs: flat memory, fault storms

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc)

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

.venv/demo.stamp: pyproject.toml tools/setup
	PYTHON=$(PYTHON) tools/setup .venv demo
	@touch $@

.venv/dev.stamp: pyproject.toml tools/setup tools/shipped deploy/versions.env tests/grafana/types/package-lock.json
	PYTHON=$(PYTHON) tools/setup .venv dev
	@touch .venv/demo.stamp $@

.venv/bench.stamp: .venv/dev.stamp
	PYTHON=$(PYTHON) tools/setup .venv dev,bench
	@touch $@

.PHONY: test
test: .venv/dev.stamp
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint types
	$(BIN)/pytest -n $(JOBS) -m "not slow"

.PHONY: lint
lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: .venv/dev.stamp
	$(BIN)/mypy

.PHONY: demo
demo: .venv/demo.stamp
	@$(BIN)/python -m tools.demo $(DEMO)

.PHONY: pyz
pyz: .venv/demo.stamp
	$(BIN)/python tools/pyz.py

.PHONY: image-test
image-test: .venv/dev.stamp
	$(BIN)/pytest tests/test_container.py tests/test_systemd_boot.py

.PHONY: bench
bench: .venv/bench.stamp
	$(BIN)/python -m bench

.PHONY: soak
soak: .venv/dev.stamp
	$(BIN)/pytest -m slow

.PHONY: docs
docs: .venv/demo.stamp
	$(BIN)/gpu-exporter metrics > docs/METRICS.md
	$(BIN)/python tools/configuration.py > docs/CONFIGURATION.md
	$(BIN)/python tools/versions.py
	$(BIN)/python tools/chart.py
	cd deploy/grafana && $(abspath $(BIN))/python -m build

.PHONY: previews
previews: .venv/dev.stamp
	$(BIN)/pip install --quiet --editable ".[previews]"
	$(BIN)/python tests/previews.py

.PHONY: goldens
goldens: .venv/dev.stamp
	UPDATE_GOLDENS=1 $(BIN)/pytest -q tests/test_golden.py
	git --no-pager diff --stat -- tests/golden

.PHONY: clean
clean:
	rm -rf .venv .build .mypy_cache .ruff_cache .hypothesis
