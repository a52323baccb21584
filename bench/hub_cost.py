"""``python -m bench.hub_cost``: what the hub costs with a thousand machines of eight GPUs.

Real exporters of simulated fleets make the snapshots; one process then serves a thousand machines, each on a port of
its own, a changed snapshot at every question. Measured: the hub's CPU time and memory, how old its data is, and its
first page in Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tools.lab import LOOPBACK, ROOT
from tools.lab.browser import Browser
from tools.lab.exporter import Exporter
from tools.lab.hub import Hub
from tools.lab.programs import Program
from tools.lab.wait import wait_for

INTERVAL = 5.0  # s
CPU = 0.5  # of a core
MEMORY = 300.0  # MiB
FIRST_PAGE = 1.0  # s
_FIRST_PORT = 21_000  # below those of outgoing connections
_VARIANTS = 8  # snapshots of each simulated machine, taken one after the other
_TICKS = os.sysconf("SC_CLK_TCK")


class Machine(asyncio.Protocol):
    """Answers every request with the next of its snapshots."""

    def __init__(self, answers: list[bytes], number: int) -> None:
        self._answers = answers
        self._next = number
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:
            self._head = self._head.partition(b"\r\n\r\n")[2]
            self._next += 1
            self._transport.write(self._answers[self._next % len(self._answers)])  # type: ignore[attr-defined]


async def serve(snapshots: list[list[bytes]], count: int) -> None:
    loop = asyncio.get_running_loop()
    for number in range(count):
        answers = [_answer(body, number, variant) for variant, body in enumerate(snapshots[number % len(snapshots)])]
        await loop.create_server(partial(Machine, answers, number), LOOPBACK, _FIRST_PORT + number)
    print("ready", flush=True)
    await asyncio.Event().wait()


def _answer(body: bytes, number: int, variant: int) -> bytes:
    packed = gzip.compress(body, 6)
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        f'ETag: "{number}-{variant}"\r\nContent-Length: {len(packed)}\r\n\r\n'
    )
    return head.encode() + packed


def take_snapshots(folder: Path, gpus: int) -> list[list[bytes]]:
    """What real exporters tell of simulated machines, as time goes on."""
    with ExitStack() as stack:
        fleet = []
        for seed, model in enumerate(("h100", "h200", "a100", "l40s")):
            place = folder / model
            place.mkdir()
            options = ("--source=fake", f"--fake.gpus={gpus}", f"--fake.model={model}", f"--fake.seed={seed}")
            fleet.append(stack.enter_context(Exporter(place, *options, "--collection.interval=500ms")))
        seen: list[dict[float, bytes]] = [{} for _ in fleet]
        while any(len(bodies) < _VARIANTS for bodies in seen):
            for bodies, exporter in zip(seen, fleet, strict=True):
                text = exporter.get("/api/v1/snapshot").text
                bodies[json.loads(text)["exporter"].get("sample_timestamp_seconds", 0.0)] = text.encode()
            time.sleep(0.2)
        return [list(bodies.values()) for bodies in seen]


class Fleet(Program):
    """The machines, in a process of their own."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(
            [
                sys.executable,
                "-m",
                "bench.hub_cost",
                "--serve",
                str(folder / "snapshots.json"),
                "--machines",
                str(count),
            ],
            folder / "fleet.log",
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'exporter'}"},
            cwd=ROOT,
        )
        self.wait(lambda: "ready" in self.log())

    def __enter__(self) -> Fleet:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self


def used(pid: int) -> tuple[float, float]:
    """CPU seconds, and MiB of memory, of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    return (int(fields[11]) + int(fields[12])) / _TICKS, rss / 1024


def peak(pid: int) -> float:
    """MiB of memory, the most that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(folder: Path, count: int, seconds: float, *, history: bool) -> dict[str, float]:
    place = folder / ("history" if history else "plain")
    place.mkdir()
    nodes = place / "nodes.json"
    nodes.write_text(
        json.dumps(
            [
                {"targets": [f"{LOOPBACK}:{_FIRST_PORT + number}"], "labels": {"alias": f"gpu-{number:04}"}}
                for number in range(count)
            ]
        )
    )
    options = [f"--history.path={place / 'history.db'}"] if history else []
    with Hub(place, nodes, *options, interval="5s") as hub:
        time.sleep(15)
        wait_for(lambda: set(hub.states().values()) == {"online"})
        before, polls, began = used(hub.process.pid)[0], asked(hub), time.monotonic()
        time.sleep(seconds)
        after, memory = used(hub.process.pid)
        rate = (asked(hub) - polls) / (time.monotonic() - began)
        # On a busy machine it does not come to ask everybody: what a question costs is what counts.
        cpu = (after - before) / max(1.0, asked(hub) - polls) * count / INTERVAL
        told = hub.json("/api/v1/nodes")
        ages = [told["timestamp_seconds"] - node["last_seen_timestamp_seconds"] for node in told["nodes"]]
        figures = {"cpu": cpu, "rate": rate, "memory": memory, "age": statistics.quantiles(ages, n=20)[-1]}
        if not history:
            figures |= first_page(place, hub)
            figures["memory"] = max(memory, used(hub.process.pid)[1])
        figures["peak"] = peak(hub.process.pid)
        return figures


def asked(hub: Hub) -> float:
    """How often it has asked a machine."""
    lines = hub.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("gpu_hub_polls_total"))


def first_page(folder: Path, hub: Hub) -> dict[str, float]:
    """Seconds until Chromium has drawn the page of all machines, the best of three, and the page's size."""
    with Browser(folder) as browser:
        browser.look(1400)
        times = []
        for _ in range(3):
            browser.open(f"http://{LOOPBACK}:{hub.port}/")
            entry = browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
            times.append(entry / 1000)
            rows = browser.evaluate("document.querySelectorAll('.machines tbody tr').length")
            browser.open("about:blank")
        begun = used(hub.process.pid)[0]
        for _ in range(10):
            hub.get("/?q=gpu")
        rendered = (used(hub.process.pid)[0] - begun) / 10
        size = len(gzip.compress(hub.get("/").text.encode(), 3))
        return {"page": min(times), "rows": rows, "packed": size / 1024, "rendered": rendered}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hub_cost", description=__doc__)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=("plain", "history"), help="measure the one alone")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    wishes = parser.parse_args()
    if wishes.serve is not None:
        bodies = [[body.encode() for body in machine] for machine in json.loads(wishes.serve.read_text())]
        asyncio.run(serve(bodies, wishes.machines))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshots = take_snapshots(folder, wishes.gpus)
        (folder / "snapshots.json").write_text(json.dumps([[body.decode() for body in bodies] for bodies in snapshots]))
        with Fleet(folder, wishes.machines):
            plain, kept = (
                measure(folder, wishes.machines, wishes.seconds, history=history) if wishes.only != other else {}
                for history, other in ((False, "history"), (True, "plain"))
            )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    print(f"# What the hub costs with {wishes.machines} machines of {wishes.gpus} GPUs, asked every 5 s\n")
    print(f"- **command**: python -m bench.hub_cost\n- **commit**: {commit}")
    print(f"- **load of the machine**: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| | without history | with history | budget |\n|---|--:|--:|--:|")
    for label, key, digits, budget in (
        ("CPU at that rhythm, of a core", "cpu", 2, f"{CPU}"),
        ("questions a second", "rate", 0, f"{wishes.machines / INTERVAL:.0f}"),
        ("memory, MiB", "memory", 0, f"{MEMORY:.0f}"),
        ("peak of memory, MiB", "peak", 0, f"{MEMORY:.0f}"),
        ("age of what is shown, p95, s", "age", 1, ""),
        ("first page in Chromium, s", "page", 2, f"{FIRST_PAGE}"),
        ("CPU to render it, s", "rendered", 2, ""),
        ("its size, packed, KiB", "packed", 0, ""),
    ):
        cells = (f"{found[key]:.{digits}f}" if key in found else "" for found in (plain, kept))
        print(f"| {label} | {' | '.join(cells)} | {budget} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
