"""The window over made-up machines: real exporters' pages on loopback, one machine that hangs, one that is off."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from PySide6.QtCore import QCoreApplication, QEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication
from tools.lab.wait import NeverCameError, patience

from gpu_exporter.cli.desktop import opener
from gpu_exporter.config import load
from gpu_exporter.desktop.application import Desktop
from gpu_exporter.desktop.choice import Choice, Open
from gpu_exporter.desktop.remembered import Remembered
from gpu_exporter.model import Device, Disk, Failure, Hold, Host, Identity, Owner, Process, Reading
from machines import Told, anything, exporter, nobody
from snapshots import FULL, row

T = TypeVar("T")
FREE: dict[str, Any] = {"state": "idle_free", "holds": (), "processes": ()}
LOST: dict[str, Any] = {"failure": Failure("lost", ""), "state": "down", "holds": None}
LIMIT = row("gpu_temperature_limit_celsius", ("limit", "slowdown"))
TEMPERATURE = row("gpu_temperature_celsius")


def gpu(
    index: int, name: str = "alice", *, model: str = "NVIDIA H100 80GB HBM3", celsius: float = 61.0, **rest: Any
) -> Reading:
    """A GPU at work for somebody, unless the rest says otherwise."""
    process = Process(4000 + index, "compute", 5.0e9, 0.5, "", Identity("python", name, name, {}))
    told: dict[str, Any] = {
        "state": "active",
        "holds": (Hold(Owner("user", name, ""), 5.0e9),),
        "processes": (process,),
    }
    values = {**FULL.values, TEMPERATURE: celsius, LIMIT: 89.0}
    device = Device(index, f"GPU-{index}", model)
    return replace(FULL, device=device, labelled={}, **{**told, "values": values, **rest})


def machine(*readings: Reading, simulated: bool = False) -> Told:
    """A machine with these GPUs."""
    told = Told(*readings, timestamp=None, simulated=simulated)
    told.now = replace(told.now, timestamp=time.time())
    disk = Disk("/", "/dev/sda1", "ext4", 10**12, 9 * 10**11, 10**11)
    told.machine = Host(
        name="made-up", addresses=("10.0.0.1",), os="Debian", kernel="6.1", boot_timestamp=1.7e9, cpus=64,
        cpu_utilization=0.25, memory_total=2**38, memory_used=2**36, load=(1.0, 2.0, 3.0), disks=(disk,),
    )  # fmt: skip
    return told


def become(told: Told, *readings: Reading) -> None:
    """The machine tells this from its next answer on."""
    told.now = replace(told.now, readings=readings, timestamp=time.time())


@contextmanager
def hung() -> Iterator[int]:
    """A machine that takes a question and never answers; its port."""
    done = threading.Event()

    def wait(_connection: socket.socket, _head: bytes) -> None:
        done.wait()

    with anything(wait) as port:
        try:
            yield port
        finally:
            done.set()


@dataclass
class Lab:
    """Machines, and the file that lists them."""

    folder: Path
    stack: ExitStack
    ports: dict[str, int]

    @property
    def nodes(self) -> Path:
        return self.folder / "nodes.json"

    @property
    def config(self) -> Path:
        return self.folder / "hub.yml"

    def write(self, **labels: str) -> None:
        groups = [{"targets": [f"127.0.0.1:{p}"], "labels": {"alias": a, **labels}} for a, p in self.ports.items()]
        self.nodes.write_text(json.dumps(groups))

    def choice(self) -> Choice:
        return Choice("nodes", nodes_file=str(self.nodes), hub_config_file=str(self.config))


@contextmanager
def lab(folder: Path, machines: dict[str, Told | None], *, hangs: str = "", **labels: str) -> Iterator[Lab]:
    """Exporters of these machines; None is one that is off."""
    with ExitStack() as stack:
        ports = {
            name: nobody() if told is None else stack.enter_context(exporter(told)).port
            for name, told in machines.items()
        }
        if hangs:
            ports[hangs] = stack.enter_context(hung())
        made = Lab(folder, stack, ports)
        made.config.write_text("interval: 1s\ntimeout: 1s\n")
        made.write(**labels)
        yield made


@contextmanager
def desktop(
    application: QApplication, folder: Path, choice: Choice | None = None, *, opens: Open | None = None
) -> Iterator[Desktop]:
    """The whole program but for its loop, over a settings file of its own."""
    opens = opens or opener(load(None, {}), own=False, interval=None)
    made = Desktop(application, opens, Remembered(folder / "desktop.ini"))
    made.window.show()
    try:
        if choice is not None:
            made.begin(opens(choice), choice)
        yield made
    finally:
        made.end()
        made.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
        QApplication.processEvents()


def until(condition: Callable[[], T], what: object = "it", seconds: float = 30.0) -> T:
    """Let the window live until this is true; what it is then."""
    began = time.monotonic()
    while not (answer := condition()):
        if time.monotonic() - began > patience(seconds):
            raise NeverCameError(f"never came: {what() if callable(what) else what}")
        QTest.qWait(10)
    return answer
