"""Programs that run as long as the demo does, and the ports they listen on."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
_STOPPING = 10  # seconds that a program may take to end


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


@dataclass(frozen=True)
class Program:
    """One that runs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise DemoError, with the end of its log, where it has ended."""
        if (status := self.process.poll()) is not None:
            tail = "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-10:])
            raise DemoError(f"{self.name} ended with status {status}; its log:\n{tail}")

    def wait(self, url: str, done: threading.Event) -> None:
        """Until the page answers 200. Raises DemoError where it ended instead, StoppedError where nobody wants it."""
        for _ in range(300):
            try:
                with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own address
                    return
            except (urllib.error.URLError, OSError):
                self.check()
                if done.wait(0.1):
                    raise StoppedError from None
        raise DemoError(f"{self.name} does not answer at {url}")


def find(*names: str) -> Path | None:
    """A program by one of its names, on PATH or where tools/setup unpacked it."""
    for name in names:
        if found := shutil.which(name):
            return Path(found)
        fetched = ROOT / ".build/debian/usr/bin" / name
        if fetched.exists():
            return fetched
    return None


def port(wanted: int, what: str) -> int:
    """The port that was asked for, or any other where it is taken; the latter is said. Asked for 0, any."""
    for number in (wanted, 0):
        with socket.socket() as probe:
            # As the programs do: a connection of the last run that is still being closed does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, number))
            except OSError:
                continue
            free = int(probe.getsockname()[1])
        if wanted not in {free, 0}:
            print(f"port {wanted} is taken: {what} listens on {free}")
        return free
    raise DemoError(f"there is no free port on {LOOPBACK}")


@contextmanager
def running(name: str, command: Sequence[str], folder: Path) -> Iterator[Program]:
    """The program, stopped at the end; in a session of its own, so that Ctrl-C reaches it through us alone."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, start_new_session=True)  # noqa: S603
    try:
        yield Program(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
