"""The commands, and how a refusal by any of them is reported."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

import click

from gpu_exporter import __version__
from gpu_exporter.cli.check import check
from gpu_exporter.cli.check_config import check_config
from gpu_exporter.cli.desktop import desktop
from gpu_exporter.cli.doctor import doctor
from gpu_exporter.cli.export import export
from gpu_exporter.cli.free import free
from gpu_exporter.cli.hub import hub
from gpu_exporter.cli.metrics import metrics
from gpu_exporter.cli.record import record
from gpu_exporter.cli.report import report
from gpu_exporter.cli.sample import sample
from gpu_exporter.cli.serve import serve
from gpu_exporter.cli.test_mail import test_mail
from gpu_exporter.cli.top import top
from gpu_exporter.config import ConfigError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

# Names that other exporters have for options of ours.
_ELSEWHERE: Final = {
    **dict.fromkeys(
        ("-p", "--port", "-a", "--address", "--bind", "--bind-address", "--host", "--listen", "--web.port"),
        "--web.listen-address :9435",
    ),
    **dict.fromkeys(("--web-config-file", "--web.config-file"), "--web.config.file"),
    **dict.fromkeys(("-c", "--collect-interval", "--interval", "--refresh-interval"), "--collection.interval"),
    **dict.fromkeys(("-f", "--config", "--config-file"), "--config.file"),
    "--nvidia-smi-command": "--smi.path",
    "--kubernetes": "--owners.kubernetes",
}


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
        _refuse(_no_such_option(error), status=_status_of(error))
    except click.ClickException as error:
        _refuse(error.format_message(), status=_status_of(error))
    except ConfigError as error:
        _refuse(str(error))
    except BrokenPipeError:
        # The reader of our output (head, grep -q) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with suppress(OSError):  # what is still in the buffer has no place either
            sys.stdout.close()
        _refuse(f"standard output: {error.strerror}")
    sys.exit(status if isinstance(status, int) else 0)


def _no_such_option(error: click.NoSuchOption) -> str:
    name = error.ctx.command.name if error.ctx is not None else None
    # What it is called elsewhere comes before what merely sounds like it.
    meant = [_ELSEWHERE[error.option_name]] if error.option_name in _ELSEWHERE else sorted(error.possibilities or ())
    hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
    command = f"gpu-exporter {name}" if name else "gpu-exporter"
    return f"No such option '{error.option_name}'.{hint} {command} --help lists what there is."


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

    _given: Sequence[str] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self._given = tuple(args)
        own = {"--help", "-h", "--version"}
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            named = [word for word in self._given if word in self.commands]
            if named and self._given[0].startswith("-") and "unexpected extra argument" in error.format_message():
                rest = [word for word in self._given if word != named[0]]
                ordered = " ".join(["gpu-exporter", named[0], *rest])
                raise click.UsageError(f"the command stands before its options; write: {ordered}") from None
            raise

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


for command in (
    serve, sample, doctor, metrics, check_config, check, report, record, export, hub, top, free, desktop, test_mail,
):  # fmt: skip
    cli.add_command(command)


if __name__ == "__main__":
    main()
