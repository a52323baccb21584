"""nodes.yml: the machines, in the file that Prometheus's file_sd_configs reads."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gpu_exporter.config import ConfigError, Section, TooLargeError, read_file, read_yaml
from gpu_exporter.config.parsers import RefusedError, quoted

_KEYS: Final = ("targets", "labels")
_LARGEST: Final = 4 * 1024**2  # bytes; ten thousand machines in JSON
_MOST: Final = 10_000
_LONGEST: Final = 512  # characters of a label
_TARGET: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9_.-]{1,253})):([0-9]{1,5})")
_SCHEME: Final = "__scheme__"


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. ``name`` is unique: its alias, or host:port where there is none, or both where two share one."""

    name: str
    host: str
    port: int
    alias: str = ""
    scheme: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """host:port as it is written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines in the file's order, and what a person should know about the file."""

    nodes: tuple[Node, ...] = ()
    notes: tuple[str, ...] = ()


def load(path: Path) -> Nodes:
    """Read the file: YAML, or JSON where its name ends so. Raises ConfigError."""
    found: list[Node] = []
    notes: list[str] = []
    seen: dict[str, str] = {}
    for group in Section.each(path, _document(path), known=_KEYS):
        group.require("targets", "write host:port of one or more exporters")
        labels = dict(_labels(group.section("labels")))
        scheme = labels.get(_SCHEME, "")
        if scheme not in {"", "http", "https"}:
            group.refuse(f"labels.{_SCHEME}", f"{quoted(scheme)} is not known; write http or https")
        shown = {name: value for name, value in labels.items() if name != "alias" and not name.startswith("__")}
        for host, port in group.items("targets", _target):
            node = Node("", host, port, labels.get("alias", ""), scheme, shown)
            if node.address.lower() in seen:
                notes.append(f"{path.name}: '{node.address}' stands there twice; it is asked once")
                continue
            seen[node.address.lower()] = node.address
            found.append(node)
    if len(found) > _MOST:
        raise ConfigError(f"{path}: has {len(found)} machines; write at most {_MOST}")
    every = tuple(named(found))
    doubled = sorted(alias for alias, count in Counter(node.alias for node in found if node.alias).items() if count > 1)
    notes += [
        f"{path.name}: {quoted(alias)} is the alias of several machines; their addresses tell them apart"
        for alias in doubled
    ]
    return Nodes(every, tuple(notes))


def named(nodes: Sequence[Node]) -> Iterator[Node]:
    """Every node with a name of its own."""
    aliases = Counter(node.alias or node.address for node in nodes)
    taken: set[str] = set()
    for node in nodes:
        name = node.alias or node.address
        if aliases[name] > 1 or name in taken:
            name = f"{name} ({node.address})"
        taken.add(name)
        yield Node(name, node.host, node.port, node.alias, node.scheme, node.labels)


def _document(path: Path) -> Any:
    try:
        return _parsed(path)
    except ConfigError as error:
        if path.exists():
            raise
        raise ConfigError(f'{error}; write the machines into it: - targets: ["gpu-a:9435", "gpu-b:9435"]') from None


def _parsed(path: Path) -> Any:
    if path.suffix.lower() != ".json":
        return read_yaml(path, largest=_LARGEST)
    try:
        return json.loads(read_file(path, largest=_LARGEST))
    except TooLargeError as error:
        raise ConfigError(f"{path}: {error.why}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: is not JSON") from None


def _labels(section: Section) -> Iterator[tuple[str, str]]:
    for key, value in section.entries.items():
        if not isinstance(key, str) or not key or not key.isprintable():
            section.refuse(quoted(key)[1:-1], "is not a label's name; write letters, digits and _")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            section.refuse(key, f"{quoted(value)} is not text; put it in quotes")
        if len(str(value)) > _LONGEST or not str(value).isprintable():
            section.refuse(key, f"{quoted(value)} is not a label; write up to {_LONGEST} printable characters")
        yield key, str(value)


def _target(value: Any) -> tuple[str, int]:
    if isinstance(value, str) and "://" in value:
        bare = value.partition("://")[2].partition("/")[0]
        raise RefusedError(f"{quoted(value)} is a URL; write {quoted(bare or 'host:9435')} and the label {_SCHEME}")
    match = _TARGET.fullmatch(value) if isinstance(value, str) else None
    if match is not None and 0 < int(match[3]) < 65536 and (match[1] is None or _is_ipv6(match[1])):
        return match[1] or match[2], int(match[3])
    bare = value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", value) else "gpu-a"
    raise RefusedError(f"{quoted(value)} is not an exporter's address; write '{bare}:9435', or '[fd00::11]:9435'")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
