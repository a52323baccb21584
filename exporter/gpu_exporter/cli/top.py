"""The command line of ``gpu-exporter top``."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

import click

from gpu_exporter.cli.free import PATIENCE, QUICK, blindness, end_at_once, tell
from gpu_exporter.cli.origin import beat, missing_libraries, origin, with_origin
from gpu_exporter.ending import quit_now

_LIVE: Final = "textual"


@click.command()
@click.option("--once", is_flag=True, help="Write what there is as text that fits the terminal, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: write it as JSON.")
@click.option(
    "--interval",
    metavar="DURATION",
    envvar="GPU_EXPORTER_TOP_INTERVAL",
    help="How often it is looked.  [default: 5s, or hub.yml's]",
)
@click.option("--filter", "words", default="", metavar="WORDS", help="Only what has these words, as the key / does.")
@click.option("--user", default="", metavar="NAME", help="Only GPUs and processes of this user, as the key u does.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw without characters beyond ASCII.")
@with_origin
def top(
    *, once: bool, as_json: bool, interval: str | None, words: str, user: str, ascii_only: bool, **where: Any
) -> int:
    """Show machines, GPUs and processes in the terminal; q ends it, ? lists the keys. It ends no process.

    With --once the status is 0 where every machine and GPU answered, 1 where some did not, 2 where there is nothing to
    look at. docs/TOP.md tells more.
    """
    if as_json and not once:
        raise click.UsageError("--json is of one look; write --once --json")
    # One command for both: who looks once wants to see it live next.
    missing_libraries("top", *(() if once else (_LIVE,)), also=(_LIVE,))
    from gpu_exporter.hub.client.client import Client  # noqa: PLC0415 - other commands start faster without
    from gpu_exporter.top import once as look_once  # noqa: PLC0415
    from gpu_exporter.top.lines import Pen  # noqa: PLC0415
    from gpu_exporter.top.look import Look  # noqa: PLC0415
    from gpu_exporter.top.terminal import columns, spells_ascii, undrawable  # noqa: PLC0415

    pace = beat(interval)
    look = Look(words=words, user=user)
    if not once:
        if why := undrawable():
            raise click.ClickException(f"{why}; write --once for text, or --once --json")
        from gpu_exporter.top.app import show  # noqa: PLC0415

        client = Client(origin(interval=pace, **where))
        ended = show(client, look, ascii_only=ascii_only or spells_ascii())
        if client.hung:
            quit_now(ended)
        return ended
    end_at_once()
    client = Client(origin(interval=pace or QUICK, **where))
    with closing(client):
        client.start()
        view = client.settled(2 * client.origin.interval + PATIENCE)
    pen = Pen(columns(), ascii_only=ascii_only or spells_ascii())
    click.echo(
        look_once.document(view) if as_json else look_once.text(view, look, pen, interval=client.origin.interval)
    )
    status = look_once.status(view)
    if status == 2 and (trouble := blindness(view)):
        tell(trouble)
    if client.hung:
        quit_now(status)
    return status
