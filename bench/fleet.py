"""A fleet of simulated machines, and a real Prometheus that scrapes it, for what rules and dashboards cost.

Each machine has one page of the fake source, with names and growing counters of its own. What the rules look back at
for longer than a run is made beforehand with ``promtool tsdb create-blocks-from openmetrics``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab import ROOT
from tools.lab.programs import program
from tools.lab.prometheus import Prometheus

RULES = ROOT / "deploy/prometheus/rules"
BEFORE = "before-"  # groups of the rules that are measured beside ours
GPUS = 8
LAZY = 25  # on one machine in so many, those who hold the second half of the GPUs let them lie idle
JOB_NODES = 4  # machines a simulated training job spans
_SLOW_GROUP = r"interval: (?:15m|1h)"
_NOW = "gpu_exporter_last_sample_timestamp_seconds"
_STATES = ("active", "idle_held", "unknown")
# Growth a second of counters that the rules take rates of, on GPUs that work and on GPUs that are held. All others
# stand still, as on healthy machines.
_WORKING = {
    "gpu_busy_seconds_total": 0.93,
    "gpu_memory_io_busy_seconds_total": 0.44,
    "gpu_sm_active_seconds_total": 0.86,
    "gpu_energy_joules_total": 540.0,
    "gpu_score_seconds_total": 0.75,
    "gpu_owner_energy_joules_total": 540.0,
    "gpu_owner_score_seconds_total": 0.75,
    'state="active"': 1.0,
}
_HELD = {
    "gpu_energy_joules_total": 75.0,
    "gpu_score_seconds_total": 0.16,
    "gpu_owner_energy_joules_total": 75.0,
    "gpu_owner_score_seconds_total": 0.16,
    'state="idle_held"': 1.0,
}
_POD = 'owner_kind="pod",namespace="inference"'
_CONFIG = """\
global: {{scrape_interval: {interval}s, scrape_timeout: {interval}s, evaluation_interval: {interval}s}}
rule_files: ['{rules}/*.yml']
scrape_configs:
  - job_name: gpu-exporter
    file_sd_configs: [files: ['{targets}']]
"""


class Fleet:
    """The pages of all machines at any moment."""

    def __init__(self, nodes: int, rules: Sequence[Path], *, used: bool) -> None:
        self.nodes = nodes
        self._started = time.time()
        files = [file for folder in rules for file in folder.glob("*.yml")]
        read = set(re.findall(r"\bgpu_\w+", "".join(file.read_text() for file in files)))
        page = _fake_page()
        self.gpus = re.findall(r'^gpu_up\{gpu="(\d+)",model="([^"]+)",uuid="GPU-([^"]+)"', page, re.MULTILINE)
        if len(self.gpus) != GPUS:
            sys.exit(f"bench: the fake source has {len(self.gpus)} GPUs that it can name, not {GPUS}")
        page = _at_full_clock(page) + "".join(_owner_lines(*gpu) for gpu in self.gpus)
        page = page.replace('uuid="GPU-', 'uuid="GPU-@NODE@')
        lines = [line for line in page.splitlines() if not line.startswith("#")]
        if used:
            lines = [line for line in lines if line.partition("{")[0].partition(" ")[0] in read]
        self.series = len(lines)
        self._lines = {False: [_growing(line, lazy=False) for line in lines]}
        self._lines[True] = [_growing(line, lazy=True) for line in lines]
        self._rendered: dict[bool, tuple[int, str]] = {}

    def page(self, node: int) -> bytes:
        """What that machine answers now."""
        lazy = node % LAZY == 0
        second = int(time.time())
        if self._rendered.get(lazy, (0, ""))[0] != second:
            since = second - self._started
            text = "".join(
                f"{series} {value + growth * since:.3f}\n" if growth else f"{series} {value!r}\n"
                for series, value, growth in self._lines[lazy]
            )
            self._rendered[lazy] = (second, text)
        text = self._rendered[lazy][1].replace("@NODE@", f"{node:06x}")
        job = node // JOB_NODES
        return text.replace("@USER@", f"user{job % 400}").replace("@JOB@", str(job)).encode()

    def history(self) -> Iterator[str]:
        """OpenMetrics lines of what the rules look back at for hours; a day of quarters, six hours of scrapes."""
        now = int(self._started)
        name = "instance_gpu:gpu_score:avg15m"
        yield f"# TYPE {name} gauge\n"
        for node in range(self.nodes):
            for gpu, model, uuid in self.gpus:
                device = f'gpu="{gpu}",model="{model}",uuid="GPU-{node:06x}{uuid}"'
                labels = f'{name}{{{_target(node)},job="gpu-exporter",{device}}}'
                for quarter in range(96, 0, -1):
                    yield f"{labels} 0.6{quarter % 10} {now - 900 * quarter}\n"
        name = "gpu_exporter_gpus"
        yield f"# TYPE {name} gauge\n"
        for node in range(self.nodes):
            labels = f'{name}{{{_target(node)},job="gpu-exporter",state="found"}}'
            # Not up to now: a block that a range reaches into makes Prometheus sort what it reads. In one that has run
            # for long, blocks are hours old.
            for step in range(720, 30, -1):
                yield f"{labels} {GPUS} {now - 30 * step}\n"
        yield "# EOF\n"


def _fake_page() -> str:
    """One page of the fake source, without what accounting has not counted yet in its first moment."""
    command = [sys.executable, "-m", "gpu_exporter", "sample", "--source=fake", f"--fake.gpus={GPUS}"]
    done = subprocess.run(
        [*command, "--format=prometheus"],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")},
    )
    if done.returncode:
        sys.exit(f"bench: gpu-exporter sample ended with status {done.returncode}")
    return re.sub(r"^gpu_(owner|state)_.*\n", "", done.stdout, flags=re.MULTILINE)


def _at_full_clock(page: str) -> str:
    """The page with every GPU's clocks as high as they get: the counters that grow are those of GPUs that work."""
    highest = dict(re.findall(r"^gpu_clock_max_hertz(\{.*\}) (\S+)$", page, re.MULTILINE))
    return re.sub(
        r"^(gpu_clock_hertz)(\{.*\}) (\S+)$",
        lambda found: f"{found[1]}{found[2]} {highest.get(found[2], found[3])}",
        page,
        flags=re.MULTILINE,
    )


def _owner_lines(gpu: str, model: str, uuid: str) -> str:
    """What accounting adds to a page: half of the GPUs train in a job over several machines, the others have a pod."""
    device = f'gpu="{gpu}",model="{model}",uuid="GPU-{uuid}"'
    job = 'owner_kind="slurm",owner="@USER@",namespace="@JOB@"'
    pod = f'{_POD},owner="serve-@NODE@-{gpu}"'
    owner = f"{device},{job if int(gpu) < GPUS / 2 else pod}"
    lines = [f'gpu_owner_seconds_total{{{owner},state="{state}"}} 1000.0\n' for state in _STATES]
    lines += [f"gpu_owner_{what}_total{{{owner}}} 1000.0\n" for what in ("score_seconds", "energy_joules")]
    states = (*_STATES, "idle_free", "down")
    lines += [f'gpu_state_seconds_total{{{device},state="{state}"}} 1000.0\n' for state in states]
    return "".join([*lines, f"gpu_owner_memory_used_bytes{{{owner}}} 6.1e+10\n"])


def _growing(line: str, *, lazy: bool) -> tuple[str, float, float]:
    """Series, value now, and its growth a second."""
    series, _, value = line.rpartition(" ")
    if series == _NOW:
        return series, float(value), 1.0
    gpu = re.search(r'\bgpu="(\d+)"', series)
    growth = _HELD if lazy and gpu and int(gpu[1]) >= GPUS / 2 else _WORKING
    if series.startswith(("gpu_owner_seconds_total", "gpu_state_seconds_total")):
        return series, float(value), next((growth[key] for key in growth if key in series), 0.0)
    return series, float(value), growth.get(series.partition("{")[0], 0.0)


def _target(node: int) -> str:
    return f'alias="node-{node}",cluster="bench",instance="node-{node}.example.org:9435"'


def _serve(fleet: Fleet, listener: socket.socket) -> None:
    """HTTP/1.1 with keep-alive and nothing else: /N is the page of machine N."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                body = fleet.page(int(request.split(b" ", 2)[1].lstrip(b"/")))
                head = (
                    f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        writer.close()

    async def forever() -> None:
        server = await asyncio.start_server(answer, sock=listener, backlog=1024)
        await server.serve_forever()

    asyncio.run(forever())


class Measured(Prometheus):
    """The Prometheus under test."""

    def version(self) -> str:
        return str(self.get("status/buildinfo")["version"] or "built without a version")

    def intervals(self) -> dict[str, float]:
        """How often each group is evaluated, in seconds."""
        return {group["name"]: float(group["interval"]) for group in self.get("rules")["groups"]}

    def rules(self) -> list[tuple[str, str, float, str, str]]:
        """Group, name, evaluation time, health or error, time of the evaluation."""
        return [
            (
                group["name"],
                rule["name"],
                rule["evaluationTime"],
                rule.get("lastError") or rule["health"],
                group["lastEvaluation"],
            )
            for group in self.get("rules")["groups"]
            for rule in group["rules"]
        ]

    def cpu(self) -> float:
        """CPU seconds since its start."""
        return cpu_seconds(self.process.pid)

    def reload(self) -> None:
        """Read the configuration again."""
        self.process.send_signal(signal.SIGHUP)

    def rss(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) / 1024 if found else 0.0


def say(what: str) -> None:
    """Tell who waits how far it is."""
    print(f"bench: {what}", file=sys.stderr, flush=True)


def _renamed(rules: str) -> str:
    """Other rules that write series of their own."""
    return re.sub(
        r"(?<![\w:])(instance_gpu_owner|instance_gpu|instance_owner|instance|cluster|owner):(?=gpu_)",
        r"before_\1:",
        rules,
    ).replace("- name: gpu-", f"- name: {BEFORE}gpu-")


def _prepare(folder: Path, fleet: Fleet, port: int, interval: int, *, beside: Path | None, optional: bool) -> str:
    rules = folder / "rules"
    rules.mkdir()
    for file in RULES.glob("*.yml"):
        if optional or file.stem != "alerts-optional":
            # The slow groups would not come round often enough to be measured.
            (rules / file.name).write_text(re.sub(_SLOW_GROUP, "interval: 1m", file.read_text()))
    for file in beside.glob("*.yml") if beside else ():
        if (rules / file.name).exists():
            (rules / f"{BEFORE}{file.name}").write_text(_renamed(re.sub(_SLOW_GROUP, "interval: 1m", file.read_text())))
    targets = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {
                "__metrics_path__": f"/{node}",
                **dict(re.findall(r'(\w+)="([^"]+)"', _target(node))),
            },
        }
        for node in range(fleet.nodes)
    ]
    (folder / "targets.json").write_text(json.dumps(targets))
    return _CONFIG.format(interval=interval, rules=rules, targets=folder / "targets.json")


def _backfill(folder: Path, fleet: Fleet) -> None:
    text = folder / "history.om"
    with text.open("w") as file:
        file.writelines(fleet.history())
    # A Prometheus that has run for a day has put its blocks of two hours together.
    blocks = ["tsdb", "create-blocks-from", "--max-block-duration=24h", "openmetrics"]
    command = [program("promtool"), *blocks, str(text), str(folder / "tsdb")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    text.unlink()


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Watched:
    """A Prometheus that scrapes a fleet; ``pages`` is the process that serves the fleet's pages."""

    prometheus: Measured
    configuration: Path
    pages: int


@contextlib.contextmanager
def watched(
    fleet: Fleet,
    interval: int,
    *,
    binary: str | None,
    beside: Path | None = None,
    optional: bool = False,
    history: bool = False,
) -> Iterator[Watched]:
    """The fleet, and a Prometheus that scrapes it; both are ended, by SIGTERM too. ``history``: with days of before."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = multiprocessing.get_context("fork").Process(target=_serve, args=(fleet, listener), daemon=True)
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-bench-") as name:
        folder = Path(name)
        port = listener.getsockname()[1]
        configuration = _prepare(folder, fleet, port, interval, beside=beside, optional=optional)
        if history:
            say("making the history")
            _backfill(folder, fleet)
        server.start()
        try:
            prometheus = Measured(folder, configuration, binary=binary)
            try:
                yield Watched(prometheus, folder / "prometheus.yml", server.pid or 0)
            finally:
                prometheus.stop()
        finally:
            server.terminate()
