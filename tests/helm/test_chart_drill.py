"""The drill of docs/KUBERNETES.md without a cluster: what the chart renders, run by the real exporter and Prometheus.

What the Prometheus operator would make of the ServiceMonitor stands here in Prometheus's own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import ROOT
from tools.lab.exporter import Exporter
from tools.lab.programs import Release
from tools.lab.prometheus import Prometheus
from tools.lab.wait import wait_for

from helm.rendering import Rendered, render, values_of

DRILL = ROOT / "helm/drill.yaml"
FORCED = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}


def _exporter(rendered: Rendered, folder: Path) -> Exporter:
    """The exporter with the release's configuration, and a story that begins at once."""
    folder.mkdir()
    for file, text in rendered.one("ConfigMap", "gpu-gpu-exporter")["data"].items():
        sooner = re.sub(r"at: \d+s", "at: 1s", text)
        (folder / file).write_text(sooner.replace("/etc/gpu-exporter/", f"{folder}/"))
    return Exporter(folder, f"--config.file={folder / 'gpu-exporter.yml'}", "--collection.interval=500ms")


def _job(rendered: Rendered, targets: dict[str, int]) -> dict[str, Any]:
    """The scrape that the operator makes: its own labels, then the ServiceMonitor's relabelings."""
    endpoint = rendered.one("ServiceMonitor")["spec"]["endpoints"][0]
    relabelings = [
        {re.sub(r"([A-Z])", r"_\1", key).lower(): value for key, value in item.items()}
        for item in endpoint["relabelings"]
    ]
    added = {"namespace": "gpus", "container": "exporter", "service": "gpu-gpu-exporter", "endpoint": endpoint["port"]}
    return {
        "job_name": "serviceMonitor/gpus/gpu-gpu-exporter/0",
        "metrics_path": endpoint["path"],
        "honor_labels": endpoint["honorLabels"],
        "relabel_configs": relabelings,
        "static_configs": [
            {
                "targets": [f"127.0.0.1:{port}"],
                "labels": {**added, "pod": f"gpu-{node}", "__meta_kubernetes_pod_node_name": node},
            }
            for node, port in targets.items()
        ],
    }


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Prometheus]:
    """Two nodes: on node-user simulated users hold the GPUs, on node-pod simulated pods."""
    folder = tmp_path_factory.mktemp("drill")
    drill = values_of(DRILL)
    releases = {
        f"node-{kind}": render({**FORCED, "fake": {**drill["fake"], "owners": kind}}) for kind in ("user", "pod")
    }
    with ExitStack() as stack:
        started = {node: stack.enter_context(_exporter(made, folder / node)) for node, made in releases.items()}
        first = next(iter(releases.values()))
        (folder / "rules.yml").write_text(yaml.safe_dump(first.one("PrometheusRule")["spec"]))
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": [_job(first, {node: exporter.port for node, exporter in started.items()})],
        }
        yield stack.enter_context(Prometheus(folder, yaml.safe_dump(configuration), release))


def test_the_test_alert_fires(prometheus: Prometheus) -> None:
    def firing() -> list[tuple[dict[str, str], float]]:
        return prometheus.query('ALERTS{alertname="GPUXidCritical",alertstate="firing",xid="79"}')

    found = wait_for(lambda: firing() if len(firing()) == 2 else None, firing)
    for labels, _ in found:
        assert labels["instance"] in {"node-user", "node-pod"}, "the node, not the pod's address"
        assert (labels["gpu"], labels["severity"]) == ("1", "critical")
    assert wait_for(lambda: prometheus.number('count(gpu_up{job="gpu-exporter"} == 0)'), "the lost GPUs") == 2


def test_series_keep_the_labels_of_who_holds_the_gpu(prometheus: Prometheus) -> None:
    def holders(node: str) -> set[tuple[str, str]]:
        found = prometheus.query(f'gpu_owner_seconds_total{{instance="{node}"}}')
        return {(labels["owner_kind"], labels.get("namespace", "")) for labels, _ in found}

    pods = wait_for(lambda: holders("node-pod"), "owners that are pods")
    assert {kind for kind, _ in pods} == {"pod"}
    assert "gpus" not in {namespace for _, namespace in pods}, "the exporter's own namespace"
    assert "" not in {namespace for _, namespace in pods}
    assert wait_for(lambda: holders("node-user"), "owners that are users") == {("user", "")}
    assert prometheus.query('{__name__=~"gpu_.+",exported_namespace!=""}') == []
    assert prometheus.query('{__name__=~"gpu_.+",container="exporter"}') == []
    assert prometheus.number("count(gpu_info)") == 8
