"""Programs that run as long as the demo does, and the ports they listen on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.lab.ports import free_port
from tools.lab.programs import Program
from tools.lab.web import answers


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


def port(wanted: int, what: str) -> int:
    """The port that was asked for, or any other where it is taken; the latter is said. Asked for 0, any."""
    free = free_port(wanted)
    if wanted not in {free, 0}:
        print(f"port {wanted} is taken: {what} listens on {free}")
    return free


@contextmanager
def running(
    name: str, command: Sequence[str], folder: Path, *, port: int, page: str, done: threading.Event
) -> Iterator[Program]:
    """The program, once its page answers 200, stopped at the end. Raises StoppedError where nobody wants it any more.

    It has a session of its own, so that Ctrl-C reaches it through us alone.
    """

    def ready() -> bool:
        if done.is_set():
            raise StoppedError
        return answers(port, page)

    with Program(command, folder / f"{name}.log", cwd=folder, own_session=True) as program:
        program.wait(ready)
        yield program
