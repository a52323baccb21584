"""The command line of ``gpu-exporter serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpu_exporter.cli.options import load_config, with_settings


@click.command(short_help="Publish the readings by HTTP (the default command).")
@with_settings
def serve(config_file: Path | None, **given: Any) -> None:
    """Publish the readings by HTTP until told to stop (the default command).

    SIGHUP reads the configuration again, SIGUSR1 closes the driver for collection.pause (again: opens it), SIGTERM and
    SIGINT stop.
    """
    from gpu_exporter import daemon, logs  # noqa: PLC0415 - other commands start faster without

    config, overrides = load_config(config_file, given)
    logs.configure(config.log)
    try:
        daemon.serve(config, path=config_file, overrides=overrides)
    except daemon.StartError as error:
        raise click.ClickException(str(error)) from None
