"""The commands, and how a refusal by any of them is reported."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from gpu_exporter import __version__
from gpu_exporter.cli.check import check
from gpu_exporter.cli.check_config import check_config
from gpu_exporter.cli.doctor import doctor
from gpu_exporter.cli.export import export
from gpu_exporter.cli.hub import hub
from gpu_exporter.cli.metrics import metrics
from gpu_exporter.cli.record import record
from gpu_exporter.cli.report import report
from gpu_exporter.cli.sample import sample
from gpu_exporter.cli.serve import serve
from gpu_exporter.config import ConfigError


def main() -> NoReturn:
    """Run the command line; every refusal is one line on standard error and status 2 (of ``check`` 3)."""
    try:
        status = cli.main(prog_name="gpu-exporter", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.NoSuchOption as error:
        words = f"{error.format_message()} gpu-exporter {_command_of(error.ctx)}--help lists what there is."
        _refuse(words, status=_status_of(error))
    except click.ClickException as error:
        _refuse(error.format_message(), status=_status_of(error))
    except ConfigError as error:
        _refuse(str(error))
    except BrokenPipeError:
        # The reader of our output (head, grep -q) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _command_of(context: click.Context | None) -> str:
    name = context.command.name if context is not None else None
    return f"{name} " if name else ""


def _status_of(error: click.ClickException) -> int:
    """A mistake in the flags of ``check`` is 3, unknown: 2 says there that a GPU is sick."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return 3 if context is not None and context.command is check else 2


def _refuse(message: str, *, status: int = 2) -> NoReturn:
    click.echo("gpu-exporter: " + " ".join(message.split("\n")), err=True)
    sys.exit(status)


# Not click-default-group: it hands a mistyped command to ``serve`` as an argument, so this would be needed still.
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


@click.group(cls=_DefaultGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Prometheus exporter for NVIDIA GPUs: which is sick, which is wasted, and who holds it.

    Without a command, serve; "gpu-exporter serve --help" lists the flags. Each has an environment twin:
    --web.telemetry-path is GPU_EXPORTER_WEB_TELEMETRY_PATH.
    """


for command in (serve, sample, doctor, metrics, check_config, check, report, record, export, hub):
    cli.add_command(command)


if __name__ == "__main__":
    main()
