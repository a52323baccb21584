"""``python -m bench.fairness [--write]``: what a scraper gets while other clients want everything.

The exporter of this tree beside the one of ``BEFORE``, which treated connections by age, rendered most pages at each
request and checked passwords in one queue: under the same attacks, one after the other, in one run.
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bcrypt
from tools.lab import ROOT
from tools.lab.exporter import Exporter, environment
from tools.lab.wait import wait_for

from bench.machine import Machine, Size, machine

BEFORE: Final = "8420fdb^"
_MARK: Final = ("<!-- bench.fairness -->", "<!-- end of bench.fairness -->")
_RESULTS: Final = Path(__file__).with_name("RELIABILITY.md")
_SECONDS: Final = 6.0  # of each attack
_FEW: Final = 8  # GPUs
_EVERY: Final = 0.5  # seconds between scrapes
_TIMEOUT: Final = 5.0  # seconds
_PASSWORD: Final = "correct horse"
_SETTLES: Final = 3.0  # seconds in which it has read all GPUs
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Case:
    """One attack: its words for ``bench.attack``, and the scraper's circumstances."""

    name: str
    attacks: tuple[str, ...]
    gpus: int = 8
    pause: float = 0.0  # seconds between the scraper's connecting and its request: a long way, or TLS
    room: int = 0  # MiB of address space that it may take more; 0 is without limit
    passwords: bool = False
    restarted: bool = False  # the scraper's password is not remembered


CASES: Final = (
    Case("64 clients on /api/v1/gpus", ("readers /api/v1/gpus 64",), gpus=16),
    Case("64 clients on the status page", ("readers / 64",), gpus=16),
    Case("400 half-open connections a second; 0.3 s from connecting to asking", ("half 600 400",), pause=0.3),
    Case(
        "70 slow readers and 30 new connections a second; 0.1 s", ("slow /metrics 70", "half 64 30"), gpus=16, pause=0.1
    ),
    Case("64 slow readers of the page of 64 GPUs, 64 processes each", ("slow /metrics 64",), gpus=64),
    Case("wrong passwords from 60 addresses", ("guesses 60",), passwords=True),
    Case("the same, after a restart", ("guesses 60",), passwords=True, restarted=True),
    Case("200 half-open connections, 128 MiB of address space left", ("half 200 400",), room=128),
)


@dataclass
class Seen:
    """What a scraper got: scrapes that were answered with 200, of all; their seconds; what the process took."""

    answered: int = 0
    scrapes: int = 0
    seconds: tuple[float, ...] = (float("nan"),)
    mebibytes: float = 0.0
    overruns: float = 0.0

    def cells(self) -> str:
        """Of the table."""
        took = [f"{1000 * each:.0f}" for each in (statistics.median(self.seconds), max(self.seconds))]
        took = took if self.answered else ["-", "-"]
        return f"{self.answered}/{self.scrapes} | {took[0]} | {took[1]} | {self.overruns:.0f} | {self.mebibytes:+.0f}"


def measure(case: Case, tree: Path, computer: Machine, folder: Path) -> Seen:
    """The attack on the exporter of that tree."""
    folder.mkdir()
    arguments = ["--source=nvml", "--collection.interval=1s"]
    if case.passwords:
        web = folder / "web.yml"
        web.write_text(f"basic_auth_users: {{prometheus: {_hashed()}}}\n")
        arguments.append(f"--web.config.file={web}")
    extra = {**computer.env(), "PYTHONPATH": str(tree / "exporter")}
    with Exporter(folder, *arguments, extra=extra) as exporter:
        port, pid = exporter.port, exporter.process.pid

        def page(pause: float = 0.0) -> bytes:
            return _scrape(port, pause, secret=case.passwords)

        if case.restarted:
            time.sleep(_SETTLES)
        else:
            wait_for(lambda: page().count(b"\ngpu_up{") == case.gpus, exporter.log)
        if case.room:
            _limit(pid, case.room)
        seen, before = Seen(), _resident(pid)
        with ExitStack() as stack:
            for attack in case.attacks:
                stack.enter_context(_attacker(port, attack))
            time.sleep(1.0)
            ends = time.monotonic() + _SECONDS
            took: list[float] = []
            while time.monotonic() < ends:
                began = time.monotonic()
                seen.scrapes += 1
                if page(case.pause):
                    took.append(time.monotonic() - began - case.pause)
                seen.mebibytes = max(seen.mebibytes, _resident(pid) - before)
                time.sleep(max(0.0, began + _EVERY - time.monotonic()))
        if took:
            seen.answered, seen.seconds = len(took), tuple(took)
        told = wait_for(page, exporter.log).decode().splitlines()
        seen.overruns = sum(
            float(line.split()[-1]) for line in told if line.startswith("gpu_exporter_sample_overruns_total")
        )
    return seen


def _scrape(port: int, pause: float, *, secret: bool) -> bytes:
    """The page; empty where it is not answered with 200 within the time that Prometheus would wait here."""
    given = f"prometheus:{_PASSWORD}".encode()
    authorization = f"Authorization: Basic {base64.b64encode(given).decode()}\r\n" if secret else ""
    request = f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}Connection: close\r\n\r\n".encode()
    deadline, page = time.monotonic() + _TIMEOUT, bytearray()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as client:
            time.sleep(pause)
            client.sendall(request)
            while (left := deadline - time.monotonic()) > 0:
                client.settimeout(left)
                chunk = client.recv(1 << 18)
                if not chunk:
                    break
                page += chunk
            else:
                return b""
    except OSError:
        return b""
    return bytes(page) if page.startswith(b"HTTP/1.1 200 ") else b""


def _hashed() -> str:
    return bcrypt.hashpw(_PASSWORD.encode(), bcrypt.gensalt(10)).decode()


def _limit(pid: int, mebibytes: int) -> None:
    """Bound what it may map more than it has."""
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * _PAGE
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size + (mebibytes << 20), hard))


@contextmanager
def _attacker(port: int, words: str) -> Iterator[None]:
    kind, *rest = words.split()
    command = [sys.executable, "-m", "bench.attack", kind, str(port), *rest]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
    ) as attacker:
        if attacker.stdout is None or attacker.stdin is None:
            raise AssertionError
        attacker.stdout.readline()
        try:
            yield
        finally:
            attacker.kill()


def _resident(pid: int) -> float:
    """RSS in MiB; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20
    except (OSError, IndexError):
        return 0.0


def main() -> None:
    """All attacks, on the exporter of before and on this one."""
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--only", type=int, metavar="N", help="this attack alone")
    parser.add_argument("--write", action="store_true", help=f"put the table into {_RESULTS.name}")
    given = parser.parse_args()
    lines = [
        "| attack, from other addresses | | scrapes | median, ms | slowest, ms | overruns | RSS, MiB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    print(*lines, sep="\n")
    with tempfile.TemporaryDirectory(prefix="gpu-exporter-fairness-") as scratch:
        before = Path(scratch) / "before"
        archive = subprocess.run(
            ["git", "archive", given.before, "exporter"], cwd=ROOT, capture_output=True, check=True
        )
        before.mkdir()
        subprocess.run(["tar", "-x", "-C", before], input=archive.stdout, check=True)
        for number, case in enumerate(CASES):
            if given.only is not None and number != given.only:
                continue
            with machine(Size(case.gpus, 64 if case.gpus > _FEW else 2)) as computer:
                for name, tree in (("before", before), ("now", ROOT)):
                    seen = measure(case, tree, computer, Path(scratch) / f"{number}-{name}")
                    lines.append(f"| {case.name if tree is before else ''} | {name} | {seen.cells()} |")
                    print(lines[-1], flush=True)
    if given.write:
        _write(lines)


def _write(lines: list[str]) -> None:
    about = (
        f"{_SECONDS:g} s an attack, a scrape every {_EVERY:g} s that is given up after {_TIMEOUT:g} s; "
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores "
        f"(load {os.getloadavg()[0]:.0f}), Python {platform.python_version()}."
        " RSS: by how much it grew."
    )
    head, _, rest = _RESULTS.read_text().partition(_MARK[0])
    tail = rest.partition(_MARK[1])[2]
    _RESULTS.write_text("\n".join([head + _MARK[0], "", about, "", *lines, "", _MARK[1] + tail]))


if __name__ == "__main__":
    main()
