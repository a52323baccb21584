"""The command line of ``gpu-exporter check``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from gpu_exporter.cli.options import load_config, with_settings
from gpu_exporter.config import Config, ConfigError
from gpu_exporter.config.parsers import RefusedError, duration_between

_Format = Literal["text", "json", "nagios"]


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    try:
        return duration_between(0.1, 600)(value)
    except RefusedError as error:
        raise click.UsageError(f"--timeout: {error}") from None


@click.command(short_help="Tell whether every GPU is fit for work: a verdict and an exit status.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "nagios"]),
    default="text",
    show_default=True,
    help="How to write it; the first line of text, and reason in json, have at most 80 characters.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["warning", "critical"]),
    default="warning",
    show_default=True,
    help="From what on the status is not 0; what is not known always counts.",
)
@click.option(
    "--expect-gpus",
    type=click.IntRange(0, 4096),
    metavar="N",
    help="How many GPUs there should be: fewer are critical, 0 is a machine without. Else collection.expected_gpus.",
)
@click.option(
    "--timeout",
    default="20s",
    show_default=True,
    metavar="DURATION",
    callback=_seconds,
    help="How long the driver may take to be opened and to answer, all of it; unknown after that.",
)
@with_settings
def check(
    form: _Format,
    fail_on: Literal["warning", "critical"],
    expect_gpus: int | None,
    timeout: float,
    config_file: Path | None,
    **given: Any,
) -> int:
    """Judge every GPU, and the machine, from one reading; nothing is changed or drained.

    The thresholds are those of the alert rules (docs/CHECK.md). The status is 0 healthy, 1 warning, 2 critical, 3
    unknown: no driver, one that hangs, or a mistake in flags and settings.
    """
    from gpu_exporter import logs  # noqa: PLC0415 - other commands start faster without
    from gpu_exporter.app import read_once  # noqa: PLC0415
    from gpu_exporter.host import HostWatch  # noqa: PLC0415
    from gpu_exporter.verdict import judge, render  # noqa: PLC0415

    host, snapshot = "", None
    try:
        config, _ = load_config(config_file, given)
        logs.configure(config.log, quiet=True)
        host = HostWatch(config.host).latest().name
        snapshot, trouble = read_once(_only_health(config), deadline=timeout)
        expected = config.collection.expected_gpus if expect_gpus is None else expect_gpus
        verdict = judge.judge(snapshot, trouble, expected=expected, now=time.time())
    except ConfigError as error:
        click.echo(f"gpu-exporter: {error}", err=True)
        verdict = judge.unknown(str(error))
    if form == "json":
        click.echo(render.document(verdict, host=host, fail_on=fail_on))
    elif form == "nagios":
        click.echo(render.nagios(verdict, snapshot, fail_on))
    else:
        click.echo(render.text(verdict))
    return render.exit_code(verdict, fail_on)


def _only_health(config: Config) -> Config:
    """Who holds the GPUs is not asked for: it takes time, and says nothing of their health."""
    return replace(
        config,
        processes=replace(config.processes, enabled=False),
        owners=replace(config.owners, procfs=False, kubernetes=False),
    )
