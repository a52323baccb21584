"""Settings: frozen dataclasses <- YAML file <- flags and environment.

Every setting is one dataclass field; its metadata feeds the command line, the environment twins, the parser and
docs/CONFIGURATION.md. ``ConfigError`` names file, key, value and what would be accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import yaml

SOURCES: Final = ("auto", "nvml", "fake")
MODELS: Final = ("h100", "h200", "a100", "l40s", "rtx4090")
_LEVELS: Final = ("debug", "info", "warning", "error")
_FORMATS: Final = ("logfmt", "json")
_UNITS: Final = (3600.0, 60.0, 1.0, 0.001)
_DURATION: Final = re.compile("".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in ("h", "m(?!s)", "s", "ms")))
_LARGEST: Final = 256 * 1024  # bytes; a file of settings has a few hundred
_DEEPEST: Final = 16
T = TypeVar("T")


class ConfigError(Exception):
    """A setting cannot be used; the message is one line for the person who wrote it."""


class _RefusedError(ValueError):
    """What a parser answers; the caller adds where the value stands. The message ends in what would be accepted."""


# --- parsers: from YAML or text to a value ----------------------------------------------------------------------------


def duration(value: Any) -> float:
    """Seconds, from a Prometheus duration: 5s, 500ms, 1m, 1m30s."""
    if isinstance(value, str) and value and (match := _DURATION.fullmatch(value)):
        return sum(float(number) * unit for number, unit in zip(match.groups(), _UNITS, strict=True) if number)
    raise _RefusedError(f"{_shown(value)} is not a duration; write 5s, 500ms or 1m")


def _duration_between(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        seconds = duration(value)
        if not low <= seconds <= high:
            raise _RefusedError(f"{_shown(value)} is out of range; write {_seconds(low)} to {_seconds(high)}")
        return seconds

    return parse


def _integer_between(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _RefusedError(f"{_shown(value)} is not a whole number from {low} to {high}")
        return value

    return parse


def _one_of(*names: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in names:
            raise _RefusedError(f"{_shown(value)} is not known; write one of {', '.join(names)}")
        return str(value)

    return parse


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    raise _RefusedError(f"{_shown(value)} is not a switch; write true or false")


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _RefusedError(f"{_shown(value)} is not a file; write a path")
    return Path(value)


def _url_path(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[A-Za-z0-9_.~/-]*", value):
        raise _RefusedError(f"{_shown(value)} is not a URL path; write one such as /metrics")
    if value == "/" or value.startswith("/api/") or value in {"/livez", "/readyz"}:
        raise _RefusedError(f"{_shown(value)} is taken by another page; write one such as /metrics")
    return value


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. An empty host means every address, IPv6 and IPv4."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(value: Any) -> Address:
    pattern = r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]*)):([0-9]{1,5})"
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    if match is None or int(match[3]) > 65535 or (match[1] and not _is_ipv6(match[1])):
        raise _RefusedError(f"{_shown(value)} is not an address; write :9435, 127.0.0.1:9435 or '[::1]:9435'")
    return Address(match[1] or match[2] or "", int(match[3]))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(value: Any) -> tuple[Network, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise _RefusedError(f"{_shown(value)} is not a list of networks; write ['10.0.0.0/8', '::1/128']")
    networks = []
    for item in items:
        try:
            if not isinstance(item, str):
                raise TypeError  # noqa: TRY301 - ipaddress takes numbers too, which nobody means
            networks.append(ipaddress.ip_network(item.strip()))
        except (TypeError, ValueError):
            raise _RefusedError(f"{_shown(item)} is not a network in CIDR form; write 10.0.0.0/8 or ::1/128") from None
    return tuple(networks)


def _shown(value: Any) -> str:
    text = (str(value).lower() if isinstance(value, bool) else str(value)).encode("unicode_escape").decode()
    return f"'{text[:80]}…'" if len(text) > 80 else f"'{text}'"


def _seconds(value: float) -> str:
    units = ((3600.0, "h"), (60.0, "m"), (1.0, "s"), (0.001, "ms"))
    size, unit = next(((size, unit) for size, unit in units if value >= size), units[-1])
    return f"{value / size:g}{unit}"


# --- the settings -----------------------------------------------------------------------------------------------------


def _setting(default: T, parse: Callable[[Any], T], text: str, *, reload: bool = False, shown: str | None = None) -> T:
    """One setting. ``reload`` tells that SIGHUP puts a changed value into force; the others need a restart."""
    return field(default=default, metadata={"parse": parse, "help": text, "reload": reload, "shown": shown})


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """How the driver is read."""

    interval: float = _setting(
        5.0, _duration_between(0.1, 3600), "How often every GPU is read.", reload=True, shown="5s"
    )
    timeout: float = _setting(
        3.0,
        _duration_between(0.05, 600),
        "How long one GPU's reading may take before that GPU is reported down and parked; at most the interval.",
        reload=True,
        shown="3s",
    )
    pause: float = _setting(
        300.0, _duration_between(1, 86400), "How long SIGUSR1 keeps the driver closed.", reload=True, shown="5m"
    )
    expected_gpus: int | None = _setting(
        None,
        _integer_between(0, 4096),
        'How many GPUs this machine should have; published as gpu_exporter_gpus{state="expected"}.',
        reload=True,
    )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The HTTP server."""

    listen_address: Address = _setting(
        Address("", 9435), _address, "Address and port to listen on; without a host, on all of them.", shown=":9435"
    )
    telemetry_path: str = _setting("/metrics", _url_path, "URL path of the metrics.", shown="/metrics")
    allow: tuple[Network, ...] = _setting(
        (),
        _networks,
        "Networks that may connect, in CIDR form (a list in the file, commas in a flag); empty lets everybody.",
        reload=True,
        shown="",
    )


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """The simulated GPUs of ``source: fake``."""

    gpus: int = _setting(8, _integer_between(1, 1024), "How many GPUs to simulate.", shown="8")
    model: str = _setting("h100", _one_of(*MODELS), f"What to simulate: {', '.join(MODELS)}.", shown="h100")
    seed: int = _setting(1, _integer_between(0, 2**31), "The same seed gives the same fleet.", shown="1")
    scenario: Path | None = _setting(None, _path, "YAML file of timed faults; read again when it changes.")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is written to standard error."""

    level: str = _setting("info", _one_of(*_LEVELS), f"One of {', '.join(_LEVELS)}.", reload=True, shown="info")
    format: str = _setting("logfmt", _one_of(*_FORMATS), f"One of {', '.join(_FORMATS)}.", shown="logfmt")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings."""

    source: str = _setting(
        "auto",
        _one_of(*SOURCES),
        "Where readings come from: nvml is the driver's library, fake is simulated; auto is nvml, never fake.",
        shown="auto",
    )
    require_gpu: bool = _setting(
        False, _boolean, "Exit with status 2 where no GPU can be read at the start.", shown="false"
    )
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    web: WebConfig = field(default_factory=WebConfig)
    fake: FakeConfig = field(default_factory=FakeConfig)
    log: LogConfig = field(default_factory=LogConfig)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as the command line and the documentation see it."""

    key: str
    help: str
    shown: str | None
    reload: bool
    parse: Callable[[Any], Any]

    @property
    def flag(self) -> str:
        """``collection.interval`` is ``--collection.interval``; underscores become dashes."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment twin of the flag."""
        return "GPU_EXPORTER_" + self.key.replace(".", "_").upper()


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the documentation."""
    for entry in fields(Config):
        if entry.metadata:
            yield _as_setting(entry.name, entry.metadata)
        else:
            for inner in fields(entry.default_factory):  # type: ignore[arg-type]
                yield _as_setting(f"{entry.name}.{inner.name}", inner.metadata)


def _as_setting(key: str, metadata: Mapping[str, Any]) -> Setting:
    return Setting(key, metadata["help"], metadata["shown"], metadata["reload"], metadata["parse"])


# --- loading ----------------------------------------------------------------------------------------------------------


def load(path: Path | None, overrides: Mapping[str, tuple[str, str]] = MappingProxyType({})) -> Config:
    """Read the file, lay the overrides over it, check the whole.

    ``overrides`` maps a key to (where it was written, its text). Without a timeout of its own, an interval of less than
    the default timeout gets 0.6 of itself. Raises ConfigError.
    """
    written = {} if path is None else {key: (f"{path}: {key}", value) for key, value in _entries(path)}
    config, parsers = Config(), {setting.key: setting.parse for setting in settings()}
    for key, (place, value) in [*written.items(), *overrides.items()]:
        try:
            config = _put(config, key, parsers[key](value))
        except _RefusedError as error:
            raise ConfigError(f"{place}: {error}") from None
    interval, timeout = config.collection.interval, config.collection.timeout
    if timeout <= interval:
        return config
    key = "collection.timeout"
    if key in written or key in overrides:
        place, text = {**written, **overrides}[key]
        most = f"write at most {_seconds(interval)}"
        raise ConfigError(f"{place}: {_shown(text)} is longer than collection.interval; {most}")
    return _put(config, key, 0.6 * interval)


def changed(old: Config, new: Config) -> list[Setting]:
    """The settings that differ."""
    return [setting for setting in settings() if _get(old, setting.key) != _get(new, setting.key)]


def read_yaml(path: Path) -> Any:
    """The file's one document. Raises ConfigError, with the line where it is not plain YAML."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ConfigError(f"{path}: is larger than {_LARGEST // 1024} KiB; is it the right file?")
        return yaml.load(content.decode(), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text; write YAML in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        raise ConfigError(f"{path}: is not YAML: {where}{problem.removeprefix('but ')}") from None
    except (ValueError, OverflowError):  # what PyYAML raises for '\UFFFFFFFF' and the like
        raise ConfigError(f"{path}: is not YAML: an escape or a number in it is out of range") from None


class _Loader(yaml.SafeLoader):
    """YAML without what settings have no use for: duplicate keys, aliases, deep nesting, huge numbers."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken; write the value out", problem_mark=mark)
        if self._depth == _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
            usable = not isinstance(value, int) or value.bit_length() <= 64
        except (ArithmeticError, AttributeError, LookupError, ValueError):  # PyYAML on '!!int x' and the like
            usable = False
        if not usable:
            problem = f"{_shown(node.value)} is not a value; put text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        seen = set()
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{_shown(key.value)} is written twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """The settings of the file: key, value. A key left empty keeps its default."""
    known = [setting.key for setting in settings()]
    sections = {key.split(".")[0] for key in known if "." in key}
    for name, value in _items(path, "", read_yaml(path), dict.fromkeys(key.split(".")[0] for key in known)):
        if name in sections:
            inner = [key.partition(".")[2] for key in known if key.startswith(f"{name}.")]
            for leaf, setting in _items(path, f"{name}.", value, inner):
                if setting is not None:
                    yield f"{name}.{leaf}", setting
        elif value is not None:
            yield name, value


def _items(path: Path, prefix: str, document: Any, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    if document is None:
        return
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else "text" if isinstance(document, str) else "a single value"
        where = prefix.rstrip(".") or "the file"
        raise ConfigError(f"{path}: {where} is {kind}; write keys such as {', '.join(known)}")
    for name, value in document.items():
        if name not in known:
            raise ConfigError(f"{path}: {prefix}{_shown(name)[1:-1]}: unknown key; write one of {', '.join(known)}")
        yield name, value


def _put(config: Config, key: str, value: Any) -> Config:
    section, _, name = key.rpartition(".")
    if not section:
        return replace(config, **{name: value})
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def _get(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section), name) if section else getattr(config, name)
