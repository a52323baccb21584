"""``gpu-exporter record``: this machine, or others, into a history file, without the hub."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from gpu_exporter.config import Config
from gpu_exporter.history import Recorder, Retention
from gpu_exporter.local import ThisMachine
from gpu_exporter.recording.targets import Target, Watchers

log = logging.getLogger(__name__)

_END: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def _add(recorder: Recorder, name: str, document: Mapping[str, Any]) -> None:
    recorder.add(name, document, time.time())
    log.debug("a sample was recorded", extra={"node": name})


def record(config: Config, *, path: Path, retention: Retention, targets: Sequence[Target]) -> None:
    """Record until SIGTERM or SIGINT; without targets, this machine. Raises ConfigError or HistoryError."""
    # Blocked before any thread starts, so that only sigwait below takes them. A closed terminal ends it as well.
    ends = _END | {signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with ExitStack() as running:
        recorder = running.enter_context(closing(Recorder(path, retention=retention)))
        machine: ThisMachine | None = None
        if targets:
            watchers = Watchers(targets, interval=config.collection.interval, recorder=recorder)
            running.enter_context(closing(watchers)).start()
        else:
            machine = ThisMachine(config, tell=partial(_add, recorder))
            running.enter_context(closing(machine)).start()
        recorder.start()
        what = ",".join(target.name for target in targets) or (machine.name if machine else "")
        log.info("recording", extra={"file": str(path), "machines": what})
        received = signal.sigwait(ends)
        log.info("stopping", extra={"signal": signal.Signals(received).name})
    if machine is not None and machine.stuck:
        # The driver library's exit handlers would wait for the call that hangs.
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)
