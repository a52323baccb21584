"""Made-up machines as the terminal and the window see them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from gpu_exporter.hub.client.view import View
from gpu_exporter.hub.document import decode
from gpu_exporter.hub.fetching import Fetched, FetchError
from gpu_exporter.hub.fleet import Fleet
from gpu_exporter.hub.nodes import Node, Nodes

GIB = 2**30
BEGAN = 1_700_000_000.0
REFUSED = FetchError("refused", "refused the connection: nothing listens there")


def gpu(index: int = 0, state: str = "active", who: str | None = "alice", **rest: Any) -> dict[str, Any]:
    """A GPU of a snapshot: 80 GiB; who works has 40 of them. ``who`` None is not known."""
    works = state == "active"
    metrics = {
        "gpu_utilization_ratio": 0.9 if works else 0.0,
        "gpu_memory_total_bytes": 80 * GIB,
        "gpu_memory_used_bytes": 40 * GIB if who else 0,
        "gpu_temperature_celsius": 60.0 if works else 35.0,
        "gpu_temperature_limit_celsius": [{"labels": {"limit": "slowdown"}, "value": 89.0}],
        "gpu_power_watts": 700.0 if works else 70.0,
        "gpu_power_limit_watts": 700.0,
        **rest.pop("metrics", {}),
    }
    told = {"gpu": index, "uuid": f"GPU-{index}", "model": "NVIDIA H100 80GB HBM3", "up": True, "state": state}
    if who is not None:
        told["holders"] = [{"owner_kind": "user", "owner": who, "memory_used_bytes": 40 * GIB}] if who else []
    return {**told, "metrics": metrics, **rest}


def free(index: int = 0, **rest: Any) -> dict[str, Any]:
    return gpu(index, "idle_free", "", **rest)


def lost(index: int = 0, **rest: Any) -> dict[str, Any]:
    xids = [{"labels": {"xid": "79"}, "value": 1}]
    return gpu(index, "down", None, up=False, failure="lost", metrics={"gpu_xid_errors_total": xids}, **rest)


def process(index: int = 0, pid: int = 100, user: str = "alice", **rest: Any) -> dict[str, Any]:
    told = {"gpu": index, "uuid": f"GPU-{index}", "pid": str(pid), "user": user, "process": "python3"}
    return {**told, "memory_used_bytes": 40 * GIB, **rest}


def fetched(gpus: Sequence[dict[str, Any]], processes: Sequence[dict[str, Any]] = (), sampled: float = 1.0) -> Fetched:
    """What an exporter answers."""
    document = {
        "schema": 1,
        "exporter": {"sample_success": True, "sample_timestamp_seconds": sampled, "interval_seconds": 5.0},
        "gpus": list(gpus),
        "processes": list(processes),
    }
    body = msgspec.json.encode(document)
    return Fetched(decode(body), gzip.compress(body), '"tag"', "10.0.0.1")


class Story:
    """Machines whose answers a test plays one after the other, by a clock of its own."""

    def __init__(self, *names: str, origin: str = "nodes.yml") -> None:
        self.now = BEGAN
        self._origin = origin
        self._fleet = Fleet(interval=5.0, clock=lambda: self.now)
        self._fleet.replace(Nodes(tuple(Node(name, name, 9435) for name in names)))

    def look(self, answers: Mapping[str, Any], *, after: float = 5.0) -> View:
        """The view when these have answered, with GPUs, or with GPUs and processes, or failed; the others did not."""
        self.now += after
        for name, answer in answers.items():
            if isinstance(answer, FetchError):
                self._fleet.failed(name, answer)
            else:
                gpus, processes = answer if isinstance(answer, tuple) else (answer, ())
                self._fleet.answered(name, fetched(gpus, processes, sampled=self.now))
        return self.view()

    def view(self) -> View:
        return View(self._origin, self.now, tuple(replace(state) for state in self._fleet), notes=self._fleet.notes)


class Played:
    """An origin that publishes what a test hands it."""

    hung = False
    interval = 5.0

    def __init__(self, *views: View, name: str = "nodes.yml") -> None:
        self.name = name
        self._views = list(views)
        self._publish: Callable[[View], None] | None = None

    def tell(self, view: View) -> None:
        """Publish one more view."""
        self._views.append(view)

    async def follow(self, publish: Callable[[View], None]) -> None:
        while True:
            while self._views:
                publish(self._views.pop(0))
            await asyncio.sleep(0.01)
