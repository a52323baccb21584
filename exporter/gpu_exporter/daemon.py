"""The process around the exporter: the signals that steer it, reloading, and its end.

The main thread waits for signals and does nothing else: whatever hangs while the exporter starts, reloads or closes, it
hangs on another thread, and SIGTERM ends the process within two seconds.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from gpu_exporter import logs
from gpu_exporter.app import Exporter
from gpu_exporter.config import Config, ConfigError, Watch, changed, load
from gpu_exporter.ending import ENDS, quit_now
from gpu_exporter.http.notify import Notifier

log = logging.getLogger(__name__)

_SIGNALS: Final = ENDS | {signal.SIGHUP, signal.SIGUSR1}
_LOOK_EVERY: Final = 5.0  # seconds between looks at the configuration file
_STEP: Final = 0.05  # seconds between looks at whether the exporter has started
_CLOSE_WITHIN: Final = 1.5  # seconds, of the two in which the process ends


def serve(
    config: Config,
    *,
    path: Path | None,
    overrides: Mapping[str, tuple[str, str]],
    settled: Callable[[], None] = lambda: None,
) -> None:
    """Run until SIGTERM or SIGINT, which end the process. Raises StartError, or ConfigError before anything listens.

    ``settled`` is called once the first reading is over.
    """
    # Blocked before any thread starts, so that only the waiting below ever takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    manager = Notifier.of_this_process()
    start = _Start(config, path, heartbeat=manager.beat, settled=settled)
    try:
        early = _until_started(start, manager)
        exporter = start.result()
    except BaseException:
        _close(start.exporter)
        logs.flush()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # nobody waits for them any more
        raise
    status = f"listening on {exporter.address}"
    manager.ready(status)
    reloading = _Reloading(exporter, config, start.watch, overrides, manager=manager, status=status)
    reloading.start()
    while True:
        received = early.pop(0) if early else signal.sigwait(_SIGNALS)
        if received in ENDS:
            _leave(exporter, manager, received)
        elif received == signal.SIGUSR1:
            exporter.toggle_pause()
        else:
            reloading.wish()


def _until_started(start: _Start, manager: Notifier) -> list[int]:
    """Wait until the exporter has started, or has failed to; the signals that are to be obeyed then."""
    early: list[int] = []
    start.begin()
    while start.running:
        arrived = signal.sigtimedwait(_SIGNALS, _STEP)
        if arrived is None:
            continue
        if arrived.si_signo in ENDS:
            _leave(start.exporter, manager, arrived.si_signo)
        early.append(arrived.si_signo)
    return early


def _leave(exporter: Exporter | None, manager: Notifier, received: int) -> NoReturn:
    """End the process, whatever hangs in it."""
    log.info("stopping", extra={"signal": signal.Signals(received).name})
    manager.stopping()
    _close(exporter)
    quit_now(0)


def _close(exporter: Exporter | None) -> None:
    """Close it, as far as that is possible in the time that there is."""
    if exporter is None:
        return
    closing = threading.Thread(target=exporter.close, name="closing", daemon=True)
    with suppress(RuntimeError):  # no more threads: the kernel closes what is open
        closing.start()
        closing.join(_CLOSE_WITHIN)


class _Start:
    """Makes and starts the exporter on a thread of its own: names, certificates and the driver may take their time."""

    def __init__(
        self, config: Config, path: Path | None, *, heartbeat: Callable[[], None], settled: Callable[[], None]
    ) -> None:
        self.watch = Watch(path) if path else None
        self._config = config
        self._heartbeat = heartbeat
        self._settled = settled
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="start", daemon=True)
        self.exporter: Exporter | None = None

    @property
    def running(self) -> bool:
        """Whether it is being started still."""
        return self._thread.is_alive()

    def begin(self) -> None:
        """Begin to start it."""
        self._thread.start()

    def result(self) -> Exporter:
        """The exporter that was started. Raises what its start raised."""
        if self._error is not None:
            raise self._error
        if self.exporter is None:
            raise AssertionError("nothing was started")
        return self.exporter

    def _run(self) -> None:
        try:
            if self.watch is not None:
                self.watch.mark()  # before anybody can see that we run, and change the file
            self.exporter = Exporter(self._config, heartbeat=self._heartbeat, settled=self._settled)
            self.exporter.start()
        except BaseException as error:  # noqa: BLE001 - raised by ``result``
            self._error = error


class _Reloading:
    """Reads the configuration again when told to, or when its file has changed, on a thread of its own.

    A signal hardly reaches a pod, but its ConfigMap's files change. Without a file to look at, the thread runs only
    while something is to be read.
    """

    def __init__(
        self,
        exporter: Exporter,
        config: Config,
        watch: Watch | None,
        overrides: Mapping[str, tuple[str, str]],
        *,
        manager: Notifier,
        status: str,
    ) -> None:
        self._exporter = exporter
        self._config = config
        self._path = None if watch is None else watch.paths[0]
        self._overrides = overrides
        self._manager = manager
        self._status = status
        self._watch = watch
        self._changed = threading.Condition()
        self._wished = False
        self._running = False

    def start(self) -> None:
        """Begin to look at the file."""
        if self._watch is not None:
            with self._changed:
                self._run_thread()

    def wish(self) -> None:
        """Have it read again, once more where that is being done already. Never waits."""
        with self._changed:
            self._wished = True
            self._changed.notify_all()
            self._run_thread()

    def _run_thread(self) -> None:
        """Have a thread; the caller holds the lock."""
        if self._running:
            return
        try:
            threading.Thread(target=self._run, name="reload", daemon=True).start()
        except RuntimeError as error:
            log.error("the configuration was not reloaded: %s", error)  # noqa: TRY400 - the line says it all
            return
        self._running = True

    def _run(self) -> None:
        watch = self._watch
        while True:
            with self._changed:
                if watch is None and not self._wished:
                    self._running = False
                    return
                self._changed.wait_for(lambda: self._wished, _LOOK_EVERY)
                wished, self._wished = self._wished, False
            if wished:
                if watch is not None:
                    watch.mark()
            elif watch is None or not watch.settled():
                continue
            else:
                log.info("the configuration file has changed", extra={"file": str(self._path)})
            self._manager.reloading()
            self._reload()
            self._manager.ready(self._status)

    def _reload(self) -> None:
        """Put a changed file into force; with a bad one, go on as before."""
        try:
            new = load(self._path, self._overrides)
            self._exporter.apply(new)
        except ConfigError as error:
            log.error("the configuration was not reloaded: %s", error)  # noqa: TRY400 - the line says it all
            self._exporter.keep()
            return
        except Exception:  # whatever is wrong, the last good settings stay in force
            log.exception("the configuration was not reloaded: this is a bug in gpu-exporter")
            self._exporter.keep()
            return
        restart = [setting.key for setting in changed(self._config, new) if not setting.reload]
        if restart:
            log.warning("changed settings need a restart to take effect", extra={"settings": ",".join(restart)})
        logs.set_level(new.log)
        self._config = new
        log.info("configuration reloaded")
