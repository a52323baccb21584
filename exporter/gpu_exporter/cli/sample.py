"""The command line of ``gpu-exporter sample``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from gpu_exporter.catalog import by_name
from gpu_exporter.cli.options import load_config, with_settings
from gpu_exporter.model import Reading, Snapshot
from gpu_exporter.sampling.tenancy import holder_names

_GIB: Final = 1024**3


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
@with_settings
def sample(form: str, tape: Path | None, ticks: int, *, names: bool, config_file: Path | None, **given: Any) -> int:
    """Write one reading of every GPU to standard output.

    The status is 0 where every GPU answered, 1 where some did not, 2 where there is no source.
    """
    from gpu_exporter import app, logs  # noqa: PLC0415 - other commands start faster without

    if tape is None and (names or ticks != 1):
        raise click.UsageError("--ticks and --record-names are of a recording; write --record FILE as well")
    config, _ = load_config(config_file, given)
    logs.configure(config.log, quiet=True)
    if tape is None:
        snapshot, trouble = app.read_once(config)
    else:
        snapshot, trouble = app.record(config, tape, readings=ticks, names=names)
    if not snapshot.readings:
        click.echo(f"gpu-exporter: no GPU: {trouble or 'the driver lists none'}", err=True)
        return 2
    if form == "prometheus":
        from gpu_exporter.host import HostWatch  # noqa: PLC0415 - only this form needs it

        page = app.build_page(config, hostname=HostWatch(config.host).latest().name)
        click.echo(page.body(snapshot, openmetrics=False, gzip=False), nl=False)
    elif form == "json":
        from gpu_exporter.pages.documents import gpus_document  # noqa: PLC0415 - only this form needs it

        click.echo(json.dumps(gpus_document(snapshot), indent=2))
    else:
        click.echo(_table(snapshot))
    return int(snapshot.gpus_up < snapshot.gpus_found)


def _table(snapshot: Snapshot) -> str:
    """The readings as aligned columns; n/a is what a GPU does not have."""
    head = ("GPU", "MODEL", "STATE", "UTIL", "MEMORY", "TEMP", "POWER", "HELD BY", "UUID")
    rows = [head, *(_row(reading) for reading in snapshot.readings)]
    right = {"UTIL", "MEMORY", "TEMP", "POWER"}
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(head, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    if snapshot.simulated:
        lines.append("simulated data: no real GPU was read")
    return "\n".join(lines)


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
    first = "".join(char if char.isprintable() else "?" for char in names[0]) or "unknown"
    return first if len(names) == 1 else f"{first} +{len(names) - 1}"


def _cell(reading: Reading, name: str, scale: float, form: str) -> str:
    value = reading.values.get(by_name(name))
    return "n/a" if value is None else form.format(value * scale)


def _of(reading: Reading, part: str, whole: str, scale: float, unit: str) -> str:
    form = "{:.1f}" if unit == "GiB" else "{:.0f}"
    values = _cell(reading, part, scale, form), _cell(reading, whole, scale, form)
    return "n/a" if values == ("n/a", "n/a") else f"{values[0]} / {values[1]} {unit}"
