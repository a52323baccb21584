"""The command line of ``gpu-exporter test-mail``."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

import click

from gpu_exporter.cli.history import parsed
from gpu_exporter.cli.options import check_environment
from gpu_exporter.config.parsers import duration_between


@click.command("test-mail", short_help="Fire a test alert, and say where it went.")
@click.option(
    "--alertmanager.url",
    "url",
    envvar="GPU_EXPORTER_ALERTMANAGER_URL",
    default="http://localhost:9093",
    show_default=True,
    metavar="URL",
    help="The Alertmanager: what stands before /api/v2.",
)
@click.option(
    "--severity",
    type=click.Choice(["critical", "warning", "info"]),
    default="critical",
    show_default=True,
    help="Whose route it takes.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another label of the alert, such as cluster=berlin or owner=alice; may be given again.",
)
@click.option(
    "--wait", default="60s", show_default=True, metavar="DURATION", help="How long to wait for it to be sent."
)
def test_mail(*, url: str, severity: str, labels: Sequence[str], wait: str) -> int:
    """Fire a test alert through the real Alertmanager, and say which receiver it took and whether it was sent.

    The alert says that it is a test, names no GPU, and ends by itself. The status is 0, or 1 where it was not sent, or
    2 where nothing could be tried.
    """
    from gpu_exporter import rehearsal  # noqa: PLC0415 - other commands start faster without

    check_environment()
    seconds = parsed("--wait", wait, duration_between(1.0, 3600.0))
    given = {"severity": severity, **dict(_label(text) for text in labels)}
    try:
        sent = rehearsal.rehearse(url, labels=given, wait=seconds, host=socket.gethostname(), say=click.echo)
    except rehearsal.RehearsalError as error:
        raise click.ClickException(str(error)) from None
    return 0 if sent else 1


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or not equals or not value:
        raise click.ClickException(f"--label: '{text}' is not a label; write cluster=berlin")
    return name, value
