"""The end of a process that is told to stop: within two seconds, whatever hangs in it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection
from typing import Final, NoReturn

from gpu_exporter import logs

log = logging.getLogger(__name__)

ENDS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
# Of the two seconds.
_LEAVES_WITHIN: Final = 1.6


class Ending:
    """Waits for signals on a thread of its own, and ends the process where an orderly end takes too long.

    Neither a main thread that is inside a system call nor an event loop that is blocked would hear a signal. To be made
    before any other thread, so that the signals are blocked in all of them. The first signal of ``ends`` calls
    ``leave``, which must not wait; while that is None, nothing has begun that is worth more time, and the process ends
    at once. ``reload`` is what SIGHUP calls, where it is not among ``ends``. The exit handlers of a driver's library
    are not run then: they would wait for a call that hangs.
    """

    def __init__(self, ends: Collection[signal.Signals] = ENDS) -> None:
        self.leave: Callable[[], object] | None = None
        self.reload: Callable[[], object] = lambda: None
        self._ends = frozenset(ends)
        self._heard = self._ends | {signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, self._heard)
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def _run(self) -> None:
        while (number := signal.sigwait(self._heard)) not in self._ends:
            self.reload()
        log.info("stopping", extra={"signal": signal.Signals(number).name})
        if self.leave is not None:
            self.leave()
            threading.Event().wait(_LEAVES_WITHIN)
            log.warning("something hangs: ending without it")
        quit_now(0)


def quit_now(status: int) -> NoReturn:
    """End the process without anybody's exit handlers: those of a driver's library would wait for a call that hangs.

    Log lines that wait get out as far as there is time; of standard output only what was flushed.
    """
    logs.flush()
    os._exit(status)
