"""The command line of ``gpu-exporter check-config``."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import click

from gpu_exporter.cli.extras import missing
from gpu_exporter.cli.options import check_environment
from gpu_exporter.config import from_environment, load, read_yaml, settings
from gpu_exporter.config.installed import remedy

Kind: TypeAlias = Literal["exporter", "nodes", "hub"]
_LARGEST: Final = 4 * 1024**2  # bytes, of a list of machines


def _file(flag: str, name: str, text: str) -> Callable[..., Any]:
    return click.option(flag, name, type=click.Path(path_type=Path, readable=False), metavar="FILE", help=text)


@click.command("check-config", short_help="Check configuration files.")
@click.argument("file", type=click.Path(path_type=Path, readable=False), required=False)
@_file("--web.config.file", "web_config_file", "Check this web configuration file, with or without the other ones.")
@_file("--nodes.file", "nodes_file", "Check this list of machines, the hub's nodes.yml.")
@_file("--hub.config.file", "hub_file", "Check this hub.yml.")
def check_config(
    file: Path | None, web_config_file: Path | None, nodes_file: Path | None, hub_file: Path | None
) -> None:
    """Check a configuration file without using it; status 2 and one line where it is refused.

    FILE is an exporter's configuration, a nodes.yml or a hub.yml: what is in it tells which. The scenario and the web
    configuration that it names are checked too, with the certificates, passwords and tokens named there; so are the
    variables of the environment that would go over it.
    """
    if file is None and web_config_file is None and nodes_file is None and hub_file is None:
        raise click.UsageError(
            "there is nothing to check; write a file, or --web.config.file, --nodes.file or --hub.config.file FILE"
        )
    check_environment()
    kind = "exporter" if file is None else _kind(file)
    load(file if kind == "exporter" else None, from_environment(os.environ))
    if file is not None and kind == "exporter":
        web_config_file = web_config_file or _check_exporter(file)
        click.echo(f"{file}: ok")
    for path in dict.fromkeys((file if kind == "nodes" else None, nodes_file)):
        if path is not None:
            _check_nodes(path)
    for path in dict.fromkeys((file if kind == "hub" else None, hub_file)):
        if path is not None:
            _check_hub(path)
    if web_config_file is not None:
        from gpu_exporter.http import access  # noqa: PLC0415 - only this file needs ssl

        access.check(web_config_file)
        click.echo(f"{web_config_file}: ok")


def _kind(file: Path) -> Kind:
    """What the file is, by what is in it; where that says nothing, by its name. Raises ConfigError."""
    from gpu_exporter.hub.settings import HubConfig, entries  # noqa: PLC0415 - other commands start faster without

    if file.suffix.lower() == ".json":
        return "nodes"
    document = read_yaml(file, largest=_LARGEST)
    if isinstance(document, list) or (isinstance(document, dict) and "targets" in document):
        return "nodes"
    named: Kind = "nodes" if "nodes" in file.stem else "hub" if "hub" in file.stem else "exporter"
    keys = document if isinstance(document, dict) else ()
    of_exporter = _known(keys, (setting.key for setting in settings()))
    of_hub = _known(keys, (key for key, _, _ in entries(HubConfig)))
    if of_exporter == of_hub:
        return named
    return "hub" if of_hub > of_exporter else "exporter"


def _known(keys: Collection[Any], names: Any) -> int:
    tops = {name.partition(".")[0] for name in names}
    return sum(key in tops for key in keys)


def _check_exporter(file: Path) -> Path | None:
    """Check the file; the web configuration file that it names."""
    from gpu_exporter.sources import source_kind  # noqa: PLC0415 - other commands start faster without

    config = load(file)
    source_kind(config).check(config)
    return config.web.config_file


def _check_nodes(file: Path) -> None:
    from gpu_exporter.hub import nodes  # noqa: PLC0415

    found = nodes.load(file)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    count = len(found.nodes)
    click.echo(f"{file}: ok, {count} machine{'' if count == 1 else 's'}")


def _check_hub(file: Path) -> None:
    from gpu_exporter.hub import settings as hub_settings  # noqa: PLC0415

    config = hub_settings.load(file)
    if packages := missing(("aiohttp", "dns", "msgspec")):
        click.echo(f"{file}: ok, but what it names was not read; {remedy([*packages.values()])}")
        return
    from gpu_exporter.hub.fetching import access  # noqa: PLC0415

    access(config.http_config, scheme=config.scheme, timeout=config.deadline, beside=file)
    place = "control.http_config"
    access(config.control.http_config, scheme="http", timeout=config.control.timeout, beside=file, place=place)
    click.echo(f"{file}: ok")
