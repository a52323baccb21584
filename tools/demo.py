"""Eight simulated GPUs, and a Prometheus that scrapes them, until Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRAPE_CONFIG = """\
global:
  scrape_interval: 5s
scrape_configs:
  - job_name: gpu-exporter
    static_configs:
      - targets: ['127.0.0.1:{port}']
        labels: {{alias: demo}}
"""
QUERY = "gpu_utilization_ratio"


def main() -> int:
    """Start what can be found, tell where it is, stop it all on Ctrl-C or SIGTERM."""
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu-exporter-demo-")))
        port = free_port(9435)
        exporter = stack.enter_context(
            running(
                "exporter",
                [
                    str(Path(sys.executable).with_name("gpu-exporter")),
                    "--source=fake",
                    "--fake.gpus=8",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warning",
                ],
                folder,
            )
        )
        if not answers(f"http://127.0.0.1:{port}/readyz", exporter, done):
            return failed("the exporter", folder / "exporter.log", done)
        print(f"GPUs        http://127.0.0.1:{port}/")
        print(f"metrics     http://127.0.0.1:{port}/metrics")
        programs = [exporter]
        if binary := find_prometheus():
            web = free_port(9090)
            config = folder / "prometheus.yml"
            config.write_text(SCRAPE_CONFIG.format(port=port))
            command = [
                str(binary),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{web}",
                "--log.level=warn",
            ]
            prometheus = stack.enter_context(running("prometheus", command, folder))
            if not answers(f"http://127.0.0.1:{web}/-/ready", prometheus, done):
                return failed("prometheus", folder / "prometheus.log", done)
            print(f"Prometheus  http://127.0.0.1:{web}/graph?g0.expr={QUERY}&g0.tab=0&g0.range_input=5m")
            programs.append(prometheus)
        else:
            print("Prometheus  not found and not fetched (make said why above); the exporter runs without it")
        print("Ctrl-C stops everything.", flush=True)
        while not done.wait(0.5):
            if any(program.poll() is not None for program in programs):
                return failed("a program", folder / "exporter.log", done)
        print("\nstopping")
    return 0


def find_prometheus() -> Path | None:
    """The one on PATH, or the one that tools/setup fetched."""
    found = shutil.which("prometheus")
    fetched = ROOT / ".build/debian/usr/bin/prometheus"
    return Path(found) if found else fetched if fetched.exists() else None


def free_port(wanted: int) -> int:
    """The port that was asked for, or any other where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


@contextmanager
def running(name: str, command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, stopped at the end; a session of its own, so that Ctrl-C reaches it through us alone."""
    with (folder / f"{name}.log").open("wb") as log:
        program = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
        try:
            yield program
        finally:
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


def answers(url: str, program: subprocess.Popen[bytes], done: threading.Event) -> bool:
    """Wait until the page answers 200; False where the program ended or was not wanted any more."""
    for _ in range(300):
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own address
                return True
        except (urllib.error.URLError, OSError):
            if program.poll() is not None or done.wait(0.1):
                return False
    return False


def failed(what: str, log: Path, done: threading.Event) -> int:
    """Say what went wrong, unless it was told to stop."""
    if done.is_set():
        return 0
    print(f"{what} does not run; its log:\n{log.read_text('utf-8', 'replace')}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
