"""Settings as options of a command, and back: each is a flag and an environment variable."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import click
from click.core import ParameterSource

from gpu_exporter.config import Config, Setting, load, settings

Overrides: TypeAlias = dict[str, tuple[str, str]]


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
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


def load_config(config_file: Path | None, given: dict[str, Any]) -> tuple[Config, Overrides]:
    """The configuration that file, environment and flags make together, and what goes over the file."""
    overrides = _overrides(given)
    return load(config_file, overrides), overrides


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


def _parameter(setting: Setting) -> str:
    return setting.key.replace(".", "__")


def _metavar(key: str) -> str:
    return key.rpartition(".")[2].upper()
