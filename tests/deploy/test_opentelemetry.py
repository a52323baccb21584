"""deploy/opentelemetry: what a Collector makes of our names, and what docs/OPENTELEMETRY.md says of it."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from tools.lab import LOOPBACK, ROOT
from tools.lab.exporter import Exporter, environment
from tools.lab.ports import free_port
from tools.lab.programs import Program, neighbour

from gpu_exporter.catalog import CATALOG

FILE = ROOT / "deploy/opentelemetry/collector.yaml"
OURS = {row.name for row in CATALOG}
MADE = {"gpu_not_up"}  # by the file itself


def statements() -> Iterator[str]:
    for group in yaml.safe_load(FILE.read_text())["processors"]["transform/hardware"]["metric_statements"]:
        yield from group["statements"]


def meant(statement: str) -> set[str]:
    """The names of ours that a statement is for."""
    if exact := re.search(r'where metric\.name == "(\w+)"', statement):
        return {exact[1]}
    if pattern := re.search(r'where IsMatch\(metric\.name, "(.*)"\)', statement):
        return {name for name in OURS | MADE if re.search(pattern[1], name)}
    return set()


def renamed() -> dict[str, str]:
    return {
        old: found[1]
        for statement in statements()
        if (found := re.search(r'set\(metric\.name, "(.*?)"\)', statement))
        for old in meant(statement)
    }


def test_it_names_only_what_there_is() -> None:
    for statement in statements():
        assert meant(statement) <= OURS | MADE, statement
        if "where" in statement:
            assert meant(statement), statement


def test_the_page_has_the_same_names() -> None:
    page = (ROOT / "docs/OPENTELEMETRY.md").read_text()
    rows = dict(re.findall(r"^\| `(gpu_\w+)` \| `(hw\.[\w.]+)` \|", page, re.MULTILINE))
    assert rows == {old: new for old, new in renamed().items() if old not in MADE}


# --- a real collector -------------------------------------------------------------------------------------------------


class Sink(BaseHTTPRequestHandler):
    """Takes what is sent by OTLP as JSON."""

    taken: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(json.loads(body))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def sink() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    taken: list[dict[str, Any]] = []
    server = ThreadingHTTPServer((LOOPBACK, 0), type("Taking", (Sink,), {"taken": taken}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def metrics(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in document["resourceMetrics"]:
        for scope in resource["scopeMetrics"]:
            yield from scope["metrics"]


def points(metric: dict[str, Any]) -> list[tuple[dict[str, str], float]]:
    (kind,) = metric.keys() & {"gauge", "sum"}
    return [
        (
            {one["key"]: one["value"]["stringValue"] for one in point.get("attributes", ())},
            float(point.get("asDouble", point.get("asInt", 0))),
        )
        for point in metric[kind]["dataPoints"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["rtx4090", "h100"])  # one with fans, one with ECC
def test_a_collector_sends_what_the_page_says(tmp_path: Path, model: str) -> None:
    program, port = neighbour("collector"), free_port()
    (tmp_path / "fast.yaml").write_text(
        "receivers: {prometheus: {config: {scrape_configs: [{job_name: gpu-exporter, scrape_interval: 1s, "
        "static_configs: [{targets: ['${env:GPU_EXPORTER_TARGET}']}], metric_relabel_configs: "
        + json.dumps(
            yaml.safe_load(FILE.read_text())["receivers"]["prometheus"]["config"]["scrape_configs"][0][
                "metric_relabel_configs"
            ]
        )
        + "}]}}}\n"
        "exporters: {otlphttp: {encoding: json, compression: none}}\n"
        f"service: {{telemetry: {{metrics: {{readers: [{{pull: {{exporter: {{prometheus: "
        f"{{host: {LOOPBACK}, port: {port}}}}}}}}}]}}}}}}\n"
    )
    options = ("--source=fake", "--fake.gpus=2", f"--fake.model={model}", "--collection.interval=500ms")
    with Exporter(tmp_path, *options) as exporter, sink() as (url, taken):
        env = {**environment(), "GPU_EXPORTER_TARGET": f"{LOOPBACK}:{exporter.port}", "OTLP_ENDPOINT": url}
        words = [program, f"--config=file:{FILE}", f"--config=file:{tmp_path / 'fast.yaml'}"]
        with Program(words, tmp_path / "collector.log", env=env) as collector:
            collector.wait(
                lambda: [one for one in taken if any(m["name"] == "hw.gpu.utilization" for m in metrics(one))]
            )
        total = exporter.value("gpu_memory_total_bytes", gpu=1)
        there = {name for name in renamed() if f"{name}{{" in exporter.get("/metrics").text}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for document in taken:
        for metric in metrics(document):
            found[metric["name"]].append(metric)
    assert there
    assert found.keys() >= {renamed()[name] for name in there}
    assert not found.keys() & (there | MADE), "each under one name"
    for metric in (one for name in found if name.startswith("hw.") for one in found[name]):
        for attributes, _ in points(metric):
            assert attributes["hw.type"] in {"gpu", "fan"}
            assert attributes["hw.id"].startswith("GPU-")
            assert attributes["hw.vendor"] == "NVIDIA"
            assert attributes["hw.name"] == f"GPU {attributes['gpu']}"
            assert not attributes.keys() & {"uuid", "model"}
    tasks = {attributes["hw.gpu.task"] for one in found["hw.gpu.utilization"] for attributes, _ in points(one)}
    assert tasks == {"general", "encoder", "decoder"}
    (limit,) = {value for one in found["hw.gpu.memory.limit"] for at, value in points(one) if at["gpu"] == "1"}
    assert limit == total
    assert {(one["unit"], one["sum"].get("isMonotonic", False)) for one in found["hw.gpu.memory.limit"]} == {
        ("By", False)
    }
    assert {(one["unit"], one["sum"]["isMonotonic"]) for one in found["hw.energy"]} == {("J", True)}
    assert {(at["hw.state"], value) for one in found["hw.status"] for at, value in points(one)} == {
        ("ok", 1.0), ("failed", 0.0),
    }  # fmt: skip
    if model == "rtx4090":
        fans = {at["hw.id"][-6:] for one in found["hw.fan.speed_ratio"] for at, _ in points(one)}
        assert "-fan-0" in fans
    else:
        errors = {(at["lifetime"], at["error.type"]) for one in found["hw.errors"] for at, _ in points(one)}
        assert errors == {("volatile", "corrected"), ("volatile", "uncorrected")}
