"""The command line of ``gpu-exporter help``."""

from __future__ import annotations

from typing import cast

import click


def _offered(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The commands that begin so, for a shell that completes."""
    return [name for name in _group(context).list_commands(context) if name.startswith(incomplete)]


@click.command()
@click.argument("command", required=False, shell_complete=_offered)
@click.pass_context
def help(context: click.Context, command: str | None) -> None:  # noqa: A001 - the command's name
    """List the commands, or tell what one of them does and takes, as its --help does."""
    group, above = _group(context), context.find_root()
    if command is None:
        click.echo(above.get_help())
        return
    name, found, _ = group.resolve_command(above, [command])
    if found is not None:
        click.echo(found.get_help(click.Context(found, info_name=name, parent=above)))


def _group(context: click.Context) -> click.Group:
    return cast("click.Group", context.find_root().command)
