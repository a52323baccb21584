"""The command line of ``gpu-exporter check-config``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gpu_exporter.cli.options import check_environment
from gpu_exporter.config import from_environment, load


@click.command("check-config", short_help="Check configuration files.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--web.config.file",
    "web_config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check this web configuration file, with or without the other one.",
)
def check_config(file: Path | None, web_config_file: Path | None) -> None:
    """Check a configuration file without using it; status 2 and one line where it is refused.

    The scenario and the web configuration that it names are checked too, with the certificates named there; so are the
    variables of the environment that would go over it.
    """
    if file is None and web_config_file is None:
        raise click.UsageError("there is nothing to check; write a file or --web.config.file FILE")
    check_environment()
    load(file, from_environment(os.environ))
    if file is not None:
        web_config_file = web_config_file or _check(file)
        click.echo(f"{file}: ok")
    if web_config_file is not None:
        from gpu_exporter.http import access  # noqa: PLC0415 - only this file needs ssl

        access.check(web_config_file)
        click.echo(f"{web_config_file}: ok")


def _check(file: Path) -> Path | None:
    """Check the file; the web configuration file that it names."""
    from gpu_exporter.sources import source_kind  # noqa: PLC0415 - other commands start faster without

    config = load(file)
    source_kind(config).check(config)
    return config.web.config_file
