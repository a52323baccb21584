"""Where ``top``, ``free`` and ``desktop`` look: their options in common, and what these mean."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from gpu_exporter.cli.extras import need
from gpu_exporter.cli.history import parsed
from gpu_exporter.cli.options import load_config, with_settings
from gpu_exporter.config import Config
from gpu_exporter.config.parsers import duration_between, quoted

if TYPE_CHECKING:
    from gpu_exporter.hub.client.origins import Exporters, Hub, Machines, Origin, ThisMachine
    from gpu_exporter.hub.nodes import Node

_NEEDED: Final = ("aiohttp", "dns", "msgspec")
_PORT: Final = 9435
_HUB_PORT: Final = 9436
_PROBE: Final = 1.0  # seconds that an exporter of this machine has to answer
_HERE: Final = "this machine"


def with_origin(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as keywords, and hands them to ``origin``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return with_settings(command, shown=("source", "fake.", "smi.", "dcgm."))


_OPTIONS: Final = (
    click.option(
        "--target",
        "targets",
        multiple=True,
        envvar="GPU_EXPORTER_TARGET",
        metavar="HOST:PORT",
        help="An exporter to show; may be given again (in the environment: with blanks).  [default: this machine]",
    ),
    click.option(
        "--nodes.file",
        "nodes_file",
        envvar="GPU_EXPORTER_NODES_FILE",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="The machines to show: a file that Prometheus's file_sd_configs reads; read again when it changes.",
    ),
    click.option(
        "--hub",
        "hub_url",
        envvar="GPU_EXPORTER_HUB",
        metavar="URL",
        help='A hub whose machines are shown, such as http://gpu-a:9436; see "gpu-exporter hub".',
    ),
    click.option(
        "--hub.config.file",
        "hub_config_file",
        envvar="GPU_EXPORTER_HUB_CONFIG_FILE",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="The hub.yml with passwords, certificates and DNS for those that are asked; docs/HUB.md.",
    ),
)


def missing_libraries(command: str, *more: str, also: Sequence[str] = ()) -> None:
    """Raise ClickException where a library is not installed that the command needs; ``also`` is brought with them."""
    need(command, (*_NEEDED, *more), also=also)


def origin(
    *,
    interval: float | None,
    targets: tuple[str, ...],
    nodes_file: Path | None,
    hub_url: str | None,
    hub_config_file: Path | None,
    config_file: Path | None,
    **given: Any,
) -> Origin:
    """What the options ask for; ``interval`` in seconds, None as the files say. Raises ConfigError, ClickException.

    Without any of them this machine: what an exporter on it tells, or its driver where none runs, or where a source or
    another setting is asked for.
    """
    from gpu_exporter import logs  # noqa: PLC0415 - other commands start faster without

    config, overrides = load_config(config_file, given)
    logs.configure(config.log, quiet=True)
    own = config_file is not None or any(not key.startswith("log.") for key in overrides)
    return opened(
        interval=interval, targets=targets, nodes_file=nodes_file, hub_url=hub_url, hub_config_file=hub_config_file,
        config=config, own=own,
    )  # fmt: skip


def opened(
    *,
    interval: float | None,
    targets: tuple[str, ...],
    nodes_file: Path | None,
    hub_url: str | None,
    hub_config_file: Path | None,
    config: Config,
    own: bool,
) -> Origin:
    """The same of settings that were read before; ``own`` are they where this machine's driver is asked for.

    May be called on any thread, outside of a loop. Raises ConfigError, ClickException.
    """
    ways = [
        name
        for name, value in (("--target", targets), ("--nodes.file", nodes_file), ("--hub", hub_url))
        if value not in (None, ())
    ]
    if len(ways) > 1:
        raise click.UsageError(f"{' and '.join(ways)} cannot be given together; write one of them")
    if hub_url is not None:
        return _hub(hub_url, hub_config_file, interval)
    if nodes_file is not None:
        return _nodes(nodes_file, hub_config_file, interval)
    if targets:
        return _targets(targets, hub_config_file, interval)
    exporter = None if own else asyncio.run(_exporter_here(hub_config_file, interval))
    return exporter or _this_machine(config, interval)


def _hub(url: str, hub_config_file: Path | None, interval: float | None) -> Hub:
    from gpu_exporter.hub.client.origins import Hub  # noqa: PLC0415
    from gpu_exporter.hub.nodes import Node  # noqa: PLC0415

    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.username
    except ValueError:  # a port that is none
        usable = False
    if not usable or not re.fullmatch(r"[!-~]{1,2000}", text) or parts.query or parts.fragment:
        login = "; a login is for the file of --hub.config.file" if "@" in text else ""
        raise click.UsageError(
            f"--hub: {quoted(url)} is not a hub's address; write one such as http://gpu-a:9436{login}"
        )
    secure = parts.scheme == "https"
    port = parts.port or (
        443 if secure and "://" in url else 80 if "://" in url and parts.path.strip("/") else _HUB_PORT
    )
    node = Node(text, parts.hostname or "", port, scheme=parts.scheme)
    config, access, _ = _access(hub_config_file)
    return Hub(text.rstrip("/"), node, access, interval=interval or config.interval, prefix=parts.path.rstrip("/"))


def _nodes(nodes_file: Path, hub_config_file: Path | None, interval: float | None) -> Exporters:
    from gpu_exporter.hub import nodes  # noqa: PLC0415
    from gpu_exporter.hub.client.origins import Exporters, Machines  # noqa: PLC0415

    def read() -> Machines:
        _, access, dns = _access(hub_config_file)
        return Machines(nodes.load(nodes_file), access, dns)

    machines = read()
    config, _, _ = _access(hub_config_file)
    files = (nodes_file,) if hub_config_file is None else (nodes_file, hub_config_file)
    return Exporters(str(nodes_file), machines, interval=interval or config.interval, read=read, files=files)


def _targets(targets: tuple[str, ...], hub_config_file: Path | None, interval: float | None) -> Exporters:
    from gpu_exporter.hub.client.origins import Exporters, Machines  # noqa: PLC0415
    from gpu_exporter.hub.nodes import Nodes  # noqa: PLC0415

    found = tuple(parsed("--target", text, _target) for text in dict.fromkeys(targets))
    config, access, dns = _access(hub_config_file)
    name = found[0].name if len(found) == 1 else f"{len(found)} machines"
    return Exporters(name, Machines(Nodes(found), access, dns), interval=interval or config.interval)


async def _exporter_here(hub_config_file: Path | None, interval: float | None) -> Exporters | None:
    """The exporter that runs on this machine, under the machine's name; None where there is none that lets us in."""
    from gpu_exporter.hub.client.origins import Exporters, Machines  # noqa: PLC0415
    from gpu_exporter.hub.document import shown  # noqa: PLC0415
    from gpu_exporter.hub.fetching import Fetcher, FetchError  # noqa: PLC0415
    from gpu_exporter.hub.names import Names  # noqa: PLC0415
    from gpu_exporter.hub.nodes import Node, Nodes  # noqa: PLC0415

    config, access, dns = _access(hub_config_file, timeout=_PROBE)
    fetcher = Fetcher(access, names := Names(None))
    try:
        fetched = await fetcher.fetch(Node("localhost", "127.0.0.1", _PORT))
    except FetchError:
        return None
    finally:
        await fetcher.close()
        await names.close()
    name = shown(fetched.document.host.name) if fetched is not None else ""
    node = Node(name or "localhost", "127.0.0.1", _PORT)
    _, access, _ = _access(hub_config_file)
    return Exporters(_HERE, Machines(Nodes((node,)), access, dns), interval=interval or config.interval)


def _this_machine(config: Config, interval: float | None) -> ThisMachine:
    from dataclasses import replace  # noqa: PLC0415

    from gpu_exporter.hub.client.origins import ThisMachine  # noqa: PLC0415
    from gpu_exporter.local import ThisMachine as Reader  # noqa: PLC0415

    beat = interval or config.collection.interval
    paced = replace(config, collection=replace(config.collection, interval=beat))
    return ThisMachine(_HERE, lambda tell: Reader(paced, tell=tell), interval=beat)


def _access(hub_config_file: Path | None, timeout: float | None = None) -> Any:
    """hub.yml, how it has machines asked, and its DNS server. Raises ConfigError."""
    from gpu_exporter.hub import settings  # noqa: PLC0415
    from gpu_exporter.hub.fetching import access  # noqa: PLC0415

    config = settings.load(hub_config_file)
    how = access(config.http_config, scheme=config.scheme, timeout=timeout or config.deadline, beside=hub_config_file)
    return config, how, config.dns.server


def _target(text: str) -> Node:
    """A target as it is written on the command line. Raises RefusedError."""
    from gpu_exporter.hub.nodes import Node  # noqa: PLC0415
    from gpu_exporter.recording.targets import parse_target  # noqa: PLC0415

    target = parse_target(text)
    scheme = "https" if target.tls else "http" if text.startswith("http://") else ""
    return Node(target.name, target.host, target.port, scheme=scheme)


def beat(text: str | None) -> float | None:
    """How often it is looked, in seconds, as --interval has it. Raises ConfigError."""
    return None if text is None else parsed("--interval", text, duration_between(0.5, 600))
