"""What a shell and ``man`` look for: completions and the manual page, both made of the command line itself."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from gpu_exporter import __version__
from gpu_exporter.cli.group import cli

NAME: Final = "gpu-exporter"
_FIRST: Final = "serve"
_END: Final = """\
.SH ENVIRONMENT
Each option has a variable: --web.listen-address is GPU_EXPORTER_WEB_LISTEN_ADDRESS.
One that no command knows is refused.
.SH FILES
.TP
.I /etc/gpu-exporter/environment
Variables of the service, one a line. After a change: systemctl restart gpu-exporter
.TP
.I /usr/share/gpu-exporter
Rules for Prometheus, mails for Alertmanager, dashboards for Grafana, examples for Slurm, Nagios and others.
.SH EXIT STATUS
0 where all is well, 2 where something was not understood or could not be begun; each command tells what else there is.
.SH SEE ALSO
.BR nvidia\\-smi (1),
.BR prometheus (1),
.BR journalctl (1)
.PP
https://gpu-exporter.github.io/gpu-exporter/
"""


def completions() -> Iterator[tuple[str, str]]:
    """Where Debian's shells look for it, and the text."""
    for path, kind in (
        (f"usr/share/bash-completion/completions/{NAME}", BashComplete),
        (f"usr/share/zsh/vendor-completions/_{NAME}", ZshComplete),
        (f"usr/share/fish/vendor_completions.d/{NAME}.fish", FishComplete),
    ):
        # bash itself, which has to be 4.4 for it, may be missing where the package is made.
        shell = kind(cli, {}, NAME, "_GPU_EXPORTER_COMPLETE")
        yield path, shell.source_template % shell.source_vars()


def manual(when: int) -> str:
    """The page gpu-exporter(1) in roff, for ``man``; ``when`` is its day in Unix seconds."""
    day = time.strftime("%Y-%m-%d", time.gmtime(when))
    context = click.Context(cli, info_name=NAME)
    summary, *rest = _paragraphs(cli)
    lines = [
        f'.TH {NAME.upper()} 1 "{day}" "{NAME} {__version__}" "User Commands"',
        *(".nh", ".ad l"),  # names of metrics and variables stay whole
        *(".SH NAME", f"{_plain(NAME)} \\- {_plain(summary.rstrip('.'))}"),
        *(".SH SYNOPSIS", f".B {_plain(NAME)}", r"[\fICOMMAND\fR] [\fIOPTION\fR]..."),
        *(".SH DESCRIPTION", *_text(rest)),
        ".SH COMMANDS",
    ]
    shared = {option.opts[0] for option in cli.commands[_FIRST].params}
    for name in sorted(cli.commands, key=lambda name: (name != _FIRST, name)):
        lines += _command(click.Context(cli.commands[name], info_name=name, parent=context), shared)
    return "\n".join(lines) + "\n" + _END


def _command(context: click.Context, shared: set[str]) -> Iterator[str]:
    """One command with its options; what ``serve`` tells of an option is not told again."""
    yield f".SS {_plain(' '.join([context.info_name or '', *context.command.collect_usage_pieces(context)]))}"
    yield from _text(_paragraphs(context.command))
    # All of them: one that has some of serve's by name (hub) may mean something else by them.
    left_out = context.info_name != _FIRST and shared <= {option.opts[0] for option in context.command.params}
    for option in context.command.params:
        record = option.get_help_record(context)
        if left_out and option.opts[0] in shared:
            continue
        if record is not None:
            yield from (".TP", rf"\fB{_plain(record[0])}\fR", _plain(record[1]))
    if left_out:
        yield from (".PP", rf"It takes the settings of \fB{_FIRST}\fR as well.")


def _paragraphs(command: click.Command) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]


def _text(paragraphs: list[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield from (".PP", _plain(paragraph))


def _plain(text: str) -> str:
    """Roff that shows just this text: hyphens that can be copied, no requests."""
    safe = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^(?=[.'])", r"\\&", safe)
