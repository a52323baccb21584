"""The commands, and how a refusal by any of them is reported."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import click

from gpu_exporter import __version__
from gpu_exporter.cli.meant import said
from gpu_exporter.config import ConfigError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Each stands in the module of its name, which is read when the command is asked for: who serves needs no other.
_COMMANDS: Final = (
    "serve", "sample", "doctor", "metrics", "check-config", "check", "report", "record", "export", "hub", "top", "free",
    "desktop", "test-mail", "help",
)  # fmt: skip
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
# And words that other programs have for what is here.
_COMMANDS_ELSEWHERE: Final = {"version": "--version", "run": "serve", "start": "serve"}
_WHOLE: Final = 1000  # characters that no description of a command has


def main() -> NoReturn:
    """Run the command line; every refusal is one line on standard error and status 2 (of ``check`` 3)."""
    try:
        status = cli.main(prog_name="gpu-exporter", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.NoSuchOption as error:
        _refuse(_no_such_option(error), status=_status_of(error))
    except click.ClickException as error:
        _refuse(said(error), status=_status_of(error))
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
    return 3 if context is not None and context.command.name == "check" else 2


def _refuse(message: str, *, status: int = 2) -> NoReturn:
    click.echo("gpu-exporter: " + " ".join(message.split("\n")), err=True)
    sys.exit(status)


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name, in the order of the help."""

    def __init__(self, names: Sequence[str]) -> None:
        self._read: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        command = self._read[name]
        if command is None:
            word = name.replace("-", "_")
            command = self._read[name] = getattr(import_module(f"gpu_exporter.cli.{word}"), word)
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._read[name] = command

    def __delitem__(self, name: str) -> None:
        del self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._read

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


# Not click-default-group: it hands a mistyped command to ``serve`` as an argument, so this would be needed still.
class _DefaultGroup(click.Group):
    """A group whose default command is ``serve``."""

    _given: Sequence[str] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self._given = tuple(args)
        own = {"--help", "-h", "--version"}
        # A shell that completes the first word asks with no words, and may get the name of any command.
        if (not args and not ctx.resilient_parsing) or (args and args[0].startswith("-") and args[0] not in own):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Of options those of the default command as well."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            serve = self.commands["serve"]
            own = {item.value for item in found}
            more = serve.shell_complete(click.Context(serve, parent=ctx, info_name="serve"), incomplete)
            found += [item for item in more if item.value not in own]
        return found

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            named = [word for word in self._given if word in self.commands]
            if named and self._given[0].startswith("-") and self._is_of(named[0], error):
                rest = [word for word in self._given if word != named[0]]
                ordered = " ".join(["gpu-exporter", named[0], *rest])
                raise click.UsageError(f"the command stands before its options; write: {ordered}") from None
            raise

    def _is_of(self, name: str, error: click.UsageError) -> bool:
        """Whether what ``serve`` did not understand is this command, or an option of its."""
        if isinstance(error, click.NoSuchOption):
            return any(error.option_name in option.opts for option in self.commands[name].params)
        return "unexpected extra argument" in error.format_message()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            if meant := _meant(args[0], self.commands):
                raise click.UsageError(
                    f"'{args[0]}' is not a command. Did you mean {' or '.join(meant)}? "
                    "gpu-exporter help lists what there is."
                )
            raise click.UsageError(f"'{args[0]}' is not a command; write one of {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but for what does not fit into a line: it goes on in the next, and is not cut."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(_WHOLE)) for name in names])


def _meant(word: str, commands: Iterable[str]) -> list[str]:
    """What somebody may have meant who wrote this for a command: what it is called here, begins so, or looks alike."""
    from difflib import get_close_matches  # noqa: PLC0415 - who writes it well starts faster without

    word = word.lower().replace("_", "-")
    if word in _COMMANDS_ELSEWHERE:
        return [_COMMANDS_ELSEWHERE[word]]
    names = list(commands)
    return [name for name in names if name.startswith(word)] or get_close_matches(word, names, n=1)


@click.group(
    cls=_DefaultGroup,
    commands=_Commands(_COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Prometheus exporter for NVIDIA GPUs: which is sick, which is wasted, and who holds it.

    Without a command, serve; "gpu-exporter serve --help" lists the flags. Each has an environment twin:
    --web.telemetry-path is GPU_EXPORTER_WEB_TELEMETRY_PATH.
    """


if __name__ == "__main__":
    main()
