"""Dashboards and alerts made for dcgm-exporter, asked of a real Prometheus that scrapes us instead."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tools.lab.exporter import Exporter, run
from tools.lab.prometheus import SCRAPING, Prometheus
from tools.lab.wait import wait_for

pytestmark = pytest.mark.e2e

# Grafana 12239, NVIDIA's own. $instance and $gpu are what its variables are by default.
DASHBOARD_12239 = [
    'DCGM_FI_DEV_GPU_TEMP{instance=~"$instance", gpu=~"$gpu"}',
    'avg(DCGM_FI_DEV_GPU_TEMP{instance=~"$instance", gpu=~"$gpu"})',
    'DCGM_FI_DEV_POWER_USAGE{instance=~"$instance", gpu=~"$gpu"}',
    'sum(DCGM_FI_DEV_POWER_USAGE{instance=~"$instance", gpu=~"$gpu"})',
    'DCGM_FI_DEV_SM_CLOCK{instance=~"$instance", gpu=~"$gpu"} * 1000000',
    'DCGM_FI_DEV_GPU_UTIL{instance=~"$instance", gpu=~"$gpu"}',
    'DCGM_FI_DEV_FB_USED{instance=~"$instance", gpu=~"$gpu"}',
    'DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{instance=~"$instance", gpu=~"$gpu"}',
]
# Grafana 15117, which goes by the host.
DASHBOARD_15117 = [
    'DCGM_FI_DEV_GPU_TEMP{Hostname=~"$Hostname", gpu=~"$gpu"}',
    'avg(DCGM_FI_DEV_GPU_TEMP{Hostname=~"$Hostname", gpu=~"$gpu"})',
    'DCGM_FI_DEV_MEMORY_TEMP{Hostname=~"$Hostname", gpu=~"$gpu"}',
    'sum(DCGM_FI_DEV_POWER_USAGE{Hostname=~"$Hostname", gpu=~"$gpu"})',
    'DCGM_FI_DEV_SM_CLOCK{Hostname=~"$Hostname", gpu=~"$gpu"} * 1000000',
    'DCGM_FI_DEV_MEM_CLOCK{Hostname=~"$Hostname", gpu=~"$gpu"} * 1000000',
    'DCGM_FI_DEV_GPU_UTIL{Hostname=~"$Hostname", gpu=~"$gpu"}',
    'DCGM_FI_DEV_MEM_COPY_UTIL{Hostname=~"$Hostname", gpu=~"$gpu"}',
    'DCGM_FI_DEV_ENC_UTIL{Hostname=~"$Hostname", gpu=~"$gpu"}',
    'DCGM_FI_DEV_DEC_UTIL{Hostname=~"$Hostname", gpu=~"$gpu"}',
    'DCGM_FI_DEV_FB_USED{Hostname=~"$Hostname"} / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)',
    'rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{Hostname=~"$Hostname"}[10s])',
    'count by (modelName) (DCGM_FI_DEV_GPU_TEMP{Hostname=~"$Hostname"})',
]
# awesome-prometheus-alerts, DCGM; what stands before the threshold must give data.
ALERTS = [
    "DCGM_FI_DEV_GPU_TEMP > 85",
    "DCGM_FI_DEV_MEMORY_TEMP > 95",
    "DCGM_FI_DEV_GPU_UTIL > 95",
    "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE) * 100 > 90",
    "DCGM_FI_DEV_POWER_USAGE > 300",
    "DCGM_FI_DEV_XID_ERRORS > 0",
    "changes(DCGM_FI_DEV_XID_ERRORS[5m]) > 0",
    "increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL[1m]) > 0",
    "increase(DCGM_FI_DEV_ECC_SBE_VOL_TOTAL[1m]) > 100",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE > 0",
    "increase(DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS[1m]) > 0",
    "rate(DCGM_FI_DEV_POWER_VIOLATION[1m]) > 0.5",
    "rate(DCGM_FI_DEV_THERMAL_VIOLATION[1m]) > 0",
    "rate(DCGM_FI_DEV_PCIE_REPLAY_COUNTER[1m]) > 0",
    "rate(DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL[1m]) > 0",
    "rate(DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL[1m]) > 0",
    "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL > 0",
    "DCGM_FI_PROF_PCIE_TX_BYTES > 0",
]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes four simulated GPUs under both generations of names."""
    folder = tmp_path_factory.mktemp("compat")
    arguments = ("--source=fake", "--fake.gpus=4", "--collection.interval=500ms", "--compat=dcgm,dcgm-4.9")
    with (
        Exporter(folder, *arguments) as exporter,
        Prometheus(folder, SCRAPING.format(port=exporter.port)) as started,
    ):
        wait_for(lambda: (started.number("min(count_over_time(DCGM_FI_DEV_GPU_TEMP[1m]))") or 0) >= 3, exporter.log)
        yield started


@pytest.mark.parametrize("query", [*DASHBOARD_12239, *DASHBOARD_15117])
def test_a_dashboards_query_has_data(prometheus: Prometheus, query: str) -> None:
    assert prometheus.query(re.sub(r"\$\w+", ".*", query)) != []


@pytest.mark.parametrize("query", ["label_values(instance)", "label_values(gpu)", "label_values(Hostname)"])
def test_a_dashboards_variable_has_values(prometheus: Prometheus, query: str) -> None:
    label = query.removeprefix("label_values(").removesuffix(")")
    assert [labels[label] for labels, _ in prometheus.query(f"group by ({label}) (DCGM_FI_DEV_GPU_TEMP)")]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_can_be_told(prometheus: Prometheus, alert: str) -> None:
    before, _, _ = alert.rpartition(" > ")
    assert len(prometheus.query(before)) == 4, "each of the four GPUs"


def test_both_generations_tell_the_same(prometheus: Prometheus) -> None:
    for old, factor, new in (
        ("DCGM_FI_DEV_FB_USED", 2**20, "DCGM_FI_DEV_FB_USED_BYTES"),
        ("DCGM_FI_DEV_SM_CLOCK", 1e6, "DCGM_FI_DEV_SM_CLOCK_HERTZ"),
        ("DCGM_FI_DEV_GPU_UTIL", 0.01, "DCGM_FI_DEV_GPU_UTIL_RATIO"),
        ("DCGM_FI_DEV_POWER_USAGE", 1, "DCGM_FI_DEV_BOARD_POWER_WATTS"),
    ):
        assert prometheus.number(f"count(abs({old} * {factor} - on (gpu) {new}) < 0.001)") == 4


@pytest.mark.parametrize("value", ["dcgm-3", "DCGM", "nvidia"])
def test_a_generation_that_is_not_known_is_refused(value: str) -> None:
    done = run("serve", "--source=fake", f"--compat={value}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--compat" in line
    assert f"'{value}' is not known; write some of dcgm, dcgm-4.9" in line
