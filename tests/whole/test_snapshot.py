"""/api/v1/snapshot of the program as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from tools.lab.exporter import Exporter
from tools.lab.wait import wait_for


def document(exporter: Exporter) -> dict[str, Any]:
    status, _, text = exporter.get("/api/v1/snapshot")
    assert status == 200
    told: dict[str, Any] = json.loads(text)
    return told


def test_machine_gpus_and_processes_are_told_and_told_again_without_being_sent(tmp_path: Path) -> None:
    with Exporter(tmp_path, "--source=fake", "--collection.interval=200ms", "--host.name=gpu3.lab") as exporter:
        wait_for(lambda: document(exporter)["host"].get("cpu_utilization_ratio") is not None)
        told = document(exporter)
        description = json.loads(exporter.get("/api/v1/openapi.json").text)
        schema = {"$ref": "#/components/schemas/Snapshot", "components": description["components"]}
        Draft202012Validator(schema).validate(told)
        assert told["host"]["name"] == "gpu3.lab"
        assert told["host"]["kernel"] == os.uname().release
        assert told["exporter"]["simulated"] is True
        assert told["exporter"]["interval_seconds"] == 0.2
        assert [gpu["gpu"] for gpu in told["gpus"]] == [*range(8)]
        held = [gpu for gpu in told["gpus"] if gpu["state"] in {"active", "idle_held"}]
        assert held
        assert all(gpu["holders"] for gpu in held)
        assert all(process["user"] for process in told["processes"])
        assert not any(name.startswith(("node_", "gpu_host")) for name, _ in exporter.samples())


def test_a_machine_that_wants_to_tell_nothing_tells_its_name(tmp_path: Path) -> None:
    with Exporter(tmp_path, "--source=fake", "--no-host.enabled", "--collection.interval=10s") as exporter:
        wait_for(lambda: document(exporter)["exporter"]["sample_success"])
        assert set(document(exporter)["host"]) == {"name"}

        def again() -> bool:
            etag = next(value for name, value in exporter.get("/api/v1/snapshot").headers.items() if name == "ETag")
            return exporter.get("/api/v1/snapshot", {"If-None-Match": etag}).status == 304

        wait_for(again)
