"""The installed command, scraped by a real Prometheus; and what promtool says of the text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter
from tools.lab.programs import Release, program
from tools.lab.prometheus import SCRAPING, Prometheus
from tools.lab.wait import wait_for

from gpu_exporter.catalog import DEVICE_METRICS

pytestmark = pytest.mark.e2e


def test_a_real_prometheus_scrapes_eight_fake_gpus(tmp_path: Path, release: Release) -> None:
    arguments = ("--source=fake", "--fake.gpus=8", "--collection.interval=500ms")
    with (
        Exporter(tmp_path, *arguments) as exporter,
        Prometheus(tmp_path, SCRAPING.format(port=exporter.port), release) as prometheus,
    ):
        ask = prometheus.number
        wait_for(lambda: ask('up{job="gpu-exporter"}') == 1)
        assert ask("count(gpu_up)") == 8
        assert ask("sum(gpu_up)") == 8
        served = sum(name.startswith("gpu_") for name, _ in exporter.samples())
        assert ask('count({__name__=~"gpu_.+"})') == served, "every series arrived"
        assert ask("count(count by (gpu, uuid, model) (gpu_temperature_celsius))") == 8
        assert ask('gpu_exporter_source_info{source="fake"}') == 1
        assert ask("max(gpu_utilization_ratio)") <= 1.0  # type: ignore[operator]
        assert ask("max(abs(gpu_memory_used_bytes + gpu_memory_free_bytes + gpu_memory_reserved_bytes "
                   "- gpu_memory_total_bytes))") == 0  # fmt: skip
        # Counters grow: the fake training GPUs are busy nearly all the time, the idle one not at all.
        wait_for(lambda: (ask("max(rate(gpu_busy_seconds_total[10s]))") or 0) > 0.5)
        assert ask("min(rate(gpu_busy_seconds_total[10s]))") == 0
        # A rate is whole once its window is full of scrapes.
        agreement = "sum(rate(gpu_energy_joules_total[10s])) / sum(gpu_power_watts)"
        wait_for(lambda: 0.8 < (ask(agreement) or 0) < 1.2, "the energy counter agrees with the power gauge")
        assert ask("scrape_samples_scraped") == ask("scrape_samples_post_metric_relabeling")


def test_prometheus_prefers_openmetrics_and_reads_the_same(tmp_path: Path) -> None:
    with Exporter(tmp_path, "--source=fake", "--fake.gpus=2") as exporter:
        accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        status, headers, text = exporter.get("/metrics", {"Accept": accept})
        assert status == 200
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")


@pytest.mark.parametrize("model", ["h100", "h200", "a100", "l40s", "rtx4090"])
def test_promtool_finds_nothing_to_say(tmp_path: Path, model: str, release: Release) -> None:
    with Exporter(tmp_path, "--source=fake", f"--fake.model={model}", "--fake.gpus=2") as exporter:
        _, _, text = exporter.get("/metrics")
    done = subprocess.run(
        [program("promtool", release), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_series_budget(tmp_path: Path) -> None:
    with Exporter(tmp_path, "--source=fake", "--fake.gpus=4") as exporter:
        series = [labels for name, labels in exporter.samples() if dict(labels).get("gpu") == "0"]
    assert len(series) <= 150, "the budget of a GPU"
    whose = {"pid", "owner", "type"}
    assert len([labels for labels in series if not whose & dict(labels).keys()]) <= 130, "without processes"
    assert len(DEVICE_METRICS) > len(series) / 2
