"""The process around the exporter: the signals that steer it, reloading, and its end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from gpu_exporter import logs
from gpu_exporter.app import Exporter
from gpu_exporter.config import Config, ConfigError, Watch, changed, load
from gpu_exporter.http.notify import Notifier

log = logging.getLogger(__name__)

_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
_LOOK_EVERY: Final = 5.0  # seconds between looks at the configuration file


def serve(config: Config, *, path: Path | None, overrides: Mapping[str, tuple[str, str]]) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError or ConfigError before anything listens."""
    # Blocked before any thread starts, so that only sigwait below ever takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    manager = Notifier.of_this_process()
    exporter = Exporter(config, heartbeat=manager.beat)
    exporter.start()
    status = f"listening on {exporter.address}"
    manager.ready(status)
    for received in _signals(path):
        if received == signal.SIGUSR1:
            exporter.toggle_pause()
        else:
            manager.reloading()
            config = _reload(exporter, config, path, overrides)
            manager.ready(status)
    manager.stopping()
    exporter.close()
    if exporter.stuck:
        # The driver library's exit handlers would wait for the call that hangs.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)


def _signals(path: Path | None) -> Iterator[int]:
    """SIGUSR1 and SIGHUP as they come, until another ends the process; a changed file counts as SIGHUP.

    A signal hardly reaches a pod, but its ConfigMap's files change.
    """
    watch = Watch(path) if path else None
    if watch:
        watch.mark()
    while True:
        arrived = signal.sigtimedwait(_SIGNALS, _LOOK_EVERY) if watch else signal.sigwaitinfo(_SIGNALS)
        if arrived is None:
            if watch is None or not watch.settled():
                continue
            log.info("the configuration file has changed", extra={"file": str(path)})
        received = signal.SIGHUP if arrived is None else arrived.si_signo
        if received not in {signal.SIGHUP, signal.SIGUSR1}:
            log.info("stopping", extra={"signal": signal.Signals(received).name})
            return
        if watch and received == signal.SIGHUP:
            watch.mark()
        yield received


def _reload(exporter: Exporter, config: Config, path: Path | None, overrides: Mapping[str, tuple[str, str]]) -> Config:
    """Put a changed file into force; with a bad one, go on as before. The configuration in force."""
    try:
        new = load(path, overrides)
        exporter.apply(new)
    except ConfigError as error:
        log.error("the configuration was not reloaded: %s", error)  # noqa: TRY400 - the line says it all
        exporter.keep()
        return config
    restart = [setting.key for setting in changed(config, new) if not setting.reload]
    if restart:
        log.warning("changed settings need a restart to take effect", extra={"settings": ",".join(restart)})
    logs.set_level(new.log)
    log.info("configuration reloaded")
    return new
