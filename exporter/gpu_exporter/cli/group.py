"""The commands, and how refusals of any of them are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from gpu_exporter import __version__
from gpu_exporter.cli.report import report
from gpu_exporter.config import Config, ConfigError, Setting, load, settings

Overrides = dict[str, tuple[str, str]]


def main() -> NoReturn:
    """Run the command line; every refusal is one line on standard error and status 2."""
    try:
        status = cli.main(prog_name="gpu-exporter", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.NoSuchOption as error:
        _refuse(f"{error.format_message()} gpu-exporter {_named(error.ctx)}--help lists what there is.")
    except click.ClickException as error:
        _refuse(error.format_message())
    except ConfigError as error:
        _refuse(str(error))
    except BrokenPipeError:
        # The reader of our output (head, grep -q) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _named(context: click.Context | None) -> str:
    name = context.command.name if context is not None else None
    return f"{name} " if name else ""


def _refuse(message: str) -> NoReturn:
    click.echo("gpu-exporter: " + " ".join(message.split("\n")), err=True)
    sys.exit(2)


class _DefaultGroup(click.Group):
    """A group whose default command is ``serve``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            raise click.UsageError(f"'{args[0]}' is not a command; write one of {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


def _with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add one option a setting, and the configuration file; the command gets ``config_file`` and ``given``."""
    for setting in reversed(list(settings())):
        switch = setting.switch
        default = f"  [default: {setting.shown}]" if setting.shown and not switch else ""
        command = click.option(
            setting.flag,
            _parameter(setting),
            # Of a switch click would take any true word in the environment for its flag, which may mean "off".
            envvar=None if switch else setting.variable,
            metavar=None if switch else _metavar(setting.key),
            help=("Off: " if switch == "false" else "") + setting.help + default,
            is_flag=switch is not None,
            flag_value=switch,
        )(command)
    return click.option(
        "--config.file",
        "config_file",
        envvar="GPU_EXPORTER_CONFIG_FILE",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML file with these settings; flags and environment go over it. SIGHUP reads it again.",
    )(command)


def _parameter(setting: Setting) -> str:
    return setting.key.replace(".", "__")


def _metavar(key: str) -> str:
    return key.rpartition(".")[2].upper()


def _overrides(given: dict[str, Any]) -> Overrides:
    """Settings from flags and environment, with the place where each was written."""
    context = click.get_current_context()
    overrides: Overrides = {}
    for setting in settings():
        name = _parameter(setting)
        text, source = given[name], context.get_parameter_source(name)
        if text is None and setting.switch and os.environ.get(setting.variable):
            text, source = os.environ[setting.variable], ParameterSource.ENVIRONMENT
        if text is not None:
            place = setting.variable if source is ParameterSource.ENVIRONMENT else setting.flag
            overrides[setting.key] = (place, str(text))
    return overrides


def _load(config_file: Path | None, given: dict[str, Any]) -> tuple[Config, Overrides]:
    overrides = _overrides(given)
    return load(config_file, overrides), overrides


@click.group(cls=_DefaultGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Prometheus exporter for NVIDIA GPUs: which is sick, which is wasted, and who holds it.

    Without a command, serve; "gpu-exporter serve --help" lists the flags. Each has an environment twin:
    --web.telemetry-path is GPU_EXPORTER_WEB_TELEMETRY_PATH.
    """


@cli.command(short_help="Publish the readings by HTTP (the default command).")
@_with_settings
def serve(config_file: Path | None, **given: Any) -> None:
    """Publish the readings by HTTP until told to stop (the default command).

    SIGHUP reads the configuration again, SIGUSR1 closes the driver for collection.pause (again: opens it), SIGTERM and
    SIGINT stop.
    """
    from gpu_exporter import daemon, logs  # noqa: PLC0415 - other commands start faster without

    config, overrides = _load(config_file, given)
    logs.configure(config.log)
    try:
        daemon.serve(config, path=config_file, overrides=overrides)
    except daemon.StartError as error:
        raise click.ClickException(str(error)) from None


@cli.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "prometheus", "json"]),
    default="table",
    show_default=True,
    help="How to write it.",
)
@_with_settings
def sample(form: str, config_file: Path | None, **given: Any) -> int:
    """Write one reading of every GPU to standard output.

    The status is 0 where every GPU answered, 1 where some did not, 2 where there is no source.
    """
    from gpu_exporter import logs  # noqa: PLC0415
    from gpu_exporter.cli import sample as oneshot  # noqa: PLC0415

    config, _ = _load(config_file, given)
    logs.configure(config.log, quiet=True)
    return oneshot.sample(config, form)


@cli.command()
@_with_settings
def doctor(config_file: Path | None, **given: Any) -> int:
    """Tell what works, what does not, and what to do about it.

    The status is 0 where nothing is wrong, 1 where something is.
    """
    from gpu_exporter import logs  # noqa: PLC0415
    from gpu_exporter.cli import doctor as checks  # noqa: PLC0415

    config, _ = _load(config_file, given)
    logs.configure(config.log, quiet=True)
    return checks.run(config)


@cli.command()
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
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write nothing; status 1 and the first difference where FILE is not the current reference.",
)
def metrics(form: str, check: Path | None) -> int:
    """Write the reference of all metrics."""
    from gpu_exporter.catalog import reference  # noqa: PLC0415

    if check is None:
        click.echo(reference.markdown() if form == "markdown" else reference.as_json(), nl=False)
        return 0
    difference = reference.check(check)
    if difference:
        click.echo(f"gpu-exporter: {difference}", err=True)
    return int(bool(difference))


@cli.command("check-config", short_help="Check configuration files.")
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

    The scenario and the web configuration that it names are checked too, with the certificates named there.
    """
    if file is None and web_config_file is None:
        raise click.UsageError("there is nothing to check; write a file or --web.config.file FILE")
    if file is not None:
        web_config_file = web_config_file or _check_config(file)
        click.echo(f"{file}: ok")
    if web_config_file is not None:
        from gpu_exporter.http import access  # noqa: PLC0415

        access.check(web_config_file)
        click.echo(f"{web_config_file}: ok")


def _check_config(file: Path) -> Path | None:
    """Check the file; the web configuration file that it names."""
    from gpu_exporter.sources import source_kind  # noqa: PLC0415 - other commands start faster without

    config = load(file)
    source_kind(config).check(config)
    return config.web.config_file


cli.add_command(report)


if __name__ == "__main__":
    main()
