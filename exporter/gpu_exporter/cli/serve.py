"""The command line of ``gpu-exporter serve``."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from gpu_exporter.cli.arenas import bound_arenas
from gpu_exporter.cli.options import load_config, with_settings, without_effect
from gpu_exporter.ending import quit_now

log = logging.getLogger(__name__)

# Bytes of address space a thread, for 8 MiB by default: 80 connections fit where it is limited (ulimit -v). What the
# driver's library needs is not told; musl gives all threads an eighth of this.
_STACK: Final = 1024 * 1024


@click.command(short_help="Publish the readings by HTTP (the default command).")
@with_settings
def serve(config_file: Path | None, **given: Any) -> None:
    """Publish the readings by HTTP until told to stop (the default command).

    SIGHUP reads the configuration again, SIGUSR1 closes the driver for collection.pause (again: opens it), SIGTERM and
    SIGINT stop.
    """
    from gpu_exporter import daemon, logs  # noqa: PLC0415 - other commands start faster without
    from gpu_exporter.app import StartError  # noqa: PLC0415

    config, overrides = load_config(config_file, given, told=False)
    logs.configure(config.log, waits=False)
    for line in without_effect(config.source, overrides):
        log.warning("%s", line)
    bound_arenas(1)  # a second one is 0.3 MiB, and threads that wait for one another's Python do not need it
    threading.stack_size(_STACK)
    try:
        daemon.serve(config, path=config_file, overrides=overrides, settled=_settle)
    except StartError as error:
        click.echo("gpu-exporter: " + " ".join(str(error).split("\n")), err=True)
        quit_now(2)  # a call may hang in the driver, whose exit handlers would wait for it


def _settle() -> None:
    """Give back what starting needed; call it after the first reading.

    What is there by then stays for good: the garbage collector need not walk it again and again. malloc keeps what was
    freed between what stays, 0.9 MiB with one GPU.
    """
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
