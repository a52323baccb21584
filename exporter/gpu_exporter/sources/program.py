"""Programs that tell of GPUs (nvidia-smi, dcgmi): run without a shell, against a deadline, with bounded output."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from gpu_exporter.config.parsers import shown

T = TypeVar("T")

# A table of 64 GPUs has 100 KiB.
_MOST_OUTPUT: Final = 4 * 1024**2
_LOOK: Final = 0.05  # seconds between two looks at whether the program has ended, while it prints nothing
_CLOSED: Final = 0.001  # once it can print nothing any more
_KILLED_WITHIN: Final = 0.2  # seconds; what takes longer hangs in the kernel
_READ: Final = 65536
# Our own variables may hold passwords.
_OURS: Final = "GPU_EXPORTER_"


@dataclass(frozen=True, slots=True)
class Said:
    """What a program answered; ``code`` is its exit status, or minus the number of the signal that ended it."""

    code: int
    out: str
    err: str = ""

    @property
    def lines(self) -> list[str]:
        """What it printed, errors last, without blank lines."""
        return [line.strip() for line in f"{self.out}\n{self.err}".splitlines() if line.strip()]

    @property
    def complaint(self) -> str:
        """One line of what it said, for a message of ours."""
        return shown(next(iter(self.lines), ""))


class ProgramError(Exception):
    """The program did not answer: the message is one line."""


class MissingProgramError(ProgramError):
    """It is not there, or must not be run."""


class SlowProgramError(ProgramError):
    """It did not end in time, and was killed."""


class Run(Protocol):
    """One program that can be run."""

    def __call__(self, arguments: Sequence[str], /, *, timeout: float) -> Said:
        """What it says to these arguments, within ``timeout`` seconds. Raises ProgramError."""


class Program:
    """One program, by its path or by a name that is looked for in PATH and then in ``places``.

    It is started in a process group of its own, all of which is killed when its time is over. One that cannot be killed
    hangs in the kernel: it is not started again with the same arguments before it has gone, lest they pile up.
    """

    def __init__(self, path: Path, *, places: Iterable[str] = ()) -> None:
        self._asked = path
        self._places = tuple(places)
        self._lock = threading.Lock()
        self._running: set[int] = set()  # process groups
        self._left: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}

    @property
    def path(self) -> str | None:
        """Where it is; None where it is not found."""
        found = shutil.which(self._asked)
        if found is None and len(self._asked.parts) == 1:
            found = next((place for place in self._places if os.access(place, os.X_OK)), None)
        return found

    def __call__(self, arguments: Sequence[str], /, *, timeout: float, closed: threading.Event | None = None) -> Said:
        """See Run. Nothing runs on once ``closed`` is set."""
        key = tuple(arguments)
        if closed is not None and closed.is_set():
            raise ProgramError(f"{self._asked.name} is not asked any more")
        path = self.path
        if path is None:
            raise MissingProgramError(f"{self._asked} was not found")
        self._reap(key)
        began = time.monotonic()
        try:
            # Without the lock: a program on a file system that hangs must not hold up who wants to end the others.
            process = subprocess.Popen(  # noqa: S603 - the path is the administrator's, the arguments are ours
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise MissingProgramError(f"{path} cannot be run: {error.strerror}") from None
        except ValueError as error:  # a NUL in an argument
            raise MissingProgramError(f"{path} cannot be run: {error}") from None
        try:
            with self._lock:
                if closed is not None and closed.is_set():  # maybe while it was started: ended below
                    raise ProgramError(f"{self._asked.name} is not asked any more")
                self._running.add(process.pid)
            out, err = _collect(process, until=began + timeout)
            if out is None:
                raise SlowProgramError(f"{self._asked.name} did not answer within {timeout:.1f} s")
            if max(len(out), len(err)) > _MOST_OUTPUT:
                raise ProgramError(f"{self._asked.name} printed more than {_MOST_OUTPUT // 1024**2} MiB")
        finally:
            self._end(process, key)
        return Said(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def kill(self, closed: threading.Event) -> None:
        """Set ``closed``, and end what runs now, with its children: who has asked goes away. Callable on any thread."""
        with self._lock:
            closed.set()
            for group in self._running:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)

    def _reap(self, key: tuple[str, ...]) -> None:
        """Take leave of those that have ended by now. Raises SlowProgramError where the one of this key has not."""
        with self._lock:
            self._left = {each: process for each, process in self._left.items() if process.poll() is None}
            if key in self._left:
                raise SlowProgramError(f"{self._asked.name} of before hangs in the kernel and cannot be killed")

    def _end(self, process: subprocess.Popen[bytes], key: tuple[str, ...]) -> None:
        """Kill what is left of its group, while its number is still its own, and take leave of it."""
        with self._lock:
            self._running.discard(process.pid)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(_KILLED_WITHIN)
        except subprocess.TimeoutExpired:
            with self._lock:
                self._left[key] = process


class Opening:
    """A program for one opening of a source: closed, it starts nothing more, whatever reading is still under way."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._closed = threading.Event()

    def __call__(self, arguments: Sequence[str], /, *, timeout: float) -> Said:
        """See Run."""
        return self._program(arguments, timeout=timeout, closed=self._closed)

    def close(self) -> None:
        """End what runs now, with its children. May be called from any thread."""
        self._program.kill(self._closed)


def _collect(process: subprocess.Popen[bytes], *, until: float) -> tuple[bytes | None, bytes]:
    """What it printed, and its errors; None where it has not ended by ``until`` (monotonic seconds).

    A child of its own that goes on and keeps the pipes is not waited for.
    """
    printed: dict[int, bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None  # noqa: S101 - both are pipes, as it was started
            printed[pipe.fileno()] = bytearray()
            selector.register(pipe, selectors.EVENT_READ)
        out, err = printed.values()
        while len(out) <= _MOST_OUTPUT and len(err) <= _MOST_OUTPUT:
            # Before looking for output: what it printed up to its end is there by now, and is read.
            ended = _ended(process)
            remaining = until - time.monotonic()
            if remaining <= 0 and not ended:
                return None, b""
            if not selector.get_map() and not ended:
                time.sleep(min(_CLOSED, remaining))  # it has closed its pipes, and is about to end
                continue
            ready = selector.select(0 if ended else min(_LOOK, remaining)) if selector.get_map() else []
            for key, _ in ready:
                data = os.read(key.fd, _READ)
                printed[key.fd] += data
                if not data:
                    selector.unregister(key.fileobj)
            if not ready and ended:
                break
    return bytes(out), bytes(err)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; its number stays its own until it is waited for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "LANG": "C", "LC_ALL": "C"}


def each_opening(program: Program, open_source: Callable[[Opening], T]) -> Callable[[], T]:
    """What opens a source anew each time it is called, over the program as one opening has it."""
    return lambda: open_source(Opening(program))


def concurrently(calls: Sequence[Callable[[], T]]) -> Sequence[T | Exception]:
    """Make the calls at once, each on a thread of its own; what each gave, or raised."""
    results: list[T | Exception] = [ProgramError("it was not asked")] * len(calls)

    def make(place: int) -> None:
        try:
            results[place] = calls[place]()
        except Exception as error:  # noqa: BLE001 - handed to who asked
            results[place] = error

    threads = [threading.Thread(target=make, args=(place,), daemon=True) for place in range(1, len(calls))]
    for thread in threads:
        thread.start()
    if calls:
        make(0)
    for thread in threads:
        thread.join()
    return results
