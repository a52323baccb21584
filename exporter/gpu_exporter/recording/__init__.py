"""``gpu-exporter record``: this machine, or others, into a history file, without the hub."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from gpu_exporter.config import Config
from gpu_exporter.ending import ENDS, Ending, quit_now
from gpu_exporter.history import Recorder, Retention
from gpu_exporter.local import ThisMachine
from gpu_exporter.recording.targets import Target, Watchers

log = logging.getLogger(__name__)


def _add(recorder: Recorder, name: str, document: Mapping[str, Any]) -> None:
    recorder.add(name, document, time.time())
    log.debug("a sample was recorded", extra={"node": name})


def record(config: Config, *, path: Path, retention: Retention, targets: Sequence[Target]) -> None:
    """Record until SIGTERM or SIGINT; without targets, this machine. Raises ConfigError or HistoryError."""
    stop = threading.Event()
    ending = Ending(ENDS | {signal.SIGHUP})  # a closed terminal ends it as well
    # The history is closed first: there may be no time for who hangs, and it is to have all that was seen.
    with ExitStack() as running, closing(Recorder(path, retention=retention)) as recorder:
        machine: ThisMachine | None = None
        if targets:
            watchers = Watchers(targets, interval=config.collection.interval, recorder=recorder)
            running.enter_context(closing(watchers)).start()
        else:
            machine = ThisMachine(config, tell=partial(_add, recorder))
            running.enter_context(closing(machine)).start()
        recorder.start()
        what = ",".join(target.name for target in targets) or (machine.name if machine else "")
        ending.leave = stop.set
        log.info("recording", extra={"file": str(path), "machines": what})
        stop.wait()
    if machine is not None and machine.stuck:
        quit_now(0)
