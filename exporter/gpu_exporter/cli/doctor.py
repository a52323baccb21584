"""The command line of ``gpu-exporter doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from gpu_exporter.cli.options import load_config, with_settings

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@with_settings(shown=("source", "collection.timeout", "owners.", "smi.", "dcgm."))
def doctor(config_file: Path | None, **given: Any) -> int:
    """Tell what works, what does not, and what to do about it.

    The status is 0 where nothing is wrong, 1 where something is.
    """
    from gpu_exporter import logs  # noqa: PLC0415 - other commands start faster without
    from gpu_exporter.cli.findings import findings  # noqa: PLC0415

    config, _ = load_config(config_file, given)
    logs.configure(config.log, quiet=True)
    failed = False
    for finding in findings(config):
        failed = failed or finding.state == "fail"
        state = click.style(f"{finding.state:<4}", fg=_COLOURS[finding.state])
        click.echo(f"{state}  {finding.what}: {finding.detail}")
        if finding.advice:
            click.echo(f"      -> {finding.advice}")
    return int(failed)
