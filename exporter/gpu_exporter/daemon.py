"""The running exporter: sampler, pages and server put together, and the signals that steer them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpu_exporter import logs
from gpu_exporter.app import OPENING, Site, sampler
from gpu_exporter.config import Config, ConfigError, Watch, changed, load
from gpu_exporter.http.access import Gate
from gpu_exporter.http.notify import Notifier
from gpu_exporter.http.server import Server
from gpu_exporter.pages.application import Application
from gpu_exporter.sampling.sampler import Sampler

log = logging.getLogger(__name__)

_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
_LOOK_EVERY: Final = 5.0  # seconds between looks at the configuration file
_M_ARENA_MAX: Final = -8  # malloc.h


class StartError(Exception):
    """The daemon cannot start; one line for whoever started it."""


def serve(config: Config, *, path: Path | None, overrides: Mapping[str, tuple[str, str]]) -> None:
    """Run until SIGTERM or SIGINT. Raises StartError or ConfigError before anything listens."""
    # Blocked before any thread starts, so that only sigwait below ever takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _bound_arenas()
    manager = Notifier.of_this_process()
    samples = sampler(config)
    application = Application(
        provider=Site(samples),
        telemetry_path=config.web.telemetry_path,
        process_labels=config.processes.labels,
    )
    gate = None if config.web.config_file is None else Gate(config.web.config_file)
    address = config.web.listen_address
    try:
        server = Server(
            gate.protect(application) if gate else application,
            host=address.host,
            port=address.port,
            allow=config.web.allow,
            wrap=gate.wrap if gate and gate.secure else None,
            # The loop that answers scrapes, not the sampler: killing a process inside a driver call can freeze the GPU.
            heartbeat=manager.beat,
        )
    except OSError as error:
        raise StartError(f"web.listen_address: '{address}': {error.strerror or error}; write a free one") from None
    samples.start()
    if config.require_gpu:
        _require_gpu(samples, server)
    server.start()
    if samples.latest().simulated:
        log.warning("the data is simulated: no real GPU is read", extra={"source": samples.latest().source})
    log.info(
        "listening",
        extra={
            "address": f"{address.host}:{server.port}",
            "path": config.web.telemetry_path,
            "scheme": server.scheme,
        },
    )
    if gate and gate.passwords and not gate.secure:
        log.warning("passwords travel in the clear: the web configuration has no tls_server_config")
    status = f"listening on {address.host}:{server.port}"
    manager.ready(status)
    _obey_signals(config, _Parts(samples, server, gate, path, overrides, manager, status))
    manager.stopping()
    server.close()
    samples.close()
    if samples.latest().stuck:
        # The driver library's exit handlers would wait for the call that hangs.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)


def _bound_arenas() -> None:
    """Let all threads share two malloc arenas.

    glibc gives every new thread one of its own (up to eight a core) and never takes it back: parked threads and
    connections would grow the process by some 20 MiB (measured: tests/whole/test_soak.py's storm, 58 MiB against 41).
    """
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _require_gpu(samples: Sampler, server: Server) -> None:
    samples.wait_first(OPENING)
    if not samples.latest().gpus_up:
        why = samples.ready() or "the driver lists no GPU"
        server.close()
        samples.close()
        raise StartError(f"require_gpu: no GPU can be read: {why}")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What runs, and where its settings came from."""

    samples: Sampler
    server: Server
    gate: Gate | None
    path: Path | None
    overrides: Mapping[str, tuple[str, str]]
    manager: Notifier
    status: str


def _obey_signals(config: Config, parts: _Parts) -> None:
    watch = Watch(parts.path) if parts.path else None
    if watch:
        watch.mark()
    while True:
        received = _next_signal(watch)
        if received == signal.SIGUSR1:
            parts.samples.toggle_pause()
        elif received == signal.SIGHUP:
            if watch:
                watch.mark()
            parts.manager.reloading()
            config = _reload(config, parts)
            parts.manager.ready(parts.status)
        else:
            log.info("stopping", extra={"signal": signal.Signals(received).name})
            return


def _next_signal(watch: Watch | None) -> int:
    """The next signal; a changed configuration file counts as SIGHUP, which hardly reaches a pod."""
    while True:
        received = signal.sigtimedwait(_SIGNALS, _LOOK_EVERY) if watch else signal.sigwaitinfo(_SIGNALS)
        if received is not None:
            return received.si_signo
        if watch and watch.settled():
            log.info("the configuration file has changed", extra={"file": str(watch.paths[0])})
            return signal.SIGHUP


def _reload(config: Config, parts: _Parts) -> Config:
    """Put a changed file into force; with a bad one, go on as before."""
    try:
        new = load(parts.path, parts.overrides)
        if parts.gate:
            parts.gate.reload()
    except ConfigError as error:
        log.error("the configuration was not reloaded: %s", error)  # noqa: TRY400 - the line says it all
        parts.samples.reconfigure(config.collection, ok=False)
        return config
    restart = [setting.key for setting in changed(config, new) if not setting.reload]
    if restart:
        log.warning("changed settings need a restart to take effect", extra={"settings": ",".join(restart)})
    parts.samples.reconfigure(new.collection, ok=True)
    parts.server.allow = new.web.allow
    logs.set_level(new.log)
    log.info("configuration reloaded")
    return new
