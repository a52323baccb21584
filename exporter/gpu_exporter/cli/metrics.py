"""The command line of ``gpu-exporter metrics``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "json"]),
    default="markdown",
    show_default=True,
    help="How to write it.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="Write nothing; status 1 and the first difference where FILE is not the current reference.",
)
def metrics(form: str, check: Path | None) -> int:
    """Write the reference of all metrics."""
    from gpu_exporter.catalog import reference  # noqa: PLC0415 - other commands start faster without

    if check is None:
        click.echo(reference.markdown() if form == "markdown" else reference.as_json(), nl=False)
        return 0
    difference = reference.check(check)
    if difference:
        click.echo(f"gpu-exporter: {difference}", err=True)
    return int(bool(difference))
