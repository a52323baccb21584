"""Programs: where they are, and those that run as long as somebody needs them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from tools.lab import ROOT
from tools.lab.wait import patience, wait_for

T = TypeVar("T")
UNPACKED = ROOT / ".build/debian/usr/bin"  # by tools/setup
SHIPPED = ROOT / ".build/shipped"  # by tools/shipped
NEIGHBOURS = ROOT / ".build/neighbours"  # by tools/neighbours
# Of Prometheus and Alertmanager: Debian's, the oldest that the files of deploy/ are for, and what is shipped with them.
Release = Literal["debian", "shipped"]
# As Debian calls them.
_ALSO = {"alertmanager": "prometheus-alertmanager"}
_SHOWN = 30  # last lines of a log


class MissingProgramError(Exception):
    """A program is neither installed nor fetched. Tests are skipped for it (tests/conftest.py)."""


class NotBuiltError(MissingProgramError):
    """A shipped release could not be built on this machine, as its Go is missing or too old."""


class EndedError(Exception):
    """A program ended though it was needed; the text has the end of its log."""


class StuckError(Exception):
    """A program did not end when it was told to, and was killed."""


def found(name: str, release: Release = "debian") -> str | None:
    """Where a program is: built by tools/shipped, or on PATH or unpacked by tools/setup; None where it is not."""
    if release == "shipped":
        built = SHIPPED / name
        return str(built) if built.exists() else None
    names = [each for each in (name, _ALSO.get(name)) if each]
    unpacked = (str(path) for each in names if (path := UNPACKED / each).exists())
    return next(filter(None, map(shutil.which, names)), None) or next(unpacked, None)


def program(name: str, release: Release = "debian") -> str:
    """Where a program is. Raises MissingProgramError."""
    path = found(name, release)
    if path is not None:
        return path
    if release == "shipped" and (why := SHIPPED / "missing").exists():
        raise NotBuiltError(why.read_text().strip())
    raise MissingProgramError(
        f"{name} of deploy/versions.env is not there: run tools/shipped"
        if release == "shipped"
        else f"{name} is not installed and tools/setup could not fetch it"
    )


def neighbour(name: str) -> str:
    """Where a program is that tools/neighbours builds. Raises MissingProgramError."""
    if not (NEIGHBOURS / name).exists():
        raise MissingProgramError(f"{name} is not built: run tools/neighbours")
    return str(NEIGHBOURS / name)


class Program:
    """One that runs, with its output in a file; a context manager that stops it."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        own_session: bool = False,
        before_exec: Callable[[], object] | None = None,
    ) -> None:
        self.name = log.stem
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                env=env,
                cwd=cwd,
                start_new_session=own_session,
                preexec_fn=before_exec,  # noqa: PLW1509 - who gives one has no threads
            )

    def __enter__(self) -> Program:  # noqa: PYI034 - typing has Self from Python 3.11 on
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self) -> str:
        """What it has said."""
        return self._log.read_text("utf-8", "replace")

    def check(self) -> None:
        """Raise EndedError where it has ended."""
        if (status := self.process.poll()) is not None:
            tail = "\n".join(self.log().splitlines()[-_SHOWN:])
            raise EndedError(f"{self.name} ended with status {status}; its log:\n{tail}")

    def wait(self, ready: Callable[[], T | None]) -> T:
        """What the condition answers as soon as it is true; where it never comes, the program is stopped.

        Raises EndedError or NeverCameError, with the log, or what the condition raises.
        """

        def look() -> T | None:
            self.check()
            return ready()

        try:
            return wait_for(look, lambda: f"{self.name} is not ready; its log:\n{self.log()}")
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        """End it as a service manager does. Raises StuckError where that takes a signal that nobody can refuse."""
        if not self._end():
            raise StuckError(f"{self.name} was told to end, did not, and was killed; its log:\n{self.log()}")

    def _end(self) -> bool:
        """Whether SIGTERM was enough."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(patience())
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return True
