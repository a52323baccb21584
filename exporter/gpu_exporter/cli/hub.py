"""The command line of ``gpu-exporter hub``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from gpu_exporter.cli.arenas import bound_arenas
from gpu_exporter.cli.extras import need
from gpu_exporter.cli.options import check_environment, completed
from gpu_exporter.config import ConfigError, LogConfig, settings
from gpu_exporter.config.parsers import RefusedError, listen_addresses, networks

T = TypeVar("T")
_LOG: Final = {setting.key: setting for setting in settings() if setting.key.startswith("log.")}
_NEEDED: Final = ("aiohttp", "dns", "jinja2", "msgspec", "starlette", "uvicorn")


def _file(flag: str, name: str, variable: str, text: str, default: Path | None = None) -> Callable[..., Any]:
    return click.option(
        flag, name, envvar=variable, type=click.Path(path_type=Path, readable=False), metavar="FILE", help=text,
        default=default, show_default=default is not None,
    )  # fmt: skip


def _log(key: str, name: str, metavar: str) -> Callable[..., Any]:
    setting = _LOG[key]
    return click.option(
        setting.flag, name, envvar=setting.variable, metavar=metavar, help=setting.help,
        shell_complete=completed(setting),
    )  # fmt: skip


@click.command(short_help="Show all machines on one page, without a Prometheus.")
@_file(
    "--nodes.file",
    "nodes_file",
    "GPU_EXPORTER_NODES_FILE",
    "The machines: a file that Prometheus's file_sd_configs reads, YAML or JSON; read again when it changes.",
    Path("nodes.yml"),
)
@_file(
    "--hub.config.file",
    "config_file",
    "GPU_EXPORTER_HUB_CONFIG_FILE",
    "What nodes.yml does not tell: interval, passwords, DNS, thresholds; docs/HUB.md. Read again when it changes.",
)
@click.option(
    "--web.listen-address",
    "listen",
    envvar="GPU_EXPORTER_WEB_LISTEN_ADDRESS",
    multiple=True,
    metavar="ADDRESS",
    default=("127.0.0.1:9436",),
    show_default="127.0.0.1:9436",
    help="Address and port to listen on; may be given again; without a host, on all of them.",
)
@click.option(
    "--web.allow",
    "allow",
    envvar="GPU_EXPORTER_WEB_ALLOW",
    metavar="NETWORKS",
    help="Networks that may connect, in CIDR form, with commas; without it everybody.",
)
@_file(
    "--web.config.file",
    "web_config_file",
    "GPU_EXPORTER_WEB_CONFIG_FILE",
    "Prometheus's web configuration file: TLS, client certificates, passwords; read again when it changes.",
)
@_file(
    "--history.path",
    "history_path",
    "GPU_EXPORTER_HISTORY_PATH",
    "SQLite file that keeps the past, for charts and results; docs/HISTORY.md. Without it nothing is kept.",
)
@click.option(
    "--prometheus.url",
    "prometheus_url",
    envvar="GPU_EXPORTER_PROMETHEUS_URL",
    metavar="URL",
    help="Prometheus, or what speaks its API, that scrapes the machines: charts and results come from there.",
)
@click.option(
    "--alertmanager.url",
    "alertmanager_url",
    envvar="GPU_EXPORTER_ALERTMANAGER_URL",
    metavar="URL",
    help="Alertmanager whose firing alerts are shown beside the machines; the hub itself alerts nobody.",
)
@click.option(
    "--alertmanager.external-url",
    "alertmanager_external_url",
    envvar="GPU_EXPORTER_ALERTMANAGER_EXTERNAL_URL",
    metavar="URL",
    help="Where browsers reach it, for the links that silence an alert [--alertmanager.url]; empty: no such links.",
)
@_log("log.level", "level", "LEVEL")
@_log("log.format", "form", "FORMAT")
def hub(
    *,
    listen: tuple[str, ...],
    allow: str | None,
    level: str | None,
    form: str | None,
    prometheus_url: str | None,
    alertmanager_url: str | None,
    alertmanager_external_url: str | None,
    **files: Any,
) -> None:
    """Show all machines on one page: which GPU is free, who holds what, which machine is down.

    SIGHUP reads the files again, SIGTERM and SIGINT stop. docs/HUB.md tells more.
    """
    check_environment()
    need("the hub", _NEEDED)
    from gpu_exporter import logs  # noqa: PLC0415 - other commands start faster without
    from gpu_exporter.hub import service  # noqa: PLC0415
    from gpu_exporter.hub.settings import url as settings_url  # noqa: PLC0415

    defaults = LogConfig()
    logs.configure(
        LogConfig(
            _parsed("--log.level", level, _LOG["log.level"].parse, defaults.level),
            _parsed("--log.format", form, _LOG["log.format"].parse, defaults.format),
        ),
        waits=False,
    )
    options = service.Options(
        listen=_parsed("--web.listen-address", ",".join(listen), listen_addresses, ()),
        allow=_parsed("--web.allow", allow, networks, ()),
        prometheus=None if prometheus_url is None else _prometheus(prometheus_url),
        alertmanager_url=_parsed("--alertmanager.url", alertmanager_url, settings_url, None),
        alertmanager_links=alertmanager_external_url
        and _parsed("--alertmanager.external-url", alertmanager_external_url, settings_url, None),
        **files,
    )
    if alertmanager_external_url and alertmanager_url is None:
        raise click.UsageError(
            "--alertmanager.external-url: no Alertmanager is asked that it could be of; write --alertmanager.url too"
        )
    bound_arenas()
    try:
        service.run(options)
    except service.StartError as error:
        raise click.ClickException(str(error)) from None
    finally:
        logs.flush()


def _prometheus(url: str) -> Any:
    """How the Prometheus is asked, with the login of the environment, as ``report`` does. Raises ClickException."""
    from gpu_exporter import report  # noqa: PLC0415 - nobody else needs it

    environment = os.environ.get
    try:
        return report.access(
            url,
            username=environment("GPU_EXPORTER_PROMETHEUS_USERNAME"),
            password=(environment("GPU_EXPORTER_PROMETHEUS_PASSWORD"), None),
            token=(environment("GPU_EXPORTER_PROMETHEUS_BEARER_TOKEN"), None),
        )
    except report.ReportError as error:
        raise click.ClickException(str(error)) from None


def _parsed(place: str, text: str | None, parse: Callable[[Any], T], default: Any) -> T:
    if text is None:
        return default  # type: ignore[no-any-return]
    try:
        return parse(text)
    except RefusedError as error:
        raise ConfigError(f"{place}: {error}") from None
