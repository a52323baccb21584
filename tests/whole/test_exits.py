"""SIGTERM ends the daemon whatever hangs, and nobody who logs waits for whoever reads the log."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools.lab.exporter import Exporter, command, environment, parse, pick
from tools.lab.hung_disk import HungDisk
from tools.lab.nvml_stub import Stub
from tools.lab.ports import free_port
from tools.lab.wait import patience, wait_for
from tools.lab.web import ask

from certificates import Site

FAST = ("--source=nvml", "--collection.interval=500ms", "--collection.timeout=500ms")
FOREVER = 3600.0
Start = Callable[..., Exporter]


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[Exporter] = []

    def begin(machine: Stub, *arguments: str, **extra: str) -> Exporter:
        running.append(Exporter(tmp_path, *FAST, *arguments, extra={**machine.env(library), **extra}))
        return running[-1]

    yield begin
    for exporter in running:
        exporter.process.kill()
        exporter.__exit__()


def ends(exporter: Exporter, number: signal.Signals = signal.SIGTERM) -> None:
    exporter.signal(number)
    # Two seconds are for a machine that has time. What hangs here hangs for an hour.
    assert exporter.process.wait(patience()) == 0
    assert "Traceback" not in exporter.log()


def test_opening_hangs_where_a_gpu_is_required(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    machine.hang_init()
    exporter = start(machine, "--require-gpu", NVML_STUB_EXIT_HANGS="1")
    assert exporter.status("/livez") == 200
    assert exporter.value("gpu_exporter_build_info") == 1
    assert exporter.value("gpu_exporter_last_sample_success") == 0
    ends(exporter)


@pytest.mark.parametrize(
    "function", ["nvmlEventSetWait_v2", "nvmlDeviceGetTemperatureV", "nvmlShutdown", "nvmlEventSetFree"]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_call_hangs_and_the_exit_handler_waits_for_it(
    start: Start, stub: Callable[..., Stub], function: str, number: signal.Signals
) -> None:
    machine = stub("h100", "h100")
    exporter = start(machine, NVML_STUB_EXIT_HANGS="1")
    wait_for(lambda: exporter.value("gpu_up", gpu=1) == 1)
    calls = machine.calls().get(function, 0)
    machine.slow_function(function, FOREVER)
    if function not in {"nvmlShutdown", "nvmlEventSetFree"}:
        wait_for(lambda: machine.calls().get(function, 0) > calls)
    ends(exporter, number)


def test_closing_hangs_after_a_pause(start: Start, stub: Callable[..., Stub]) -> None:
    machine = stub("h100")
    exporter = start(machine, NVML_STUB_EXIT_HANGS="1")
    wait_for(lambda: exporter.value("gpu_up", gpu=0) == 1)
    machine.slow_function("nvmlShutdown", FOREVER)
    exporter.signal(signal.SIGUSR1)
    wait_for(lambda: machine.calls().get("nvmlShutdown"))
    ends(exporter)


def test_a_handshake_is_under_way(start: Start, stub: Callable[..., Stub], tmp_path: Path) -> None:
    site = Site(tmp_path)
    web = site.write()
    exporter = start(stub("h100"), f"--web.config.file={web}")
    with socket.create_connection(("127.0.0.1", exporter.port)) as client:
        client.sendall(bytes([22, 3, 1, 0, 200]))
        wait_for(lambda: len(list(Path(f"/proc/{exporter.process.pid}/task").iterdir())) >= 5)
        ends(exporter)


def test_a_reload_hangs(start: Start, stub: Callable[..., Stub], tmp_path: Path) -> None:
    config = tmp_path / "hung" / "exporter.yml"
    config.parent.mkdir()
    config.write_text("collection: {expected_gpus: 1}\n")
    disk = HungDisk(config.parent, tmp_path)
    exporter = start(stub("h100"), f"--config.file={config}", **disk.env())
    wait_for(lambda: exporter.value("gpu_up", gpu=0) == 1)
    disk.hang()
    exporter.signal(signal.SIGHUP)
    wait_for(lambda: disk.waits)
    assert exporter.value("gpu_up", gpu=0) == 1
    ends(exporter)


def test_what_the_start_needs_hangs(library: Path, stub: Callable[..., Stub], tmp_path: Path) -> None:
    web = tmp_path / "hung" / "web.yml"
    web.parent.mkdir()
    web.write_text("{}")
    disk = HungDisk(web.parent / "server", tmp_path)
    web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
    disk.hang()
    arguments = [*FAST, f"--web.listen-address=127.0.0.1:{free_port()}", f"--web.config.file={web}"]
    extra = {**stub("h100").env(library), **disk.env()}
    process = subprocess.Popen([*command(), *arguments], env=environment(extra), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: disk.waits)
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience()) == 0
    finally:
        process.kill()
        process.wait()


def test_nobody_reads_the_log(library: Path, stub: Callable[..., Stub]) -> None:
    machine = stub(*["h100"] * 4)
    port = free_port()
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        [*command(), *FAST, f"--web.listen-address=127.0.0.1:{port}", "--log.level=debug"],
        env=environment(machine.env(library)),
        stderr=writing,
    )
    os.close(writing)
    try:

        def ups() -> list[float]:
            try:
                page = parse(ask(port, "/metrics").text)
            except OSError:
                return []
            return [pick(page, "gpu_up", gpu=gpu) or 0.0 for gpu in range(4)]

        wait_for(lambda: ups() == [1, 1, 1, 1])
        for _ in range(100):  # a line each, at this level
            ask(port, "/metrics")
        machine.lose(3)
        wait_for(lambda: ups() == [1, 1, 1, 0], ups)
        machine.recover(3)
        wait_for(lambda: ups() == [1, 1, 1, 1], ups)
        for _ in range(1200):
            ask(port, "/livez")
        assert ups() == [1, 1, 1, 1]
        os.set_blocking(reading, False)
        told = b""

        def dropped() -> re.Match[bytes] | None:
            nonlocal told
            try:
                told += os.read(reading, 65536)
            except BlockingIOError:
                ask(port, "/livez")  # one more line, which tells of those before
            return re.search(rb"log lines were dropped: nobody read them\" count=([1-9][0-9]*)", told)

        wait_for(dropped, lambda: told[-500:])
        os.set_blocking(reading, True)
        for _ in range(100):
            ask(port, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience()) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
