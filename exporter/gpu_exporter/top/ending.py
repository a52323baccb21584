"""Whatever ends the live screen from outside: signals, and a terminal that goes away."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE: Final = 1.6  # seconds, of two, for an orderly end; a terminal that takes no more text holds it up for ever
_CLOSED: Final = 128 + signal.SIGHUP
# Pastes and the mouse as they were, the screen from before, its cursor.
_RESTORE: Final = b"\x1b[?2004l\x1b[?1000l\x1b[?1003l\x1b[?1006l\x1b[<u\x1b[?1049l\x1b[?25h"


class Ending:
    """Has ``leave`` called with a status on a signal, and ends the process itself where that does not help.

    A context manager; ``status`` is that of the signal that came, or 0.
    """

    def __init__(self, leave: Callable[[int], object]) -> None:
        self.status = 0
        self._leave = leave
        self._before: dict[signal.Signals, Any] = {}
        self._attributes: list[Any] | None = None

    def __enter__(self) -> Ending:  # noqa: PYI034 - typing has Self from Python 3.11 on
        with suppress(termios.error, OSError, ValueError):
            self._attributes = termios.tcgetattr(sys.__stdin__.fileno())  # type: ignore[union-attr]
        for number in _ENDS:
            self._before[number] = signal.signal(number, self._on_signal)
        threading.Thread(target=self._await_hangup, name="hangup", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.status = 128 + number
        threading.Thread(target=self._insist, name="insist", daemon=True).start()
        self._leave(self.status)

    def _insist(self) -> None:
        threading.Event().wait(_PATIENCE)
        if self._attributes is not None:
            with suppress(termios.error, OSError):
                termios.tcsetattr(0, termios.TCSANOW, self._attributes)
        with suppress(OSError):
            os.set_blocking(2, False)
            os.write(2, _RESTORE)
        os._exit(self.status)

    def _await_hangup(self) -> None:
        """A terminal that is closed tells so here, whoever was sent the signal; there is nothing left to restore."""
        poll = select.poll()
        with suppress(OSError, ValueError):
            poll.register(0, 0)
            poll.poll()
            os._exit(_CLOSED)
