"""Settings as options of a command, and back: each is a flag and an environment variable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

from gpu_exporter.config import Config, Setting, from_environment, load, parsers, refuse_unknown, settings
from gpu_exporter.config.environment import PREFIX

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Overrides: TypeAlias = dict[str, tuple[str, str]]

# Variables of ours without a flag: secrets of `report`, and what Slurm's prolog and epilog read (docs/OWNERS.md).
_WITHOUT_FLAG: Final = (
    "GPU_EXPORTER_PROMETHEUS_PASSWORD",
    "GPU_EXPORTER_PROMETHEUS_BEARER_TOKEN",
    "GPU_EXPORTER_SLURM_DIR",
    "GPU_EXPORTER_SLURM_SHARED",
)


# The sources that each section is for.
_OF_SOURCES: Final = {"fake": ("fake",), "smi": ("smi", "auto"), "dcgm": ("dcgm",)}


def with_settings(
    command: Callable[..., Any] | None = None, *, shown: tuple[str, ...] | None = None
) -> Callable[..., Any]:
    """Add one option a setting, and the configuration file; the command gets ``config_file`` and ``given``.

    ``shown`` are beginnings of the keys that the command's help lists; every setting is taken by every command, since
    all read the same file.
    """
    if command is None:
        return partial(with_settings, shown=shown)
    for setting in reversed(list(settings())):
        switch = setting.switch
        default = f"  [default: {setting.shown}]" if setting.shown and not switch else ""
        again = " May be given again." if setting.many else ""
        # No envvar: click would take any true word there for a switch's flag, which may mean "off".
        command = click.option(
            setting.flag,
            _parameter(setting),
            metavar=None if switch else _metavar(setting.key),
            help=("Off: " if switch == "false" else "") + setting.help + again + default,
            is_flag=switch is not None,
            flag_value=switch,
            multiple=setting.many,
            hidden=shown is not None and not setting.key.startswith(shown),
            shell_complete=completed(setting),
        )(command)
    return click.option(
        "--config.file",
        "config_file",
        envvar="GPU_EXPORTER_CONFIG_FILE",
        type=click.Path(path_type=Path, readable=False),
        metavar="FILE",
        help="YAML file with these settings; flags and environment go over it. SIGHUP reads it again.",
    )(command)


def completed(setting: Setting) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What a shell offers as the value: the words that are known, or files."""

    def items(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only who completes needs it

        if setting.parse is parsers.file_path:
            return [CompletionItem(incomplete, type="file")]
        if setting.parse is parsers.folder:
            return [CompletionItem(incomplete, type="dir")]
        return [CompletionItem(word) for word in parsers.offered(setting.parse) if word.startswith(incomplete)]

    return items


def load_config(config_file: Path | None, given: dict[str, Any], *, told: bool = True) -> tuple[Config, Overrides]:
    """The configuration that file, environment and flags make together, and what goes over the file.

    What of it has no effect is told on standard error, unless the command logs it itself. Raises ConfigError.
    """
    check_environment()
    overrides = from_environment(os.environ)
    for setting in settings():
        flag = given[_parameter(setting)]
        if flag not in (None, ()):
            overrides[setting.key] = (setting.flag, ",".join(flag) if setting.many else flag)
    config = load(config_file, overrides)
    if told:
        for line in without_effect(config.source, overrides):
            click.echo(f"gpu-exporter: {line}", err=True)
    return config, overrides


def without_effect(source: str, overrides: Overrides) -> Iterator[str]:
    """Flags and variables of a source that is not asked. In a file they may wait for their day."""
    for key, (place, _) in overrides.items():
        of = next((sources for section, sources in _OF_SOURCES.items() if key.startswith(f"{section}.")), None)
        if of is not None and source not in of:
            yield f"{place} has no effect: the source is {source}; write --source {of[0]}"


def check_environment() -> None:
    """Raise ConfigError for a variable of our prefix that no command reads."""
    ours = {*(setting.variable for setting in settings()), *_WITHOUT_FLAG}
    # The other commands are read only where one of them may know it.
    if any(name.upper().startswith(PREFIX) and name not in ours for name in os.environ):
        refuse_unknown(os.environ, frozenset(_variables()))


def _variables() -> Iterator[str]:
    yield from (setting.variable for setting in settings())
    yield from _WITHOUT_FLAG
    group = click.get_current_context().find_root().command
    for command in group.commands.values() if isinstance(group, click.Group) else [group]:
        for parameter in command.params:
            names = parameter.envvar or ()
            yield from [names] if isinstance(names, str) else names


def _parameter(setting: Setting) -> str:
    return setting.key.replace(".", "__")


def _metavar(key: str) -> str:
    return key.rpartition(".")[2].upper()
