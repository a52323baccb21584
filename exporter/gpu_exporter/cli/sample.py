"""The command line of ``gpu-exporter sample``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from gpu_exporter.catalog import by_name
from gpu_exporter.catalog.simulated import SIMULATED
from gpu_exporter.cli.options import load_config, with_settings
from gpu_exporter.config import Config
from gpu_exporter.config.parsers import printable
from gpu_exporter.model import Reading, Snapshot
from gpu_exporter.sampling.tenancy import holder_names

_GIB: Final = 1024**3
# The settings of one reading; those of a daemon are taken as well, and are no part of the help.
SHOWN: Final = ("source", "collection.", "processes.", "owners.", "smi.", "dcgm.", "fake.", "log.level")


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "prometheus", "json"]),
    default="table",
    show_default=True,
    help="How to write it.",
)
@click.option(
    "--record",
    "tape",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write what the driver answered into FILE, for --source replay:FILE (docs/RECORDINGS.md).",
)
@click.option(
    "--ticks",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="How many readings to record, collection.interval apart; the last one is written to standard output.",
)
@click.option(
    "--record-names",
    "names",
    is_flag=True,
    help="Record serial numbers, and names of users, processes and pods, as they are, not left out or numbered.",
)
@click.option(
    "--watch",
    is_flag=True,
    help='Write the table again at every collection.interval, until Ctrl-C; "gpu-exporter top" shows more.',
)
@with_settings(shown=SHOWN)
def sample(
    form: str,
    tape: Path | None,
    ticks: int,
    *,
    names: bool,
    watch: bool,
    config_file: Path | None,
    **given: Any,
) -> int:
    """Write one reading of every GPU to standard output. The table fits the terminal.

    The status is 0 where every GPU answered, 1 where some did not, 2 where there is no source.
    """
    from gpu_exporter import app, logs  # noqa: PLC0415 - other commands start faster without

    if tape is None and (names or ticks != 1):
        raise click.UsageError("--ticks and --record-names are of a recording; write --record FILE as well")
    if watch and (tape is not None or form != "table"):
        raise click.UsageError("--watch is for the table; leave --record and --format out")
    config, _ = load_config(config_file, given)
    logs.configure(config.log, quiet=True)
    if watch:
        return _watch(config)
    if tape is None:
        snapshot, trouble = app.read_once(config)
    else:
        snapshot, trouble = app.record(config, tape, readings=ticks, names=names)
    if not snapshot.readings:
        click.echo(f"gpu-exporter: no GPU: {trouble or 'the driver lists none'}", err=True)
        return 2
    if form == "prometheus":
        page = app.build_page(config, hostname=_machine(config))
        click.echo(page.body(snapshot, openmetrics=False, gzip=False), nl=False)
    elif form == "json":
        from gpu_exporter.pages.documents import gpus_document  # noqa: PLC0415 - only this form needs it

        click.echo(json.dumps(gpus_document(snapshot, host=_machine(config)), indent=2))
    else:
        click.echo(_table(snapshot, _machine(config), width=_width()))
    return int(snapshot.gpus_up < snapshot.gpus_found)


def _watch(config: Config) -> NoReturn:
    """The table at every reading; on a terminal in the place of the one before."""
    from gpu_exporter import app  # noqa: PLC0415

    machine = _machine(config)
    for snapshot, trouble in app.read_on(config):
        click.clear()
        table = _table(snapshot, machine, width=_width()) if snapshot.readings else f"no GPU: {trouble or 'none there'}"
        click.echo(f"{datetime.now().astimezone():%H:%M:%S}\n{table}")
    raise AssertionError  # it goes on until Ctrl-C


def _machine(config: Config) -> str:
    from gpu_exporter.host import HostWatch  # noqa: PLC0415

    return HostWatch(config.host).latest().name


def _width() -> int | None:
    """Columns that the reader has; None where no terminal reads, and nobody said how wide it is."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return max(40, shutil.get_terminal_size((80, 24)).columns)
    return None


def _table(snapshot: Snapshot, machine: str, *, width: int | None) -> str:
    """The readings as aligned columns; n/a is what a GPU does not have."""
    rows: Sequence[Sequence[str]] = [_HEAD, *(_row(reading) for reading in snapshot.readings)]
    if width is not None:
        rows = _narrowed(rows, width)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if title in _RIGHT else cell.ljust(width)
            for title, cell, width in zip(rows[0], row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    driver = snapshot.driver.driver_version if snapshot.driver is not None else ""
    lines.append(f"{machine or 'this machine'}: {f'driver {driver}, ' if driver else ''}source {snapshot.source}")
    if snapshot.simulated:
        lines.append(SIMULATED)
    return "\n".join(lines)


def _narrowed(rows: Sequence[Sequence[str]], width: int) -> list[tuple[str, ...]]:
    """Less of what can be done without, in that order, until a line fits: UUIDs, makers, long names, power, states."""
    columns = {row[0]: list(row) for row in zip(*rows, strict=True)}

    def over() -> int:
        return sum(max(map(len, column)) for column in columns.values()) + 2 * (len(columns) - 1) - width

    for step in _STEPS:
        if over() <= 0:
            break
        step(columns, over())
    return list(zip(*columns.values(), strict=True))


def _without(name: str) -> Callable[[dict[str, list[str]], int], None]:
    def drop(columns: dict[str, list[str]], _: int) -> None:
        columns.pop(name)

    return drop


def _shorter(name: str, least: int) -> Callable[[dict[str, list[str]], int], None]:
    """Cut a column by what is too much, but for its first characters."""

    def cut(columns: dict[str, list[str]], over: int) -> None:
        most = max(least, max(map(len, columns[name])) - over)
        columns[name] = [text if len(text) <= most else text[: most - 1] + "~" for text in columns[name]]

    return cut


def _without_maker(columns: dict[str, list[str]], _: int) -> None:
    columns["MODEL"] = [text.removeprefix("NVIDIA ").removeprefix("GeForce ") for text in columns["MODEL"]]


def _closer(columns: dict[str, list[str]], _: int) -> None:
    for name in ("MEMORY", "POWER"):
        columns[name] = [text.replace(" / ", "/") for text in columns[name]]
    columns["UTIL"] = [text.replace(" %", "%") for text in columns["UTIL"]]


_HEAD: Final = ("GPU", "MODEL", "STATE", "UTIL", "MEMORY", "TEMP", "POWER", "HELD BY", "UUID")
_RIGHT: Final = frozenset({"UTIL", "MEMORY", "TEMP", "POWER"})
_STEPS: Final = (
    _without("UUID"),
    _without_maker,
    _closer,
    _shorter("HELD BY", 12),
    _shorter("MODEL", 8),
    _without("POWER"),
    _without("STATE"),
    _without("MODEL"),
    _shorter("HELD BY", 7),
)


def _row(reading: Reading) -> Sequence[str]:
    device = reading.device
    state = "up" if reading.failure is None else reading.failure.reason
    return (
        str(device.index),
        device.model or "unknown",
        state,
        _cell(reading, "gpu_utilization_ratio", 100, "{:.0f} %"),
        _of(reading, "gpu_memory_used_bytes", "gpu_memory_total_bytes", 1 / _GIB, "GiB"),
        _cell(reading, "gpu_temperature_celsius", 1, "{:.0f} °C"),
        _of(reading, "gpu_power_watts", "gpu_power_limit_watts", 1, "W"),
        _held_by(reading),
        device.uuid or "unknown",
    )


def _held_by(reading: Reading) -> str:
    names = holder_names(reading)
    if not names:
        return "n/a" if names is None else "nobody"
    # A name may hold anything that a terminal would obey.
    first = printable(names[0]) or "unknown"
    return first if len(names) == 1 else f"{first} +{len(names) - 1}"


def _cell(reading: Reading, name: str, scale: float, form: str) -> str:
    value = reading.values.get(by_name(name))
    return "n/a" if value is None else form.format(value * scale)


def _of(reading: Reading, part: str, whole: str, scale: float, unit: str) -> str:
    form = "{:.1f}" if unit == "GiB" else "{:.0f}"
    values = _cell(reading, part, scale, form), _cell(reading, whole, scale, form)
    return "n/a" if values == ("n/a", "n/a") else f"{values[0]} / {values[1]} {unit}"
