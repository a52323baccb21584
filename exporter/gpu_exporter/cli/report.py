"""The command line of ``gpu-exporter report``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from gpu_exporter.catalog.owner_kinds import OWNER_KINDS
from gpu_exporter.cli.history import with_history
from gpu_exporter.cli.options import check_environment

_ACCESS: Final = ("headers", "username", "password_file", "bearer_token_file", "ca_file", "timeout")


class _Line(click.types.StringParamType):
    """Text; in the environment several stand one a line, because they hold blanks."""

    envvar_list_splitter = "\n"


def _file_option(name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--prometheus.NAME-file`` and its environment twin."""
    return click.option(
        f"--prometheus.{name}-file",
        f"{name.replace('-', '_')}_file",
        envvar=f"GPU_EXPORTER_PROMETHEUS_{name.replace('-', '_').upper()}_FILE",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help=text,
    )


@click.command(short_help="Tell who uses the GPUs, and who wastes them.")
@click.option(
    "--prometheus.url",
    "url",
    envvar="GPU_EXPORTER_PROMETHEUS_URL",
    metavar="URL",
    help="Prometheus, Thanos, Mimir or VictoriaMetrics: what stands before /api/v1.",
)
@with_history(required=False)
@click.option("--window", default="24h", show_default=True, metavar="DURATION", help="How far to look back.")
@click.option("--end", metavar="TIME", help="Where the window ends, such as 2026-11-01 (UTC).  [default: now]")
@click.option(
    "--by",
    type=click.Choice([*(rows.by for kind in OWNER_KINDS for rows in kind.rows), "gpu"]),
    default="user",
    show_default=True,
    help="What a row is.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to write it.",
)
@click.option("--match", default="", metavar="MATCHERS", help="Only series with these labels: 'cluster=\"berlin\"'.")
@click.option("--fail-over", metavar="SHARE", help="Status 1 where more of the held hours were idle: 20%.")
@click.option(
    "--price.kwh",
    "price_kwh",
    envvar="GPU_EXPORTER_PRICE_KWH",
    metavar="PRICE",
    help="Of a kWh, such as 0.30: says what the energy of each row costs.",
)
@click.option(
    "--price.gpu-hour",
    "price_gpu_hour",
    envvar="GPU_EXPORTER_PRICE_GPU_HOUR",
    metavar="PRICE",
    help="Of a GPU for an hour, such as 2.50: says what the hours held cost, and those held idle.",
)
@click.option(
    "--prometheus.header",
    "headers",
    multiple=True,
    envvar="GPU_EXPORTER_PROMETHEUS_HEADER",
    type=_Line(),
    metavar="HEADER",
    help="'X-Scope-OrgID: tenant'; may be given again (in the environment: one a line).",
)
@click.option(
    "--prometheus.username",
    "username",
    envvar="GPU_EXPORTER_PROMETHEUS_USERNAME",
    metavar="NAME",
    help="For basic authentication.",
)
@_file_option("password", "File with the password; or set GPU_EXPORTER_PROMETHEUS_PASSWORD.")
@_file_option("bearer-token", "File with the token; or set GPU_EXPORTER_PROMETHEUS_BEARER_TOKEN.")
@_file_option("ca", "PEM file of the CA that signed the server's certificate.")
@click.option(
    "--prometheus.timeout",
    "timeout",
    default="60s",
    show_default=True,
    envvar="GPU_EXPORTER_PROMETHEUS_TIMEOUT",
    metavar="DURATION",
    help="How long one query may take.",
)
def report(*, url: str | None, history: Path | None, **given: Any) -> int:
    """Tell who uses the GPUs, and who wastes them, from what a Prometheus has kept, or a history file.

    The status is 0, or 1 where --fail-over was exceeded, or 2 where there is no report.
    """
    from gpu_exporter import report as usage  # noqa: PLC0415 - other commands start faster without

    check_environment()
    source = click.get_current_context().get_parameter_source
    written = {name for name in ("url", "history") if source(name) is ParameterSource.COMMANDLINE}
    if written == {"url"}:
        history = None  # what stands in the environment is for when nothing was said
    elif written == {"history"}:
        url = None
    if (url is None) == (history is None):
        raise click.UsageError("where from? write --prometheus.url URL or --history.path FILE, one of them")
    environment = os.environ.get
    access = {name: given.pop(name) for name in _ACCESS}
    try:
        if history is not None:
            return usage.run(usage.Options(history, **given))
        prometheus = usage.access(
            str(url),
            headers=access["headers"],
            username=access["username"],
            password=(environment("GPU_EXPORTER_PROMETHEUS_PASSWORD"), access["password_file"]),
            token=(environment("GPU_EXPORTER_PROMETHEUS_BEARER_TOKEN"), access["bearer_token_file"]),
            ca_file=access["ca_file"],
            timeout=access["timeout"],
        )
        return usage.run(usage.Options(prometheus, **given))
    except usage.ReportError as error:
        raise click.ClickException(str(error)) from None
