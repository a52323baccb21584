"""The command line of ``gpu-exporter export``."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

import click

from gpu_exporter.catalog.simulated import is_simulated
from gpu_exporter.cli.history import parsed, with_history
from gpu_exporter.cli.options import check_environment
from gpu_exporter.config.parsers import moment


@click.command(short_help="Write a history as CSV.")
@with_history(required=True)
@click.option("--format", "form", type=click.Choice(["csv"]), default="csv", show_default=True, help="How to write it.")
@click.option(
    "--table",
    type=click.Choice(["gpus", "owners", "processes", "hosts"]),
    default="gpus",
    show_default=True,
    help="Which of its tables.",
)
@click.option("--from", "start", metavar="TIME", help="From when on, such as 2026-11-01 (UTC).  [default: all of it]")
@click.option("--to", "end", metavar="TIME", help="Until when.  [default: now]")
def export(*, history: Path, form: str, table: str, start: str | None, end: str | None) -> None:  # noqa: ARG001 - csv is all
    """Write a history as CSV to standard output: the header has the units, times are ISO 8601 in UTC.

    The status is 0, or 2 where the file cannot be read. It may be written meanwhile.
    """
    from gpu_exporter.history import HistoryError, Reader, csv_lines  # noqa: PLC0415 - other commands start faster without

    check_environment()
    since = 0.0 if start is None else parsed("--from", start, moment)
    until = time.time() if end is None else parsed("--to", end, moment)
    if until <= since:
        raise click.ClickException(f"--to: '{end}' is not after --from; write a later time")
    try:
        with closing(Reader(history)) as reader:
            known = reader.gpus()
            if simulated := sum(is_simulated(gpu.uuid) for gpu in known):
                # Not every table has a column for it, and what programs read is not changed.
                click.echo(f"gpu-exporter: simulated data: {simulated} of {len(known)} GPUs are not real", err=True)
            for line in csv_lines(reader, table, start=since, end=until):
                sys.stdout.write(line)
            sys.stdout.flush()
    except HistoryError as error:
        raise click.ClickException(f"--history.path: {error}") from None
