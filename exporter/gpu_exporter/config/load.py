"""Settings put together: defaults <- YAML file <- flags and environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpu_exporter.config import parsers
from gpu_exporter.config.sections import ConfigError, Section, read_yaml
from gpu_exporter.config.settings import Config, Setting, settings


def load(path: Path | None, overrides: Mapping[str, tuple[str, str]] = MappingProxyType({})) -> Config:
    """Read the file, lay the overrides over it, check the whole.

    ``overrides`` maps a key to (where it was written, its text). Without a timeout of its own, an interval of less than
    the default timeout gets 0.6 of itself. Raises ConfigError.
    """
    written = {} if path is None else {key: (place, value) for key, place, value in _entries(path)}
    config, parse = Config(), {setting.key: setting.parse for setting in settings()}
    for key, (place, value) in [*written.items(), *overrides.items()]:
        try:
            config = _put(config, key, parse[key](value))
        except parsers.RefusedError as error:
            raise ConfigError(f"{place}: {error}") from None
        except (ArithmeticError, LookupError, TypeError, ValueError):  # of a type that nobody thought of
            why = "is of no use here; docs/CONFIGURATION.md has what may be written"
            raise ConfigError(f"{place}: {parsers.quoted(value)} {why}") from None
    interval, timeout = config.collection.interval, config.collection.timeout
    if timeout <= interval:
        return config
    key = "collection.timeout"
    if key in written or key in overrides:
        place, text = {**written, **overrides}[key]
        most = f"write at most {parsers.in_units(interval)}"
        raise ConfigError(f"{place}: {parsers.quoted(text)} is longer than collection.interval; {most}")
    return _put(config, key, 0.6 * interval)


def changed(old: Config, new: Config) -> list[Setting]:
    """The settings that differ."""
    return [setting for setting in settings() if _get(old, setting.key) != _get(new, setting.key)]


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """The settings of the file: key, place, value. A key left empty keeps its default."""
    known = dict.fromkeys(setting.key for setting in settings())
    file = Section(path, read_yaml(path), known=dict.fromkeys(key.split(".")[0] for key in known))
    for name, value in file.entries.items():
        if name in known:
            if value is not None:
                yield name, file.where(name), value
            continue
        inner = [key.partition(".")[2] for key in known if key.startswith(f"{name}.")]
        section = file.section(name, known=inner)
        for leaf, setting in section.entries.items():
            if setting is not None:
                yield f"{name}.{leaf}", section.where(leaf), setting


def _put(config: Config, key: str, value: Any) -> Config:
    section, _, name = key.rpartition(".")
    if not section:
        return replace(config, **{name: value})
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def _get(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section), name) if section else getattr(config, name)
